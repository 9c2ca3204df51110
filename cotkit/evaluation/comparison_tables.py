"""Turns the figures of comparison.json into sentences and tables."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import fmean

from cotkit.core.jsonl import Row
from cotkit.core.markdown import Table
from cotkit.evaluation import llm_judge


def finding(comparison: Row) -> str:
    """One sentence: what was found on the data set with the most questions, how large, how certain."""
    largest = max(comparison["datasets"], key=lambda dataset: dataset["questions"])
    return dataset_finding(largest, comparison["reference"])


def dataset_finding(dataset: Row, reference: str) -> str:
    """One sentence about one data set: the best method against the reference, and against the next best."""
    place = f"On {dataset['dataset']} ({dataset['questions']} questions)"
    against = [pair for pair in dataset["pairs"] if pair["reference"] == reference]
    if not against:
        return f"{place} only {reference} was scored, so there is nothing to compare."
    better = [pair for pair in against if pair["verdict"] == "better"]
    worse = [pair for pair in against if pair["verdict"] == "worse"]
    if better:
        best = max(better, key=lambda pair: pair["difference"])
        return f"{place} {best['method']} is better than {reference} by {uncertain(best)}{_next_best(dataset, best)}."
    if worse:
        worst = min(worse, key=lambda pair: pair["difference"])
        none = f"{place} no method is shown to be better than {reference}"
        return f"{none}, and {worst['method']} is worse: {uncertain(worst)}."
    largest = max(against, key=lambda pair: abs(pair["difference"]))
    return (
        f"{place} no method is shown to differ from {reference}: the largest difference, of {largest['method']}, is "
        f"{uncertain(largest)}, and a test of this size finds differences from about "
        f"{100 * largest['minimum_detectable_difference']:.0f} points on."
    )


def _next_best(dataset: Row, best: Row) -> str:
    """How the best method compares with the next best one that is not the reference."""
    others = [m for m in dataset["methods"] if m["method"] not in (best["method"], best["reference"])]
    if not others:
        return ""
    other = max(others, key=lambda method: method["accuracy"])["method"]
    names = {best["method"], other}
    pair = next(pair for pair in dataset["pairs"] if {pair["method"], pair["reference"]} == names)
    return f"; {pair['method']} against {pair['reference']}: {uncertain(pair)}, {pair['verdict']}"


def uncertain(pair: Row) -> str:
    """A difference with its interval and its p-value."""
    low, high = 100 * pair["low"], 100 * pair["high"]
    p_value = pair["p_adjusted"]
    p_text = "p < 0.001" if p_value < 0.001 else f"p {p_value:.2g}"
    interval = f"95 % interval {low:+.1f} to {high:+.1f}"
    return f"{100 * pair['difference']:+.1f} points ({interval}, {p_text} after Holm's correction)"


def markdown(comparison: Row) -> str:
    """The whole of comparison.md."""
    lines = ["# Comparison", "", comparison["finding"], ""]
    for dataset in comparison["datasets"]:
        lines += [f"## {dataset['dataset']}: {dataset['questions']} questions, protocol {dataset['protocol']}", ""]
        if dataset["finding"] != comparison["finding"]:
            lines += [dataset["finding"], ""]
        lines += [line for note in dataset["notes"] for line in (f"Note: {note}.", "")]
        lines += [*methods_table(dataset).lines(), ""]
        lines += [*pairs_table(dataset).lines(), ""] if dataset["pairs"] else []
        if table := critic_table(dataset):
            lines += [*table.lines(), ""]
        if ratings := critic_pairs(dataset):
            lines += [ratings, ""]
    if comparison.get("trainings"):
        lines += ["## Trainings", "", *trainings_table(comparison["trainings"]).lines(), ""]
    return "\n".join([*lines, *reading_help(comparison)]) + "\n"


def trainings_table(trainings: dict[str, Row]) -> Table:
    """How much each method was trained: a comparison is of the data only as far as these agree."""
    header = ["method", "rows", "steps", "trained tokens", "held-out loss"]
    forms = {"rows": "{:,}", "steps": "{:,}", "trained_tokens": "{:,}", "eval_loss": "{:.3f}"}
    return Table(
        header,
        [
            [name, *("" if counts[key] is None else form.format(counts[key]) for key, form in forms.items())]
            for name, counts in trainings.items()
        ],
    )


def methods_table(dataset: Row) -> Table:
    """One line a method; figures of several runs are means."""
    header = [
        "method",
        "accuracy [95 %]",
        "words",
        "to the answer",
        "runaway text",
        "ended with EOS",
        "truncated",
        "no answer",
        "missing",
        "with checkable steps",
        "steps correct",
    ]
    return Table(header, [_method_cells(method) for method in dataset["methods"]])


def _method_cells(method: Row) -> list[str]:
    runs = method["runs"]
    accuracy = f"{method['accuracy']:.3f} [{method['accuracy_low']:.3f}, {method['accuracy_high']:.3f}]"
    if method["standard_deviation"] is not None:
        accuracy += f" ({len(runs)} runs, standard deviation {method['standard_deviation']:.3f})"
    return [
        method["method"],
        accuracy,
        _mean([run["word_count"] for run in runs], "{:.0f}"),
        _mean([run["words_to_answer"] for run in runs], "{:.0f}"),
        _mean([run["runaway_text"] for run in runs], "{:.0%}"),
        _mean([run["ended_with_eos"] for run in runs], "{:.0%}"),
        _mean([run["truncated"] for run in runs], "{:.0%}"),
        _mean([run["verdicts"]["no_answer"] / run["n"] for run in runs], "{:.0%}"),
        _mean([run["missing"] for run in runs], "{:.0f}"),
        _mean([run["steps"]["outputs"] / max(1, run["n"] - run["missing"]) for run in runs], "{:.0%}"),
        _mean([run["steps"]["share_right"] for run in runs], "{:.0%}"),
    ]


def _mean(values: list[float | None], form: str) -> str:
    known = [value for value in values if value is not None]
    return form.format(fmean(known)) if known else "none"


def pairs_table(dataset: Row) -> Table:
    """One line a pair of methods, each on the same questions."""
    header = ["pair", "difference in points [95 %]", "p", "p, Holm", "wins / losses", "minimum detectable difference", "verdict"]
    return Table(header, [_pair_cells(pair) for pair in dataset["pairs"]])


def _pair_cells(pair: Row) -> list[str]:
    return [
        f"{pair['method']} against {pair['reference']}",
        f"{100 * pair['difference']:+.1f} [{100 * pair['low']:+.1f}, {100 * pair['high']:+.1f}]",
        f"{pair['p']:.2g}",
        f"{pair['p_adjusted']:.2g}",
        f"+{len(pair['wins'])} -{len(pair['losses'])}",
        f"{100 * pair['minimum_detectable_difference']:.1f}",
        pair["verdict"],
    ]


def critic_table(dataset: Row) -> Table | None:
    """One line a rated run and criterion, the judge's controls beside each figure; None where nothing was rated."""
    rows = [
        [run["stem"], name, *llm_judge.cells(criterion)]
        for method in dataset["methods"]
        for run in method["runs"]
        if run.get("critic")
        for name, criterion in run["critic"]["criteria"].items()
    ]
    header = ["critic of", "criterion", "rating 1 to 5 [95 %]", "rated", "controls", "judge"]
    return Table(header, rows) if rows else None


def critic_pairs(dataset: Row) -> str:
    """The paired differences of the critic's ratings, as one sentence; "" where there are none."""
    found = [
        f"{pair['method']} against {pair['reference']} {rated['difference']:+.2f} "
        f"[{rated['low']:+.2f}, {rated['high']:+.2f}] on {rated['questions']} questions"
        f"{'' if rated['reliable'] else ' (not to be relied on)'}"
        for pair in dataset["pairs"]
        if (rated := pair["critic"])
    ]
    return f"Ratings of the same problems: {'; '.join(found)}." if found else ""


def reading_help(comparison: Row) -> Iterable[str]:
    """What a reader of the two tables must know, in two paragraphs."""
    tests = sorted({pair["test"] for dataset in comparison["datasets"] for pair in dataset["pairs"]})
    yield (
        f"Intervals: Wilson's for an accuracy, {comparison['bootstrap_repetitions']:,} paired bootstrap samples of the "
        f"questions (and runs) for a difference. p: {', '.join(tests) or 'no test'}; Holm: adjusted for all "
        f"{comparison['family']} comparisons here. Minimum detectable difference: the difference that such a test finds in "
        "4 of 5 cases."
    )
    yield (
        "Words: mean of a complete text, and up to its answer. Runaway text: texts with words after their answer. With "
        "checkable steps: texts with a calculation before their answer that can be checked. Steps correct: the share of "
        "these calculations that are true. Missing: questions without a prediction, counted as wrong. Wins and losses: "
        "questions on which the first method of a pair is better, and worse; comparison.json lists them."
    )
