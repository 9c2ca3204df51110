"""Methods compared in pairs on the same questions: what is read and refused, and every figure of comparison.json."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import combinations
from math import lcm
from pathlib import Path
from statistics import NormalDist, fmean, stdev
from typing import Any, TypedDict

from cotkit.core.errors import UserError
from cotkit.core.jsonl import Row, read_json, read_numbered, require
from cotkit.core.manifest import difference, path_for
from cotkit.evaluation import stats
from cotkit.evaluation.metrics import SCHEMA
from cotkit.generation.shards import show

FIRST_METHODS = ("baseline", "strong_baseline")  # the order of methods everywhere; the rest follow by name
_SEED_SUFFIX = re.compile(r"(.+)\.seed(\d+)")


def method_and_seed(stem: str) -> tuple[str, int | None]:
    """Of a training's or a prediction's name: ("distilled", 2) of distilled.seed2, without a seed ("distilled", None)."""
    match = _SEED_SUFFIX.fullmatch(stem)
    return (match[1], int(match[2])) if match else (stem, None)


def method_order(name: str) -> tuple[Any, ...]:
    """Sort key of a method's name."""
    return (*(name != first for first in FIRST_METHODS), name)


ALPHA, POWER, CONFIDENCE = 0.05, 0.8, 0.95
REPETITIONS = 10_000  # bootstrap samples, at least: the ends of a 95 % interval vary by about 1 % of its width
REPETITIONS_A_PAIR = (
    1_000  # of the family: no p of several runs is below 2 / samples, and Holm multiplies it by the family
)
SCORE_FIELDS = {"id": str, "sample": int, "verdict": str}

# What a method is; everything else in the settings of stage 4 is how it was asked.
MODEL_SETTINGS = ("model", "model_files", "model_revision", "adapter", "adapter_files")


class Bootstrap(TypedDict):
    """How every interval of a comparison is drawn: the arguments of `stats.paired_bootstrap` and the clustered one."""

    seed: int
    repetitions: int
    confidence: float


Counts = tuple[int, int]  # correct samples of a question, and all of them


@dataclass(frozen=True)
class Run:
    """One training run of a method on one data set. `seed` is None where the file's name has none."""

    stem: str
    seed: int | None
    summary: Row
    correct: dict[str, Counts]
    asked: Row = field(default_factory=dict)  # with what settings, if the predictions' manifest is there
    critic: dict[str, float] = field(default_factory=dict)  # the ratings that there are

    def scores(self, ids: Iterable[str]) -> list[float]:
        return [self.correct[name][0] / self.correct[name][1] for name in ids]


@dataclass(frozen=True)
class Method:
    """All runs of one method on one data set, in the order of their seeds."""

    name: str
    runs: list[Run]

    def mean_scores(self, ids: Iterable[str]) -> list[float]:
        """Each question's share of correct answers over all runs."""
        return [fmean(scores) for scores in zip(*(run.scores(ids) for run in self.runs), strict=True)]


def load_method_files(summary_path: Path) -> tuple[str, Run]:
    """(method, run) from a summary and its per-item file. Raises UserError where they cannot be compared."""
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
        raise UserError(f"{scores_path}: holds another number of items than {summary_path.name}; run score.py again")
    method, seed = method_and_seed(stem)
    return method, Run(stem, seed, summary, correct, _asked(summary_path), critic)


def _asked(summary_path: Path) -> Row:
    manifest = path_for(summary_path.with_name(summary_path.name.replace(".summary.json", ".jsonl")))
    settings = read_json(manifest)["settings"] if manifest.is_file() else {}
    return {name: value for name, value in settings.items() if name not in MODEL_SETTINGS}


def read_scores(path: Path) -> tuple[dict[str, Counts], dict[str, float]]:
    """(counts, the critic's ratings) by question. Raises UserError for repeated keys or missing samples."""
    right, samples = Counter[str](), Counter[str]()
    critic: dict[str, float] = {}
    seen: dict[tuple[str, int], int] = {}
    for number, row in read_numbered(path):
        require(row, SCORE_FIELDS, f"{path}:{number}")
        line = seen.setdefault((row["id"], row["sample"]), number)
        if line != number:
            key = show((row["id"], row["sample"]))
            raise UserError(f"{path}:{number}: {key} stands already in line {line}; run score.py again")
        samples[row["id"]] += 1
        right[row["id"]] += row["verdict"] == "correct"
        if row.get("critic") is not None:
            critic[row["id"]] = row["critic"]
    most = max(samples.values(), default=0)
    short = [name for name, number in samples.items() if number < most]
    if short:
        raise UserError(f"{path}: {_some(short)} with fewer than {most} samples; run score.py again")
    return {name: (right[name], number) for name, number in samples.items()}, critic


def load_run(folder: Path, reference: str) -> dict[str, list[Method]]:
    """Data set -> its methods, the reference first. Raises UserError where they cannot be compared."""
    found: dict[str, dict[str, list[Run]]] = {}
    for path in sorted((folder / "predictions").glob("*/*.summary.json")):
        method, run = load_method_files(path)
        found.setdefault(path.parent.name, {}).setdefault(method, []).append(run)
    if not found:
        raise UserError(f"{folder}: no predictions/<dataset>/<method>.summary.json; run score.py first")
    for dataset, methods in found.items():
        if reference not in methods:
            raise UserError(f"{dataset}: no method {reference!r}; scored are {', '.join(methods)}")
        check_comparable(dataset, [run for runs in methods.values() for run in runs])
    return {dataset: _ordered(methods, reference) for dataset, methods in found.items()}


def _ordered(methods: dict[str, list[Run]], reference: str) -> list[Method]:
    names = sorted(methods, key=lambda name: (name != reference, *method_order(name)))
    return [Method(name, sorted(methods[name], key=lambda run: (run.seed is not None, run.seed))) for name in names]


def check_comparable(dataset: str, runs: list[Run]) -> None:
    """Raises UserError unless all runs answer the same questions and were scored by the same protocol."""
    first = runs[0]
    for other in runs[1:]:
        pair = f"{dataset}: {first.stem} and {other.stem} were scored"
        if other.summary["protocol"] != first.summary["protocol"]:
            protocols = f"{first.summary['protocol']} and {other.summary['protocol']}"
            raise UserError(f"{pair} by different protocols ({protocols}); score both by the same")
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


def asked_differently(methods: list[Method]) -> list[str]:
    """What makes a comparison unfair though it can be made: runs that were not asked in the same way as the first."""
    runs = [run for method in methods for run in method.runs if run.asked]
    changes = {run.stem: difference(runs[0].asked, run.asked) for run in runs}
    told = {stem: "; ".join(found) for stem, found in changes.items() if found}
    return [f"{stem} was asked otherwise than {runs[0].stem}: {found}" for stem, found in told.items()]


def _some(ids: list[str]) -> str:
    number = f"{len(ids)} question{'s' if len(ids) > 1 else ''}"
    return f"{number} ({', '.join(ids[:5])}{', ...' if len(ids) > 5 else ''})"


def compare(run: Path, reference: str, seed: int) -> Row:
    """The whole of comparison.json, but for its sentences; docs/COMPARISON.md describes every field."""
    loaded = load_run(run, reference)
    family = sum(len(methods) * (len(methods) - 1) // 2 for methods in loaded.values())
    several = any(len(method.runs) > 1 for methods in loaded.values() for method in methods)
    repetitions = max(REPETITIONS, REPETITIONS_A_PAIR * family) if several else REPETITIONS
    bootstrap = Bootstrap(seed=seed, repetitions=repetitions, confidence=CONFIDENCE)
    datasets = [_compare_dataset(dataset, methods, family, bootstrap) for dataset, methods in loaded.items()]
    pairs = [pair for dataset in datasets for pair in dataset["pairs"]]
    for pair, adjusted in zip(pairs, stats.holm([pair["p"] for pair in pairs]), strict=True):
        pair["p_adjusted"] = adjusted
        pair["verdict"] = stats.verdict(
            pair["difference"], pair["low"], pair["high"], adjusted, pair["minimum_detectable_difference"], alpha=ALPHA
        )
    return {
        "schema": SCHEMA,
        "reference": reference,
        "confidence": CONFIDENCE,
        "alpha": ALPHA,
        "power": POWER,
        "worth": stats.WORTH,
        "bootstrap_repetitions": repetitions,
        "seed": seed,
        "family": family,
        "datasets": datasets,
    }


def _compare_dataset(dataset: str, methods: list[Method], family: int, bootstrap: Bootstrap) -> Row:
    summary = methods[0].runs[0].summary
    ids = list(methods[0].runs[0].correct)
    return {
        "dataset": dataset,
        "protocol": summary["protocol"],
        "questions": len(ids),
        "notes": asked_differently(methods),
        "methods": [describe_method(method, ids, bootstrap) for method in methods],
        "pairs": [
            compare_pair(method, reference, ids, ALPHA / family, bootstrap)
            for reference, method in combinations(methods, 2)
        ],
    }


def describe_method(method: Method, ids: list[str], bootstrap: Bootstrap) -> Row:
    """One method: means over its runs, how far runs differ, and each run's own summary."""
    accuracies = [run.summary["accuracy"] for run in method.runs]
    low, high = (method.runs[0].summary[key] for key in ("accuracy_low", "accuracy_high"))
    if len(method.runs) > 1:
        zeros = [[0.0] * len(ids)]
        low, high = stats.clustered_bootstrap([run.scores(ids) for run in method.runs], zeros, **bootstrap)[1:3]
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
    ours, theirs = method.mean_scores(ids), reference.mean_scores(ids)
    if len(method.runs) == len(reference.runs) == 1:
        figures = _one_run_each(method.runs[0], reference.runs[0], ids, alpha, bootstrap)
    else:
        figures = _several_runs(method, reference, ids, alpha, bootstrap)
    both = list(zip(ids, ours, theirs, strict=True))
    return {
        "method": method.name,
        "reference": reference.name,
        **figures,
        "wins": [name for name, a, b in both if a > b],
        "losses": [name for name, a, b in both if a < b],
        "critic": compare_critic(method, reference, bootstrap),
    }


def compare_critic(method: Method, reference: Method, bootstrap: Bootstrap) -> Row | None:
    """The paired difference of the critic's ratings, on the questions where all runs of both have one."""
    runs = [*method.runs, *reference.runs]
    if not all(run.critic for run in runs):
        return None
    rated = [name for name in runs[0].critic if all(name in run.critic for run in runs)]
    if not rated:
        return None
    ours, theirs = ([fmean(run.critic[name] for run in side.runs) for name in rated] for side in (method, reference))
    difference, low, high = stats.paired_bootstrap(ours, theirs, **bootstrap)
    reliable = all(run.summary["critic"]["reliable"] for run in runs)
    return {"difference": difference, "low": low, "high": high, "questions": len(rated), "reliable": reliable}


def _one_run_each(method: Run, reference: Run, ids: list[str], alpha: float, bootstrap: Bootstrap) -> Row:
    ours, theirs = method.scores(ids), reference.scores(ids)
    difference, low, high = stats.paired_bootstrap(ours, theirs, **bootstrap)
    steps = [_difference(method.correct[name], reference.correct[name]) for name in ids]
    unit = steps[0][1]
    # For right and wrong it is the share of questions that differ.
    discordance = fmean((step / unit) ** 2 for step, _ in steps)
    return {
        "difference": difference,
        "low": low,
        "high": high,
        "test": "exact McNemar" if unit == 1 else "exact sign flips",
        "p": stats.sign_flip_exact([step for step, _ in steps]),
        "minimum_detectable_difference": stats.minimum_detectable_difference(len(ids), discordance, POWER, alpha),
    }


def _difference(ours: Counts, theirs: Counts) -> tuple[int, int]:
    """(a, b) where the difference of two questions' scores is a / b; all questions have the same b."""
    unit = lcm(ours[1], theirs[1])
    return ours[0] * (unit // ours[1]) - theirs[0] * (unit // theirs[1]), unit


def _several_runs(method: Method, reference: Method, ids: list[str], alpha: float, bootstrap: Bootstrap) -> Row:
    ours, theirs = ([run.scores(ids) for run in side.runs] for side in (method, reference))
    difference, low, high, p_value = stats.clustered_bootstrap(ours, theirs, **bootstrap)
    normal = NormalDist()
    error = (high - low) / (2 * normal.inv_cdf((1 + CONFIDENCE) / 2))
    shown = error * (normal.inv_cdf(1 - alpha / 2) + normal.inv_cdf(POWER))
    return {
        "difference": difference,
        "low": low,
        "high": high,
        "test": "bootstrap of questions and runs",
        "p": p_value,
        # Runs without any spread leave what so many questions can show at all.
        "minimum_detectable_difference": min(
            1.0, max(shown, stats.minimum_detectable_difference(len(ids), 0.0, POWER, alpha))
        ),
    }
