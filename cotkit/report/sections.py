"""The report's sections: results, how to read them, filter, training sets, trainings, and how to reproduce the run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import PurePosixPath
from statistics import fmean
from typing import Any

from cotkit.core.jsonl import Row
from cotkit.core.markdown import Table
from cotkit.evaluation.comparison_tables import (
    TRAINING_COLUMNS,
    critic_pairs,
    critic_table,
    methods_table,
    pairs_table,
    reading_help,
    trainings_table,
)
from cotkit.report import plots
from cotkit.report.page import Picture, Section
from cotkit.report.plots import Estimate
from cotkit.report.run_data import Curve, TrainingSetTexts


def comparison_sections(comparison: Row) -> list[Section]:
    """One section per data set of comparison.json, and one on how to read them."""
    sections = []
    for dataset in comparison["datasets"]:
        title = f"Results on {dataset['dataset']}: {dataset['questions']} questions, protocol {dataset['protocol']}"
        sections.append(Section(title, list(_dataset_parts(dataset, comparison["finding"]))))
    return [*sections, Section("How to read this", list(reading_help(comparison)))]


def _dataset_parts(dataset: Row, finding: str) -> Iterator[str | Table | Picture]:
    name = dataset["dataset"]
    if dataset["finding"] != finding:
        yield dataset["finding"]
    yield from (f"Note: {note}." for note in dataset["notes"])
    yield methods_table(dataset)
    methods = dataset["methods"]
    accuracies = [
        Estimate(row["method"], row["accuracy"], row["accuracy_low"], row["accuracy_high"]) for row in methods
    ]
    words = [fmean(run["words_to_answer"] or 0.0 for run in row["runs"]) for row in methods]
    alt = ", ".join(
        f"{item.label} {item.value:.1%} with {number:.0f} words" for item, number in zip(accuracies, words, strict=True)
    )
    figure = plots.accuracy_against_words(accuracies, words, f"{name}: accuracy against words")
    yield Picture(f"{name}-accuracy", figure, alt)
    if dataset["pairs"]:
        differences = [
            Estimate(
                f"{pair['method']} − {pair['reference']}",
                pair["difference"],
                pair["verdict_low"],
                pair["verdict_high"],
                pair["verdict"] in ("better", "worse"),
            )
            for pair in dataset["pairs"]
        ]
        title = f"{name}: differences between methods on the same {dataset['questions']} questions"
        alt = ", ".join(f"{item.label} {100 * item.value:+.1f} points" for item in differences)
        yield Picture(f"{name}-differences", plots.differences(differences, title), alt)
        yield pairs_table(dataset)
    yield from filter(None, (critic_pairs(dataset), critic_table(dataset)))


def filter_section(account: Row) -> Section:
    """From kept.report.json, as `filter_teacher_cot.py` writes it."""
    read, kept = account["read"], account["kept"]
    rejected = sorted(account["rejected"].items(), key=lambda item: -item[1])
    counts = ", ".join(f"{reason} {count}" for reason, count in rejected if count)
    figure = plots.funnel(read, rejected, kept, "Teacher rows: read, rejected and kept")
    tokens = sum(row["completion_tokens"] for row in account["rounds"])
    covered = (
        f"{account['problems_with_kept']} of {account['problems']} problems have a kept sample; "
        f"the teacher wrote {tokens:,} tokens for them."
    )
    quartiles = [
        [f"{row['from_words']} to {row['to_words']}", str(row["read"]), str(row["kept"]), f"{row['kept_share']:.0%}"]
        for row in account["by_gold_words"]
    ]
    by_words = Table(["words of the reference solution", "read", "kept", "share"], quartiles)
    picture = Picture("filter", figure, f"of {read} teacher rows {kept} are kept; {counts}")
    return Section("The filter", [covered, picture, by_words])


def sets_section(sets: dict[str, TrainingSetTexts]) -> Section:
    """The texts that the methods learn from. A set with few calculations teaches to write the answer alone."""
    header = ["training set", "rows", "problems", "words per row", "calculations per row", "rows without any"]
    rows = [
        [
            name,
            f"{texts.rows:,}",
            f"{texts.questions:,}",
            f"{texts.words:.1f}",
            f"{texts.calculations:.2f}",
            f"{texts.without:.0%}",
        ]
        for name, texts in sets.items()
    ]
    return Section("The training sets", [Table(header, rows)])


def training_section(curves: dict[str, Curve], manifests: dict[str, Row], order: list[str]) -> Section:
    """Loss curves, and size and cost of each training; `order` gives methods the colours of the other figures."""
    last = ", ".join(f"{name} {curve.evaluation[-1][1]:.3f}" for name, curve in curves.items() if curve.evaluation)
    figure = plots.losses(curves, "Losses while training", order)
    counts = {name: manifests.get(f"train/{name}", {}).get("counts", {}) for name in curves}
    picture = Picture("losses", figure, f"last loss on held-out questions: {last}")
    return Section("Training", [picture, trainings_table(counts, TRAINING_COLUMNS)])


def reproduction_section(preset: str, manifests: dict[str, Row]) -> Section:
    """Command, outputs, models, data and versions of the run, from its manifests."""
    commands = dict.fromkeys(record["command"] for record in manifests.values() if "command" in record)
    # A version that changed between stages is listed with both values.
    versions = sorted({item for manifest in manifests.values() for item in manifest["versions"].items()})
    models = _models_table(manifests)
    parts = [
        # A run without a model holds predictions of other programs.
        *([f"Made by: bash scripts/pipeline.sh configs/{preset}"] if models.rows else []),
        _outputs_table(manifests),
        *([models] if models.rows else []),
        _data_table(manifests),
        "The single commands:",
        Table(["command"], [[line] for line in commands]),
        "Versions: " + ", ".join(f"{name} {version}" for name, version in versions),
    ]
    return Section("How to reproduce this run", parts)


def _outputs_table(manifests: dict[str, Row]) -> Table:
    """One row per output with its seconds and tokens; the last row is the total."""
    rows, total = [], Counter[str]()
    for name, manifest in manifests.items():
        counts = manifest["counts"]
        spent = {
            "seconds": manifest.get("seconds", counts.get("train_runtime", 0)),
            "prompt tokens": counts.get("prompt_tokens", 0),
            "completion tokens": counts.get("completion_tokens", 0),
        }
        total.update(spent)
        rows.append([name, manifest["stage"], *_amounts(spent), manifest["written"]])
    header = ["output", "stage", "seconds", "prompt tokens", "completion tokens", "written (UTC)"]
    return Table(header, [*rows, ["total", "", *_amounts(total), ""]])


def _amounts(spent: dict[str, float]) -> list[str]:
    return [f"{spent[key]:,.0f}" if spent[key] else "" for key in ("seconds", "prompt tokens", "completion tokens")]


def _models_table(manifests: dict[str, Row]) -> Table:
    found: dict[tuple[str, str], dict[str, None]] = {}
    for manifest in manifests.values():
        settings = manifest["settings"]
        if name := settings.get("model") or settings.get("model_name_or_path"):
            found.setdefault((name, settings["model_files"]), {})[manifest["stage"]] = None
    rows = [[name, mark, ", ".join(stages)] for (name, mark), stages in found.items()]
    return Table(["model", "fingerprint of its files, or its name on the hub", "used by"], rows)


def _data_table(manifests: dict[str, Row]) -> Table:
    """The inputs that no stage of this run wrote."""
    written = {PurePosixPath(output).name for manifest in manifests.values() for output in manifest["outputs"]}
    found: dict[tuple[str, Any], str] = {}
    for manifest in manifests.values():
        for entry in manifest["inputs"].values():
            if PurePosixPath(entry["path"]).name not in written:
                found[entry["path"], entry.get("rows")] = entry["sha256"]
    entries = sorted(found.items(), key=str)
    rows = [[path, "" if count is None else str(count), sha256] for (path, count), sha256 in entries]
    return Table(["data", "rows used", "sha256 of these rows"], rows)
