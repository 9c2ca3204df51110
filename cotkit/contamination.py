"""Finds questions that a test set also asks, by the share of n-grams of words that two questions have in common."""

from __future__ import annotations

import re
from array import array
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from cotkit.jsonl import read_numbered, require
from cotkit.problems import with_id

_WORD = re.compile(r"\w+")


def hash64(text: str) -> int:
    """64 bits that are the same in every process and run."""
    return int.from_bytes(blake2b(text.encode("utf-8"), digest_size=8).digest(), "little")


def ngrams(text: str, size: int) -> set[int]:
    """Hashes of all runs of `size` words, without case and punctuation; of the whole text where it is shorter."""
    words = _WORD.findall(text.lower())
    return {hash64(" ".join(words[at : at + size])) for at in range(max(1, len(words) - size + 1))} if words else set()


@dataclass(frozen=True)
class Overlap:
    """The test question that shares most with a question, and the share of the question's n-grams in [0, 1]."""

    test_id: str
    share: float


class TestQuestions:
    """The n-grams of test questions; 12 bytes each, sorted, so that it is cheap to hand to other processes."""

    __test__ = False  # pytest: no test class

    def __init__(self, questions: Iterable[tuple[str, str]], size: int) -> None:
        self.size = size
        self.ids: list[str] = []
        found: list[tuple[int, int]] = []
        for number, (test_id, question) in enumerate(questions):
            self.ids.append(test_id)
            found.extend((gram, number) for gram in ngrams(question, size))
        found.sort()
        self._grams = array("Q", (gram for gram, _ in found))
        self._owners = array("I", (owner for _, owner in found))

    @classmethod
    def read(cls, paths: Iterable[Path], size: int) -> TestQuestions:
        """From problem files. Raises DataError for a row without `id` and `question`."""
        return cls((pair for path in paths for pair in _questions(path)), size)

    def closest(self, question: str) -> Overlap | None:
        """The test question with the largest overlap; None where no n-gram is shared."""
        grams = ngrams(question, self.size)
        hits: Counter[int] = Counter()
        for gram in grams:
            first = bisect_left(self._grams, gram)
            if first < len(self._grams) and self._grams[first] == gram:
                hits.update(self._owners[first : bisect_right(self._grams, gram)])
        if not hits:
            return None
        owner, count = hits.most_common(1)[0]
        return Overlap(self.ids[owner], count / len(grams))


def _questions(path: Path) -> Iterable[tuple[str, str]]:
    for number, row in read_numbered(path):
        row = with_id(row)
        require(row, {"id": str, "question": str}, f"{path}:{number}")
        yield row["id"], row["question"]
