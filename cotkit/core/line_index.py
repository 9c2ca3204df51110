"""Looks up line numbers by key in files of millions of lines."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Hashable


class LineIndex:
    """Maps keys to line numbers below 2**32. Uses 12 bytes per key; a dict uses about 200. Add all keys first.

    Only a 64-bit hash of each key is kept. Two of a million keys share a hash with a probability of 3 in 100 million and
    would then count as repeated. Python seeds the hash of text in each process, so no file can provoke it.
    """

    def __init__(self) -> None:
        self._hashes, self._lines, self._sorted = array("q"), array("I"), False

    def add(self, key: Hashable, line: int) -> None:
        self._hashes.append(hash(key))
        self._lines.append(line)
        self._sorted = False

    def _sort(self) -> None:
        import numpy as np

        hashes, lines = np.asarray(self._hashes), np.asarray(self._lines)  # they share the arrays' memory
        order = np.argsort(hashes, kind="stable")  # lines with the same key stay in their order
        hashes[:], lines[:] = hashes[order], lines[order]
        self._sorted = True

    def repeated(self) -> tuple[int, int] | None:
        """The lines of the first key that was added twice (earlier line, later line), or None."""
        import numpy as np

        self._sort()
        hashes, lines = np.asarray(self._hashes), np.asarray(self._lines)
        twice = np.flatnonzero(hashes[1:] == hashes[:-1])
        if not len(twice):
            return None
        first = twice[np.argmin(lines[twice + 1])]
        return int(lines[first]), int(lines[first + 1])

    def get(self, key: Hashable) -> int | None:
        """The line of a key, or None."""
        if not self._sorted:
            self._sort()
        at = bisect_left(self._hashes, hash(key))
        return self._lines[at] if at < len(self) and self._hashes[at] == hash(key) else None

    def __contains__(self, key: Hashable) -> bool:
        return self.get(key) is not None

    def __len__(self) -> int:
        return len(self._hashes)
