"""Decides which of the answers in a model's output is the final one (docs/GRADING.md, "Where the answer is read").

Every scan is linear in the length of the text, since a model's text may be hostile.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from cotkit.core import think_marks
from cotkit.core.datasets import AnswerKind
from cotkit.grading.choices import option_letter, stated_options
from cotkit.grading.markers import MAX_CANDIDATES, Found, answer_lines, bare, boxes, statements
from cotkit.grading.wording import MAX_LINE

MAX_BETWEEN = 4000  # characters between an answer and its correction; longer texts are not searched

_NEW_QUESTION = re.compile(r"\n\s*\n(?=[A-Z])(?!.*\b(?:I|we|We|let|Let|my|hmm)\b)[^\n]{40,}\?[ \t]*(?:\n|$)")
_RUNAWAY = re.compile(
    r"^[ \t]*(?:\*\*|#+[ \t]*)?(?:problem|question|exercise|example|instruction|input|task|prompt)"
    r"[ \t]*\d*[ \t]*(?:\*\*)?[:：.]"
    r"|^[ \t]*(?:q|human|user|assistant|student)[ \t]*\d*[ \t]*:|^[ \t]*(?:user|assistant|human|system)[ \t]*$"
    r"|<\|[a-z_]{2,20}\|>|^[ \t]*\[INST\]|</s>",
    re.IGNORECASE | re.MULTILINE,
)
_CORRECTION = re.compile(
    r"(?:^|[.!?,\n—-])[ \t*(]*(?:but |oh,? |no,? |hmm,? |however,? )?"
    r"(?:wait|actually|oops|correction|sorry|apolog|i made a|let me (?:re|double|correct|fix|check)|on second thought"
    r"|that(?:'s| is) (?:wrong|incorrect|not right)|my mistake|this is (?:wrong|incorrect))",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Extraction:
    """The final answer without decoration, how it was found, and the offset in the response where it ends."""

    answer: str | None
    how: str  # answer_line, boxed, answer_tag, statement, bare, none, unclosed_think
    end: int  # the length of the response if there is no answer


def strip_thinking(response: str) -> tuple[str, str]:
    """(thinking, visible text). The visible text follows the last think block; it is "" if that block is never closed.

    A block that opens after a complete answer line, or in runaway text after a box, stays in the visible text.
    """
    start, _ = _visible_start(response)
    return think_marks.MARK.sub("", response[:start]).strip(), response[start:]


def split_thinking(response: str) -> tuple[str, str]:
    """(thinking, text) as rows keep them: a closed think block leaves the text, an unclosed one stays in it."""
    _, unclosed = _visible_start(response)
    return ("", response) if unclosed else strip_thinking(response)


def _visible_start(response: str) -> tuple[int, bool]:
    """The offset after the last think block, and whether that block is not closed; then the offset is the length."""
    start, opened, closed_before = 0, False, False
    for mark in think_marks.marks(response):
        may_follow_answer = not opened and (closed_before or not mark.closes)
        if may_follow_answer and _is_answered(response[start : mark.start]):
            break
        if mark.closes:
            start, closed_before = mark.end, True
        opened = not mark.closes
    return (len(response), True) if opened else (start, False)


def _is_answered(text: str) -> bool:
    """Does `text` have an answer line, or a box and then runaway text?"""
    if next(answer_lines(text, numeric=False), None):
        return True
    found = boxes(text, numeric=False)
    return bool(found) and _segment_end(text, found[0].end) < len(text)


def answer_line_end(text: str) -> int | None:
    """The offset where the first complete answer line outside think blocks ends; None while there is none.

    A line is complete if a newline follows it. Echoes of the instruction (`#### x`) and headings do not count.
    """
    if "####" not in text:
        return None
    start, _ = _visible_start(text)
    for found in answer_lines(text[start:], numeric=False):
        newline = text.find("\n", start + found.end)
        return newline if newline >= 0 else None
    return None


def _segment_end(text: str, start: int) -> int:
    """Where runaway text begins at or after `start`; the end of the text if there is none."""
    runaway = _RUNAWAY.search(text, start)
    return runaway.start() if runaway else len(text)


def _corrects(between: str) -> bool:
    """Does the text between two answers withdraw the first one? A text with an invented next question never does."""
    return "?" not in between and _CORRECTION.search(between) is not None


def _first_unless_corrected(candidates: Iterator[Found], text: str) -> Found | None:
    chosen = next(candidates, None)
    if chosen is None:
        return None
    end = _segment_end(text, chosen.end)
    for later in candidates:
        if later.start >= end or not _corrects(text[chosen.end : later.start]):
            break
        chosen = later
    return chosen


def _last_statement(candidates: Iterator[Found], text: str) -> Found | None:
    """The last statement before runaway text or an invented question. The working may state parts of the answer."""
    chosen = next(candidates, None)
    end = _segment_end(text, chosen.end) if chosen else 0
    for later in candidates:
        if later.start >= end or "?" in text[chosen.end : later.start]:
            break
        chosen = later
    return chosen


def _last_box(text: str, line: Found | None, numeric: bool) -> Found | None:
    """The last box before runaway text. After an answer line, only a restatement or a correction counts."""
    found = boxes(text, numeric)
    if not found:
        return None
    end = _segment_end(text, min(found[0].end, line.end) if line else found[0].end)
    found = [box for box in found if box.end <= end]
    if line is None or not found:
        return _before_new_question(found, text)
    before = [box for box in found if box.start < line.end]
    for box in found[len(before) : len(before) + MAX_CANDIDATES]:
        between = text[(before[-1] if before else line).end : box.start]
        if len(between) > MAX_BETWEEN:
            break
        restated = not before and len(between) <= MAX_LINE and not re.search(r"\?|####|\n\s*\n", between)
        if restated or _corrects(between):
            before.append(box)
    return before[-1] if before else None


def _before_new_question(found: list[Found], text: str) -> Found | None:
    """The last of the boxes before an invented new question."""
    for box, following in pairwise(found):
        between = text[box.end : following.start]
        if "?" in between and _NEW_QUESTION.search(between) and not _CORRECTION.search(between):
            return box
    return found[-1] if found else None


def extract(response: str, kind: AnswerKind) -> Extraction:
    """The final answer of `response` by the rule of its kind."""
    numeric = kind == "number"
    start, unclosed = _visible_start(response)
    text = response[start:]
    if not text.strip():
        return Extraction(None, "unclosed_think" if unclosed else "none", len(response))
    line = _first_unless_corrected(answer_lines(text, numeric), text) if "####" in text else None
    how, found = "answer_line", line
    if not (numeric and line) and (box := _last_box(text, line, numeric)):
        how, found = "boxed", box
    if found is None:
        found = _last_statement(statements(text, numeric), text)
        how = "answer_tag" if found and found.complete else "statement"
    if found is None and kind == "choice":
        found = next((Found(*last) for last in deque(stated_options(text), maxlen=1)), None)
    if found is None:
        how, found = "bare", bare(text, numeric)
        if kind == "choice" and len(text) <= MAX_LINE and (letter := option_letter(text)):
            found = found or Found(letter, 0, len(text.rstrip()))
        elif found and kind in ("integer", "choice") and not re.search(r"\d", found.answer):
            found = None
    return Extraction(found.answer, how, start + found.end) if found else Extraction(None, "none", len(response))
