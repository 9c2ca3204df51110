"""Writes a solution one operation at a time: `3 + 9 + 12 = 24` becomes `3 + 9 + 12 = 12 + 12 = 24`.

A small model that has to write a result at once must calculate the intermediate ones unwritten, and fails at it.
"""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

from cotkit.equations.arithmetic import CALCULATOR_MARK, OPERATORS, tokenize
from cotkit.equations.checker import find_steps, wrong_steps

MAX_DECIMALS = 2  # of an intermediate result; with more, the equation stays as it is


def split_steps(text: str) -> str:
    """`text`, without calculator marks, with the intermediate results of its equations.

    Only true equations change that are several numbers joined by + - * / without brackets. Chains of equations, which have
    their intermediate results (2*23-4 = 46-4 = 42), stay as they are.
    """
    text = CALCULATOR_MARK.sub("", text)
    steps = sorted(find_steps(text), key=lambda step: step.start)
    chained = {step.start for pair in pairwise(steps) if pair[1].start < pair[0].end for step in pair}
    for step in reversed(steps):
        left, _, result = step.text.partition("=")
        if step.holds and step.start not in chained and (between := _intermediate(left)):
            longer = " = ".join([left.rstrip(), *between, result.lstrip()])
            if not wrong_steps(longer):  # in `60 / 3/4 = 80` the fraction was meant as one number
                text = text[: step.start] + longer + text[step.end :]
    return text


def _intermediate(left: str) -> list[str]:
    """What stands between an expression and its value, one operation less each: ["12 + 12"] for `3 + 9 + 12`."""
    tokens = [token for token in tokenize(left) if token.kind != "word"]  # units
    operators = [OPERATORS.get(token.text, token.text) for token in tokens[1::2]]
    if any(token.kind != "num" for token in tokens[::2]) or not set(operators) <= set("+-*/"):
        return []
    found = []
    try:
        numbers = [Fraction(token.text.replace(",", "")) for token in tokens[::2]]
        while len(operators) > 1:
            first = next((place for place, operator in enumerate(operators) if operator in "*/"), 0)
            numbers[first : first + 2] = [_calculate(numbers[first], operators.pop(first), numbers[first + 1])]
            found.append(_written(numbers, operators))
    except (ValueError, ZeroDivisionError):  # ValueError: also of `3.33…` and LaTeX's `10\!000`
        return []
    return found


def _calculate(a: Fraction, operator: str, b: Fraction) -> Fraction:
    return {"+": a.__add__, "-": a.__sub__, "*": a.__mul__, "/": a.__truediv__}[operator](b)


def _written(numbers: list[Fraction], operators: list[str]) -> str:
    """The expression as text. Raises ValueError for a number that needs too many decimals."""
    words = [_digits(numbers[0])]
    for operator, number in zip(operators, numbers[1:], strict=True):
        words += [operator, _digits(number)]
    return " ".join(words)


def _digits(number: Fraction) -> str:
    text = str(number) if number.denominator == 1 else f"{float(number):.{MAX_DECIMALS}f}"
    if Fraction(text) != number:
        raise ValueError(f"{number} has more than {MAX_DECIMALS} decimals")
    return text
