"""The one table of finish reasons: how engines and servers spell why a text ended, and our word for it."""

from __future__ import annotations

import re
from functools import lru_cache

# Ours: stop (the model ended its turn, or a stop string did), answer (stopped after the answer line), length (truncated),
# loop (stopped in a loop), error (failed), filtered (withheld or cut by a content filter). The spellings are those of
# OpenAI, Anthropic, Gemini, Cohere, Mistral, Bedrock, TGI, vLLM, SGLang, TensorRT-LLM, Ollama and llama.cpp, without case
# and punctuation.
_SPELLINGS = {
    "stop": "stop eos eostoken endturn endofturn endid endoftext stopsequence stopword stopwords stopcriteriamet stoptoken "
    "complete completed finished finish done word",
    "answer": "answer",
    "length": "length maxtokens maxtoken maxlength maxnewtokens maxoutputtokens maxcompletiontokens tokenlimit limit "
    "modellength modelcontextwindowexceeded contextlengthexceeded contextlength truncated",
    "loop": "loop repetition",
    "error": "error failed abort aborted cancelled canceled timeout errortoxic errorlimit malformedfunctioncall",
    "filtered": "contentfilter contentfiltered safety recitation blocklist prohibitedcontent spii refusal guardrailintervened",
}
_NAMES = {spelling: name for name, spellings in _SPELLINGS.items() for spelling in spellings.split()}


@lru_cache(maxsize=256)
def canonical(reason: str) -> str | None:
    """Our word for an engine's finish reason, such as `length` for `MAX_TOKENS`; None for one that is not known."""
    return _NAMES.get(re.sub(r"[^a-z]", "", reason.rpartition(".")[2].lower()))


def is_failed(reason: str) -> bool:
    """Did the request fail? Its text is then no answer of the model."""
    return canonical(reason) == "error"


def is_truncated(reason: str) -> bool:
    """Did the token limit end the text?"""
    return canonical(reason) == "length"


def is_looped(reason: str) -> bool:
    """Was the text ended because it repeated itself?"""
    return canonical(reason) == "loop"
