"""Decides whether an equation that is false as written may be true as people write: other readings, reasons for doubt."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple

from cotkit.equations.arithmetic import OPERATORS, Number, Reader, Side

# Relative and absolute error allowed: sums of floats printed with 16 digits (8.499999999999998) are no wrong steps.
NOISE, LARGEST_NOISE = Fraction(1, 10**12), Fraction(1, 10**6)

# Each entry holds units of one kind. A text may mix several of them: 2 hours * 60 = 120 minutes, 50 cents * 4 = $2.
_UNITS = [
    re.compile(rf"\b(?:{names})s?\b|{signs}", re.IGNORECASE)
    for names, signs in (
        ("second|sec|minute|min|hour|hr|day|week|month|year|decade", r"\bcentur(?:y|ies)\b"),
        ("inche|inch|foot|feet|yard|mile|cm|mm|km|centimeter|millimeter|meter|kilometer|ft", r"['′″]"),
        ("ounce|oz|pound|lb|gram|kg|kilogram|ton|mg", "kilos?"),
        ("cup|pint|quart|gallon|liter|litre|ml|milliliter|tablespoon|teaspoon|tbsp|tsp|ounce|oz", "fl"),
        ("cent|dollar|buck|penny|pennie|nickel|dime|quarter", "[$€£¢]"),
        ("dozen|pair|hundred|thousand|million|billion|half|halve|third", "percent|%"),
    )
]
# A name whose number is no quantity: Day 1 * 2, Weeks 1-2.
_LABEL = re.compile(
    r"\b(?:step|day|week|month|year|part|case|problem|question|equation|round|chapter|page|number|no|stage)s?$",
    re.IGNORECASE,
)
_LEFT_OVER = re.compile(
    r"[^=]{0,80}?(?:\band \(?\$?[0-9]+/|\bremain|\bleft|\bfull\b|\bwhole\b|\bround|\bnearest|\bcomplete)"
)
_ADDED_PERCENT = re.compile(r"[-+–−] *\$?[0-9.]+ *(?:%|percent)")
_JOINS = re.compile(
    r"\b(?:and|to|from|with|by|than|into|over|of)(?: (?:the|a|an|his|her|their|its|those|these|another|all))*$"
)
_MULTIPLE = re.compile(r"(?:times|plus|minus|divided)(?: by)? (?:the|his|her|their|its|that|what|this)\b")
_RATE = re.compile(r"\b(?:each|per|a|an|every|in|of|for|to)\b")


class EquationLine(NamedTuple):
    """One line, or the inside of one calculator mark, and how to read it."""

    text: str
    reader: Reader
    mark: bool  # it is the inside of a calculator mark
    continues: bool  # its expression may continue in the next line


def agree(left: Side, right: Side) -> bool:
    """Whether the values are equal or one side is the other one rounded."""
    a, b = left.value, right.value
    if a == b or abs(a - b) <= min(LARGEST_NOISE, NOISE * max(abs(a), abs(b))):
        return True
    return _rounds_to(a, right) or _rounds_to(b, left)


def _rounds_to(exact: Number, written: Side) -> bool:
    """Whether `written`, one number with d > 0 decimals, is `exact` rounded or truncated to d decimals."""
    if written.operators or not written.decimals or exact == int(exact):
        return False
    gap, unit = abs(exact - written.value), Fraction(1, 10**written.decimals)
    return 2 * gap <= unit or (gap < unit and abs(written.value) < abs(exact))


def other_readings(line: EquationLine, left: Side, right: Side) -> Iterator[tuple[Side, Side]]:
    """Both sides under every other common reading of percent signs, `a / b/c`, a leading dash and the right side's end."""
    tokens = line.reader.tokens[left.first : right.after]  # only these: a line may hold many false equations
    kinds, latex = [token.kind for token in tokens], line.reader.latex
    equals, first, ends = left.after - left.first, right.first - left.first, [len(tokens)]
    if line.reader.kinds[right.after] != "eq":
        inside = (at for at in range(first + 1, len(tokens)) if kinds[at] in ("word", "of", "op"))
        apart = (at for at in inside if tokens[at].text not in "+*/^²³×·" and tokens[at - 1].end < tokens[at].start)
        ends += list(apart)[:1]
    variants: list[dict[str, int]] = [{}, {"fractions": True}] + [{"percent": 1}] * ("pct" in kinds)
    lefts, rights = [], []
    for variant in variants:
        reader = Reader(tokens[:equals], latex, **variant)
        lefts += [side for at in range(1 + (kinds[0] == "op")) if (side := reader.side(at)) and side.after == equals]
        for end in ends:
            side = Reader(tokens[:end], latex, **variant).side(first)
            rights += [side] if side and side.after == end else []
    yield from ((a, b) for a in lefts for b in rights)


def doubtful(line: EquationLine, before: Side | None, left: Side, right: Side) -> bool:
    """Whether a false equation may be true as people write. Such an equation is no step."""
    tokens, kinds = line.reader.tokens, line.reader.kinds
    start, end = tokens[left.first].start, tokens[right.last].end
    previous = tokens[left.first - 1] if left.first else None
    if left.ambiguous or right.ambiguous:
        return True
    inside = kinds[left.first : right.last + 1]
    if _ADDED_PERCENT.search(line.text, start, end) and inside.count("pct") < inside.count("num"):
        return True  # $50 - 10% = $45
    alone = not left.operators
    label = previous.text if previous and previous.kind == "word" else ""
    if label and (alone or _LABEL.search(label) or (before and _linked(line, before, left, right))):
        return True
    if alone and kinds[left.after - 1] == "word":
        return True  # a name for a quantity (4 bedrooms = 121 * 4) or a conversion (14 hours = 14 * 60)
    if previous and previous.text == "," and tokens[left.first - 2].kind == "num" and len(tokens[left.first].text) == 3:
        return True  # 14, 400 / 80 = 180
    if right.value == 1 and "word" in kinds[left.first : left.after]:
        return True  # a conversion factor: 3 feet / 1 yard = 1
    if kinds[right.after] == "word" and _MULTIPLE.match(tokens[right.after].text):
        return True  # 2*3 = 6 times the number
    near = not right.operators and abs(left.value - right.value) < 1
    if near and (_LEFT_OVER.match(line.text, end) or tokens[left.first].text[-1] == "["):
        return True  # the text states a rounding, or the brackets mean the integer part
    return _mixes_units(line, left, right)


def _linked(line: EquationLine, before: Side, left: Side, right: Side) -> bool:
    """Whether words join the earlier expression `before` to `left`: adds 20 + 10 cards to the 29 + 24 cards = 83."""
    between = line.reader.tokens[before.last + 1 : left.first]
    if any(token.kind not in ("word", "of") for token in between):
        return False
    a, b, c = before.value, left.value, right.value
    joined = _JOINS.search(" ".join(token.text for token in between)) is not None
    return joined and (c in (a + b, a - b, b - a, a * b) or c * b == a or c * a == b)


def _mixes_units(line: EquationLine, left: Side, right: Side) -> bool:
    """Whether the sides differ in units of one kind, or the left side adds several: the equation may convert units."""
    tokens = line.reader.tokens
    start, middle, end = max(0, tokens[left.first].start - 1), tokens[left.after].start, tokens[right.last].end
    left_text = line.text[start:middle]
    right_text = line.text[middle:end] + _RATE.split(line.text[end : end + 24], maxsplit=1)[0]
    if line.reader.latex:  # a bare $ is a delimiter there
        left_text, right_text = (part.replace("\\$", "€").replace("$", "") for part in (left_text, right_text))
    adds = any(OPERATORS.get(token.text, token.text) in "+-" for token in tokens[left.first : left.after])
    for units in _UNITS:
        on_left, on_right = (
            {match[0].lower().rstrip("s") for match in units.finditer(text)} for text in (left_text, right_text)
        )
        if (on_left and on_right - on_left) or (adds and len(on_left) > 1):
            return True
    return False
