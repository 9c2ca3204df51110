"""Whether a reasoning text states its answer, and whether it calculates every result of the reference solution."""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from math import prod

from cotkit.core import number_words
from cotkit.equations.arithmetic import MAX_DIGITS
from cotkit.equations.checker import expression_values, find_steps

_WHOLE = re.compile(r"-?\d+")
_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?|\.\d+")
# Thousands with other marks between them: 80 000, 1'000, 1_000, 1.000; LaTeX's {,} and \, are replaced before.
_GROUPED = re.compile(r"\d{1,3}(?:[ \u00a0\u2009\u202f'’_.]\d{3})+(?!\d)")
_LATEX_GAP = re.compile(r"\{,\}|,?\\[,!;:](?=,?\d)")
_LETTER_SCALED = re.compile(r"(\d[\d,]*(?:\.\d+)?|\.\d+) ?(k|mn?|bn)\b", re.IGNORECASE)
_LETTER_SCALES = {"k": 10**3, "m": 10**6, "mn": 10**6, "bn": 10**9}
_COMPUTED = re.compile(r"[+*/^×÷]")
_OTHER_WORDS = {
    0: "no none nothing zero empty same equal equally",
    1: "once a an single only itself",
    2: "twice both pair couple double",
    3: "thrice triple trio",
    4: "quadruple",
}
_WORDS = {word: number for number, words in _OTHER_WORDS.items() for word in words.split()}
# Ordinals become cardinals before they are read: twenty-first, twenty-one.
_CARDINALS = {"first": "one", "second": "two", "third": "three", "fifth": "five", "eighth": "eight", "ninth": "nine"}
_CARDINALS |= {"twelfth": "twelve"}
_ORDINAL = re.compile(
    rf"\b([a-z]+-)?({'|'.join(_CARDINALS)}|[a-z]{{2,8}}(?:ieth|teenth)|(?:four|six|seven|ten|eleven)th)\b"
)
# What is asked for in words: the sum of 14, 7 and 20; subtract 5 from 20.
_LIST = r"((?:\$?\d[\d,.]*[^\d.;\n=<>]{1,30}){1,8}\$?\d[\d,]*(?:\.\d+)?)"
_ASKED = (
    (re.compile(rf"\b(?:sum|total|add(?:s|ing)?)\b[^\d.;\n=<>]{{0,30}}{_LIST}", re.IGNORECASE), "+"),
    (re.compile(rf"\b(?:product|multipl(?:y|ies|ying))\b[^\d.;\n=<>]{{0,30}}{_LIST}", re.IGNORECASE), "*"),
    (
        re.compile(
            rf"\b(?:difference|subtract(?:s|ing)?|deduct(?:s|ing)?)\b[^\d.;\n=<>]{{0,30}}{_LIST}", re.IGNORECASE
        ),
        "-",
    ),
    (
        re.compile(rf"\b(?:quotient|divid(?:e|es|ing)|split(?:s|ting)?)\b[^\d.;\n=<>]{{0,30}}{_LIST}", re.IGNORECASE),
        "/",
    ),
)


def answer_occurs(answer: str, text: str) -> bool | None:
    """Whether a text states a whole number or writes the last calculation that gives it.

    It may be written in digits, as dollars for cents ($0.25 for 25), with a scale word (1.5 million), as a cardinal or
    ordinal word, or as an expression that is not evaluated (14 + 7 + 20). None for an answer of another kind, since it can be
    written in too many ways. Ignores the sign: 5 - 8 leaves "3 too few".
    """
    if not _WHOLE.fullmatch(answer) or len(answer) > MAX_DIGITS:
        return None
    wanted = float(answer.lstrip("-"))
    ways = (_in_digits, _with_marks_or_scales)  # the first is fast, and nearly always enough
    if any({wanted, wanted / 100} & way(text) for way in ways):
        return True
    return wanted in _in_words(text) or _is_computed(Fraction(abs(int(answer))), text)


def _in_digits(text: str) -> set[float]:
    return {float(number.replace(",", "")) for number in _NUMBER.findall(text)}


def _with_marks_or_scales(text: str) -> set[float]:
    """The numbers with other marks than commas between their thousands, with a scale after them, and in words."""
    text = _LATEX_GAP.sub("", text)
    found = _in_digits(text) | {float(re.sub(r"\D", "", number)) for number in _GROUPED.findall(text)}
    for number, letter in _LETTER_SCALED.findall(text):
        found.add(float(number.replace(",", "")) * _LETTER_SCALES[letter.lower()])
    return found | {float(spelled.value) for spelled in number_words.find(text)}


def _in_words(text: str) -> set[float]:
    """The numbers of a text in other words: ordinals, twice, both."""
    text = text.lower()
    cardinals = _ORDINAL.sub(lambda word: f"{word[1] or ''}{_cardinal(word[2])}.", text)  # the third. quarter
    found = {float(spelled.value) for spelled in number_words.find(cardinals)}
    return found | {float(_WORDS[word]) for word in re.findall(r"[a-z]+", text) if word in _WORDS}


def _cardinal(ordinal: str) -> str:
    """The cardinal of an ordinal: twenty of twentieth, six of sixth."""
    return _CARDINALS.get(ordinal) or re.sub(r"ieth$", "y", ordinal).removesuffix("th")


def _is_computed(goal: Fraction, text: str) -> bool:
    """Whether an expression of the text has this value, though the value itself is not written."""
    if any(abs(value) in (goal, goal / 100) for value in expression_values(text)):
        return True
    for pattern, operator in _ASKED:
        for match in pattern.finditer(text):
            found = _NUMBER.findall(match[1])
            numbers = [Fraction(number.replace(",", "")) for number in found if len(number) <= MAX_DIGITS]
            if len(numbers) > 1 and goal in _combined(numbers, operator):
                return True
    return False


def _combined(numbers: list[Fraction], operator: str) -> set[Fraction]:
    """The numbers joined by an operator; a difference and a quotient of two, in either order."""
    if operator == "+":
        return {sum(numbers, Fraction(0))}
    if operator == "*":
        return {Fraction(prod(numbers))}
    a, b = numbers[:2]
    return {abs(a - b)} if operator == "-" else {a / b, b / a} if a and b else set()


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
