"""The boxes of a text, and what is only the echo of an instruction."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from cotkit.grading.normalize import plain_thousands, strip_decoration, unify_characters

_AROUND = r"[\s\"'`.,;:<>\[\](){}*_$\\#-]*"
PLACEHOLDER = re.compile(
    _AROUND + r"(?:(?:the |your |final |correct |numeric(?:al)? )*"
    r"(?:answer|number|result|value|solution|integer)(?: here)?|x|\?+|…)?" + _AROUND,
    re.IGNORECASE,
)
_SUBSTANCE = re.compile(r"\w|\\[{]")
MAX_ECHO = 400  # characters looked at


class Found(NamedTuple):
    """A candidate answer in a text: the answer, and the span it was read from."""

    answer: str
    start: int
    end: int


def is_echo(text: str) -> bool:
    """Is a box or a bare answer only a placeholder? A variable can be an answer there."""
    if not _SUBSTANCE.search(unify_characters(text[:MAX_ECHO])):
        return True
    return PLACEHOLDER.fullmatch(text[:MAX_ECHO]) is not None and strip_decoration(text) not in ("x", "X", r"\{\}")


def boxes(text: str) -> list[Found]:
    r"""All non-empty balanced `\boxed{...}` of `text`, innermost of nested ones, in one pass."""
    found: list[Found] = []
    if "\\boxed" not in text and "\\fbox" not in text:
        return found
    for match in re.finditer(r"\\(?:boxed|fbox)\s*(?:\{|(-?\w+))", text):
        if match[1]:
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
            if content and not is_echo(content):
                found.append(Found(content, box, token.end()))
    return found


MAX_CANDIDATES = 1000  # answer lines or boxes looked at in one response
MAX_LINE = 400  # characters of an answer line or a statement that are looked at; real answers stay below 200

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
_SAID = re.compile(
    r"(?:so |thus |hence |therefore |and )?,?"
    r"(?:the |my |our )?(?:final |correct )?answer(?: is| are)?\s*[:=]?\s*(?=\S)",
    re.IGNORECASE,
)
_EQUALS_SIGN = re.compile(r"^\s*(?:\\approx|~|about)(?![a-zA-Z])\s*")
_WORD_NUMBERS = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
]
_NUMBER = re.compile(
    r"(?<![\w.])[-+]?[$€£]?\s?(?:\d+\s+\d+/\d+|\d+\s*/\s*\d+|\d+\.?\d*(?:e[-+]?\d+)?|\.\d+)(?![\d])(?:\s?\\?%)?",
    re.IGNORECASE,
)
# What may not follow the number of an answer line, if the number is to be the whole answer.
_GOES_ON = re.compile(
    r"\s*(?:(?:\bor\b|\band\b|\bto\b|[,;:x])\s*[-$\\({]*\d|[(\[]?\s*[-+*/^=×!]|\\(?!text|mbox|mathrm|[,;!% ]))",
    re.IGNORECASE,
)
_FORMULA = re.compile(r"[\d\\=+^]|[(\[].*,")
PROSE = re.compile(r"[a-z]{4,}", re.IGNORECASE)
COMMAND = re.compile(
    r"\\(?:text|mbox|textbf|mathrm|textnormal|operatorname)\s*\{[^{}]*\}|\\[a-zA-Z]+|\{[pbvB]?matrix\}|\{array\}"
)


def answer_lines(text: str, numeric: bool) -> Iterator[Found]:
    position = text.find("####")
    for _ in range(MAX_CANDIDATES):
        if position < 0:
            return
        match = _MARKER.match(text, position) if position == 0 or text[position - 1] != "#" else None
        # Prose may run on in the line of a number; a formula that long is none.
        content = match[1].strip() if match else ""
        if len(content) > MAX_LINE:
            content = content[:MAX_LINE] if numeric else ""
        if match and (answer := well_formed(content, numeric)):
            yield Found(answer, position, match.start(1) + len(match[1].rstrip()))
        position = text.find("####", max(position + 4, match.end() if match and match[1].strip() else 0))


def well_formed(content: str, numeric: bool) -> str | None:
    """The cleaned answer of an answer line or a box, None for an echo of the instruction or a heading."""
    text = strip_decoration(content)
    if not text or PLACEHOLDER.fullmatch(text[:MAX_LINE]) or _HEADING.match(text):
        return None
    said = _SAID.match(text)
    text = strip_decoration(text[said.end() :]) if said and said.end() < len(text) else text
    if numeric:
        return number_answer(text)
    return text if looks_mathematical(text) or len(text.split()) == 1 else None


def looks_mathematical(text: str) -> bool:
    """A number or a formula, possibly with words around the one number, but no prose."""
    if PROSE.search(COMMAND.sub(" ", text)):
        return any(char.isdigit() for char in text) and number_answer(text) is not None
    return bool(_FORMULA.search(text)) or len(text.split()) <= 3


def number_answer(text: str) -> str | None:
    """The one number a word problem's answer states, as plain digits where possible; None when the text holds none.

    `$1,234.50 per day` -> `1234.50`, `3 + 5 = 8` -> `8`, `18 eggs (2 dozen)` -> `18`; `42 or 43` is kept whole.
    """
    text = plain_thousands(
        _EQUALS_SIGN.sub("", strip_decoration(text).rstrip("!")).replace(r"\$", "$").replace(r"\%", "%")
    )
    if text.startswith("(") and text.find(")") == len(text) - 1:
        text = text[1:-1].strip()
    if "=" in text and (last := strip_decoration(text[text.rfind("=") + 1 :])):
        text = last
    numbers = list(_NUMBER.finditer(text)) if len(text) <= MAX_LINE else []
    if not numbers:
        words = re.findall(r"[a-z]+", text.lower())
        named = [word for word in words if word in _WORD_NUMBERS]
        has_digit = any(char.isdigit() for char in text)
        return (
            str(_WORD_NUMBERS.index(named[0])) if len(named) == 1 and not has_digit else (text if has_digit else None)
        )
    first = numbers[0]
    leading = not text[: first.start()].strip(" \t$€£~≈")
    if leading and not _GOES_ON.match(text, first.end()) or len(numbers) == 1 and not re.search(r"[\\^_*/+(){}]", text):
        return (
            re.sub(r"[$€£\s]+(?=[\d.])", "", first[0]).replace(" %", "%").strip()
            if " " not in first[0].strip()
            else first[0].strip(" $")
        )
    return text if leading or "\\" in text else None
