"""What stands where, for millions of keys: 12 bytes a slot where a dictionary takes two hundred a key."""

from __future__ import annotations

from array import array
from collections.abc import Hashable

FIRST_SLOTS = 1 << 10  # a power of two, as every size after it
MAX_LOAD = 0.75  # above it, runs of occupied slots get long


class KeyIndex:
    """A map from keys to whole numbers from 0 to 2**32 - 1 (line numbers) that keeps only a key's 64-bit hash (open addressing, linear probing).

    Two of a million keys share a hash with a chance of 3 in 100 million, and would then be taken for one; Python seeds
    the hash of text anew in every process, so that no file can be made to do it.
    """

    def __init__(self) -> None:
        self._size = 0
        self._allocate(FIRST_SLOTS)

    def _allocate(self, slots: int) -> None:
        self._mask = slots - 1
        self._hashes, self._numbers = array("Q", [0]) * slots, array("I", [0]) * slots  # hash 0 is an empty slot

    def _slot(self, mark: int) -> int:
        """Where a hash stands, or the empty slot where it would."""
        slot = mark & self._mask
        while (found := self._hashes[slot]) and found != mark:
            slot = (slot + 1) & self._mask
        return slot

    def add(self, key: Hashable, number: int) -> int | None:
        """Remembers the number of a new key; for a key that is known already changes nothing and returns its number."""
        mark = _mark(key)
        slot = self._slot(mark)
        if self._hashes[slot]:
            return self._numbers[slot]
        self._hashes[slot], self._numbers[slot] = mark, number
        self._size += 1
        if self._size > MAX_LOAD * self._mask:
            self._grow()
        return None

    def get(self, key: Hashable) -> int | None:
        """The number of a key, or None."""
        slot = self._slot(_mark(key))
        return self._numbers[slot] if self._hashes[slot] else None

    def __contains__(self, key: Hashable) -> bool:
        return self.get(key) is not None

    def __len__(self) -> int:
        return self._size

    def _grow(self) -> None:
        hashes, numbers = self._hashes, self._numbers
        self._allocate(2 * len(hashes))
        for mark, number in zip(hashes, numbers, strict=True):
            if mark:
                slot = self._slot(mark)
                self._hashes[slot], self._numbers[slot] = mark, number


def _mark(key: Hashable) -> int:
    return hash(key) & 0xFFFFFFFFFFFFFFFF or 1
