"""The one table of the marks that models put around a thought; the grader, the filter and the backends all use it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

_NAMES = (
    r"(?:\w{1,20}[:_])?(?:think(?:ing)?|thoughts?|reason(?:ing)?|analysis|reflection|scratchpad|inner_monologue)"
    r"|(?:anti?|internal_)?thinking|internal_thoughts?"
)
_HARMONY_TOKENS = {"<|start|>", "<|channel|>", "<|message|>", "<|end|>"}
_HARMONY = r"(?:<\|end\|>\s*)?(?:<\|start\|>assistant\s*)?<\|channel\|>\s*{}[^<>\n]*<\|message\|>"

# Opening mark, closing mark, an example of a model that writes them. Case and blanks inside a tag do not matter.
_TABLE = (
    (rf"<\s?(?:{_NAMES})(?:\s[^<>\n]{{0,80}})?>", rf"<\s?/\s?(?:{_NAMES})\s?>"),  # Qwen3, Seed-OSS, EXAONE Deep
    (r"\[think\]", r"\[/think\]"),  # Magistral
    (r"◁think▷", r"◁/think▷"),  # Kimi-VL
    (r"<\|begin_of_thought\|>", r"<\|end_of_thought\|>"),  # Sky-T1
    (r"<\|start_?(?:of_?)?think(?:ing)?\|>", r"<\|end_?(?:of_?)?think(?:ing)?\|>"),  # Command A Reasoning
    (r"<\|start_?of_?thought\|>", r"<\|end_?of_?thought\|>"),
    (r"<\|think(?:ing)?\|>", r"<\|/think(?:ing)?\|>"),
    (_HARMONY.format("(?:analysis|commentary)"), _HARMONY.format("final")),  # gpt-oss
)
MARK = re.compile(
    f"(?P<open>{'|'.join(opening for opening, _ in _TABLE)})|(?P<close>{'|'.join(closing for _, closing in _TABLE)})",
    re.IGNORECASE,
)
_BRACKETED = ("[t", "[T", "[/")


class Mark(NamedTuple):
    """A mark where a thought begins or ends, and its span. Marks inside a thought of another name are left out."""

    closes: bool
    start: int
    end: int


def marks(text: str) -> Iterator[Mark]:
    """The marks of `text` at which the state changes, in order. A closing mark without an opening one is among them."""
    # Every mark has one of these, and most texts have none: `[` alone is frequent in formulas.
    if not ("<" in text or "◁" in text or "[" in text and any(begins in text for begins in _BRACKETED)):
        return
    open_names: list[str] = []
    for match in MARK.finditer(text):
        name = _name(match[0])
        if match["open"]:
            if not open_names:
                yield Mark(False, *match.span())
            if name not in open_names:
                open_names.append(name)
            continue
        # Models close a thought by a mark of another spelling too: then everything that is open ends.
        del open_names[open_names.index(name) if name in open_names else 0 :]
        if not open_names:
            yield Mark(True, *match.span())


def opened_by(prompt: str) -> str:
    """The mark of a thought that a prompt leaves open at its end, with the blanks after it; "" if there is none."""
    found = list(MARK.finditer(prompt))
    is_open = found and found[-1]["open"] and not prompt[found[-1].end() :].strip()
    return prompt[found[-1].start() :] if is_open else ""


def is_part(token: str, tokens: Iterable[str]) -> bool:
    """Is a special token of a tokenizer, which has these `tokens`, a mark or a piece of one?"""
    if MARK.fullmatch(token):
        return True
    return token in _HARMONY_TOKENS and set(tokens) >= _HARMONY_TOKENS


def _name(mark: str) -> str:
    """`think` for `<think>` and `</think>`; every harmony channel is one name."""
    if "channel" in mark.lower():
        return "channel"
    return re.sub(r"(?<=\w)\s.*|[^a-z]|begin|start|end|of", "", mark.lower())
