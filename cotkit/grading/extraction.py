"""Finding the final answer in a whole model output (docs/GRADING.md, "Where the answer is read").

Every scan is linear in the length of the text: the text is a model's and may be hostile.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from cotkit.core.datasets import KINDS, NUMBER_DATASETS
from cotkit.grading.markers import (
    COMMAND,
    MAX_CANDIDATES,
    MAX_LINE,
    PROSE,
    Found,
    answer_lines,
    boxes,
    is_echo,
    number_answer,
    well_formed,
)
from cotkit.grading.normalize import plain_thousands, strip_decoration, unify_characters

MAX_BETWEEN = 4000  # characters between an answer and its correction


@dataclass(frozen=True, slots=True)
class Extraction:
    """`answer` without decoration, `how` it was found, `end` = offset in the whole response just past it."""

    answer: str | None
    how: str  # answer_line, boxed, statement, bare, none, unclosed_think
    end: int


_TAG = re.compile(r"</?think(?:ing)?>")
_STATEMENT = re.compile(
    r"\b(?:answers?|result is)\b(?P<to>[^.?!\n:=]{0,60}?)(?:\b(?:is|are|would be|must be|equals)\b\s*:?|[:=])[\s*_]*"
    r"(?P<answer>\\\[[^\]]{1,400}?\\\]|\$\$[^$]{1,400}\$\$|[^\n]+)",
    re.IGNORECASE,
)
# One formula, or several that are joined: `$2$ and $3$`.
_DELIMITED = re.compile(
    r"\$\$[^$]+\$\$|\\\((?:(?!\\\)).)+\\\)|\\\[(?:(?!\\\]).)+\\\]|\*\*[^*]+\*\*"
    r"|\$(?:\\.|[^$\\])+\$(?:(?:,| and| or|, and|, or)\s*\$(?:\\.|[^$\\])+\$)*",
    re.DOTALL,
)
_PRICE = re.compile(r"\$\d[^$]*\$\d")
_SENTENCE_END = re.compile(
    r"(?<!\b[a-zA-Z])(?<!\\)[.!?;](?=\s|$|<)|<\||,\s(?!(?:and|or)\b)(?=(?-i:[a-z]{2}))|\s(?:because|since|so|which)\b",
    re.IGNORECASE,
)
_NEW_QUESTION = re.compile(r"\n\s*\n(?=[A-Z])(?!.*\b(?:I|we|We|let|Let|my|hmm)\b)[^\n]{40,}\?[ \t]*(?:\n|$)")
_NOT_STATED = re.compile(
    r"(?:not|correct|wrong|incorrect|the same|given|that|obviously|clearly|found|obtained|either)\b|(?:a|an|in|as)\s+[a-z]{2}",
    re.IGNORECASE,
)
_RUN_ON = re.compile(
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


def strip_thinking(response: str) -> tuple[str, str]:
    """(thinking, visible text). Visible is what follows the last think block; "" when that block is never closed.

    A block that opens after a complete answer line is run-on text and is left in the visible text.
    """
    if "think" not in response:
        return "", response
    start = _visible_start(response)
    return _TAG.sub("", response[:start]).strip(), response[start:]


def split_thinking(response: str) -> tuple[str, str]:
    """(thinking, text) as records keep them: only a closed think block leaves the text, an unclosed one stays in it."""
    thinking, visible = strip_thinking(response)
    unclosed = not visible.strip() and not response.rstrip().endswith("</think>")
    return ("", response) if unclosed else (thinking, visible)


def _visible_start(response: str) -> int:
    start, opened, closed_before = 0, False, False
    for tag in _TAG.finditer(response):
        closing = tag[0].startswith("</")
        answered = not opened and (closed_before or not closing) and _has_answer_line(response, start, tag.start())
        if answered:
            break
        if closing:
            start, closed_before = tag.end(), True
        opened = not closing
    return len(response) if opened else start


def _has_answer_line(text: str, start: int, end: int) -> bool:
    return "####" in text[start:end] and next(answer_lines(text[start:end], numeric=False), None) is not None


def answer_line_end(text: str) -> int | None:
    """Offset just past the first complete well-formed `#### <answer>` line (a newline follows it) outside think blocks.

    None while there is none. Echoes of the instruction (`#### x`, `#### <answer>`) and headings do not count.
    """
    if "####" not in text:
        return None
    start = _visible_start(text) if "think" in text else 0
    for found in answer_lines(text[start:], numeric=False):
        newline = text.find("\n", start + found.end)
        return newline if newline >= 0 else None
    return None


def _statements(text: str, numeric: bool) -> Iterator[Found]:
    """Explicit statements such as "The answer is 42." or "Final answer: 42"."""
    position = 0
    while match := _STATEMENT.search(text, position):
        position = match.end()
        line, start = match["answer"][:MAX_LINE], match.start("answer")
        piece = _first_piece(line)
        answer = None if _NOT_STATED.match(piece) else well_formed(piece, numeric)
        if answer is not None:
            yield Found(answer, match.start(), start + len(piece.rstrip()))


def _first_piece(line: str) -> str:
    """The answer at the start of a line of prose: delimited formulas, or the text up to the end of the sentence."""
    if (formula := _DELIMITED.match(line)) and not _PRICE.match(line):
        return formula[0]
    stop = _SENTENCE_END.search(line)
    return line[: stop.start()] if stop else line


def _segment_end(text: str, start: int) -> int:
    """End of the answer's own segment: the first run-on marker at or after `start`."""
    run_on = _RUN_ON.search(text, start)
    return run_on.start() if run_on else len(text)


def _corrects(between: str) -> bool:
    """Does the text between two candidate answers take the first one back? An invented next question never does."""
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


def _last_box(text: str, line: Found | None, numeric: bool) -> Found | None:
    """The last box of the answer's segment; after an answer line only a restatement or a correction counts."""
    found = boxes(text)
    if numeric:
        numbers = [(box, number_answer(box.answer)) for box in found[-MAX_CANDIDATES:]]
        found = [box._replace(answer=number) for box, number in numbers if number]
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
    """The last of the boxes before the text asks a new question of its own, as a model that runs on does."""
    for box, following in pairwise(found):
        between = text[box.end : following.start]
        if "?" in between and _NEW_QUESTION.search(between) and not _CORRECTION.search(between):
            return box
    return found[-1] if found else None


def _bare(text: str, numeric: bool) -> Found | None:
    """A response that is nothing but an answer: one short line without prose (a matrix may take several)."""
    stripped = text.strip()
    if (
        not re.search(r"\w|\\[{]", unify_characters(stripped[: MAX_LINE + 1]))
        or len(stripped) > MAX_LINE
        or re.search(r"#|\\(?:boxed|fbox)", stripped)
        or "\n" in stripped
        and "\\begin" not in stripped
    ):
        return None
    start = text.index(stripped)
    if numeric:
        answer = number_answer(stripped) if not re.match(r"[\W_]*[a-z]+ ", stripped, re.IGNORECASE) else None
    else:
        words = COMMAND.sub(" ", stripped).replace(",", " ").split()
        is_list = stripped.count(",") >= len(words) - 1
        prose = bool(PROSE.search(COMMAND.sub(" ", stripped))) and len(words) > (2 if words[0][0].isalpha() else 4)
        answer = None if prose and not is_list or is_echo(stripped) else strip_decoration(stripped)
    return Found(answer, start, start + len(stripped)) if answer else None


def extract(response: str, dataset: str) -> Extraction:
    """The final answer of `response` by the rule of `dataset`. Raises ValueError for an unknown data set."""
    if dataset not in KINDS:
        raise ValueError(f"unknown data set {dataset!r}; known: {', '.join(sorted(KINDS))}")
    numeric = dataset in NUMBER_DATASETS
    start = _visible_start(response) if "think" in response else 0
    text = response[start:]
    if not text.strip():
        return Extraction(
            None, "unclosed_think" if start and response.rstrip()[-8:] != "</think>" else "none", len(response)
        )
    line = _first_unless_corrected(answer_lines(text, numeric), text) if "####" in text else None
    how, found = "answer_line", line
    if not (numeric and line) and (box := _last_box(text, line, numeric)):
        how, found = "boxed", box
    if found is None:
        how, found = "statement", _first_unless_corrected(_statements(text, numeric), text)
    if found is None:
        how, found = "bare", _bare(text, numeric)
        if found and KINDS[dataset] in ("integer", "choice") and not re.search(r"\d", found.answer):
            found = None
    return Extraction(found.answer, how, start + found.end) if found else Extraction(None, "none", len(response))


def last_number(response: str) -> str | None:
    """The last number of the visible text, as plain digits: a separate "flexible" column, never the headline."""
    visible = plain_thousands(unify_characters(strip_thinking(response)[1]))
    numbers = re.findall(r"(?<![\w.])-?\d+(?:\.\d+)?|(?<![\w.])-?\.\d+", visible)
    return numbers[-1] if numbers else None
