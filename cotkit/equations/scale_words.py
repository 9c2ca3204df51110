"""Words after a number that may multiply it: 4 dozen, 3 million, 2 six-packs, 3 quarters."""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache

from cotkit.core import number_words

SCALES: dict[str, Fraction] = {name: Fraction(size) for name, size in number_words.SCALES.items()}
SCALES |= {f"{name}s": size for name, size in SCALES.items()}
SCALES |= {
    name: Fraction(size)
    for size, names in (
        ("2", "pair pairs"),
        ("10", "ten tens"),
        ("20", "score"),
        ("1/2", "half halves"),
        ("1/3", "third thirds"),
        ("1/4", "quarter quarters fourth fourths"),
        ("1/5", "fifth fifths"),
        ("1/6", "sixth sixths"),
        ("1/8", "eighth eighths"),
        ("1/10", "tenth tenths"),
    )
    for name in names.split()
}
_FIRST_WORD = re.compile(r"(?:\\[a-z]+\{)?[\s-]*([a-z]+)(-?)", re.IGNORECASE)


@lru_cache(maxsize=1024)
def scale_of(phrase: str) -> Fraction:
    """What the phrase after a number may multiply it by: 12 for `dozen rolls`, 6 for `six-packs`, else 1."""
    word = _FIRST_WORD.match(phrase)
    if not word:
        return Fraction(1)
    name = word[1].lower()
    if word[2] and name in number_words.NUMBER_WORDS:  # a number word counts only at the start of a compound
        return Fraction(number_words.NUMBER_WORDS.index(name))
    return SCALES.get(name, Fraction(1))
