"""Finds questions that a test set also asks, by the share of word n-grams that two questions have in common."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path

from cotkit.core.jsonl import read_numbered, require
from cotkit.core.problems import as_problem

_WORD = re.compile(r"\w+")


def hash64(text: str) -> int:
    """A 64-bit hash that is the same in every process and run."""
    return int.from_bytes(blake2b(text.encode("utf-8"), digest_size=8).digest(), "little")


_word_hash = lru_cache(maxsize=16_384)(hash64)


def ngram_hashes(text: str, size: int) -> set[int]:
    """A signed 64-bit number for each run of `size` words, without case and punctuation; one number for a shorter text.

    The numbers are the same in every process, since Python hashes numbers without a seed.
    """
    words = list(map(_word_hash, _WORD.findall(text.lower())))
    if len(words) <= size:
        return {hash(tuple(words))} if words else set()
    return set(map(hash, zip(*(words[at:] for at in range(size)), strict=False)))


@dataclass(frozen=True)
class Overlap:
    """The test question that shares most with a question, and the share of the question's n-grams in [0, 1]."""

    test_id: str
    share: float


class TestQuestions:
    """The n-grams of test questions, each with the numbers of the questions that have it."""

    __test__ = False  # not a test class of pytest

    def __init__(self, questions: Iterable[tuple[str, str]], size: int) -> None:
        self.size = size
        self.ids: list[str] = []
        self._owners: dict[int, tuple[int, ...]] = {}
        for number, (test_id, question) in enumerate(questions):
            self.ids.append(test_id)
            own = (number,)  # one object for all n-grams that no other question has, which saves memory
            for gram in ngram_hashes(question, size):
                self._owners[gram] = self._owners.get(gram, ()) + own
        self._latest: tuple[str, Overlap | None] = ("", None)  # the samples of one question come one after the other

    @classmethod
    def read(cls, paths: Iterable[Path], size: int) -> TestQuestions:
        """Reads problem files. Raises UserError for a row without `id` or `question`."""
        return cls((pair for path in paths for pair in _questions(path)), size)

    def closest(self, question: str) -> Overlap | None:
        """The test question with the largest overlap, the first of equal ones; None if no n-gram is shared."""
        if question != self._latest[0]:
            self._latest = question, self._closest(question)
        return self._latest[1]

    def _closest(self, question: str) -> Overlap | None:
        grams = ngram_hashes(question, self.size)
        hits: Counter[int] = Counter()
        for gram in grams & self._owners.keys():
            hits.update(self._owners[gram])
        if not hits:
            return None
        owner, count = min(hits.items(), key=lambda hit: (-hit[1], hit[0]))
        return Overlap(self.ids[owner], count / len(grams))


def _questions(path: Path) -> Iterable[tuple[str, str]]:
    for number, row in read_numbered(path):
        row = as_problem(row)
        require(row, {"id": str, "question": str}, f"{path}:{number}")
        yield row["id"], row["question"]
