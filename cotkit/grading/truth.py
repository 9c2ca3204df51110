"""Verdicts of comparisons in three-valued truth: True, False, and None where only computer algebra can tell."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

Truth = bool | None
Oracle = Callable[[str, str], Truth]


class Decision(NamedTuple):
    """`verdict` is correct, wrong or grader_timeout; `rule` names the rule that decided."""

    verdict: str
    rule: str


class Judgement(NamedTuple):
    """Truth of one comparison and the rule it rests on."""

    equal: Truth
    rule: str


def any_of(judgements: Iterable[Judgement]) -> Judgement:
    """True when one is, else None when one is, else the last False."""
    unknown, last = None, Judgement(False, "none")
    for last in judgements:
        if last.equal:
            return last
        unknown = last if last.equal is None else unknown
    return unknown or last


def all_of(judgements: Iterable[Judgement], rule: str) -> Judgement:
    """False when one is, else None when one is, else True; by `rule`."""
    equal: Truth = True
    for judgement in judgements:
        if judgement.equal is False:
            return Judgement(False, rule)
        equal = equal if judgement.equal else None
    return Judgement(equal, rule)
