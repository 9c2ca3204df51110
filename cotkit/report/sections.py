"""The report's sections: what the comparison found, what the filter took, how the losses ran, how to do it again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import PurePosixPath
from statistics import fmean
from typing import Any

from cotkit.core.jsonl import Row
from cotkit.core.markdown import Table
from cotkit.evaluation.comparison_tables import critic_pairs, critic_table, methods_table, pairs_table, reading_help
from cotkit.report import plots
from cotkit.report.page import Picture, Section, SectionPart
from cotkit.report.plots import AccuracyPoint, Interval
from cotkit.report.run_data import Curve, SetContents


def comparison_sections(comparison: Row) -> list[Section]:
    """One section a data set, from comparison.json, and one on how to read them."""
    sections = [
        Section(_title(dataset), list(_dataset_parts(dataset, comparison))) for dataset in comparison["datasets"]
    ]
    return [*sections, Section("How to read this", [SectionPart(text) for text in reading_help(comparison)])]


def _title(dataset: Row) -> str:
    return f"Results on {dataset['dataset']}: {dataset['questions']} questions, protocol {dataset['protocol']}"


def _dataset_parts(dataset: Row, comparison: Row) -> Iterator[SectionPart]:
    name, finding = dataset["dataset"], dataset["finding"]
    if finding != comparison["finding"]:
        yield SectionPart(finding)
    for note in dataset["notes"]:
        yield SectionPart(f"Note: {note}.")
    yield SectionPart(table=methods_table(dataset))
    points = [
        AccuracyPoint(
            method["method"], _mean_words(method), method["accuracy"], method["accuracy_low"], method["accuracy_high"]
        )
        for method in dataset["methods"]
    ]
    figure = plots.accuracy_against_words(points, f"{name}: accuracy against words")
    said = ", ".join(f"{point.label} {point.accuracy:.1%} with {point.words:.0f} words" for point in points)
    yield SectionPart(picture=Picture(f"{name}-accuracy", figure, said))
    if dataset["pairs"]:
        intervals = [
            Interval(f"{pair['method']} − {pair['reference']}", pair["difference"], pair["low"], pair["high"])
            for pair in dataset["pairs"]
        ]
        figure = plots.forest(
            intervals, f"{name}: differences between methods on the same {dataset['questions']} questions"
        )
        said = ", ".join(f"{item.label} {100 * item.value:+.1f} points" for item in intervals)
        yield SectionPart(picture=Picture(f"{name}-differences", figure, said))
        yield SectionPart(table=pairs_table(dataset))
    if ratings := critic_table(dataset):
        yield SectionPart(critic_pairs(dataset), table=ratings)


def _mean_words(method: Row) -> float:
    return fmean(run["words_to_answer"] or 0.0 for run in method["runs"])


def filter_section(account: Row) -> Section:
    """From the filter's account, as `filter_teacher_cot.py` writes it."""
    read, kept = account["read"], account["kept"]
    rejected = sorted(account["rejected"].items(), key=lambda item: -item[1])
    picture = Picture(
        "filter",
        plots.funnel(read, rejected, kept, "What the filter took"),
        f"of {read} teacher rows {kept} are kept; "
        + ", ".join(f"{reason} {count}" for reason, count in rejected if count),
    )
    written = sum(row["completion_tokens"] for row in account["rounds"])
    covered = (
        f"{account['problems_with_kept']} of {account['problems']} problems have a kept sample; "
        f"the teacher wrote {written:,} tokens for them."
    )
    quartiles = [
        [f"{row['from_words']} to {row['to_words']}", str(row["read"]), str(row["kept"]), f"{row['kept_share']:.0%}"]
        for row in account["by_gold_words"]
    ]
    by_words = Table(["words of the reference solution", "read", "kept", "share"], quartiles)
    return Section("The filter", [SectionPart(covered), SectionPart(picture=picture), SectionPart(table=by_words)])


def sets_section(sets: dict[str, SetContents]) -> Section:
    """What the methods learn from; a set whose texts hardly calculate teaches to name an answer."""
    header = ["training set", "rows", "problems", "words a row", "calculations a row", "rows without any"]
    rows = [
        [
            name,
            f"{found.rows:,}",
            f"{found.questions:,}",
            f"{found.words:.1f}",
            f"{found.calculations:.2f}",
            f"{found.without:.0%}",
        ]
        for name, found in sets.items()
    ]
    return Section("The training sets", [SectionPart(table=Table(header, rows))])


def training_section(curves: dict[str, Curve], manifests: dict[str, Row], order: list[str]) -> Section:
    """Loss curves and what each training was and cost; `order` gives methods the colours of the other figures."""
    last = ", ".join(f"{name} {curve.evaluation[-1][1]:.3f}" for name, curve in curves.items() if curve.evaluation)
    picture = Picture(
        "losses", plots.losses(curves, "Losses while training", order), f"last loss on held-out questions: {last}"
    )
    rows = []
    for name in curves:
        counts = manifests.get(f"train/{name}", {}).get("counts", {})
        shown = (
            (counts.get("rows"), ",d"),
            (counts.get("steps"), "d"),
            (counts.get("trained_tokens"), ",d"),
            (counts.get("train_loss"), ".3f"),
            (counts.get("eval_loss"), ".3f"),
            (counts.get("train_runtime"), ".0f"),
        )
        rows.append([name, *("" if value is None else format(value, form) for value, form in shown)])
    table = Table(["method", "rows", "steps", "trained tokens", "mean training loss", "held-out loss", "seconds"], rows)
    return Section("Training", [SectionPart(picture=picture), SectionPart(table=table)])


def reproduction_section(preset: str, manifests: dict[str, Row]) -> Section:
    """Models, data, versions, commands, and what every stage took, as the manifests have it."""
    parts = [
        SectionPart(f"Made by: bash scripts/pipeline.sh configs/{preset}"),
        SectionPart(table=_stages(manifests)),
        SectionPart(table=_models(manifests)),
        SectionPart(table=_data(manifests)),
        SectionPart("The single commands:"),
        SectionPart(table=Table(["command"], [[line] for line in dict.fromkeys(_commands(manifests))])),
        SectionPart("Versions: " + ", ".join(f"{name} {version}" for name, version in _versions(manifests))),
    ]
    return Section("Doing it again", parts)


def _stages(manifests: dict[str, Row]) -> Table:
    """A line an output, with the seconds and tokens it took; the last line sums them."""
    rows, totals = [], Counter[str]()
    for name, manifest in manifests.items():
        counts = manifest["counts"]
        spent = {
            "seconds": manifest.get("seconds", counts.get("train_runtime", 0)),
            "prompt": counts.get("prompt_tokens", 0),
            "completion": counts.get("completion_tokens", 0),
        }
        totals.update(spent)
        rows.append([name, manifest["stage"], *_amounts(spent), manifest["written"]])
    header = ["output", "stage", "seconds", "prompt tokens", "completion tokens", "written (UTC)"]
    return Table(header, [*rows, ["together", "", *_amounts(totals), ""]])


def _amounts(spent: dict[str, float]) -> list[str]:
    return [f"{spent[key]:,.0f}" if spent[key] else "" for key in ("seconds", "prompt", "completion")]


def _models(manifests: dict[str, Row]) -> Table:
    found: dict[tuple[str, str], list[str]] = {}
    for manifest in manifests.values():
        settings = manifest["settings"]
        name = settings.get("model") or settings.get("model_name_or_path")
        if name:
            stages = found.setdefault((name, settings["model_files"]), [])
            stages += [] if manifest["stage"] in stages else [manifest["stage"]]
    rows = [[name, mark, ", ".join(stages)] for (name, mark), stages in found.items()]
    return Table(["model", "fingerprint of its files, or its name on the hub", "used by"], rows)


def _data(manifests: dict[str, Row]) -> Table:
    """The files that came from outside the run: inputs that no stage of it wrote."""
    written = {PurePosixPath(output).name for manifest in manifests.values() for output in manifest["outputs"]}
    found: dict[tuple[str, Any], str] = {}
    for manifest in manifests.values():
        for entry in manifest["inputs"].values():
            if PurePosixPath(entry["path"]).name not in written:
                found[entry["path"], entry.get("rows")] = entry["sha256"]
    rows = [
        [path, "" if count is None else str(count), sha256] for (path, count), sha256 in sorted(found.items(), key=str)
    ]
    return Table(["data", "rows used", "sha256 of these rows"], rows)


def _commands(manifests: dict[str, Row]) -> list[str]:
    return [manifest["command"] for manifest in manifests.values() if "command" in manifest]


def _versions(manifests: dict[str, Row]) -> list[tuple[str, str]]:
    """Package versions; one that changed between stages is listed with each."""
    found = {item for manifest in manifests.values() for item in manifest["versions"].items()}
    return sorted(found)
