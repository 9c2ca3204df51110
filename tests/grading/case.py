"""What a labelled case of the grader is. place_cases.py, number_cases.py and formula_cases.py hold them."""

from __future__ import annotations

from typing import NamedTuple


class Case(NamedTuple):
    """One labelled case; `reason` says why the verdict is right, or which convention it follows.

    The response is a bare answer or a whole output. `cut:` in front of it means that generation ended by length.
    """

    dataset: str
    gold: str
    response: str
    verdict: str
    reason: str


C, W, N, T, U = "correct", "wrong", "no_answer", "truncated", "gold_unparsable"
