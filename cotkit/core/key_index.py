"""Looks up line numbers by key in files of millions of lines."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Hashable


class KeyIndex:
    """Maps keys to line numbers. Uses 12 bytes per key; a dict uses about 200. Add all keys, sort, then look up.

    It keeps only the 64-bit hash of a key. Two of a million different keys have the same hash with a chance of 3 in 100
    million, and would be taken for one key. Python seeds the hash of text anew in every process, so no file can be made
    to do that.
    """

    def __init__(self) -> None:
        self._hashes, self._lines = array("q"), array("I")

    def add(self, key: Hashable, line: int) -> None:
        self._hashes.append(hash(key))
        self._lines.append(line)

    def sort(self) -> tuple[int, int] | None:
        """Prepares look-ups. Returns the lines of a repeated key, of which the second is the earliest, or None."""
        import numpy as np

        hashes, lines = np.asarray(self._hashes), np.asarray(self._lines)  # they share the arrays' memory
        order = np.argsort(hashes, kind="stable").astype("u4")
        hashes[:], lines[:] = hashes[order], lines[order]
        same = np.flatnonzero(hashes[1:] == hashes[:-1])
        if not len(same):
            return None
        at = same[np.argmin(lines[same + 1])]
        return int(lines[at]), int(lines[at + 1])

    def get(self, key: Hashable) -> int | None:
        """The line of a key, or None."""
        at = bisect_left(self._hashes, hash(key))
        return self._lines[at] if at < len(self) and self._hashes[at] == hash(key) else None

    def __contains__(self, key: Hashable) -> bool:
        return self.get(key) is not None

    def __len__(self) -> int:
        return len(self._hashes)
