"""English number words: cardinals up to trillions, fractions, and the scale words that stand beside digits.

`find` reads whole phrases: `one hundred and five`, `three quarters`, `two and a half`, `2.5 million`, `half a dozen`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple

NUMBER_WORDS = (
    "zero one two three four five six seven eight nine ten "
    "eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty"
).split()
_SMALL = {word: number for number, word in enumerate(NUMBER_WORDS[:20])}
_TENS = {
    word: 10 * number for number, word in enumerate("twenty thirty forty fifty sixty seventy eighty ninety".split(), 2)
} | {"fourty": 40}
SCALES = {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
SCALES |= {"dozen": 12, "lakh": 10**5, "crore": 10**7}
_PARTS = {"half": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7, "eighth": 8}
_PARTS |= {"ninth": 9, "tenth": 10, "twelfth": 12, "twentieth": 20, "hundredth": 100, "thousandth": 1000}
_PARTS |= {f"{word}s": size for word, size in _PARTS.items()} | {"halves": 2}

_WORDS = "|".join((*_SMALL, *_TENS, *SCALES, *_PARTS))
_TOKEN = re.compile(
    rf"(?P<digits>(?<![\w.,/])\d+(?:,\d{{3}})*(?:\.\d+)?(?![\w/]|\.\d))|(?<![\w\\])(?:{_WORDS}|and|an?|point)(?![\w'])",
    re.IGNORECASE,
)
_ANY_WORD = re.compile(
    "|".join((*_SMALL, *_TENS, *SCALES, "hal[fv]", "third", "quarter", "fourth", "fif", "tenth")), re.IGNORECASE
)
_JOINT = re.compile(r"\s*-?\s*|\s+")


class Spelled(NamedTuple):
    """A number that is written in words, at least in part, and its span in the text."""

    start: int
    end: int
    value: Fraction


class _Token(NamedTuple):
    word: str  # in lower case
    start: int
    end: int
    gap: str  # "" the first one, "near" after blanks or a hyphen, "comma", "far" after anything else


def find(text: str) -> Iterator[Spelled]:
    """The numbers in words of `text`, in order. Digits alone are none, but `2 million` is one."""
    if not _ANY_WORD.search(text):
        return
    tokens = _tokens(text)
    at = 0
    while at < len(tokens):
        value, end = _number(tokens, at)
        if value is not None and any(token.word[0].isalpha() for token in tokens[at:end]):
            yield Spelled(tokens[at].start, tokens[end - 1].end, value)
        at = max(end, at + 1)


def in_digits(value: Fraction) -> str:
    """A number in digits: `18`, `18.5`; `55/3` if it has no finite decimal."""
    if value.denominator == 1:
        return str(value.numerator)
    places = next((places for places in range(1, 13) if 10**places % value.denominator == 0), None)
    if places is None:
        return f"{value.numerator}/{value.denominator}"
    digits = f"{abs(value.numerator) * 10**places // value.denominator:0{places + 1}}"
    return f"{'-' * (value < 0)}{digits[:-places]}.{digits[-places:]}"


def _tokens(text: str) -> list[_Token]:
    tokens: list[_Token] = []
    for match in _TOKEN.finditer(text):
        between = text[tokens[-1].end : match.start()] if tokens else ""
        near = "near" if _JOINT.fullmatch(between) else "comma" if between.strip() == "," else "far"
        tokens.append(_Token(match[0].lower(), *match.span(), near if tokens else ""))
    return tokens


def _is(tokens: list[_Token], at: int, words: object, gap: str = "near") -> bool:
    """Is the token at `at` one of `words`, right after the token before it?"""
    return at < len(tokens) and tokens[at].gap == gap and tokens[at].word in words  # type: ignore[operator]


def _number(tokens: list[_Token], at: int) -> tuple[Fraction | None, int]:
    """The longest number that begins at a token, and the index of the token after it; (None, at) if there is none."""
    if tokens[at].word in ("a", "an"):
        if _is(tokens, at + 1, SCALES):
            return _cardinal([*tokens[:at], tokens[at]._replace(word="one"), *tokens[at + 1 :]], at)
        return (Fraction(1, _PARTS[tokens[at + 1].word]), at + 2) if _is(tokens, at + 1, _PARTS) else (None, at)
    if tokens[at].word == "half":
        end = at + 1 + _is(tokens, at + 1, ("a",))
        if _is(tokens, end, SCALES):
            return Fraction(SCALES[tokens[end].word], 2), end + 1
        return Fraction(1, 2), at + 1
    value, end = _cardinal(tokens, at)
    if value is None:
        return None, at
    if _is(tokens, end, _PARTS) and not (tokens[at].word[0].isdigit() and tokens[end].word.startswith("quarter")):
        return value / _PARTS[tokens[end].word], end + 1  # `3 quarters` are coins
    part = _part_after_and(tokens, end)
    return (value + part[0], part[1]) if part else (value, end)


def _part_after_and(tokens: list[_Token], at: int) -> tuple[Fraction, int] | None:
    """`and a half`, `and half`, `and three quarters` at a token: the fraction and the index after it."""
    if not _is(tokens, at, ("and",)):
        return None
    if _is(tokens, at + 1, ("half",)):
        return Fraction(1, 2), at + 2
    if _is(tokens, at + 1, {"a", "an"} | _SMALL.keys()) and _is(tokens, at + 2, _PARTS):
        top = _SMALL.get(tokens[at + 1].word, 1)
        return Fraction(top, _PARTS[tokens[at + 2].word]), at + 3
    return None


def _cardinal(tokens: list[_Token], at: int) -> tuple[Fraction | None, int]:
    """A number in words (`one hundred and five`, `three point five`) or digits with scale words (`2.5 million`)."""
    first, total, scale = at, Fraction(0), 10**18
    group: Fraction | None = None  # the part below the next scale word
    while at < len(tokens) and (at == first or tokens[at].gap == "near" or tokens[at].gap == "comma" and group is None):
        word = tokens[at].word
        if word[0].isdigit():
            if at > first:
                break
            group = Fraction(word.replace(",", ""))
        elif (
            word in _SMALL
            and (group is None or _takes_small(group, _SMALL[word]))
            and not tokens[first].word[0].isdigit()
        ):
            group = (group or 0) + _SMALL[word]
        elif word in _TENS and (group is None or group and group % 100 == 0) and not tokens[first].word[0].isdigit():
            group = (group or 0) + _TENS[word]
        elif word in SCALES and group is not None and SCALES[word] < scale:
            if SCALES[word] == 100:
                if group >= 100 and not tokens[first].word[0].isdigit():
                    break
                group *= 100
            else:
                total, group, scale = total + group * SCALES[word], None, SCALES[word]
        elif not (
            word == "and"
            and at > first
            and (group is None or group % 100 == 0)
            and _is(tokens, at + 1, _SMALL | _TENS)
            and not _is(tokens, at + 2, _PARTS)
        ):
            break
        at += 1
    if at == first:
        return None, at
    total += group or 0
    return _with_decimals(tokens, total, at)


def _takes_small(group: Fraction, small: int) -> bool:
    return group > 0 and (group % 100 == 0 or 0 < small < 10 and group % 10 == 0 and group % 100 >= 20)


def _with_decimals(tokens: list[_Token], whole: Fraction, at: int) -> tuple[Fraction, int]:
    """`point two five` after a whole number."""
    if not _is(tokens, at, ("point",)):
        return whole, at
    end, digits = at + 1, ""
    while _is(tokens, end, NUMBER_WORDS[:10]):
        digits += str(_SMALL[tokens[end].word])
        end += 1
    return (whole + Fraction(int(digits), 10 ** len(digits)), end) if digits else (whole, at)
