"""Roundings that are carried on: after 10 / 3 = 3.33, people write 3.33 × 6 = 20.

A decimal number counts as rounded only with evidence: the text has a quotient that rounds to it, it is π, or its digits
are those of a fraction that never ends (0.33, 0.667, 0.0833).
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache

from cotkit.equations.arithmetic import Reader, Side, Token
from cotkit.equations.readings import EquationLine, agree

_PI = Fraction(31415926535, 10**10)
_NUMBER = r"([0-9][0-9,]{0,15}(?:\.[0-9]{1,10})?)"
_QUOTIENT = re.compile(
    rf"{_NUMBER}\s?[^\W\d_]{{0,12}}\s?(?:/|÷|\\div)\s?[$€£]?{_NUMBER}|frac\{{{_NUMBER}\}}\{{{_NUMBER}\}}"
)
_MOST_QUOTIENTS = 30
_DIGITS = 24  # decimals of an exact value; what is left out is noise (`readings.NOISE`)
_ENDLESS = {2: (3,), 3: (3, 6, 7, 9, 11, 12)}  # denominators whose digits give a fraction away, by number of decimals


@lru_cache(maxsize=16)
def _quotients(text: str) -> tuple[Fraction, ...]:
    """The quotients that are written in a text and are no whole numbers."""
    found = []
    for match in _QUOTIENT.finditer(text):
        top, bottom = (Fraction(number.replace(",", "")) for number in match.groups() if number)
        if bottom and top % bottom:
            found.append(top / bottom)
        if len(found) >= _MOST_QUOTIENTS:
            break
    return tuple(found)


def is_carried_rounding(line: EquationLine, left: Side, right: Side) -> bool:
    """Whether the equation is true with the exact value of every rounded number, or of one of them."""
    tokens = line.reader.tokens
    exact = {at: token for at in range(left.first, right.after) if (token := _exact(line, at)) is not None}
    choices = [exact, *({at: token} for at, token in exact.items() if len(exact) > 1)] if exact else []
    for chosen in choices:
        sides = []
        for side in (left, right):
            changed = [chosen.get(at, tokens[at]) for at in range(side.first, side.after)]
            # A side that is one number is kept as it is written: it may be the other one rounded.
            sides.append(Reader(changed, line.reader.latex).side(0) if side.operators else side)
        if sides[0] and sides[1] and agree(sides[0], sides[1]):
            return True
    return False


def _exact(line: EquationLine, at: int) -> Token | None:
    """The number at token `at` with its exact value to many digits, if it is rounded; else None."""
    token = line.reader.tokens[at]
    if token.kind != "num":
        return None
    text = token.text.rstrip(".…").replace(",", "")
    whole, _, decimals = text.partition(".")
    percent = line.reader.kinds[at + 1] == "pct"
    if not (decimals or percent) or not (whole or "0").isdigit():
        return None
    value, places = Fraction(text if whole else f"0{text}"), len(decimals)
    exact = _unrounded(value, places, line.context)
    if exact is None and percent and (share := _unrounded(value / 100, places + 2, line.context)) is not None:
        exact = share * 100
    if exact is None:
        return None
    digits = f"{int(exact * 10**_DIGITS):0{_DIGITS + 1}d}"
    return token._replace(text=f"{digits[:-_DIGITS]}.{digits[-_DIGITS:]}")


def _unrounded(value: Fraction, places: int, text: str) -> Fraction | None:
    """A quotient of the text, π or an endless fraction that rounds or truncates to `value`, which has so many decimals."""
    exact = [*_quotients(text), *([_PI] if places > 1 else [])] if places else []
    for bottom in _ENDLESS.get(min(places, 3), ()):
        exact += [Fraction(top, bottom) for top in (int(value * bottom), int(value * bottom) + 1)]
    unit = 10**places
    for one in exact:
        if (one * unit).denominator != 1 and value * unit in (int(one * unit), round(one * unit)):
            return one
    return None
