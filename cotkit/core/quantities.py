"""Durations as a person would write them."""

from __future__ import annotations


def clock(seconds: float) -> str:
    """A duration in the unit that a person would use."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
