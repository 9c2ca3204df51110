"""Compares scored methods in pairs on the same questions: computes comparison.json."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import fmean, stdev

from cotkit.core.jsonl import Row
from cotkit.core.manifest import difference
from cotkit.evaluation import stats
from cotkit.evaluation.paired import OneSample, PairedDifference, SeveralSamples, mean_of_runs
from cotkit.evaluation.scored_runs import Method, load_methods

COMPARISON_SCHEMA = 5  # of comparison.json; scripts/report.py refuses another number


@dataclass(frozen=True)
class AskedPair:
    """A question to the comparison: is `method` better than `other`? On every data set, or on one."""

    method: str
    other: str
    dataset: str | None = None

    def __str__(self) -> str:
        return f"{self.method} against {self.other}" + (f" on {self.dataset}" if self.dataset else "")


def compare(folders: list[Path], reference: str, asked: Sequence[AskedPair] = ()) -> Row:
    """The contents of comparison.json without its sentences; docs/COMPARISON.md describes every field.

    Args:
        folders: one run, or several whose methods are compared on their common test sets.
        reference: the method that the sentences compare with.
        asked: the pairs to test beside those with the reference; none: all pairs.
    """
    loaded, notes = load_methods(folders, reference)
    here = {dataset: [pair for pair in asked if pair.dataset in (None, dataset)] for dataset in loaded}
    pairs = [
        (dataset, method, other)
        for dataset, methods in loaded.items()
        for method, other in (pairs_of(methods, here[dataset]) if asked else all_pairs(methods))
    ]
    found = [paired_difference(method, other) for _, method, other in pairs]
    p_values = [one.p for one in found]
    levels = stats.holm_levels(p_values)
    rows: dict[str, list[Row]] = {dataset: [] for dataset in loaded}
    for (dataset, method, other), one, p_adjusted, level in zip(
        pairs, found, stats.holm(p_values), levels, strict=True
    ):
        detectable = one.detectable(stats.ALPHA / len(pairs))
        rows[dataset].append(
            {
                **describe_pair(method, other, one, level),
                "p_adjusted": p_adjusted,
                "minimum_detectable_difference": detectable,
                "verdict": stats.verdict(one.difference, p_adjusted, detectable),
            }
        )
    return {
        "schema": COMPARISON_SCHEMA,
        "reference": reference,
        "confidence": stats.CONFIDENCE,
        "alpha": stats.ALPHA,
        "power": stats.POWER,
        "worth": stats.WORTH,
        "family": len(pairs),
        **({"asked": [str(pair) for pair in asked]} if asked else {}),
        "datasets": [
            {
                "dataset": dataset,
                "protocol": methods[0].runs[0].summary["protocol"],
                "questions": len(methods[0].runs[0].correct),
                "notes": [
                    *notes,
                    *failed_requests(methods),
                    *differing_settings(methods),
                    *without_scores(methods, here[dataset]),
                ],
                "methods": list(map(describe_method, methods)),
                "pairs": rows[dataset],
            }
            for dataset, methods in loaded.items()
        ],
    }


def all_pairs(methods: list[Method]) -> Iterator[tuple[Method, Method]]:
    """Every pair, the earlier method as the one that is compared with."""
    return ((method, other) for other, method in combinations(methods, 2))


def pairs_of(methods: list[Method], asked: Sequence[AskedPair]) -> list[tuple[Method, Method]]:
    """Every method against the first, which is the reference, and the asked pairs that have scores.

    None at all if no pair is asked: every test makes the others weaker.
    """
    reference, named = methods[0].name, {method.name: method for method in methods}
    found = {frozenset({name, reference}): (method, methods[0]) for name, method in named.items() if name != reference}
    for pair in asked:
        if pair.method in named and pair.other in named:
            found.setdefault(frozenset({pair.method, pair.other}), (named[pair.method], named[pair.other]))
    return list(found.values()) if asked else []


def without_scores(methods: list[Method], asked: Sequence[AskedPair]) -> list[str]:
    """A note for every asked pair that cannot be tested on this data set."""
    named = {method.name for method in methods}
    return [
        f"{pair.method} against {pair.other} was asked, but there are no scores of {' and '.join(missing)} here"
        for pair in asked
        if (missing := [name for name in (pair.method, pair.other) if name not in named])
    ]


def describe_method(method: Method) -> Row:
    """One method: mean accuracy of its runs with a 95 % interval, their standard deviation, and each run's summary."""
    summary = method.runs[0].summary
    mean, low, high = (summary[key] for key in ("accuracy", "accuracy_low", "accuracy_high"))
    if len(method.runs) > 1:
        mean, low, high = mean_of_runs(method.scores(method.runs[0].correct), stats.ALPHA)
    accuracies = [run.summary["accuracy"] for run in method.runs]
    return {
        "method": method.name,
        "accuracy": mean,
        "accuracy_low": low,
        "accuracy_high": high,
        "standard_deviation": stdev(accuracies) if len(accuracies) > 1 else None,
        "runs": [
            {"stem": run.stem, "seed": run.seed, "tokens_to_answer": run.tokens_to_answer, **run.summary}
            for run in method.runs
        ],
    }


def paired_difference(method: Method, reference: Method) -> PairedDifference:
    """The difference method - reference on the same questions."""
    first, other = method.runs[0].correct, reference.runs[0].correct
    single = len(method.runs) == len(reference.runs) == 1
    if single and all(samples == 1 for side in (first, other) for _, samples in side.values()):
        steps = [first[name][0] - other[name][0] for name in first]
        return OneSample(steps.count(1), steps.count(-1), len(steps))
    return SeveralSamples(method.scores(first), reference.scores(first))


def describe_pair(method: Method, reference: Method, found: PairedDifference, level: float) -> Row:
    """A pair's figures; `level` is the one at which Holm's procedure tests it."""
    ids = list(method.runs[0].correct)
    means = [[fmean(scores) for scores in zip(*side.scores(ids), strict=True)] for side in (method, reference)]
    both = list(zip(ids, *means, strict=True))
    low, high = found.interval(stats.ALPHA)
    verdict_low, verdict_high = found.verdict_interval(level)
    return {
        "method": method.name,
        "reference": reference.name,
        "difference": found.difference,
        "low": low,
        "high": high,
        "interval": found.interval_name,
        "test": found.test,
        "p": found.p,
        "level": level,
        "verdict_low": verdict_low,
        "verdict_high": verdict_high,
        "wins": [name for name, a, b in both if a > b],
        "losses": [name for name, a, b in both if a < b],
        "critic": compare_critic(method, reference),
    }


def compare_critic(method: Method, reference: Method) -> Row | None:
    """The paired difference of the critic's ratings, on the questions that are rated in all runs of both."""
    runs = [*method.runs, *reference.runs]
    rated = [name for name in runs[0].critic if all(name in run.critic for run in runs)]
    if not rated:
        return None
    ours, theirs = ([fmean(run.critic[name] for run in side.runs) for name in rated] for side in (method, reference))
    apart = [a - b for a, b in zip(ours, theirs, strict=True)]
    difference, low, high = stats.mean_interval(apart, -4.0, 4.0)  # ratings are from 1 to 5
    reliable = all(run.summary["critic"]["reliable"] for run in runs)
    return {"difference": difference, "low": low, "high": high, "questions": len(rated), "reliable": reliable}


def differing_settings(methods: list[Method]) -> list[str]:
    """A note for every run that was generated with other settings than the first: such a comparison is unfair."""
    runs = [run for method in methods for run in method.runs if run.settings]
    changes = {run.stem: "; ".join(difference(runs[0].settings, run.settings)) for run in runs}
    return [f"{stem} has other settings than {runs[0].stem}: {change}" for stem, change in changes.items() if change]


def failed_requests(methods: list[Method]) -> list[str]:
    """A note for every run with failed requests."""
    runs = [run for method in methods for run in method.runs]
    failed = {run.stem: run.summary.get("failed", 0) for run in runs}
    return [f"{number} requests of {stem} failed; they count as wrong" for stem, number in failed.items() if number]
