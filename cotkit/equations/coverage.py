"""Whether a reasoning arrives at its answer, and by way of what the reference solution calculates."""

from __future__ import annotations

import re
from functools import lru_cache

from cotkit.equations.checker import find_steps

_WHOLE = re.compile(r"-?\d+")
# A number as it is, and with blanks between its thousands: 80 000.
_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?|\.\d+")
_SPACED = re.compile(r"\d{1,3}(?: \d{3})+(?!\d)")
_COMPUTED = re.compile(r"[+*/^×÷]")
_OF_NUMBERS = tuple("0123456789.,")
_WORDS = (
    "zero no none nothing",
    "one once a",
    "two twice both",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve dozen",
)


def answer_occurs(answer: str, text: str) -> bool | None:
    """Whether a whole number stands in the text: in digits, as dollars for cents ($0.25 for 25), or up to 12 in words.

    None for an answer of another kind, which can be written in more ways than can be looked for. The sign is not
    compared: 5 - 8 leaves "3 too few".
    """
    if not _WHOLE.fullmatch(answer):
        return None
    if _stands_plainly(answer.lstrip("-"), text):
        return True
    wanted = float(answer.lstrip("-"))
    found = {float(number.replace(",", "")) for number in _NUMBER.findall(text)}
    found |= {float(number.replace(" ", "")) for number in _SPACED.findall(text)}
    if wanted in found or wanted / 100 in found:
        return True
    return wanted < len(_WORDS) and not set(_WORDS[int(wanted)].split()).isdisjoint(re.findall(r"[a-z]+", text.lower()))


def computes_all_results(solution: str, text: str) -> bool:
    """Whether every result that the solution calculates is calculated in the text too; False where there is none.

    A text that does so left no step out. One that does not may have taken another way instead.
    """
    results = _results(solution)
    return bool(results) and results <= _results(text)


@lru_cache(maxsize=4096)  # samples of one problem share its solution
def _results(text: str) -> frozenset[float]:
    """The right sides of the equations that are one number: 12 of 3*4=12, nothing of 12=3*4."""
    sides = (step.text.rpartition("=")[2] for step in find_steps(text))
    numbers = (_NUMBER.findall(side) for side in sides if not _COMPUTED.search(side))
    return frozenset(float(found[0].replace(",", "")) for found in numbers if len(found) == 1)


def _stands_plainly(digits: str, text: str) -> bool:
    """Whether its first occurrence is a number of its own: nearly always so, and told much faster."""
    at = text.find(digits)
    before, after = text[max(0, at - 1) : max(0, at)], text[at + len(digits) : at + len(digits) + 1]
    return at >= 0 and before not in _OF_NUMBERS and after not in _OF_NUMBERS
