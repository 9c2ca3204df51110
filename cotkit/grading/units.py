"""Units at the end of an answer: `864 \\text{ inches}^2` -> the formula `864` and the unit square inch."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple


class Unit(NamedTuple):
    """A known unit: the quantity it measures, its exact size in that quantity's base unit, its power (2 for areas)."""

    measures: str
    size: Fraction
    power: int = 1


PERCENT = Unit("percent", Fraction(1))
DEGREE = Unit("angle", Fraction(1))
DOLLAR = Unit("money", Fraction(1))

# Names: (quantity, size). Exact by definition: 1 inch = 0.0254 m, 1 pound = 0.45359237 kg (NIST SP 811).
_TABLE: dict[str, tuple[str, str]] = {
    "inch inches in": ("length", "0.0254"),
    "foot feet ft": ("length", "0.3048"),
    "yard yards yd yds": ("length", "0.9144"),
    "mile miles mi": ("length", "1609.344"),
    "mm millimeter millimeters": ("length", "0.001"),
    "cm centimeter centimeters centimetre centimetres": ("length", "0.01"),
    "m meter meters metre metres": ("length", "1"),
    "km kilometer kilometers kilometre kilometres": ("length", "1000"),
    "unit units": ("unit", "1"),
    "g gram grams": ("mass", "0.001"),
    "kg kilogram kilograms": ("mass", "1"),
    "pound pounds lb lbs": ("mass", "0.45359237"),
    "ounce ounces oz": ("mass", "0.028349523125"),
    "second seconds sec secs s": ("time", "1"),
    "minute minutes min mins": ("time", "60"),
    "hour hours hr hrs h": ("time", "3600"),
    "day days": ("time", "86400"),
    "week weeks": ("time", "604800"),
    "month months": ("months", "1"),
    "year years yr yrs": ("months", "12"),
    "dollar dollars usd": ("money", "1"),
    "cent cents": ("money", "0.01"),
    "euro euros eur": ("euro", "1"),
    "degree degrees deg": ("angle", "1"),
    "radian radians rad": ("radian", "1"),
    "percent percentage pct": ("percent", "1"),
    "gallon gallons gal": ("gallon", "1"),
    "liter liters litre litres": ("liter", "1"),
    "acre acres": ("acre", "1"),
    "mph": ("mph", "1"),
}
_UNITS = {name: Unit(what, Fraction(size)) for names, (what, size) in _TABLE.items() for name in names.split()}
_POWERS = {"square": 2, "sq": 2, "squared": 2, "cubic": 3, "cu": 3, "cubed": 3}

_ANGLE_OF = re.compile(r"\\?(?:sin|cos|tan|cot|sec|csc)")
_TEXT_UNIT = re.compile(r"\s*\\text\{([^{}]*)\}\s*(?:\^\s*\{?(\d)\}?)?\s*\.?$")
_WORD_UNIT = re.compile(
    r"(?<=[\d})%\s.])\s*(?<!\\)\b([a-zA-Z][a-zA-Z. ]*[a-zA-Z]|[a-zA-Z]{2,})\.?\s*(?:\^\s*\{?(\d)\}?)?$"
)


def split_unit(text: str) -> tuple[str, Unit | None]:
    """The formula and its unit. Words that name no known unit, such as things counted, are dropped."""
    unit = None
    if text.startswith(("$", "-$", "€")):
        unit = Unit("euro", Fraction(1)) if "€" in text else DOLLAR
        text = text.replace("$", "", 1).replace("€", "", 1).strip()
    if text.endswith("%"):
        return text[:-1].strip(), PERCENT
    if text.endswith(r"^\circ") and not _ANGLE_OF.search(text):
        return text[:-6].strip(), DEGREE
    match = _TEXT_UNIT.search(text)
    if match is None:
        match = _WORD_UNIT.search(text)
        match = match if match and _is_unit_text(match[1], text, match.start(1)) else None
    if match is None or not match.start():
        return text, unit
    return text[: match.start()].rstrip(), named_unit(match[1], match[2]) or unit


def _is_unit_text(words: str, text: str, start: int) -> bool:
    """Are plain letters after a formula words rather than variables? Short ones only if they name a unit."""
    parts = words.lower().replace(".", " ").split()
    has_value = any(char.isdigit() for char in text[:start])
    return has_value and (
        any(len(part) >= 4 for part in parts) or len(words) > 1 and all(p in _UNITS or p in _POWERS for p in parts)
    )


def named_unit(words: str, exponent: str | None = None) -> Unit | None:
    """The unit that words such as `square inches`, `cm` (with exponent 2), `dollars` name, if any."""
    power, found = int(exponent or 1), None
    for word in words.lower().replace(".", " ").split():
        if word in _POWERS:
            power = _POWERS[word]
        elif word == "per":
            return None
        else:
            found = found or _UNITS.get(word)
    return found._replace(power=power) if found else None


def factor(unit: Unit, other: Unit) -> Fraction | None:
    """The factor from `unit` to `other`; None if they measure different quantities."""
    if unit.measures == other.measures and unit.power == other.power:
        return (unit.size / other.size) ** unit.power
    return None
