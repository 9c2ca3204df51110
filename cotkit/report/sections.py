"""The report's sections on results: the answer, all figures, filter, training sets, trainings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial

from cotkit.core.jsonl import Row
from cotkit.core.markdown import Table
from cotkit.evaluation.comparison_tables import (
    TRAINING_COLUMNS,
    against_reference,
    by_accuracy,
    critic_pairs,
    critic_table,
    methods_table,
    pairs_table,
    reading_help,
    trainings_table,
    verdicts_table,
)
from cotkit.filtering.rules import RULES
from cotkit.report import plots
from cotkit.report.costs import Cost
from cotkit.report.page import Part, Picture, Section, ShownText, ShownTexts, questions_link
from cotkit.report.plots import Estimate
from cotkit.report.run_data import Curve, TrainingSetTexts


def answer_section(dataset: Row, reference: str, finding: str) -> Section:
    """What a reader sees first of a data set of comparison.json: five columns, and the differences as a picture."""
    parts: list[Part] = [] if dataset["finding"] == finding else [dataset["finding"]]
    parts += [f"Note: {note}." for note in dataset["notes"]]
    parts.append(verdicts_table(dataset, reference))
    if differences := _differences(dataset, reference):
        title = f"Difference to {reference} on {dataset['dataset']}"
        alt = f"{title}: " + ", ".join(f"{item.label} {100 * item.value:+.1f} points" for item in differences)
        draw = partial(plots.differences, differences, title)
        parts.append(Picture(f"{dataset['dataset']}-differences", draw, alt))
    return Section(f"{dataset['dataset']}: {dataset['questions']} questions", parts)


def _differences(dataset: Row, reference: str) -> list[Estimate]:
    """In the order of the verdicts' table. The interval is the verdict's, so that table and picture say the same."""
    pairs = against_reference(dataset, reference)
    return [
        Estimate(
            pair["method"],
            pair["difference"],
            pair["verdict_low"],
            pair["verdict_high"],
            pair["verdict"] in ("better", "worse"),
        )
        for method in by_accuracy(dataset)
        if (pair := pairs.get(method["method"]))
    ]


def figures_section(dataset: Row, costs: Mapping[str, Cost]) -> Section:
    """Every figure of a data set of comparison.json."""
    title = f"All figures on {dataset['dataset']}, protocol {dataset['protocol']}"
    return Section(title, list(_figures(dataset, costs)))


def _figures(dataset: Row, costs: Mapping[str, Cost]) -> Iterator[Part]:
    name = dataset["dataset"]
    yield methods_table(dataset)
    accuracies = [
        Estimate(row["method"], row["accuracy"], row["accuracy_low"], row["accuracy_high"])
        for row in by_accuracy(dataset)
    ]
    title = f"{name}: accuracy [95 %]" + (" and cost" if costs else "")
    alt = f"{title}: " + ", ".join(
        f"{item.label} {item.value:.1%}"
        + (f" for {plots.in_thousands(costs[item.label].total)} tokens" if item.label in costs else "")
        for item in accuracies
    )
    yield Picture(f"{name}-accuracy", partial(plots.accuracy_and_cost, accuracies, costs, title), alt)
    if costs:
        yield (
            "Cost: tokens of the teacher's samples from which the training set was chosen, of the student's own samples, and "
            "of the targets once per epoch. A method that starts from another one includes its cost. The teacher's own "
            "training is not counted."
        )
    if dataset["pairs"]:
        table = pairs_table(dataset)
        links = {
            (row, table.header.index(outcome)): questions_link(name, pair["method"], pair["reference"], outcome)
            for row, pair in enumerate(dataset["pairs"])
            for outcome in ("wins", "losses")
            if pair[outcome]
        }
        yield replace(table, links=links)
    yield from filter(None, (critic_pairs(dataset), critic_table(dataset)))


def help_section(comparison: Row) -> Section:
    """How to read the intervals."""
    return Section("How to read the intervals", [reading_help(comparison)])


def filter_section(account: Row) -> Section:
    """From kept.report.json, as `filter_teacher_cot.py` writes it."""
    read, kept = account["read"], account["kept"]
    rejected = sorted(account["rejected"].items(), key=lambda item: -item[1])
    counts = ", ".join(f"{reason} {count}" for reason, count in rejected if count)
    draw = partial(plots.funnel, read, rejected, kept, "Teacher rows: read, rejected by each rule, kept")
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
    picture = Picture("filter", draw, f"of {read} teacher rows {kept} are kept; {counts}")
    order = ["kept", *(reason for reason, _ in rejected)]
    known = {reason: account["examples"][reason] for reason in order if account["examples"].get(reason)}
    numbers = {**account["rejected"], "kept": kept}
    examples = [_filter_examples(reason, numbers[reason], rows) for reason, rows in known.items()]
    return Section("What the filter kept and rejected", [covered, picture, *examples, by_words])


def _filter_examples(reason: str, number: int, rows: list[Row]) -> ShownTexts:
    rule = RULES.get(reason)
    note = (rule.function.__doc__ or "").split("\n")[0].replace("``", "") if rule else ""
    items = [
        ShownText(
            row["question"], row["response"], "; ".join(filter(None, (row["detail"], f"gold answer {row['answer']}")))
        )
        for row in rows
    ]
    return ShownTexts(f"{reason}: {_rows(number)}", items, note)


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
    explanations = {
        "calculations per row": "Mean number of calculations in a target that can be checked.",
        "rows without any": "Share of targets without such a calculation; they teach to answer without reasoning.",
    }
    examples = [
        ShownTexts(
            f"{name}: {_rows(texts.rows)}",
            list(map(_training_example, texts.examples)),
            f"{len(texts.examples)} of them",
        )
        for name, texts in sets.items()
    ]
    return Section("The training sets", [Table(header, rows, explanations), *examples])


def _training_example(row: Row) -> ShownText:
    if "rejected" in row:
        return ShownText(row["instruction"], row["chosen"], f"rejected: {row['rejected']}")
    return ShownText(row["instruction"], row["output"])


def _rows(number: int) -> str:
    return f"{number:,} row" + ("" if number == 1 else "s")


def training_section(curves: dict[str, Curve], manifests: dict[str, Row], order: list[str]) -> Section:
    """Loss curves, and size and cost of each training; `order` gives methods their colours."""
    last = ", ".join(f"{name} {curve.evaluation[-1][1]:.3f}" for name, curve in curves.items() if curve.evaluation)
    counts = {name: manifests.get(f"train/{name}", {}).get("counts", {}) for name in curves}
    draw = partial(plots.losses, curves, "Losses while training", order)
    picture = Picture("losses", draw, f"last loss on held-out questions: {last}")
    return Section("The trainings", [picture, trainings_table(counts, TRAINING_COLUMNS)])
