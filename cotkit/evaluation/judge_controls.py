"""The judge is measured before it is believed: texts whose rating is known, made from reference solutions."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from itertools import islice
from statistics import fmean

from cotkit.core.jsonl import Row
from cotkit.equations.error_injection import change_number_in_text
from cotkit.evaluation.llm_judge import MIN_COVERAGE, reference

MIN_REFERENCES = 20  # fewer say too little about a judge: 18 of 20 right is still compatible with 70 % (Wilson)

# Filler that adds words and nothing else.
PADDING = (
    "Let us look at this problem carefully and work through it one step at a time, so that nothing is overlooked.",
    "It is important to keep the given numbers in mind here, since all of what follows is built on them.",
    "This brings us, step by step, closer to what the problem is really asking for, which is good to know.",
)

# control -> (what its figure must be compared with its limit); the limits decide whether a judge can judge at all
LIMITS: dict[str, tuple[str, float]] = {
    "gold": ("at least", 4.5),  # mean rating of the reference itself
    "other gold": ("at most", 1.5),  # mean rating of another problem's reference: also catches wrong pairing
    "wrong step": ("at least", 0.8),  # share in which one wrong number costs a point or more; validity only
    "padding": ("at most", 0.2),  # mean gain of the text with a wrong step from filler: the gold could not gain
    "retest": ("at least", 0.9),  # share in which the same text with another seed is rated within one point
    "coverage": ("at least", MIN_COVERAGE),  # share of all these calls that gave a rating
}
SOURCES = ("gold", "other gold", "wrong step", "padding", "retest")


def references(problems: Iterable[Row], number: int, seed: int) -> list[tuple[Row, str]]:
    """The first `number` problems whose solution can be given a wrong step, and the solution with that step."""
    planted = (
        (problem, wrong)
        for problem in problems
        if problem["solution"].strip()
        and (wrong := change_number_in_text(reference(problem), random.Random(f"{seed} {problem['id']}"))) is not None
    )
    return list(islice(planted, number))


def texts(chosen: Sequence[tuple[Row, str]]) -> Iterable[tuple[str, Row, str]]:
    """(control, problem, text to rate) for every control of every reference."""
    for number, (problem, wrong) in enumerate(chosen):
        other = chosen[(number + 1) % len(chosen)][0]
        yield "gold", problem, reference(problem)
        yield "other gold", problem, reference(other)
        yield "wrong step", problem, wrong
        yield "padding", problem, pad(wrong)
        yield "retest", problem, wrong


def pad(text: str) -> str:
    """The same steps with filler before and between them."""
    filled = [f"{PADDING[number % len(PADDING)]} {line}" for number, line in enumerate(text.split("\n")[:-1])]
    return "\n".join([PADDING[-1], *filled, text.split("\n")[-1]])


def measure(ratings: dict[tuple[str, str], int | None], ids: Sequence[str], criterion: str) -> dict[str, Row]:
    """How the judge did on one criterion; ratings[control, id], None where it gave none."""
    rated = {source: {name: ratings[source, name] for name in ids} for source in SOURCES}
    lost = _differences(rated["gold"], rated["wrong step"])
    gained = _differences(rated["padding"], rated["wrong step"])
    again = _differences(rated["wrong step"], rated["retest"])
    values: dict[str, list[float]] = {
        "gold": [value for value in rated["gold"].values() if value is not None],
        "other gold": [value for value in rated["other gold"].values() if value is not None],
        "wrong step": [float(value >= 1) for value in lost],
        "padding": gained,
        "retest": [float(abs(value) <= 1) for value in again],
        "coverage": [float(ratings[source, name] is not None) for source in SOURCES for name in ids],
    }
    if criterion != "validity":
        del values["wrong step"]
    return {name: _judge(name, found, len(ids)) for name, found in values.items()}


def _differences(left: dict[str, int | None], right: dict[str, int | None]) -> list[float]:
    pairs = ((left[name], right[name]) for name in left)
    return [float(a - b) for a, b in pairs if a is not None and b is not None]


def _judge(name: str, values: list[float], number: int) -> Row:
    needs, limit = LIMITS[name]
    value = fmean(values) if values else None
    inside = value is not None and (value >= limit if needs == "at least" else value <= limit)
    return {
        "value": value,
        "needs": needs,
        "limit": limit,
        "n": len(values),
        "passed": inside and number >= MIN_REFERENCES,
    }
