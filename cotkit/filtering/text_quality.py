"""Signs that a text loops or is garbled, each in one linear pass: repeated lines, n-gram loops, compressibility."""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections import Counter

from cotkit.core.problems import CONTROL_TOKEN

# A loop is found by a run of this many words: single words recur in any text, three in a row seldom do.
NGRAM = 3
# `2 apples + 2 apples + 2 apples` is a sum, not a loop: a loop's block is a clause, or what it fills is long.
MIN_BLOCK_WORDS = 5
MIN_LOOP_WORDS = 24
MAX_BACK = 100  # words looked back for the start of a loop, so that the pass stays linear
# zlib needs some text before its ratio means something.
MIN_COMPRESSED_BYTES = 200
# The longest English word in the GSM8K training set has 17 letters; longer runs are LaTeX commands glued together.
MAX_RUN_OF_LETTERS = 40

_SENTENCE = re.compile(r"[^\n.!?]+")
_WORD = re.compile(r"[a-wyz]")  # x may be the sign of multiplication
_RUN_OF_LETTERS = re.compile(rf"[^\W\d_]{{{MAX_RUN_OF_LETTERS + 1},}}")
_BAD_CHARACTER = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ufffd\ue000-\uf8ff\ufff0-\ufffc]")


def repeated_sentence(text: str, limit: int) -> tuple[str, int] | None:
    """The commonest sentence of at least `MIN_BLOCK_WORDS` words and its count, if it stands more than `limit` times."""
    sentences = [" ".join(piece.split()) for piece in _SENTENCE.findall(text.lower())]
    if len(sentences) - len(set(sentences)) < limit:
        return None
    counts = Counter(piece for piece in sentences if piece.count(" ") >= MIN_BLOCK_WORDS - 1 and _WORD.search(piece))
    if not counts:
        return None
    sentence, count = counts.most_common(1)[0]
    return (sentence, count) if count > limit else None


def loop(text: str, limit: int) -> tuple[str, int] | None:
    """A block of words that stands more than `limit` times without a break, and how often, or None.

    A repeated n-gram suggests a period; the run of words that keep it is the loop.
    """
    words = text.lower().split()
    grams = list(zip(*(words[at:] for at in range(NGRAM)), strict=False))
    # Every n-gram inside a loop after its first block stands for another time; most texts have hardly any such.
    fewest = min(MIN_BLOCK_WORDS * limit, MIN_LOOP_WORDS * limit // (limit + 1)) - NGRAM + 1
    if len(grams) - len(set(grams)) < fewest:
        return None
    last: dict[tuple[str, ...], int] = {}
    period = run = 0
    for at, gram in enumerate(grams):
        nearest = at - last.get(gram, at)
        last[gram] = at
        # A period that still holds goes on: inside the block the n-gram may stand nearer once more.
        if period and words[at + NGRAM - 1] == words[at + NGRAM - 1 - period]:
            run += 1
        else:
            period, run = nearest, NGRAM + _matching_before(words, at, nearest)
        filled = run + period
        if period and filled >= period * (limit + 1) and (period >= MIN_BLOCK_WORDS or filled >= MIN_LOOP_WORDS):
            block = " ".join(words[at + NGRAM - period : at + NGRAM])
            if _WORD.search(block):
                return block, filled // period
    return None


def _matching_before(words: list[str], at: int, period: int) -> int:
    """How many words just before `at` keep the period too, which a nearer repeat had hidden."""
    count = 0
    while (
        period and count < MAX_BACK and at - count > period and words[at - count - 1] == words[at - count - 1 - period]
    ):
        count += 1
    return count


def compression(text: str) -> float:
    """How many times zlib shrinks the text; 1 for short ones. The GSM8K training solutions reach 3.2."""
    data = text.encode("utf-8")
    return len(data) / len(zlib.compress(data, 6)) if len(data) >= MIN_COMPRESSED_BYTES else 1.0


def garbled(text: str, known: str, max_foreign: float) -> str | None:
    """What makes a text unreadable: a control mark, broken characters, glued words, or letters of another script.

    Args:
        known: text whose letters are never foreign (the question).
        max_foreign: largest share of letters, in [0, 1], that are neither Latin nor Greek nor in `known`.
    """
    if mark := CONTROL_TOKEN.search(text):
        return f"control token {mark[0]!r}"
    if broken := _BAD_CHARACTER.search(text):
        return f"broken character {broken[0]!r}"
    longest = max(map(len, text.split()), default=0)  # nearly always short, and told much faster
    if longest > MAX_RUN_OF_LETTERS and (glued := _RUN_OF_LETTERS.search(text)):
        return f"{len(glued[0])} letters without a break: {glued[0][:30]!r}"
    if text.isascii():
        return None
    others = {char for char in set(text) if char > "\u02ff" and char.isalpha() and not _is_greek_or_latin(char)}
    if not others.difference(known):
        return None
    letters = [char for char in text if char.isalpha()]
    foreign = [char for char in letters if char in others and char not in known]
    if len(foreign) > max_foreign * len(letters):
        return f"{len(foreign)} of {len(letters)} letters are of another script: {''.join(foreign[:10])!r}"
    return None


def _is_greek_or_latin(char: str) -> bool:
    return unicodedata.name(char, "").startswith(("GREEK", "LATIN", "MATHEMATICAL", "SCRIPT", "DOUBLE-STRUCK"))
