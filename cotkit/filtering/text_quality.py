"""Signs that a text repeats itself or is garbled. Each is found in one linear pass."""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections import Counter

from cotkit.core.problems import CONTROL_TOKEN

# Words in the n-grams that find a loop: single words recur in any text, three in a row seldom do.
NGRAM = 3
# `2 apples + 2 apples + 2 apples` is a sum and no loop. A loop repeats a clause, or a shorter block for long.
MIN_BLOCK_WORDS = 5
MIN_LOOP_WORDS = 24
MAX_BACK = 100  # words searched back for the start of a loop, so that the pass stays linear
MIN_COMPRESSED_BYTES = 200  # the ratio of a shorter text means nothing
# The longest English word in the GSM8K training set has 17 letters. Longer runs are LaTeX commands glued together.
MAX_RUN_OF_LETTERS = 40

_KNOWN_SCRIPTS = ("GREEK", "LATIN", "MATHEMATICAL", "SCRIPT", "DOUBLE-STRUCK")  # starts of Unicode names
_SENTENCE = re.compile(r"[^\n.!?]+")
_LETTER = re.compile(r"[a-wyz]")  # x may be the sign of multiplication
_RUN_OF_LETTERS = re.compile(rf"[^\W\d_]{{{MAX_RUN_OF_LETTERS + 1},}}")
_BAD_CHARACTER = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ufffd\ue000-\uf8ff\ufff0-\ufffc]")


def repeated_sentence(text: str, limit: int) -> tuple[str, int] | None:
    """The commonest sentence of at least `MIN_BLOCK_WORDS` words and its count, if it appears more than `limit` times."""
    sentences = [" ".join(piece.split()) for piece in _SENTENCE.findall(text.lower())]
    if len(sentences) - len(set(sentences)) < limit:
        return None
    counts = Counter(piece for piece in sentences if piece.count(" ") >= MIN_BLOCK_WORDS - 1 and _LETTER.search(piece))
    return next((found for found in counts.most_common(1) if found[1] > limit), None)


def loop(text: str, limit: int) -> tuple[str, int] | None:
    """A block of words that appears more than `limit` times in a row, and how often; None if there is none.

    A repeated n-gram suggests a period. The loop is the run of words that continues with this period.
    """
    words = text.lower().split()
    grams = list(zip(*(words[at:] for at in range(NGRAM)), strict=False))
    # In a loop every n-gram after the first block is a repetition. Most texts have too few of these.
    fewest = min(MIN_BLOCK_WORDS * limit, MIN_LOOP_WORDS * limit // (limit + 1)) - NGRAM + 1
    if len(grams) - len(set(grams)) < fewest:
        return None
    last: dict[tuple[str, ...], int] = {}
    period = run = 0
    for at, gram in enumerate(grams):
        nearest = at - last.get(gram, at)
        last[gram] = at
        # Keep a period that still holds, even if the n-gram also appears nearer, inside the block.
        if period and words[at + NGRAM - 1] == words[at + NGRAM - 1 - period]:
            run += 1
        else:
            period, run = nearest, NGRAM + _matching_before(words, at, nearest)
        filled = run + period
        if period and filled >= period * (limit + 1) and (period >= MIN_BLOCK_WORDS or filled >= MIN_LOOP_WORDS):
            block = " ".join(words[at + NGRAM - period : at + NGRAM])
            if _LETTER.search(block):
                return block, filled // period
    return None


def _matching_before(words: list[str], at: int, period: int) -> int:
    """How many words just before `at` have the period too; a nearer repetition had hidden it."""
    for count in range(MAX_BACK):
        before = at - count - 1
        if not period or before < period or words[before] != words[before - period]:
            return count
    return MAX_BACK


def compression(text: str) -> float:
    """By what factor zlib shrinks the text; 1 for a short text. The GSM8K training solutions reach 3.2."""
    data = text.encode("utf-8")
    return len(data) / len(zlib.compress(data, 6)) if len(data) >= MIN_COMPRESSED_BYTES else 1.0


def garbled(text: str, known: str, max_foreign: float) -> str | None:
    """What makes a text unreadable: a control token, broken characters, glued words, or letters of another script.

    Letters are foreign if they are neither Latin nor Greek nor in `known` (the question); a share of them up to
    `max_foreign`, in [0, 1], is allowed.
    """
    if mark := CONTROL_TOKEN.search(text):
        return f"control token {mark[0]!r}"
    if broken := _BAD_CHARACTER.search(text):
        return f"broken character {broken[0]!r}"
    longest = max(map(len, text.split()), default=0)  # much faster than the search, and nearly always enough
    if longest > MAX_RUN_OF_LETTERS and (glued := _RUN_OF_LETTERS.search(text)):
        return f"{len(glued[0])} letters without a break: {glued[0][:30]!r}"
    if text.isascii():
        return None
    suspects = {char for char in set(text) if char > "\u02ff" and char.isalpha()}
    others = {char for char in suspects if not unicodedata.name(char, "").startswith(_KNOWN_SCRIPTS)}
    if not others.difference(known):
        return None
    letters = [char for char in text if char.isalpha()]
    foreign = [char for char in letters if char in others and char not in known]
    if len(foreign) > max_foreign * len(letters):
        return f"{len(foreign)} of {len(letters)} letters are of another script: {''.join(foreign[:10])!r}"
    return None
