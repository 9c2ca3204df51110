"""Decides whether an equation that is false in every reading may still be what a careful person writes."""

from __future__ import annotations

import re
from fractions import Fraction

from cotkit.equations.arithmetic import OPERATORS, Side
from cotkit.equations.readings import EquationLine

# Each entry holds units of one kind. A text may mix several of them: 2 hours * 60 = 120 minutes, 50 cents * 4 = $2.
_UNITS = [
    re.compile(rf"\b(?:{names})s?\b|{signs}", re.IGNORECASE)
    for names, signs in (
        ("second|sec|minute|min|hour|hr|day|week|month|year|decade", r"\bcentur(?:y|ies)\b"),
        ("inche|inch|foot|feet|yard|mile|cm|mm|km|centimeter|millimeter|meter|kilometer|ft", r"['′″]"),
        ("ounce|oz|pound|lb|gram|kg|kilogram|ton|mg", "kilos?"),
        ("cup|pint|quart|gallon|liter|litre|ml|milliliter|tablespoon|teaspoon|tbsp|tsp|ounce|oz", r"\bfl\b"),
        ("cent|dollar|buck|penny|pennie|nickel|dime|quarter", "[$€£¢]"),
        ("dozen|pair|hundred|thousand|million|billion|half|halve|third", "percent|%"),
    )
]
# How many smaller units a unit holds, where people leave the smaller one out: 4 * 15 = 1 hour.
_HOLDS = {"minute": {60}, "hour": {60, 3600}, "day": {24, 1440}, "week": {7, 168}, "month": {30}, "year": {12, 52, 365}}
_HOLDS |= {"foot": {12}, "feet": {12}, "yard": {36}, "mile": {5280, 1760}, "meter": {100, 1000}, "kilometer": {1000}}
_HOLDS |= {"pound": {16}, "kg": {1000}, "kilogram": {1000}, "ton": {1000, 2000}, "gallon": {16, 128}, "liter": {1000}}
# A name whose number is no quantity: Day 1 * 2, Weeks 1-2.
_LABEL = re.compile(
    r"\b(?:step|day|week|month|year|part|case|problem|question|equation|round|chapter|page|number|no|stage)s?$",
    re.IGNORECASE,
)
# The same only where a sum follows: Bus 1 + 2 = 30 + 40.
_COUNTED = re.compile(
    r"\b(?:game|level|floor|room|team|group|class|grade|bus|car|train|shop|store|machine|player|box|bag|jar|tank|table|row"
    r"|column|side|set|option|plan|phase|lap|trip|item|shift|test|exam|quiz|book|section|unit|lesson|trial|turn|worker)$",
    re.IGNORECASE,
)
_LEFT_OVER = re.compile(
    r"[^=]{0,80}?(?:\band \(?\$?[0-9]+/|\band (?:a|an|one|two|three)[ -](?:half|third|quarter|fourth|fifth)|\bremain|\bleft|\bfull\b|\bwhole\b|\bround(?:ed|ing)?\b|\bnearest|\bcomplete)"
)
_WHOLE = re.compile(r"\b(?:full|whole|complete|round)[^=.;]{0,60}$")  # before an equation
_ABOUT = re.compile(r"[^=]{0,60}?\b(?:rounded|rounding|nearest|approximately|about|roughly|estimate[ds]?)\b")
_CALLED_WRONG = re.compile(
    r"[\s,]*(?:(?:which|that) )?(?:is|was|would be) (?:wrong|incorrect|false|not (?:right|correct|enough))\b"
)
_WITHOUT_SIGN = re.compile(
    r"[^=.]{0,24}?\b(?:short|fewer|less|under|below|behind|debt|loss|lost|owed?|down|deficit|colder|ago)\b"
)
_ADDED_PERCENT = re.compile(r"[-+–−] *\$?[0-9.]+ *(?:%|percent)")
_MULTIPLE = re.compile(r"(?:times|plus|minus|divided)(?: by)? (?:the|his|her|their|its|that|what|this)\b")
_PART_OF = re.compile(r"(?:of|as|times as)\b")
_MONTH = re.compile(
    r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?"
    r"|nov(?:ember)?|dec(?:ember)?)\b",
    re.IGNORECASE,
)
_DATES = re.compile(r"[01]?\d/[0-3]?\d ?[-–] ?[01]?\d/[0-3]?\d ?= ?\d+ days?\b")
_RANGE = re.compile(r"[12]\d{3}[-–][12]\d{3}\b")
_ONE_WORD = re.compile(r"(?:\\[a-z]+\{\s*)?[^\W\d_]+\s*\}?")
_POWER_WORD = re.compile(r"\b(?:squared|cubed)\b")
_LARGE = re.compile(r"\b(?:hundred|thousand|million|billion|trillion|cents?|percent)\b|%|¢", re.IGNORECASE)
_NEARBY = 200  # characters
_POWERS_OF_TEN = frozenset(Fraction(10) ** power for power in (-9, -6, -3, -2, 2, 3, 6, 9))
_RATE = re.compile(r"\b(?:each|per|a|an|every|in|of|for|to)\b")


def doubtful(line: EquationLine, left: Side, right: Side) -> bool:
    """Whether a false equation may be true as people write. Such an equation is no step."""
    reader = line.reader
    inside = reader.kinds[left.first : right.last + 1]
    if left.ambiguous or right.ambiguous:
        return True
    start, end = reader.tokens[left.first].start, reader.tokens[right.last].end
    if _ADDED_PERCENT.search(line.text, start, end) and inside.count("pct") < inside.count("num"):
        return True  # $50 - 10% = $45
    if _names_a_value(line, left, right) or _goes_on(line, left, right) or _is_compound(line, left, right):
        return True
    if reader.latex and any(token.text in "xX" for token in reader.tokens[left.first : right.after]):
        return True  # a variable rather than a product: 3x \left(2\right)
    if _rounds(line, left, right, start, end) or _CALLED_WRONG.match(line.text, end):
        return True
    if left.value == -right.value and (_WITHOUT_SIGN.match(line.text, end) or _RANGE.match(line.text, start)):
        return True  # 5 - 8 = 3 short, 2010-2020 = 10 years
    return _scaled_nearby(line, left, right) or _mixes_units(line, left, right)


def _names_a_value(line: EquationLine, left: Side, right: Side) -> bool:
    """Whether the left side may be a name: Day 1 * 2, the cost of 3, 4 bedrooms, 1%, the last of 3, 4, 5, a ratio 2 : 3."""
    reader, first, alone = line.reader, left.first, not left.operators
    kind, text = (reader.kinds[first - 1], reader.tokens[first - 1].text) if first else ("", "")
    earlier = reader.kinds[first - 2] if first > 1 else ""
    if kind == "word" and (
        alone or _LABEL.search(text) or (earlier == reader.kinds[first] == "num" and _is_unit(text))
    ):
        return True  # the last: 5 ft 6 in + 3 in
    if kind == "word" and right.operators and _COUNTED.search(text):
        return True
    if alone and (
        kind == "of" or reader.kinds[left.after - 1] in ("word", "pct") or (text == "," and earlier == "num")
    ):
        return True
    if left.after - first == 3 and left.value < 1 < right.value and not line.mark and _names_parts(line, left):
        return True
    if text == "," and earlier == "num" and len(reader.tokens[first].text) == 3:
        return True  # 14, 400 / 80 = 180
    return text == ":" and earlier == "num" and _is_ratio(line, first - 1)


def _names_parts(line: EquationLine, left: Side) -> bool:
    """Whether the left side is one of several parts of the same whole: 3/4 = 90, so 1/4 = 90 / 3."""
    top, slash, bottom = (token.text for token in line.reader.tokens[left.first : left.after])
    start = line.reader.tokens[left.first].start
    parts = re.findall(rf"(?<![\d/])\d+/{re.escape(bottom)}\s*=", line.text[max(0, start - _NEARBY) : start + _NEARBY])
    return slash == "/" and top.isdigit() and len(parts) > 1


def _is_count(line: EquationLine, left: Side) -> bool:
    """Whether the left side adds or subtracts whole numbers, and not shares of 100."""
    tokens = line.reader.tokens[left.first : left.after]
    operators = {OPERATORS.get(token.text, token.text) for token in tokens if token.kind == "op"}
    numbers = {token.text for token in tokens if token.kind == "num"}
    plain = operators <= {"+", "-"} and all(map(str.isdigit, numbers)) and "100" not in numbers
    return plain and not any(token.kind == "pct" for token in tokens)


def _is_unit(text: str) -> bool:
    """Whether the token is one unit with smaller ones below it: ft of 5 ft 6 in."""
    return _ONE_WORD.fullmatch(text) is not None and any(units.search(text) for units in _UNITS)


def _goes_on(line: EquationLine, left: Side, right: Side) -> bool:
    """Whether words after the right side may belong to it: 2*3 = 6 times the number, 1/5 of the class, 5 ft 9 in, 2 : 3."""
    reader, after = line.reader, right.after
    kind, text = reader.kinds[after], reader.tokens[after].text if after < len(reader.tokens) else ""
    if kind == "word" and _MULTIPLE.match(text):
        return True
    part = reader.kinds[right.last] == "pct" or (right.operators and 0 < right.value < 1) or text.startswith("times as")
    if part and _PART_OF.match(text) and _is_count(line, left):
        return True  # 50 + 10 = 20% of the total
    if kind == "num" and _is_unit(reader.tokens[after - 1].text):
        return True
    return text == ":" and reader.kinds[after + 1] == "num" and _is_ratio(line, after)


def _is_ratio(line: EquationLine, colon: int) -> bool:
    """Whether a colon between numbers makes a ratio, 2 : 3 or 2:3, and no label, Step 2: 3 * 4."""
    return line.reader.tight(colon) == line.reader.tight(colon + 1)


def _is_compound(line: EquationLine, left: Side, right: Side) -> bool:
    """Whether a unit on one of the sides makes the equation another one: a conversion, a date, a power, an unknown rate."""
    reader = line.reader
    words = [token for token in reader.tokens[left.first : right.after] if token.kind == "word"]
    if right.value == 1 and any(token.start < reader.tokens[left.after].start for token in words):
        return True  # a conversion factor: 3 feet / 1 yard = 1
    if any(_POWER_WORD.search(token.text) for token in words):
        return True  # 3 squared + 4 squared
    unit = reader.tokens[right.after - 1]
    if _MONTH.match(unit.text):
        return True  # 28 June + 5 days = 3 July
    if unit.kind == "word" and " / " in unit.text:  # 5 pages / 2 minutes = 40 pages / time
        below = unit.text.rpartition(" / ")[2].split()[0].rstrip("s").lower()
        return below not in line.text[: reader.tokens[left.after].start].lower()
    return _DATES.match(line.text, reader.tokens[left.first].start) is not None  # 12/25 - 12/20 = 5 days


def _rounds(line: EquationLine, left: Side, right: Side, start: int, end: int) -> bool:
    """Whether the text says that the right side is rounded, or the left side is the integer part of what it holds."""
    if right.operators:
        return False
    gap = abs(left.value - right.value)
    before = line.text[max(0, start - 80) : start]
    is_whole = right.value == int(right.value) and left.value != int(left.value)
    if gap < 1 and is_whole and (line.text[start] == "[" or _LEFT_OVER.match(line.text, end) or _WHOLE.search(before)):
        return True
    return gap * 20 <= abs(left.value) and _ABOUT.match(line.text, end) is not None


def _scaled_nearby(line: EquationLine, left: Side, right: Side) -> bool:
    """Whether the sides differ by a scale word that stands nearby: 5 thousand dollars a day: 5 * 3 = $15,000."""
    if not left.value or Fraction(right.value) / left.value not in _POWERS_OF_TEN:
        return False
    start, end = (line.reader.tokens[at].start for at in (left.first, right.last))
    return _LARGE.search(line.text, max(0, start - _NEARBY), end + _NEARBY) is not None


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
        factors = set[int]().union(*(_HOLDS.get(unit, ()) for unit in on_right)) if not on_left else ()
        if right.value and factors and left.value / Fraction(right.value) in factors:
            return True  # 4 * 15 = 1 hour
    return False
