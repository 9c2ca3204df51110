"""Compares methods in pairs on the same questions: reads and checks their scores, computes comparison.json."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import combinations
from math import lcm
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, TypedDict

from cotkit.core.errors import UserError
from cotkit.core.jsonl import Row, read_json, read_numbered, require
from cotkit.core.manifest import difference, path_for
from cotkit.evaluation import stats
from cotkit.evaluation.metrics import SCHEMA
from cotkit.generation.shards import show

FIRST_METHODS = ("baseline", "strong_baseline")  # the others follow by name
REPETITIONS = 10_000  # bootstrap samples: the ends of a 95 % interval then vary by about 1 % of its width
# Several runs: p is at least 2 / samples, and Holm multiplies it by the number of pairs.
REPETITIONS_PER_PAIR = 1_000
SCORE_FIELDS = {"id": str, "sample": int, "verdict": str}
MODEL_SETTINGS = ("model", "model_files", "model_revision", "adapter", "adapter_files")  # these may differ by method

Counts = tuple[int, int]  # correct samples of a question, and all of them


class Bootstrap(TypedDict):
    """Keyword arguments of both bootstraps in `stats`."""

    seed: int
    repetitions: int


def method_and_seed(stem: str) -> tuple[str, int | None]:
    """Splits the name of a training or prediction: distilled.seed2 -> ("distilled", 2), distilled -> ("distilled", None)."""
    match = re.fullmatch(r"(.+)\.seed(\d+)", stem)
    return (match[1], int(match[2])) if match else (stem, None)


def method_order(name: str) -> tuple[Any, ...]:
    """Sort key of a method's name."""
    return (*(name != first for first in FIRST_METHODS), name)


@dataclass(frozen=True)
class Run:
    """One training run of a method on one data set; `seed` is None if the file's name has none."""

    stem: str
    seed: int | None
    summary: Row
    correct: dict[str, Counts]  # by question id
    settings: Row = field(default_factory=dict)  # of generation, without the model; {} without a manifest
    critic: dict[str, float] = field(default_factory=dict)  # ratings by question id

    def scores(self, ids: Iterable[str]) -> list[float]:
        return [self.correct[name][0] / self.correct[name][1] for name in ids]


@dataclass(frozen=True)
class Method:
    """All runs of one method on one data set, sorted by seed."""

    name: str
    runs: list[Run]

    def scores(self, ids: Iterable[str]) -> list[list[float]]:
        """scores[run][question]"""
        return [run.scores(ids) for run in self.runs]


def load_run(summary_path: Path) -> Run:
    """Reads a summary and its per-item scores. Raises UserError if they do not fit together."""
    stem = summary_path.name.removesuffix(".summary.json")
    summary = read_json(summary_path)
    if summary.get("schema") != SCHEMA:
        found = f"schema {summary.get('schema', 1)} of score.py, but {SCHEMA} is needed"
        raise UserError(f"{summary_path}: {found}; run score.py again with --overwrite")
    if summary["dataset"] != summary_path.parent.name:
        raise UserError(f"{summary_path}: scores of {summary['dataset']} in the folder of {summary_path.parent.name}")
    scores_path = summary_path.with_name(f"{stem}.scores.jsonl")
    correct, critic = read_scores(scores_path)
    if sum(samples for _, samples in correct.values()) != summary["n"]:
        raise UserError(f"{scores_path}: has another number of items than {summary_path.name}; run score.py again")
    manifest = path_for(summary_path.with_name(f"{stem}.jsonl"))
    settings = read_json(manifest)["settings"] if manifest.is_file() else {}
    settings = {name: value for name, value in settings.items() if name not in MODEL_SETTINGS}
    return Run(stem, method_and_seed(stem)[1], summary, correct, settings, critic)


def read_scores(path: Path) -> tuple[dict[str, Counts], dict[str, float]]:
    """(counts, the critic's ratings) by question id. Raises UserError for repeated keys or missing samples."""
    right, samples = Counter[str](), Counter[str]()
    critic: dict[str, float] = {}
    lines: dict[tuple[str, int], int] = {}
    for number, row in read_numbered(path):
        require(row, SCORE_FIELDS, f"{path}:{number}")
        key = row["id"], row["sample"]
        if (line := lines.setdefault(key, number)) != number:
            raise UserError(f"{path}:{number}: {show(key)} is already in line {line}; run score.py again")
        samples[row["id"]] += 1
        right[row["id"]] += row["verdict"] == "correct"
        if row.get("critic") is not None:
            critic[row["id"]] = row["critic"]
    most = max(samples.values(), default=0)
    if short := [name for name, number in samples.items() if number < most]:
        raise UserError(f"{path}: {_some(short)} with fewer than {most} samples; run score.py again")
    return {name: (right[name], number) for name, number in samples.items()}, critic


def load_methods(folder: Path, reference: str) -> dict[str, list[Method]]:
    """Data set -> its methods, the reference first. Raises UserError if they cannot be compared."""
    found: dict[str, dict[str, list[Run]]] = {}
    for path in sorted((folder / "predictions").glob("*/*.summary.json")):
        run = load_run(path)
        found.setdefault(path.parent.name, {}).setdefault(method_and_seed(run.stem)[0], []).append(run)
    if not found:
        raise UserError(f"{folder}: no predictions/<dataset>/<method>.summary.json; run score.py first")
    loaded = {}
    for dataset, methods in found.items():
        if reference not in methods:
            choice = f"--reference {next(iter(methods))}; the scored methods are {', '.join(methods)}"
            raise UserError(f"{dataset}: no method {reference!r}; name the one to compare with: {choice}")
        check_comparable(dataset, [run for runs in methods.values() for run in runs])
        loaded[dataset] = [
            Method(name, sorted(methods[name], key=lambda run: (run.seed is not None, run.seed)))
            for name in sorted(methods, key=lambda name: (name != reference, *method_order(name)))
        ]
    return loaded


def check_comparable(dataset: str, runs: list[Run]) -> None:
    """Raises UserError unless all runs have the same questions, protocol, problem files and judge."""
    first = runs[0]
    for other in runs[1:]:
        pair = f"{dataset}: {first.stem} and {other.stem} were scored"
        protocols = first.summary["protocol"], other.summary["protocol"]
        if protocols[0] != protocols[1]:
            raise UserError(f"{pair} by different protocols ({' and '.join(protocols)}); score both by the same")
        for one, two in ((first, other), (other, first)):
            if missing := [name for name in one.correct if name not in two.correct]:
                lacks = f"{two.stem} lacks {_some(missing)}"
                raise UserError(f"{pair} on different questions; {lacks}; is the limit the same?")
        if other.summary["problems_sha256"] != first.summary["problems_sha256"]:
            raise UserError(f"{pair} against different problem files; run score.py again on both")
    rated = [run.summary["critic"] for run in runs if run.summary.get("critic")]
    judges = {json.dumps([critic["judge"], list(critic["criteria"])], sort_keys=True) for critic in rated}
    if len(judges) > 1:
        rated_by = "its methods were rated by different judges or criteria"
        raise UserError(f"{dataset}: {rated_by}; run scripts/critic.py on all at once")


def differing_settings(methods: list[Method]) -> list[str]:
    """A note for every run that was generated with other settings than the first: such a comparison is unfair."""
    runs = [run for method in methods for run in method.runs if run.settings]
    changes = {run.stem: "; ".join(difference(runs[0].settings, run.settings)) for run in runs}
    return [f"{stem} has other settings than {runs[0].stem}: {change}" for stem, change in changes.items() if change]


def _some(ids: list[str]) -> str:
    number = f"{len(ids)} question{'s' if len(ids) > 1 else ''}"
    return f"{number} ({', '.join(ids[:5])}{', ...' if len(ids) > 5 else ''})"


def compare(run: Path, reference: str, seed: int) -> Row:
    """The contents of comparison.json without its sentences; docs/COMPARISON.md describes every field."""
    loaded = load_methods(run, reference)
    family = sum(len(methods) * (len(methods) - 1) // 2 for methods in loaded.values())
    several = any(len(method.runs) > 1 for methods in loaded.values() for method in methods)
    repetitions = max(REPETITIONS, REPETITIONS_PER_PAIR * family) if several else REPETITIONS
    bootstrap = Bootstrap(seed=seed, repetitions=repetitions)
    datasets = [_compare_dataset(dataset, methods, family, bootstrap) for dataset, methods in loaded.items()]
    pairs = [pair for dataset in datasets for pair in dataset["pairs"]]
    for pair, p_adjusted in zip(pairs, stats.holm([pair["p"] for pair in pairs]), strict=True):
        detectable = pair["minimum_detectable_difference"]
        pair["p_adjusted"] = p_adjusted
        pair["verdict"] = stats.verdict(pair["difference"], pair["low"], pair["high"], p_adjusted, detectable)
    return {
        "schema": SCHEMA,
        "reference": reference,
        "confidence": stats.CONFIDENCE,
        "alpha": stats.ALPHA,
        "power": stats.POWER,
        "worth": stats.WORTH,
        "bootstrap_repetitions": repetitions,
        "seed": seed,
        "family": family,
        "datasets": datasets,
    }


def _compare_dataset(dataset: str, methods: list[Method], family: int, bootstrap: Bootstrap) -> Row:
    first = methods[0].runs[0]
    ids = list(first.correct)
    return {
        "dataset": dataset,
        "protocol": first.summary["protocol"],
        "questions": len(ids),
        "notes": differing_settings(methods),
        "methods": [describe_method(method, ids, bootstrap) for method in methods],
        "pairs": [
            compare_pair(method, reference, ids, stats.ALPHA / family, bootstrap)
            for reference, method in combinations(methods, 2)
        ],
    }


def describe_method(method: Method, ids: list[str], bootstrap: Bootstrap) -> Row:
    """One method: mean accuracy of its runs, their standard deviation, and each run's summary."""
    accuracies = [run.summary["accuracy"] for run in method.runs]
    low, high = (method.runs[0].summary[key] for key in ("accuracy_low", "accuracy_high"))
    if len(method.runs) > 1:
        low, high = stats.clustered_bootstrap(method.scores(ids), [[0.0] * len(ids)], **bootstrap)[1:3]
    return {
        "method": method.name,
        "accuracy": fmean(accuracies),
        "accuracy_low": low,
        "accuracy_high": high,
        "standard_deviation": stdev(accuracies) if len(accuracies) > 1 else None,
        "runs": [{"stem": run.stem, "seed": run.seed, **run.summary} for run in method.runs],
    }


def compare_pair(method: Method, reference: Method, ids: list[str], alpha: float, bootstrap: Bootstrap) -> Row:
    """The paired difference method - reference; `alpha` is the level that a single test of the family must reach."""
    ours, theirs = method.scores(ids), reference.scores(ids)
    if len(ours) == len(theirs) == 1:
        test, p, detectable = _exact_test(method.runs[0], reference.runs[0], ids, alpha)
        difference, low, high = stats.paired_bootstrap(ours[0], theirs[0], **bootstrap)
    else:
        test = "bootstrap of questions and runs"
        difference, low, high, p = stats.clustered_bootstrap(ours, theirs, **bootstrap)
        error = (high - low) / (2 * stats.normal_quantile((1 + stats.CONFIDENCE) / 2))
        shown = error * (stats.normal_quantile(1 - alpha / 2) + stats.normal_quantile(stats.POWER))
        # Runs without any spread would give 0; a test with this number of questions cannot show less than this.
        detectable = min(1.0, max(shown, stats.minimum_detectable_difference(len(ids), 0.0, alpha)))
    means = [[fmean(scores) for scores in zip(*side, strict=True)] for side in (ours, theirs)]
    both = list(zip(ids, *means, strict=True))
    return {
        "method": method.name,
        "reference": reference.name,
        "difference": difference,
        "low": low,
        "high": high,
        "test": test,
        "p": p,
        "minimum_detectable_difference": detectable,
        "wins": [name for name, a, b in both if a > b],
        "losses": [name for name, a, b in both if a < b],
        "critic": compare_critic(method, reference, bootstrap),
    }


def _exact_test(method: Run, reference: Run, ids: list[str], alpha: float) -> tuple[str, float, float]:
    """(name of the test, p, minimum detectable difference) of two single runs."""
    samples = method.correct[ids[0]][1], reference.correct[ids[0]][1]
    unit = lcm(*samples)  # differences of scores are whole multiples of 1 / unit
    ours, theirs = (unit // number for number in samples)
    steps = [method.correct[name][0] * ours - reference.correct[name][0] * theirs for name in ids]
    # With one sample per question this is the share of questions on which the two differ.
    discordance = fmean((step / unit) ** 2 for step in steps)
    name = "exact McNemar" if unit == 1 else "exact sign flips"
    return name, stats.sign_flip_exact(steps), stats.minimum_detectable_difference(len(ids), discordance, alpha)


def compare_critic(method: Method, reference: Method, bootstrap: Bootstrap) -> Row | None:
    """The paired difference of the critic's ratings, on the questions that are rated in all runs of both."""
    runs = [*method.runs, *reference.runs]
    rated = [name for name in runs[0].critic if all(name in run.critic for run in runs)]
    if not rated:
        return None
    ours, theirs = ([fmean(run.critic[name] for run in side.runs) for name in rated] for side in (method, reference))
    difference, low, high = stats.paired_bootstrap(ours, theirs, **bootstrap)
    reliable = all(run.summary["critic"]["reliable"] for run in runs)
    return {"difference": difference, "low": low, "high": high, "questions": len(rated), "reliable": reliable}
