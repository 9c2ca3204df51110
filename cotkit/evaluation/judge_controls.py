"""Measures an LLM judge on texts of known worth, which are made from reference solutions."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from itertools import islice
from statistics import fmean

from cotkit.core.jsonl import Row
from cotkit.equations.error_injection import change_number_in_text
from cotkit.evaluation.llm_judge import MIN_COVERAGE, reference

MIN_REFERENCES = 20  # with fewer no judge passes: even 18 of 20 right is compatible with 70 % (Wilson)

# Filler without content.
PADDING = (
    "Let us look at this problem carefully and work through it one step at a time, so that nothing is overlooked.",
    "It is important to keep the given numbers in mind here, since all of what follows is built on them.",
    "This brings us, step by step, closer to what the problem is really asking for, which is good to know.",
)

# control -> (comparison, limit) that its figure must meet for the judge to pass
LIMITS: dict[str, tuple[str, float]] = {
    "gold": ("at least", 4.5),  # mean rating of the reference itself
    "other gold": ("at most", 1.5),  # mean rating of another problem's reference; also detects wrong pairing
    "wrong step": ("at least", 0.8),  # share of texts in which a wrong number costs a point or more; validity only
    "padding": ("at most", 0.2),  # mean gain from filler in the text with a wrong step; the gold text cannot gain
    "retest": ("at least", 0.9),  # share of texts that another seed rates within one point
    "coverage": ("at least", MIN_COVERAGE),  # share of these calls that gave a rating
}
SOURCES = ("gold", "other gold", "wrong step", "padding", "retest")


def references(problems: Iterable[Row], number: int, seed: int) -> list[tuple[Row, str]]:
    """The first `number` problems whose solution can be given a wrong step, each with that wrong solution."""
    found = (
        (problem, wrong)
        for problem in problems
        if problem["solution"].strip()
        and (wrong := change_number_in_text(reference(problem), random.Random(f"{seed} {problem['id']}"))) is not None
    )
    return list(islice(found, number))


def texts(chosen: Sequence[tuple[Row, str]]) -> Iterable[tuple[str, Row, str]]:
    """Yields (control, problem, text to rate) for every control of every reference."""
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
    """The judge's controls for one criterion; ratings[control, id] is None where the judge gave none."""

    def gains(source: str, other: str) -> list[float]:
        pairs = ((ratings[source, name], ratings[other, name]) for name in ids)
        return [float(a - b) for a, b in pairs if a is not None and b is not None]

    values: dict[str, list[float]] = {
        source: [value for name in ids if (value := ratings[source, name]) is not None]
        for source in ("gold", "other gold")
    }
    if criterion == "validity":
        values["wrong step"] = [float(gain >= 1) for gain in gains("gold", "wrong step")]
    values["padding"] = gains("padding", "wrong step")
    values["retest"] = [float(abs(gain) <= 1) for gain in gains("wrong step", "retest")]
    values["coverage"] = [float(ratings[source, name] is not None) for source in SOURCES for name in ids]
    return {name: _control(name, found, len(ids)) for name, found in values.items()}


def _control(name: str, values: list[float], references: int) -> Row:
    needs, limit = LIMITS[name]
    value = fmean(values) if values else None
    passed = value is not None and (value >= limit if needs == "at least" else value <= limit)
    return {
        "value": value,
        "needs": needs,
        "limit": limit,
        "n": len(values),
        "passed": passed and references >= MIN_REFERENCES,
    }
