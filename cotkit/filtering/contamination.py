"""Finds questions that a test set also asks, by the share of n-grams of words that two questions have in common."""

from __future__ import annotations

import re
from array import array
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from itertools import repeat
from pathlib import Path
from typing import Any

from cotkit.core.jsonl import read_numbered, require
from cotkit.core.problems import with_id

SLOTS_PER_GRAM = 8  # so that one in eight n-grams at most needs the search

_WORD = re.compile(r"\w+")


def hash64(text: str) -> int:
    """64 bits that are the same in every process and run."""
    return int.from_bytes(blake2b(text.encode("utf-8"), digest_size=8).digest(), "little")


_word_hash = lru_cache(maxsize=16_384)(hash64)


def ngrams(text: str, size: int) -> set[tuple[str, ...]]:
    """All runs of `size` words, without case and punctuation; the whole text where it is shorter."""
    return set(_runs(_WORD.findall(text.lower()), size))


def ngram_hashes(text: str, size: int) -> list[int]:
    """A signed 64-bit number for each run of words; the same in every process, since numbers are hashed without a seed."""
    return list(map(hash, _runs(list(map(_word_hash, _WORD.findall(text.lower()))), size)))


def _runs(words: list[Any], size: int) -> Iterable[tuple[Any, ...]]:
    if len(words) <= size:
        return [tuple(words)] if words else []
    return zip(*(words[at:] for at in range(size)), strict=False)


@dataclass(frozen=True)
class Overlap:
    """The test question that shares most with a question, and the share of the question's n-grams in [0, 1]."""

    test_id: str
    share: float


class TestQuestions:
    """The n-grams of test questions; 20 bytes each, sorted, so that it is cheap to hand to other processes."""

    __test__ = False  # pytest: no test class

    def __init__(self, questions: Iterable[tuple[str, str]], size: int) -> None:
        self.size = size
        self.ids: list[str] = []
        grams, owners = array("q"), array("I")
        for number, (test_id, question) in enumerate(questions):
            self.ids.append(test_id)
            found = set(ngram_hashes(question, size))
            grams.extend(found)
            owners.extend(repeat(number, len(found)))
        order = sorted(range(len(grams)), key=grams.__getitem__)
        self._grams = array("q", map(grams.__getitem__, order))
        self._owners = array("I", map(owners.__getitem__, order))
        # Most n-grams are in no test question: one byte tells, without a search.
        self._mask = (1 << (SLOTS_PER_GRAM * len(order)).bit_length()) - 1
        self._taken = bytearray(self._mask + 1)
        for gram in self._grams:
            self._taken[gram & self._mask] = 1
        self._last: tuple[str, Overlap | None] = ("", None)  # the samples of one question stand together

    @classmethod
    def read(cls, paths: Iterable[Path], size: int) -> TestQuestions:
        """From problem files. Raises UserError for a row without `id` and `question`."""
        return cls((pair for path in paths for pair in _questions(path)), size)

    def closest(self, question: str) -> Overlap | None:
        """The test question with the largest overlap, the first of equal ones; None where no n-gram is shared."""
        if question != self._last[0]:
            self._last = question, self._closest(question)
        return self._last[1]

    def _closest(self, question: str) -> Overlap | None:
        grams = ngram_hashes(question, self.size)
        mask, taken = self._mask, self._taken
        hits: Counter[int] = Counter()
        for gram in {gram for gram in grams if taken[gram & mask]}:
            first, end = bisect_left(self._grams, gram), bisect_right(self._grams, gram)
            hits.update(self._owners[first:end])
        if not hits:
            return None
        owner, count = min(hits.items(), key=lambda hit: (-hit[1], hit[0]))
        return Overlap(self.ids[owner], count / len(set(grams)))


def _questions(path: Path) -> Iterable[tuple[str, str]]:
    for number, row in read_numbered(path):
        row = with_id(row)
        require(row, {"id": str, "question": str}, f"{path}:{number}")
        yield row["id"], row["question"]
