"""Maps millions of keys to line numbers: two sorted arrays with 12 bytes per key, where a dict needs about 200."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Hashable


class LineIndex:
    """Line numbers (0 to 2**32 - 1) by key. Add all keys first, then look them up.

    Only a 64-bit hash of each key is kept. Two of a million keys share a hash with a probability of 3 in 100 million and
    would then count as repeated. Python seeds the hash of text in each process, so no file can provoke it.
    """

    def __init__(self) -> None:
        self._hashes, self._lines, self._sorted = array("Q"), array("I"), True

    def add(self, key: Hashable, line: int) -> None:
        self._hashes.append(_hash64(key))
        self._lines.append(line)
        self._sorted = False

    def _sort(self) -> None:
        import numpy as np

        hashes, lines = np.frombuffer(self._hashes, np.uint64), np.frombuffer(self._lines, np.uint32)
        order = np.argsort(hashes, kind="stable")  # lines with the same key stay in their order
        self._hashes, self._lines = array("Q", hashes[order].tobytes()), array("I", lines[order].tobytes())
        self._sorted = True

    def repeated(self) -> tuple[int, int] | None:
        """The lines of the first key that was added twice (earlier line, later line), or None."""
        import numpy as np

        if len(self) < 2:
            return None
        if not self._sorted:
            self._sort()
        hashes, lines = np.frombuffer(self._hashes, np.uint64), np.frombuffer(self._lines, np.uint32)
        (twice,) = np.nonzero(hashes[1:] == hashes[:-1])
        if not len(twice):
            return None
        first = twice[np.argmin(lines[twice + 1])]
        return int(lines[first]), int(lines[first + 1])

    def get(self, key: Hashable) -> int | None:
        """The line of a key, or None."""
        if not self._sorted:
            self._sort()
        wanted = _hash64(key)
        at = bisect_left(self._hashes, wanted)
        return self._lines[at] if at < len(self) and self._hashes[at] == wanted else None

    def __contains__(self, key: Hashable) -> bool:
        return self.get(key) is not None

    def __len__(self) -> int:
        return len(self._hashes)


def _hash64(key: Hashable) -> int:
    return hash(key) & 0xFFFFFFFFFFFFFFFF
