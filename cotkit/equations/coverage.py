"""Whether a reasoning text states its answer, and whether it calculates every result of the reference solution."""

from __future__ import annotations

import re
from functools import lru_cache

from cotkit.core.number_words import NUMBER_WORDS
from cotkit.equations.checker import find_steps

_WHOLE = re.compile(r"-?\d+")
_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?|\.\d+")
_SPACED = re.compile(r"\d{1,3}(?: \d{3})+(?!\d)")  # a number with blanks between its thousands: 80 000
_COMPUTED = re.compile(r"[+*/^×÷]")
_OTHER_WORDS = {0: ("no", "none", "nothing"), 1: ("once", "a"), 2: ("twice", "both"), 12: ("dozen",)}


def answer_occurs(answer: str, text: str) -> bool | None:
    """Whether a whole number is in the text: in digits, as dollars for cents ($0.25 for 25), or as a word up to 12.

    None for an answer of another kind, since it can be written in too many ways. Ignores the sign: 5 - 8 leaves "3 too
    few".
    """
    if not _WHOLE.fullmatch(answer):
        return None
    wanted = float(answer.lstrip("-"))
    found = {float(number.replace(",", "")) for number in _NUMBER.findall(text)}
    found |= {float(number.replace(" ", "")) for number in _SPACED.findall(text)}
    if wanted in found or wanted / 100 in found:
        return True
    if wanted > 12:
        return False
    words = {NUMBER_WORDS[int(wanted)], *_OTHER_WORDS.get(int(wanted), ())}
    return not words.isdisjoint(re.findall(r"[a-z]+", text.lower()))


def computes_all_results(solution: str, text: str) -> bool:
    """Whether the text calculates every result that the solution calculates; False if the solution calculates none.

    Such a text leaves no step out. A text that fails may have taken another way instead.
    """
    results = _results(solution)
    return bool(results) and results <= _results(text)


@lru_cache(maxsize=4096)  # samples of one problem share its solution
def _results(text: str) -> frozenset[float]:
    """The right sides of equations that are one number: 12 of 3*4=12, nothing of 12=3*4."""
    sides = (step.text.rpartition("=")[2] for step in find_steps(text))
    numbers = (_NUMBER.findall(side) for side in sides if not _COMPUTED.search(side))
    return frozenset(float(found[0].replace(",", "")) for found in numbers if len(found) == 1)
