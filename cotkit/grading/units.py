"""Units at the end of an answer: `864 \\text{ inches}^2` -> the formula `864` and the unit square inch."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple


class Unit(NamedTuple):
    """A known unit: the quantity it measures, its exact size in that quantity's base unit, its power (2 for areas).

    A rate such as miles per hour measures `length/time`.
    """

    measures: str
    size: Fraction
    power: int = 1


PERCENT = Unit("percent", Fraction(1))
DEGREE = Unit("angle", Fraction(1))
_CURRENCIES = {
    "$": Unit("money", Fraction(1)),
    "€": Unit("euro", Fraction(1)),
    "£": Unit("sterling", Fraction(1)),
    "₹": Unit("rupee", Fraction(1)),
    "¥": Unit("yen", Fraction(1)),
}
# Temperatures have no common zero, so that they are not converted. The degree sign alone may stand for either.
_TEMPERATURES = {"c": Unit("celsius", Fraction(1)), "f": Unit("fahrenheit", Fraction(1))}

# Quantity: names and size of its units. Exact by definition: 1 inch = 0.0254 m, 1 pound = 0.45359237 kg (NIST SP 811).
_TABLE = {
    "length": "inch/inches/in 0.0254 foot/feet/ft 0.3048 yard/yards/yd/yds 0.9144 mile/miles/mi 1609.344 "
    "mm/millimeter/millimeters 0.001 cm/centimeter/centimeters/centimetre/centimetres 0.01 "
    "m/meter/meters/metre/metres 1 km/kilometer/kilometers/kilometre/kilometres 1000",
    "mass": "g/gram/grams 0.001 kg/kilogram/kilograms 1 pound/pounds/lb/lbs 0.45359237 ounce/ounces/oz 0.028349523125",
    "time": "second/seconds/sec/secs/s 1 minute/minutes/min/mins 60 hour/hours/hr/hrs/h 3600 day/days 86400 "
    "week/weeks 604800",
    "months": "month/months 1 year/years/yr/yrs 12",
    "money": "dollar/dollars/usd 1 cent/cents 0.01",
    "euro": "euro/euros/eur 1",
    "rupee": "rupee/rupees/inr 1",
    "celsius": "celsius/centigrade 1",
    "fahrenheit": "fahrenheit 1",
    "unit": "unit/units 1",
    "angle": "degree/degrees/deg 1",
    "radian": "radian/radians/rad 1",
    "percent": "percent/percentage/pct 1",
    "gallon": "gallon/gallons/gal 1",
    "liter": "liter/liters/litre/litres 1",
    "acre": "acre/acres 1",
}
_ABBREVIATED = {"mph": "miles/hour", "kmh": "km/hour", "kph": "km/hour", "mpg": "miles/gallon"}
# Money per something is no rate here: `18 dollars` and `18 dollars per day` may answer one question.
_RATES = frozenset("length mass gallon liter".split())
_UNITS = {
    name: Unit(quantity, Fraction(size))
    for quantity, units in _TABLE.items()
    for names, size in zip(units.split()[::2], units.split()[1::2], strict=True)
    for name in names.split("/")
}
_POWERS = {"square": 2, "sq": 2, "squared": 2, "cubic": 3, "cu": 3, "cubed": 3}

_ANGLE_OF = re.compile(r"\\?(?:sin|cos|tan|cot|sec|csc)")
_TEXT_UNIT = re.compile(r"\s*\\text\{([^{}]*)\}\s*(?:\^\s*\{?(\d)\}?)?\s*\.?$")
_WORD_UNIT = re.compile(
    r"(?<=[\d})%\s.])\s*(?<!\\)\b([a-zA-Z][a-zA-Z. ]*[a-zA-Z]|[a-zA-Z]{2,})\.?\s*(?:\^\s*\{?(\d)\}?)?$"
)
_RATE = re.compile(r"(?<=[\d})])(?:\s+([a-zA-Z]+)|([a-zA-Z]{2,}))\s*/\s*([a-zA-Z]+(?:\s*\^\s*\{?\d\}?)?)$")
_PER = re.compile(r"(?<=\d)\s*/\s*([a-zA-Z]+)$")
_DEGREES = re.compile(r"\^\\circ\s*(?:\\text\s*\{\s*)?([CF])\s*\}?$")


def split_unit(text: str) -> tuple[str, Unit | None]:
    """The formula and its unit. Words that name no known unit, such as things counted, are dropped."""
    unit = None
    if (sign := text.lstrip("-")[:1]) in _CURRENCIES:
        unit, text = _CURRENCIES[sign], text.replace(sign, "", 1).strip()
    if text.endswith("%"):
        return text[:-1].strip(), PERCENT
    if text.endswith(r"^\circ") and not _ANGLE_OF.search(text):
        return text[:-6].strip(), DEGREE
    if (match := _DEGREES.search(text)) and match.start():
        return text[: match.start()].strip(), _TEMPERATURES[match[1].lower()]
    if (match := _RATE.search(text)) and (rate := named_unit(f"{match[1] or match[2]}/{match[3]}")):
        return text[: match.start()].rstrip(), rate
    if (match := _PER.search(text)) and (unit or named_unit(match[1]) and len(match[1]) > 1):
        return text[: match.start()], unit  # `$18/day`, `60/hour`
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
        any(len(part) >= 4 for part in parts)
        or len(words) > 1
        and all(p in _UNITS or p in _POWERS or p in _ABBREVIATED for p in parts)
    )


def named_unit(words: str, exponent: str | None = None) -> Unit | None:
    """The unit that words such as `square inches`, `cm` (with exponent 2), `km/h`, `dollars` name, if any."""
    top, *bottom = re.split(r"/|\bper\b", _ABBREVIATED.get(words.strip().lower(), words))
    if not bottom:
        return _simple_unit(top, exponent)
    above, below = _simple_unit(top), _simple_unit(bottom[0], exponent)
    if len(bottom) > 1 or above is None or below is None or above.measures not in _RATES:
        return None
    return Unit(f"{above.measures}{above.power}/{below.measures}{below.power}", _size(above) / _size(below))


def _simple_unit(words: str, exponent: str | None = None) -> Unit | None:
    """The unit that words without a slash name, if any."""
    if match := re.fullmatch(r"(.*?)\s*\^\s*\{?(\d)\}?\s*", words):
        words, exponent = match[1], match[2]
    power, found = int(exponent or 1), None
    for word in words.lower().replace(".", " ").split():
        if word in _POWERS:
            power = _POWERS[word]
        elif found in (None, DEGREE):  # `degrees Celsius` are no angle
            found = _UNITS.get(word, found)
    return found._replace(power=power) if found else None


def _size(unit: Unit) -> Fraction:
    return unit.size**unit.power


def factor(unit: Unit, other: Unit) -> Fraction | None:
    """The factor from `unit` to `other`; None if they measure different quantities."""
    if unit.measures == other.measures and unit.power == other.power:
        return _size(unit) / _size(other)
    if DEGREE in (unit, other) and {unit, other} & set(_TEMPERATURES.values()):
        return Fraction(1)
    return None
