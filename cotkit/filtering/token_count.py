"""Counts the student's tokens of a rendered training row: prompt, target, and the end of turn as the template writes it.

Rendering a chat template needs transformers, which imports torch: seconds and 800 MB for a process that only counts. But
a template nearly always puts the same text around a question. So one process reads that text and the tokenizer once and
passes them to the others as strings; counting with them needs only the package tokenizers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from cotkit.core.jsonl import Row
from cotkit.generation import prompts

TokenCounter = Callable[[Row, str], int]

PROBE = "Which question is this?"


@dataclass(frozen=True)
class Frame:
    """The text of a training row around its question: ``before + question + after + tail + target``.

    `tail` begins with a special token such as ``<|im_start|>``. A tokenizer splits a text at special tokens first, so
    the part before `tail` is encoded independently of the rest and its tokens can be counted once per question.
    """

    tokenizer: str  # the fast tokenizer as JSON
    before: str
    after: str
    tail: str
    strips: bool  # the template removes blanks from the start of a message
    end: int  # tokens behind the target


def token_counter(student_model: str | None, frame: Frame | None = None) -> TokenCounter | None:
    """A function that counts the tokens of (row, target); None without a model. Reads the model's frame if not given."""
    if student_model is None:
        return None
    frame = frame or read_frame(student_model)
    if frame is not None:
        return _frame_counter(frame)
    from cotkit.generation.chat_model import load_tokenizer

    tokenizer = load_tokenizer(student_model)
    end = end_tokens(tokenizer)

    def count(row: Row, target: str) -> int:
        text = _rendered(tokenizer, row["question"]) + target
        return len(tokenizer(text, add_special_tokens=False)["input_ids"]) + end

    return count


def read_frame(student_model: str) -> Frame | None:
    """The frame of a model's chat template; None if the template or the tokenizer does not fit `Frame`."""
    from cotkit.generation.chat_model import load_tokenizer

    tokenizer = load_tokenizer(student_model)
    before, _, after = _rendered(tokenizer, PROBE).partition(PROBE)
    blanks = {question: _rendered(tokenizer, question) for question in (f"{PROBE}\nHow many? ", f" \n{PROBE} ")}
    strips = all(text == before + question.lstrip() + after for question, text in blanks.items())
    keeps = all(text == before + question + after for question, text in blanks.items())
    start = _last_special(tokenizer, after)
    fast = getattr(tokenizer, "backend_tokenizer", None)
    if fast is None or start is None or not (strips or keeps):
        return None
    return Frame(fast.to_str(), before, after[:start], after[start:], strips, end_tokens(tokenizer))


def _frame_counter(frame: Frame) -> TokenCounter:
    from tokenizers import Tokenizer

    fast = Tokenizer.from_str(frame.tokenizer)
    fast.no_truncation()
    fast.no_padding()

    def tokens_of(text: str) -> int:
        return len(fast.encode_batch_fast([text], add_special_tokens=False)[0])

    @lru_cache(maxsize=1)  # the samples of one question come one after the other
    def prompt_tokens(question: str) -> int:
        return tokens_of(frame.before + (question.lstrip() if frame.strips else question) + frame.after)

    return lambda row, target: prompt_tokens(row["question"]) + tokens_of(frame.tail + target) + frame.end


def end_tokens(tokenizer: Any) -> int:
    """Tokens that the chat template writes behind an answer: ChatML's `<|im_end|>` and a newline are two. At least 1."""
    from jinja2 import TemplateError  # needed only where tokens are counted

    answer = {"role": "assistant", "content": PROBE}
    chat = [*prompts.student_messages("?"), answer]
    try:
        text = tokenizer.apply_chat_template(chat, tokenize=False, enable_thinking=True)
    except TemplateError:  # one that writes prompts only
        return 1
    _, found, behind = text.rpartition(PROBE)
    return max(1, len(tokenizer(behind, add_special_tokens=False)["input_ids"])) if found else 1


def _rendered(tokenizer: Any, question: str) -> str:
    return prompts.render(tokenizer, prompts.student_messages(question), thinking=False)


def _last_special(tokenizer: Any, text: str) -> int | None:
    """Where the last special token of a text starts. None if there is none, or one takes blanks from its left."""
    special = [token for token in tokenizer.added_tokens_decoder.values() if token.special and token.content in text]
    if any(token.lstrip or token.normalized for token in special):
        return None
    return max((text.rindex(token.content) for token in special), default=None)
