"""Turns the figures of comparison.json into sentences and tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from operator import itemgetter
from statistics import fmean

from cotkit.core.jsonl import Row
from cotkit.core.markdown import Table
from cotkit.evaluation import llm_judge


def finding(comparison: Row) -> str:
    """One sentence: the result on the data set with the most questions, its size and its uncertainty."""
    largest = max(comparison["datasets"], key=lambda dataset: dataset["questions"])
    return dataset_finding(largest, comparison["reference"])


def dataset_finding(dataset: Row, reference: str) -> str:
    """One sentence about one data set: the best method against the reference, and against the next best."""
    where = f"On {dataset['dataset']} ({dataset['questions']} questions)"
    against = [pair for pair in dataset["pairs"] if pair["reference"] == reference]
    if not against:
        return f"{where} only {reference} was scored, so there is nothing to compare."
    if better := [pair for pair in against if pair["verdict"] == "better"]:
        best = max(better, key=itemgetter("difference"))
        return f"{where} {best['method']} is better than {reference} by {uncertain(best)}{_next_best(dataset, best)}."
    if worse := [pair for pair in against if pair["verdict"] == "worse"]:
        worst = min(worse, key=itemgetter("difference"))
        none = f"{where} no method is shown to be better than {reference}"
        return f"{none}, and {worst['method']} is worse: {uncertain(worst)}."
    largest = max(against, key=lambda pair: abs(pair["difference"]))
    return (
        f"{where} no method is shown to differ from {reference}: the largest difference, of {largest['method']}, is "
        f"{uncertain(largest)}, and a test of this size finds differences from about "
        f"{100 * largest['minimum_detectable_difference']:.0f} points on."
    )


def _next_best(dataset: Row, best: Row) -> str:
    """Compares the best method with the next best one that is not the reference."""
    others = [m for m in dataset["methods"] if m["method"] not in (best["method"], best["reference"])]
    if not others:
        return ""
    other = max(others, key=itemgetter("accuracy"))["method"]
    names = {best["method"], other}
    pair = next(pair for pair in dataset["pairs"] if {pair["method"], pair["reference"]} == names)
    return f"; {pair['method']} against {pair['reference']}: {uncertain(pair)}, {pair['verdict']}"


def uncertain(pair: Row) -> str:
    """A difference with the interval that belongs to its verdict and its p-value."""
    difference, low, high = (100 * pair[key] for key in ("difference", "verdict_low", "verdict_high"))
    p = "p < 0.001" if pair["p_adjusted"] < 0.001 else f"p {pair['p_adjusted']:.2g}"
    return f"{difference:+.1f} points (interval {low:+.1f} to {high:+.1f}, {p} after Holm's correction)"


def markdown(comparison: Row) -> str:
    """The text of comparison.md."""
    blocks: list[str | Table] = ["# Comparison", comparison["finding"]]
    for dataset in comparison["datasets"]:
        blocks.append(f"## {dataset['dataset']}: {dataset['questions']} questions, protocol {dataset['protocol']}")
        blocks += [dataset["finding"]] if dataset["finding"] != comparison["finding"] else []
        blocks += [f"Note: {note}." for note in dataset["notes"]]
        blocks.append(methods_table(dataset))
        blocks += [pairs_table(dataset)] if dataset["pairs"] else []
        blocks += filter(None, (critic_table(dataset), critic_pairs(dataset)))
    if comparison.get("trainings"):
        blocks += ["## Trainings", trainings_table(comparison["trainings"])]
    return as_markdown([*blocks, *reading_help(comparison)])


def as_markdown(blocks: Iterable[str | Table]) -> str:
    """Paragraphs and tables, separated by blank lines."""
    return "\n\n".join(item if isinstance(item, str) else "\n".join(item.lines()) for item in blocks) + "\n"


TRAINING_COLUMNS = {
    "rows": ("rows", ",d"),
    "steps": ("steps", ",d"),
    "trained_tokens": ("trained tokens", ",d"),
    "generated_tokens": ("generated tokens", ",d"),
    "train_loss": ("mean training loss", ".3f"),
    "eval_loss": ("held-out loss", ".3f"),
    "train_runtime": ("seconds", ".0f"),
}
COMPARED_COUNTS = ("rows", "steps", "trained_tokens", "generated_tokens", "eval_loss")


def trainings_table(trainings: dict[str, Row], keys: Iterable[str] = COMPARED_COUNTS) -> Table:
    """What each method was trained on, and how many tokens it wrote; a column without any value is left out."""
    known = {key for counts in trainings.values() for key, value in counts.items() if value is not None}
    columns = {key: TRAINING_COLUMNS[key] for key in keys if key in known}
    rows = [
        [name, *("" if counts.get(key) is None else format(counts[key], form) for key, (_, form) in columns.items())]
        for name, counts in trainings.items()
    ]
    return Table(["method", *(title for title, _ in columns.values())], rows)


# Title, figure of one run's summary, format. The table shows means over a method's runs.
RUN_COLUMNS: tuple[tuple[str, Callable[[Row], float | None], str], ...] = (
    ("words", itemgetter("word_count"), ".0f"),
    ("to the answer", itemgetter("words_to_answer"), ".0f"),
    ("runaway text", itemgetter("runaway_text"), ".0%"),
    ("ended with EOS", itemgetter("ended_with_eos"), ".0%"),
    ("looped", lambda run: run.get("looped", 0.0), ".0%"),  # older summaries have none
    ("truncated", itemgetter("truncated"), ".0%"),
    ("no answer", lambda run: run["verdicts"]["no_answer"] / run["n"], ".0%"),
    ("missing", itemgetter("missing"), ".0f"),
    ("with checkable steps", lambda run: run["steps"]["outputs"] / max(1, run["n"] - run["missing"]), ".0%"),
    ("steps correct", lambda run: run["steps"]["share_right"], ".0%"),
)


def methods_table(dataset: Row) -> Table:
    """One row per method. The column of looped texts is there only if there are any: few runs stop them."""
    has_loops = any(run.get("looped") for method in dataset["methods"] for run in method["runs"])
    shown = [column for column in RUN_COLUMNS if has_loops or column[0] != "looped"]
    rows = []
    for method in dataset["methods"]:
        runs = method["runs"]
        accuracy = f"{method['accuracy']:.3f} [{method['accuracy_low']:.3f}, {method['accuracy_high']:.3f}]"
        if method["standard_deviation"] is not None:
            accuracy += f" ({len(runs)} runs, standard deviation {method['standard_deviation']:.3f})"
        rows.append([method["method"], accuracy, *(_mean(map(figure, runs), form) for _, figure, form in shown)])
    return Table(["method", "accuracy [95 %]", *(title for title, _, _ in shown)], rows)


def _mean(values: Iterable[float | None], form: str) -> str:
    known = [value for value in values if value is not None]
    return format(fmean(known), form) if known else "unknown"


def pairs_table(dataset: Row) -> Table:
    """One row per pair of methods, each on the same questions."""
    columns: dict[str, Callable[[Row], str]] = {
        "pair": lambda pair: f"{pair['method']} against {pair['reference']}",
        "difference in points [interval]": lambda pair: (
            f"{100 * pair['difference']:+.1f} [{100 * pair['verdict_low']:+.1f}, {100 * pair['verdict_high']:+.1f}]"
        ),
        "p, Holm": lambda pair: f"{pair['p_adjusted']:.2g}",
        "wins / losses": lambda pair: f"+{len(pair['wins'])} -{len(pair['losses'])}",
        "minimum detectable difference": lambda pair: f"{100 * pair['minimum_detectable_difference']:.1f}",
        "verdict": itemgetter("verdict"),
    }
    return Table(list(columns), [[cell(pair) for cell in columns.values()] for pair in dataset["pairs"]])


def critic_table(dataset: Row) -> Table | None:
    """One row per rated run and criterion, with the judge's controls; None if nothing was rated."""
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
    """The paired differences of the critic's ratings in one sentence; "" if there are none."""
    found = [
        f"{pair['method']} against {pair['reference']} {rated['difference']:+.2f} "
        f"[{rated['low']:+.2f}, {rated['high']:+.2f}] on {rated['questions']} questions"
        f"{'' if rated['reliable'] else ' (not to be relied on)'}"
        for pair in dataset["pairs"]
        if (rated := pair["critic"])
    ]
    return f"Ratings of the same problems: {'; '.join(found)}." if found else ""


def reading_help(comparison: Row) -> Iterable[str]:
    """Explains the two tables in two paragraphs."""
    found = [pair for dataset in comparison["datasets"] for pair in dataset["pairs"]]
    tests, intervals = (", ".join(sorted({pair[key] for pair in found})) or "none" for key in ("test", "interval"))
    yield (
        f"Interval of an accuracy: Wilson's, 95 %. p, Holm: {tests}, adjusted for all {comparison['family']} comparisons "
        "here. Interval of a difference: at the level at which Holm's procedure tests the pair, so that 0 lies outside "
        "exactly if the verdict is better or worse; comparison.json also has the 95 % interval of each single difference "
        f"({intervals}). Minimum detectable difference: the difference that such a test finds in 4 of 5 cases."
    )
    yield (
        "Words: mean of a complete text, and up to its answer. Runaway text: texts with words after their answer. With "
        "checkable steps: texts with a calculation before their answer that can be checked. Steps correct: the share of "
        "these calculations that are true. Missing: questions without a prediction, counted as wrong. Wins and losses: "
        "questions on which the first method of a pair is better, and worse; comparison.json lists them."
    )
