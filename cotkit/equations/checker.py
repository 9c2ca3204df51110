"""Checks every arithmetic equation in a reasoning text, exactly and in linear time.

`find_steps("He pays 3 x $4 = $12.")` gives one step that holds. Each `=` is judged alone: the longest expression that
ends at it is compared with the longest that starts at it. A chain `a = b = c` is two steps, a against b and b against
c. In the running total `2+3=5*2=10`, the first one holds only as people write, and `Step.running` says so. GSM8K's
calculator marks `<<48/2=24>>` are separate steps, and the text around them is read as if they were blanks.

A step is reported only if both sides are certain: numbers, operators, brackets, percent signs, LaTeX fractions and
units (`3 apples + 4 apples = 7 apples`). An equation is no step if a variable, an unknown symbol or a dangling operator
is beside it, or if nothing is computed (`1 hour = 60 minutes`). A false equation is right if another common reading makes
it true (`readings.py`) or if it carries a rounding on (`rounding.py`), and no step if it is in doubt (`ambiguity.py`): a
right step must never be called wrong.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from cotkit.equations.ambiguity import doubtful
from cotkit.equations.arithmetic import (
    CALCULATOR_MARK,
    Number,
    Reader,
    Side,
    Token,
    plain_value,
    single_letter,
    tokenize,
)
from cotkit.equations.readings import (
    EquationLine,
    agree,
    is_running_total,
    products_with_earlier,
    true_in_another_reading,
)
from cotkit.equations.rounding import is_carried_rounding

# Words that compute with the expression after them, as in `twice 3+4 = 14` or `half of the 12+2 = 7`.
_COMPUTES = re.compile(
    r"\b(?:twice|thrice|double|triple|half|thirds?|quarters?|fourths?|fifths?|tenths?|times|plus|minus|negative|squared?"
    r"|cubed?|root|(?:divided|multiplied) by|factorial|remainder|modulo|mod|log|choose|floor|ceil(?:ing)?|gcd|lcm)"
    r"(?: (?:the|a|an|as|that|those|these|this|his|her|their|its|all|of))*[\s}]*$"
)
# The commonest equations, `3 boxes x $4 = $12`: numbers, operators and one-word units. True ones need no parser.
_NUMBER = r"(?:[0-9]{1,3}(?:,[0-9]{3}){1,8}|0|[1-9][0-9]{0,14})(?:\.[0-9]{1,15})?|\.[0-9]{1,15}"
_UNIT = r"(?: [a-z]{3,}(?:/[a-z]+)?|/[a-z]{2,}[a-rt-z]\b)"
_PLAIN = re.compile(
    rf"((?:{_NUMBER}){_UNIT}?(?:(?: ?[-+*/÷] ?| [x×] )[$€£]?(?:{_NUMBER}){_UNIT}?){{1,12}}) *= *[$€£]? *({_NUMBER})"
)
_NOT_PLAIN = re.compile(rf"{_UNIT}|[ $€£,]")
_PLAIN_START = re.compile(r"(?:(?!of)[A-Za-z][a-z] |[a-z]'s |total of |[a-z](?:, |: ?))[$€£]?$")
_PLAIN_END = re.compile(r"[.,;]?\s*$|[.,;]\s|\s(?:[A-Za-z][a-z]{2,}|on|in|at|by|to)\b(?!\s*[-+*/^(=])")
# How a line ends that the next one continues, and how a line starts that continues the previous one. A dash at a line's
# start may also be a list's.
_LIST = "-*–−"
_OPEN_ENDS = "-+*/=×÷·−–({[^_}&"
_COMMAND_END = re.compile(r"\\[a-z]+\s*$")
_OPEN_START = re.compile(r"[\s&]*(?:\\quad\s*)?(?:[+/×÷·]|\\(?:times|cdot|div)|[-–−*] ?[0-9$(\\])")


@dataclass(frozen=True, slots=True)
class Step:
    """One equation: `text`, which is `[start:end]` of the reasoning text, and whether it is true.

    `running`: it is true only as a running total, `2+3=5*2` of `2+3=5*2=10`.
    """

    text: str
    start: int
    end: int
    holds: bool
    running: bool = False


def find_steps(text: str) -> list[Step]:
    """All equations of `text` that can be read with certainty, calculator marks first; see the module's docstring.

    A side that is one number with d > 0 decimals is right if it is the other side rounded or truncated to d decimals. A
    whole number for a fraction (17/2=8) is wrong: right solutions state a remainder (10/3=3 with a remainder of 1), and
    that is no step.
    """
    steps: list[Step] = []
    blank = text
    if "<<" in text:
        for mark in CALCULATOR_MARK.finditer(text):
            steps += _line_steps(text, mark[1], mark.start(1), mark=True)
        blank = CALCULATOR_MARK.sub(lambda mark: " " * len(mark[0]), text)
    offset, lines = 0, blank.split("\n")
    for i, line in enumerate(lines):
        if "=" in line:
            continued = i > 0 and _ends_openly(lines[i - 1])
            continues = i + 1 < len(lines) and _OPEN_START.match(lines[i + 1]) is not None
            continues = continues and line.lstrip()[:1] not in _LIST
            following = lines[i + 1] if i + 1 < len(lines) else ""
            steps += _line_steps(text, line, offset, continued=continued, continues=continues, following=following)
        offset += len(line) + 1
    return steps


def wrong_steps(text: str) -> list[Step]:
    """The steps of `text` that are false."""
    return [step for step in find_steps(text) if not step.holds]


def expression_values(text: str) -> Iterator[Number]:
    """The values of all expressions of a text, equations or not: 41 of `Total: 14 + 7 + 20`, 23 of `half of 46`."""
    for line in text.split("\n"):
        reader = Reader(tokenize(line), "\\" in line)
        at = 0
        while at < len(reader.tokens):
            side = reader.side(at)
            if side is None:
                at += 1
                continue
            scaled = Reader(reader.tokens[at : side.after], reader.latex, scales=True).side(0)
            yield from (side.value, scaled.value) if scaled else (side.value,)
            yield from products_with_earlier(reader, side)
            at = side.after


def _ends_openly(line: str) -> bool:
    """Whether the next line continues the expression at this line's end."""
    end = line.rstrip()[-1:]
    return bool(end and end in _OPEN_ENDS) or ("\\" in line and _COMMAND_END.search(line[-20:]) is not None)


def _line_steps(
    text: str,
    line: str,
    offset: int,
    *,
    mark: bool = False,
    continued: bool = False,
    continues: bool = False,
    following: str = "",
) -> Iterator[Step]:
    """The steps of one line or mark that starts at `offset` of `text`.

    `continued`: the line continues the previous one's expression. The others: see `EquationLine`.
    """
    plain = [] if continued or continues else _plain_steps(line)
    if plain:
        for start, end in plain:
            yield Step(text[offset + start : offset + end], offset + start, offset + end, True)
        return
    tokens = tokenize(line)
    reader = Reader(tokens, "\\" in line)
    read = EquationLine(line, reader, mark, continues, following, text)
    kinds, at = reader.kinds, 0
    left: Side | None = None  # the latest expression, if an = follows it
    while at < len(tokens):
        side = reader.side(at)
        if side is None:
            at += 1
            continue
        after_equals = at > 0 and kinds[at - 1] == "eq"
        if after_equals and left and left.after == at - 1 and _ends_cleanly(read, side):
            judged = _judge(read, left, side)
            if judged is not None:
                start, end = offset + tokens[left.first].start, offset + tokens[side.last].end
                yield Step(text[start:end], start, end, *judged)
        starts = after_equals or (_starts_cleanly(tokens, at) if at else not continued)
        left = side if starts and kinds[side.after] == "eq" else None
        at = side.after


def _plain_steps(line: str) -> list[tuple[int, int]]:
    """The spans of a line's equations if all are plain, true and separate from the words around them, else []."""
    spans = []
    for match in _PLAIN.finditer(line):
        start, end = match.span()
        around = line[max(0, start - 24) : start] if start else ""
        if around.strip(" $€£") and (
            not _PLAIN_START.search(around) or _COMPUTES.search(around.rstrip(" $€£").lower())
        ):
            return []
        if not _PLAIN_END.match(line, end):
            return []
        if plain_value(_NOT_PLAIN.sub("", match[1])) != plain_value(match[2].replace(",", "")):
            return []
        spans.append((start, end))
    return spans if len(spans) == line.count("=") else []


def _starts_cleanly(tokens: list[Token], first: int) -> bool:
    """Whether no token before `first` can belong to the expression that starts there."""
    kind, text, _, end = tokens[first - 1]
    if kind == "op":
        return first == 1 and text in _LIST
    if kind == "stop":
        return first == 1 or tokens[first - 2].kind != "op"
    if kind == "lp":
        return first == 1 or (tokens[first - 2].kind != "op" and tokens[first - 2].end < tokens[first - 1].start)
    if kind == "of":
        kind, text = tokens[first - 2][:2] if first > 1 else ("stop", "")
        return kind in ("stop", "word") and not _COMPUTES.search(text.lower())
    if kind == "word":
        apart = end < tokens[first].start and tokens[first].kind != "op"
        if first > 1 and tokens[first - 2].kind == "op" and (first > 2 or tokens[0].text not in _LIST):
            return False  # 25 classmates + his 1 teacher + 1 himself = 27
        return apart and not single_letter(text) and not _COMPUTES.search(text.lower())
    return kind in ("eq", "other")


def _ends_cleanly(line: EquationLine, side: Side) -> bool:
    """Whether no token after `side` can belong to it."""
    reader, continues = line.reader, line.continues
    kind, after = reader.kinds[side.after], reader.kinds[side.after + 1]
    if kind in ("num", "lp"):
        if reader.kinds[side.after - 1] == "word":
            return True
        remark = kind == "lp" and after == "word" and not reader.latex
        return remark and not single_letter(reader.tokens[side.after + 1].text)
    if kind == "stop":
        return after != "op" and not (continues and after == "end" and reader.latex)
    return kind in ("eq", "word", "rp", "of") or (kind == "end" and not continues)


def _judge(line: EquationLine, left: Side, right: Side) -> tuple[bool, bool] | None:
    """(whether left equals right, whether only as a running total); None if nothing is computed or in doubt."""
    if not (left.operators or right.operators):
        return (False, False) if line.mark and left.value != right.value else None
    if agree(left, right) or true_in_another_reading(line, left, right):
        return True, False
    if is_running_total(line, left, right):
        return True, True
    if is_carried_rounding(line, left, right):
        return True, False
    return None if doubtful(line, left, right) else (False, False)
