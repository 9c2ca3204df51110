"""The scored runs of the methods that are to be compared: reads them, and checks that they can be."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Any

from cotkit.core import lineage
from cotkit.core.errors import UserError
from cotkit.core.files import sha256_file
from cotkit.core.jsonl import Row, read_json, read_numbered, require
from cotkit.core.manifest import difference, path_for
from cotkit.core.model_identity import is_same_record
from cotkit.evaluation.metrics import SCHEMA, tokens_to_answer
from cotkit.generation.shards import show

FIRST_METHODS = ("baseline", "strong_baseline")  # the others follow by name
BY_SEED = re.compile(
    r"(?:data_)?seed|.*adapter.*|start_from.*"
)  # a later stage starts from the adapter of its own seed
SCORE_FIELDS = {"id": str, "sample": int, "verdict": str}
MODEL_SETTINGS = ("model", "model_files", "model_revision", "adapter", "adapter_files")  # these may differ by method

Counts = tuple[int, int]  # correct samples of a question, and all of them


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
    tokens_to_answer: float | None = None  # mean; None if the engine did not count tokens

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
    correct, critic, tokens = read_scores(scores_path)
    if sum(samples for _, samples in correct.values()) != summary["n"]:
        raise UserError(f"{scores_path}: has another number of items than {summary_path.name}; run score.py again")
    predictions = summary_path.with_name(f"{stem}.jsonl")
    lineage.check(predictions)
    check_scored(summary_path, predictions)
    manifest = path_for(predictions)
    settings = read_json(manifest)["settings"] if manifest.is_file() else {}
    settings = {name: value for name, value in settings.items() if name not in MODEL_SETTINGS}
    return Run(stem, method_and_seed(stem)[1], summary, correct, settings, critic, tokens)


def check_scored(summary_path: Path, predictions: Path) -> None:
    """Raises UserError if the predictions were made again after they were scored."""
    manifest = path_for(summary_path)
    if not (manifest.is_file() and predictions.is_file()):
        return
    scored = read_json(manifest)["inputs"]["predictions"]["sha256"]
    if scored != sha256_file(predictions):
        again = f"score.py --dataset {summary_path.parent.name} --pred_path {predictions}"
        raise UserError(f"{summary_path}: scores other predictions than {predictions} holds now; run {again}")


def read_scores(path: Path) -> tuple[dict[str, Counts], dict[str, float], float | None]:
    """(counts by question id, the critic's ratings by question id, mean tokens to the answer).

    Raises UserError for repeated keys or missing samples.
    """
    right, samples = Counter[str](), Counter[str]()
    critic: dict[str, float] = {}
    tokens: list[float] = []
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
        if (spent := tokens_to_answer(row)) is not None:
            tokens.append(spent)
    most = max(samples.values(), default=0)
    if short := [name for name, number in samples.items() if number < most]:
        raise UserError(f"{path}: {_some(short)} with fewer than {most} samples; run score.py again")
    counts = {name: (right[name], number) for name, number in samples.items()}
    return counts, critic, fmean(tokens) if tokens else None


def read_methods(folder: Path) -> dict[str, dict[str, list[Run]]]:
    """Data set -> method -> its runs, of one run folder. Raises UserError if there are none, or of different recipes or bases."""
    found: dict[str, dict[str, list[Run]]] = {}
    for path in sorted((folder / "predictions").glob("*/*.summary.json")):
        run = load_run(path)
        found.setdefault(path.parent.name, {}).setdefault(method_and_seed(run.stem)[0], []).append(run)
    if not found:
        raise UserError(f"{folder}: no predictions/<dataset>/<method>.summary.json; run score.py first")
    for dataset, methods in found.items():
        check_one_base(folder / "predictions" / dataset, methods)
        for runs in methods.values():
            check_one_recipe(folder, [run.stem for run in runs])
    return found


def merged_methods(folders: list[Path]) -> tuple[dict[str, dict[str, list[Run]]], list[str]]:
    """The methods of several run folders on their common data sets, and notes on methods of one name.

    A method whose predictions are the same bytes in all folders that have it, such as the baseline, is one. Any other name
    that is in several folders gets its folder's name in front, or its path if folders share their name.
    """
    read = {folder: read_methods(folder) for folder in folders}
    names = {folder: folder.name for folder in folders}
    if len({*names.values()}) < len(folders):
        names = {folder: str(folder) for folder in folders}
    common = [name for name in read[folders[0]] if all(name in found for found in read.values())]
    if not common:
        raise UserError(f"{', '.join(map(str, folders))}: no data set was scored in all of them")
    merged: dict[str, dict[str, list[Run]]] = {dataset: {} for dataset in common}
    notes: dict[str, None] = {}
    for dataset in common:
        for method in dict.fromkeys(name for found in read.values() for name in found[dataset]):
            having = [folder for folder, found in read.items() if method in found[dataset]]
            first = read[having[0]][dataset][method]
            texts = {folder: predictions_of(folder, dataset, read[folder][dataset][method]) for folder in having}
            if len({*texts.values()}) == 1:
                merged[dataset][method] = first
                continue
            merged[dataset] |= {f"{names[folder]}/{method}": read[folder][dataset][method] for folder in having}
            recipes = [recipe_of(folder / "train" / read[folder][dataset][method][0].stem) for folder in having]
            for folder, recipe in zip(having[1:], recipes[1:], strict=True):
                changed = "; ".join(difference(recipes[0], recipe)) or "nothing that the manifests record"
                notes[f"{names[folder]}/{method} differs from {names[having[0]]}/{method} in: {changed}"] = None
    return merged, list(notes)


def predictions_of(folder: Path, dataset: str, runs: list[Run]) -> tuple[str, ...]:
    """The hashes of the predictions of a method's runs; a file that is gone equals only itself."""
    paths = [folder / "predictions" / dataset / f"{run.stem}.jsonl" for run in runs]
    return tuple(sha256_file(path) if path.is_file() else str(path) for path in paths)


def load_methods(folders: list[Path], reference: str) -> tuple[dict[str, list[Method]], list[str]]:
    """Data set -> its methods, the reference first; and notes. Raises UserError if they cannot be compared."""
    found, notes = merged_methods(folders)
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
    return loaded, notes


def check_one_recipe(folder: Path, stems: list[str]) -> None:
    """Raises UserError if the runs of one method were trained by different recipes: their mean would be of no method."""
    recipes = {stem: recipe for stem in stems if (recipe := recipe_of(folder / "train" / stem))}
    for stem, recipe in islice(recipes.items(), 1, None):
        first, expected = next(iter(recipes.items()))
        if changed := difference(expected, recipe):
            raise UserError(
                f"{folder}: {stem} was trained by another recipe than {first} ({'; '.join(changed)}); one mean over both "
                f"would describe neither: train the method anew (pipeline.sh --from train), or rename a file's stem"
            )


def check_one_base(folder: Path, methods: dict[str, list[Run]]) -> None:
    """Raises UserError if methods of a run are based on different models: their difference is not the training's alone."""
    paths = [folder / f"{run.stem}.jsonl" for runs in methods.values() for run in runs]
    bases = [(path.stem, base) for path in paths if (base := lineage.base_of(path))]
    for stem, base in bases[1:]:
        if is_same_record(base, bases[0][1]) is False:
            raise UserError(
                f"{folder}: {bases[0][0]} is based on {bases[0][1]['name']} and {stem} on {base['name']}, another model; "
                "methods of one run share their base: run infer_parallel.py again on one of them, or use a folder for each"
            )


def recipe_of(adapter: Path) -> Row:
    """The settings and training data of an adapter, by its manifest, without what differs between seeds; {} without one."""
    manifest = path_for(adapter)
    if not manifest.is_file():
        return {}
    record = read_json(manifest)
    settings = {key: value for key, value in record.get("settings", {}).items() if not BY_SEED.fullmatch(key)}
    return settings | {f"data of {name}": found["sha256"][:12] for name, found in record.get("inputs", {}).items()}


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


def _some(ids: list[str]) -> str:
    number = f"{len(ids)} question{'s' if len(ids) > 1 else ''}"
    return f"{number} ({', '.join(ids[:5])}{', ...' if len(ids) > 5 else ''})"
