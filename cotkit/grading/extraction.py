"""Finds the final answer in a model's output (docs/GRADING.md, "Where the answer is read").

Every scan is linear in the length of the text, since a model's text may be hostile.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from cotkit.core.datasets import AnswerKind
from cotkit.core.number_words import NUMBER_WORDS
from cotkit.grading.choices import option_letter, stated_options
from cotkit.grading.normalize import plain_thousands, strip_decoration, unify_characters

MAX_BETWEEN = 4000  # characters between an answer and its correction; longer texts are not searched
MAX_CANDIDATES = 1000  # answer lines or boxes that are read in one response
MAX_LINE = 400  # characters that are read of an answer line, a box or a statement; gold answers have 200 at most

_MARKER = re.compile(
    r"(?<!#)####(?!#)[ \t:]*(?:(?:\**(?:the )?(?:final )?answer\**:?\**[ \t]*)?\n{1,2}[ \t]*)?([^\n#]*)", re.IGNORECASE
)
_HEADING = re.compile(
    r"(?:step|part|case|problem|question|solution|explanation|reasoning|calculat\w*|verif\w*|check\w*|conclusion|"
    r"summary|example|exercise|method|approach|note|given|analysis|proof|thought\w*|final|answers?)s?\b"
    r"(?!\s*(?:is|are|:|=)?\s*[-$\\]?\s*\d)"
    r"|(?:step|part|case|problem|question|example|exercise|method)\s*\d|[a-z]{3,}\s+\d+\s*[.):]\s+\S|\d+\s*[.):]\s+\D",
    re.IGNORECASE,
)
_ANSWER_IS = re.compile(
    r"(?:so |thus |hence |therefore |and )?,?"
    r"(?:the |my |our )?(?:final |correct )?answer(?: is| are)?\s*[:=]?\s*(?=\S)",
    re.IGNORECASE,
)
_APPROXIMATELY = re.compile(r"^\s*(?:\\approx|~|about)(?![a-zA-Z])\s*")
_NUMBER = re.compile(
    r"(?<![\w.])[-+]?[$€£]?\s?(?:\d+\s+\d+/\d+|\d+\s*/\s*\d+|\d+\.?\d*(?:e[-+]?\d+)?|\.\d+)(?![\d])(?:\s?\\?%)?",
    re.IGNORECASE,
)
# If this follows the first number of an answer line, that number is not the whole answer.
_CONTINUES = re.compile(
    r"\s*(?:(?:\bor\b|\band\b|\bto\b|[,;:x])\s*[-$\\({]*\d|[(\[]?\s*[-+*/^=×!]|\\(?!text|mbox|mathrm|[,;!% ]))",
    re.IGNORECASE,
)
_FORMULA = re.compile(r"[\d\\=+^]|[(\[].*,")
_PROSE = re.compile(r"[a-z]{4,}", re.IGNORECASE)
_COMMAND = re.compile(
    r"\\(?:text|mbox|textbf|mathrm|textnormal|operatorname)\s*\{[^{}]*\}|\\[a-zA-Z]+|\{[pbvB]?matrix\}|\{array\}"
)
_AROUND = r"[\s\"'`.,;:<>\[\](){}*_$\\#-]*"
_PLACEHOLDER = re.compile(
    _AROUND + r"(?:(?:the |your |final |correct |numeric(?:al)? )*"
    r"(?:answer|number|result|value|solution|integer)(?: here)?|x|\?+|…)?" + _AROUND,
    re.IGNORECASE,
)
_SUBSTANCE = re.compile(r"\w|\\[{]")
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
    how: str  # answer_line, boxed, statement, bare, none, unclosed_think
    end: int  # the length of the response if there is no answer


class Found(NamedTuple):
    """A candidate answer in a text: the answer, and the span it was read from."""

    answer: str
    start: int
    end: int


def strip_thinking(response: str) -> tuple[str, str]:
    """(thinking, visible text). The visible text follows the last think block; it is "" if that block is never closed.

    A block that opens after a complete answer line is runaway text and stays in the visible text.
    """
    if "think" not in response:
        return "", response
    start = _visible_start(response)
    return _TAG.sub("", response[:start]).strip(), response[start:]


def split_thinking(response: str) -> tuple[str, str]:
    """(thinking, text) as rows keep them: a closed think block leaves the text, an unclosed one stays in it."""
    thinking, visible = strip_thinking(response)
    unclosed = not visible.strip() and not response.rstrip().endswith("</think>")
    return ("", response) if unclosed else (thinking, visible)


def _visible_start(response: str) -> int:
    """The offset after the last think block, or the length of the response if that block is not closed."""
    start, opened, closed_before = 0, False, False
    for tag in _TAG.finditer(response):
        closing = tag[0].startswith("</")
        may_follow_answer = not opened and (closed_before or not closing)
        if may_follow_answer and next(_answer_lines(response[start : tag.start()], numeric=False), None):
            break
        if closing:
            start, closed_before = tag.end(), True
        opened = not closing
    return len(response) if opened else start


def answer_line_end(text: str) -> int | None:
    """The offset where the first complete answer line outside think blocks ends; None while there is none.

    A line is complete if a newline follows it. Echoes of the instruction (`#### x`) and headings do not count.
    """
    if "####" not in text:
        return None
    start = _visible_start(text) if "think" in text else 0
    for found in _answer_lines(text[start:], numeric=False):
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
        answer = None if _NOT_STATED.match(piece) else _well_formed(piece, numeric)
        if answer is not None:
            yield Found(answer, match.start(), start + len(piece.rstrip()))


def _first_piece(line: str) -> str:
    """The answer that begins a line of prose: delimited formulas, or the text up to the end of the sentence."""
    if (formula := _DELIMITED.match(line)) and not _PRICE.match(line):
        return formula[0]
    stop = _SENTENCE_END.search(line)
    return line[: stop.start()] if stop else line


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


def _last_box(text: str, line: Found | None, numeric: bool) -> Found | None:
    """The last box before runaway text. After an answer line, only a restatement or a correction counts."""
    found = _boxes(text)
    if numeric:
        numbers = [(box, _number_answer(box.answer)) for box in found[-MAX_CANDIDATES:]]
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
    """The last of the boxes before an invented new question."""
    for box, following in pairwise(found):
        between = text[box.end : following.start]
        if "?" in between and _NEW_QUESTION.search(between) and not _CORRECTION.search(between):
            return box
    return found[-1] if found else None


def _bare(text: str, numeric: bool) -> Found | None:
    """A response that is only an answer: one short line without prose, or a matrix of several lines."""
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
        answer = _number_answer(stripped) if not re.match(r"[\W_]*[a-z]+ ", stripped, re.IGNORECASE) else None
    else:
        words = _COMMAND.sub(" ", stripped).replace(",", " ").split()
        is_list = stripped.count(",") >= len(words) - 1
        prose = bool(_PROSE.search(_COMMAND.sub(" ", stripped))) and len(words) > (2 if words[0][0].isalpha() else 4)
        answer = None if prose and not is_list or _is_echo(stripped) else strip_decoration(stripped)
    return Found(answer, start, start + len(stripped)) if answer else None


def extract(response: str, kind: AnswerKind) -> Extraction:
    """The final answer of `response` by the rule of its kind."""
    numeric = kind == "number"
    start = _visible_start(response) if "think" in response else 0
    text = response[start:]
    if not text.strip():
        unclosed = start > 0 and not response.rstrip().endswith("</think>")
        return Extraction(None, "unclosed_think" if unclosed else "none", len(response))
    line = _first_unless_corrected(_answer_lines(text, numeric), text) if "####" in text else None
    how, found = "answer_line", line
    if not (numeric and line) and (box := _last_box(text, line, numeric)):
        how, found = "boxed", box
    if found is None:
        how, found = "statement", _first_unless_corrected(_statements(text, numeric), text)
    if found is None and kind == "choice":
        found = next((Found(*last) for last in deque(stated_options(text), maxlen=1)), None)
    if found is None:
        how, found = "bare", _bare(text, numeric)
        if kind == "choice" and len(text) <= MAX_LINE and (letter := option_letter(text)):
            found = found or Found(letter, 0, len(text.rstrip()))
        elif found and kind in ("integer", "choice") and not re.search(r"\d", found.answer):
            found = None
    return Extraction(found.answer, how, start + found.end) if found else Extraction(None, "none", len(response))


def _is_echo(text: str) -> bool:
    """Is a box or a bare answer only a placeholder? The variable x can be an answer there."""
    if not _SUBSTANCE.search(unify_characters(text[:MAX_LINE])):
        return True
    return _PLACEHOLDER.fullmatch(text[:MAX_LINE]) is not None and strip_decoration(text) not in ("x", "X", r"\{\}")


def _boxes(text: str) -> list[Found]:
    r"""All balanced boxes of `text` that are not empty, and of nested ones the innermost: `\boxed{...}`, `\boxed 5`."""
    found: list[Found] = []
    if "\\boxed" not in text and "\\fbox" not in text:
        return found
    for match in re.finditer(r"\\(?:boxed|fbox)\s*(-?\w+)", text):
        found.append(Found(match[1], match.start(), match.end()))
    return sorted(found + _braced_boxes(text), key=lambda item: item.end)


def _braced_boxes(text: str) -> list[Found]:
    openings = {match.end(): match.start() for match in re.finditer(r"\\(?:boxed|fbox)\s*\{", text)}
    found: list[Found] = []
    stack: list[tuple[int, int | None, int]] = []  # start of the content, start of the box, boxes found before it
    for token in re.finditer(r"\\[a-z]+\s*\{|\\.|[{}]", text):
        if token[0].endswith("{") and token[0] != r"\{":
            stack.append((token.end(), openings.get(token.end()), len(found)))
        elif token[0] == "}" and stack:
            start, box, before = stack.pop()
            if box is None or len(found) > before:
                continue
            content = strip_decoration(text[start : token.start()])
            if content and not _is_echo(content):
                found.append(Found(content, box, token.end()))
    return found


def _answer_lines(text: str, numeric: bool) -> Iterator[Found]:
    """The well-formed answer lines of `text`, in order."""
    position = text.find("####")
    for _ in range(MAX_CANDIDATES):
        if position < 0:
            return
        match = _MARKER.match(text, position) if position == 0 or text[position - 1] != "#" else None
        # Prose may follow a number in its line, but a formula of that length is no answer.
        content = match[1].strip() if match else ""
        if len(content) > MAX_LINE:
            content = content[:MAX_LINE] if numeric else ""
        if match and (answer := _well_formed(content, numeric)):
            yield Found(answer, position, match.start(1) + len(match[1].rstrip()))
        position = text.find("####", max(position + 4, match.end() if match and match[1].strip() else 0))


def _well_formed(content: str, numeric: bool) -> str | None:
    """The cleaned answer of an answer line; None for an echo of the instruction or a heading."""
    text = strip_decoration(content)
    if not text or _PLACEHOLDER.fullmatch(text[:MAX_LINE]) or _HEADING.match(text):
        return None
    said = _ANSWER_IS.match(text)
    text = strip_decoration(text[said.end() :]) if said and said.end() < len(text) else text
    if numeric:
        return _number_answer(text)
    return text if _looks_mathematical(text) or len(text.split()) == 1 else None


def _looks_mathematical(text: str) -> bool:
    """Is `text` a number or a formula rather than prose? Words around one number are allowed."""
    if _PROSE.search(_COMMAND.sub(" ", text)):
        return any(char.isdigit() for char in text) and _number_answer(text) is not None
    return bool(_FORMULA.search(text)) or len(text.split()) <= 3


def _number_answer(text: str) -> str | None:
    """The one number that the answer of a word problem states, in plain digits if possible; None if there is none.

    `$1,234.50 per day` -> `1234.50`, `3 + 5 = 8` -> `8`, `18 eggs (2 dozen)` -> `18`. `42 or 43` is returned unchanged.
    """
    text = plain_thousands(
        _APPROXIMATELY.sub("", strip_decoration(text).rstrip("!")).replace(r"\$", "$").replace(r"\%", "%")
    )
    if text.startswith("(") and text.find(")") == len(text) - 1:
        text = text[1:-1].strip()
    if "=" in text and (last := strip_decoration(text[text.rfind("=") + 1 :])):
        text = last
    numbers = list(_NUMBER.finditer(text)) if len(text) <= MAX_LINE else []
    if not numbers:
        if any(char.isdigit() for char in text):
            return text
        named = [word for word in re.findall(r"[a-z]+", text.lower()) if word in NUMBER_WORDS[:13]]
        return str(NUMBER_WORDS.index(named[0])) if len(named) == 1 else None
    first = numbers[0]
    leading = not text[: first.start()].strip(" \t$€£~≈")
    if (
        leading
        and not _CONTINUES.match(text, first.end())
        or len(numbers) == 1
        and not re.search(r"[\\^_*/+(){}]", text)
    ):
        if " " in first[0].strip():  # a mixed number
            return first[0].strip(" $")
        return re.sub(r"[$€£\s]+(?=[\d.])", "", first[0]).replace(" %", "%").strip()
    return text if leading or "\\" in text else None
