"""Changes one number of a right solution, so that whoever claims to find wrong steps can be tested."""

from __future__ import annotations

import random
import re

from cotkit.equations.arithmetic import CALCULATOR_MARK

_NUMBER = re.compile(r"\d+(?:\.\d+)?")
# Two numbers, an operator between them and the result; 2x + 8 = 66 has a variable and is no arithmetic.
_EQUATION = re.compile(r"\d[)\s]*[-+*/][ $]*[\d,.]*\d\s*=\s*\$?(\d+)(?=[.\s]|$)")


def change_number(text: str, rng: random.Random) -> str | None:
    """`text` with one number of one equation changed, in a calculator mark or outside; None if there is no equation."""
    return (_change_number_in_mark if rng.random() < 0.5 else change_number_in_text)(text, rng)


def _change_number_in_mark(text: str, rng: random.Random) -> str | None:
    """Changes one number in one calculator mark. Skips marks with a zero, since 0*3 = 0*4."""
    marks = [mark for mark in CALCULATOR_MARK.finditer(text) if not re.search(r"(?<![\d.])0(?![\d.])", mark[0])]
    marks = [mark for mark in marks if re.search(r"\d\s*[-+*/]", mark[0])]
    if not marks:
        return None
    mark = rng.choice(marks)
    number = rng.choice(list(_NUMBER.finditer(mark[0])))
    start, end = mark.start() + number.start(), mark.start() + number.end()
    return text[:start] + _other_number(number[0], rng) + text[end:]


def change_number_in_text(text: str, rng: random.Random) -> str | None:
    """Removes the calculator marks, then changes the result of one equation; None if there is no equation."""
    text = CALCULATOR_MARK.sub("", text)
    found = list(_EQUATION.finditer(text))
    if not found:
        return None
    number = rng.choice(found)
    return text[: number.start(1)] + _other_number(number[1], rng) + text[number.end(1) :]


def _other_number(text: str, rng: random.Random) -> str:
    """A different number with as many digits."""
    while True:
        changed = re.sub(r"\d", lambda digit: str(rng.randrange(1, 10)), text)
        if changed != text:
            return changed
