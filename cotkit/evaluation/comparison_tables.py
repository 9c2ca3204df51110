"""Turns the figures of comparison.json into sentences and tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from statistics import fmean

from cotkit.core.jsonl import Row
from cotkit.core.markdown import Table
from cotkit.evaluation import llm_judge

VERDICT_MEANS = (
    "Better or worse: the p-value, corrected for all comparisons, is below 0.05. No difference shown: it is not, though the "
    "test would mostly find five points. Inconclusive: it is not, and the test would often miss five points."
)


@dataclass(frozen=True)
class Column:
    """A column of a table: what it shows of a record, and a sentence that explains it."""

    title: str
    explanation: str
    cell: Callable[[Row], str]


def table(columns: Sequence[Column], rows: Iterable[Row]) -> Table:
    """One row per record."""
    cells = [[column.cell(row) for column in columns] for row in rows]
    explanations = {column.title: column.explanation for column in columns if column.explanation}
    return Table([column.title for column in columns], cells, explanations)


def finding(comparison: Row) -> str:
    """One sentence: the result on the data set with the most questions, its size and its uncertainty."""
    largest = max(comparison["datasets"], key=lambda dataset: (bool(dataset["pairs"]), dataset["questions"]))
    return dataset_finding(largest, comparison["reference"])


def dataset_finding(dataset: Row, reference: str) -> str:
    """One sentence about one data set: the best method against the reference, and against the next best."""
    where = f"On {dataset['dataset']} ({dataset['questions']} questions)"
    against = [pair for pair in dataset["pairs"] if pair["reference"] == reference]
    if not against and len(dataset["methods"]) > 1:
        return f"{where} no methods were compared; their accuracies are below."
    if not against:
        return f"{where} only {reference} was scored, so there is nothing to compare."
    if better := [pair for pair in against if pair["verdict"] == "better"]:
        best = max(better, key=itemgetter("difference"))
        right = {method["method"]: f"{100 * method['accuracy']:.1f} %" for method in dataset["methods"]}
        shares = f"{right[best['method']]} right against {right[reference]}"
        return (
            f"{where} {best['method']} is better than {reference}: {shares}, a difference of {uncertain(best)}"
            f"{_next_best(dataset, best)}."
        )
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
    pair = next((pair for pair in dataset["pairs"] if {pair["method"], pair["reference"]} == names), None)
    if pair is None:  # it was not asked
        return ""
    first = pair["method"] == best["method"]
    shown = {("better", True), ("worse", False)}
    says = "it is also better than" if (pair["verdict"], first) in shown else "it is not shown to be better than"
    return f"; {says} the next best, {other}: {uncertain(pair if first else _turned(pair))}"


def _turned(pair: Row) -> Row:
    """The difference of a pair as that of its reference to its method."""
    signs = {
        "difference": -pair["difference"],
        "verdict_low": -pair["verdict_high"],
        "verdict_high": -pair["verdict_low"],
    }
    return {**pair, **signs}


def points(share: float) -> str:
    """A difference of shares in percentage points, with a digit after the point.

    A small one has as many digits as show its sign: an interval that ends at 0.02 must not seem to contain 0.
    """
    rounded = f"{100 * share:+.1f}"
    return rounded if float(rounded) or not share else f"{100 * share:+.1g}"


def uncertain(pair: Row) -> str:
    """A difference with the interval that belongs to its verdict and its p-value."""
    difference, low, high = (points(pair[key]) for key in ("difference", "verdict_low", "verdict_high"))
    p = "p < 0.001" if pair["p_adjusted"] < 0.001 else f"p {pair['p_adjusted']:.2g}"
    return f"{difference} points (interval {low} to {high}, {p} after Holm's correction)"


def by_accuracy(dataset: Row) -> list[Row]:
    """The methods, the most accurate first."""
    return sorted(dataset["methods"], key=lambda method: -method["accuracy"])


def against_reference(dataset: Row, reference: str) -> dict[str, Row]:
    """Method -> its pair with the reference."""
    return {pair["method"]: pair for pair in dataset["pairs"] if pair["reference"] == reference}


def verdicts_table(dataset: Row, reference: str) -> Table:
    """The answer in five columns, one row per method, the most accurate first."""
    pairs = against_reference(dataset, reference)

    def of_pair(cell: Callable[[Row], str]) -> Callable[[Row], str]:
        return lambda method: cell(pairs[method["method"]]) if method["method"] in pairs else ""

    def verdict(method: Row) -> str:
        name = method["method"]
        return pairs[name]["verdict"] if name in pairs else "the reference" if name == reference else "not compared"

    counted = any(run["tokens_to_answer"] is not None for method in dataset["methods"] for run in method["runs"])
    unit = "tokens" if counted else "words"
    columns = [
        Column("method", "", itemgetter("method")),
        Column("accuracy [95 %]", "Share of the questions that are answered right, with its interval.", _accuracy),
        Column(
            f"difference to {reference} in points [interval]",
            "Accuracy minus that of the reference on the same questions. 0 lies outside the interval exactly if the verdict "
            "is better or worse.",
            of_pair(_difference),
        ),
        Column(
            f"{unit} to the answer",
            f"Mean number of {unit} that the method writes up to the end of its answer.",
            lambda method: _mean((run[f"{unit}_to_answer"] for run in method["runs"]), ".0f"),
        ),
        Column("verdict", VERDICT_MEANS, verdict),
    ]
    return table(columns, by_accuracy(dataset))


def _accuracy(method: Row) -> str:
    mean, low, high = (100 * method[key] for key in ("accuracy", "accuracy_low", "accuracy_high"))
    return f"{mean:.1f} % [{low:.1f}, {high:.1f}]"


def _difference(pair: Row) -> str:
    return f"{points(pair['difference'])} [{points(pair['verdict_low'])}, {points(pair['verdict_high'])}]"


def markdown(comparison: Row) -> str:
    """The text of comparison.md: the answer first, then every figure."""
    blocks: list[str | Table] = ["# Comparison", comparison["finding"]]
    for dataset in comparison["datasets"]:
        blocks.append(f"## {dataset['dataset']}: {dataset['questions']} questions, protocol {dataset['protocol']}")
        blocks += [dataset["finding"]] if dataset["finding"] != comparison["finding"] else []
        blocks += [f"Note: {note}." for note in dataset["notes"]]
        blocks += [verdicts_table(dataset, comparison["reference"]), "All figures:", methods_table(dataset)]
        blocks += [pairs_table(dataset)] if dataset["pairs"] else []
        blocks += filter(None, (critic_table(dataset), critic_pairs(dataset)))
    if comparison.get("trainings"):
        blocks += ["## Trainings", trainings_table(comparison["trainings"])]
    return as_markdown([*blocks, "## How to read this", reading_help(comparison), explained(blocks)])


def as_markdown(blocks: Iterable[str | Table]) -> str:
    """Paragraphs and tables, separated by blank lines."""
    return "\n\n".join(item if isinstance(item, str) else "\n".join(item.lines()) for item in blocks) + "\n"


def explained(blocks: Iterable[object]) -> str:
    """A Markdown list of the columns of all tables among the blocks, each with its explanation."""
    found = {name: text for item in blocks if isinstance(item, Table) for name, text in item.explanations.items()}
    return "\n".join(f"- *{name}*: {text}" for name, text in found.items())


# Key of a training's counts -> title, format, explanation.
TRAINING_COLUMNS = {
    "rows": ("rows", ",d", "Rows of the training set."),
    "steps": ("steps", ",d", "Optimizer steps."),
    "trained_tokens": ("trained tokens", ",d", "Tokens of all targets, once for each epoch."),
    "generated_tokens": ("generated tokens", ",d", "Tokens that the student wrote to be trained on."),
    "train_loss": ("mean training loss", ".3f", "Mean loss over the steps, in nats per token."),
    "eval_loss": ("held-out loss", ".3f", "Loss on held-out gold solutions at the end, in nats per token."),
    "train_runtime": ("seconds", ".0f", "Wall time."),
}
COMPARED_COUNTS = ("rows", "steps", "trained_tokens", "generated_tokens", "eval_loss")


def trainings_table(trainings: dict[str, Row], keys: Iterable[str] = COMPARED_COUNTS) -> Table:
    """What each method was trained on, and how many tokens it wrote; a column without any value is left out."""
    known = {key for counts in trainings.values() for key, value in counts.items() if value is not None}
    columns = [Column("method", "", itemgetter("method"))]
    columns += [_count(key, *TRAINING_COLUMNS[key]) for key in keys if key in known]
    return table(columns, ({**counts, "method": name} for name, counts in trainings.items()))


def _count(key: str, title: str, form: str, explanation: str) -> Column:
    return Column(title, explanation, lambda counts: "" if counts.get(key) is None else format(counts[key], form))


LOOPED = "looped"  # shown only where texts were stopped for it: few runs do that, and older summaries do not count them
# Title, figure of one run's summary, format, explanation. The table shows means over a method's runs.
RUN_COLUMNS: tuple[tuple[str, Callable[[Row], float | None], str, str], ...] = (
    ("words", itemgetter("word_count"), ".0f", "Mean words of a complete text."),
    ("to the answer", itemgetter("words_to_answer"), ".0f", "Mean words up to the end of the answer."),
    ("runaway text", itemgetter("runaway_text"), ".0%", "Texts with words after their answer."),
    ("ended with EOS", itemgetter("ended_with_eos"), ".0%", "Texts that the model itself ended."),
    (
        LOOPED,
        lambda run: run.get("looped", 0.0),
        ".0%",
        "Texts that were stopped because they repeated a run of tokens.",
    ),
    ("truncated", itemgetter("truncated"), ".0%", "Texts that the token limit ended."),
    ("no answer", lambda run: run["verdicts"]["no_answer"] / run["n"], ".0%", "Texts in which no answer was found."),
    ("missing", itemgetter("missing"), ".0f", "Questions without a prediction; they count as wrong."),
    (
        "with checkable steps",
        lambda run: run["steps"]["outputs"] / max(1, run["n"] - run["missing"]),
        ".0%",
        "Texts with a calculation before their answer that can be checked.",
    ),
    ("steps correct", lambda run: run["steps"]["share_right"], ".0%", "Share of these calculations that are true."),
)


def methods_table(dataset: Row) -> Table:
    """One row per method with all its figures; columns about several runs, or loops, only where there are any."""
    columns = [
        Column("method", "", itemgetter("method")),
        Column(
            "accuracy [95 %]",
            "Share of the questions that are answered right, with its interval; over several runs, their mean.",
            lambda method: f"{method['accuracy']:.3f} [{method['accuracy_low']:.3f}, {method['accuracy_high']:.3f}]",
        ),
    ]
    if any(method["standard_deviation"] is not None for method in dataset["methods"]):
        columns += [
            Column("runs", "Training runs with different seeds.", lambda method: str(len(method["runs"]))),
            Column("standard deviation", "Of the accuracy between the runs.", _deviation),
        ]
    has_loops = any(run.get("looped") for method in dataset["methods"] for run in method["runs"])
    columns += [_run_column(*column) for column in RUN_COLUMNS if has_loops or column[0] != LOOPED]
    return table(columns, dataset["methods"])


def _deviation(method: Row) -> str:
    deviation = method["standard_deviation"]
    return "" if deviation is None else f"{deviation:.3f}"


def _run_column(title: str, figure: Callable[[Row], float | None], form: str, explanation: str) -> Column:
    return Column(title, explanation, lambda method: _mean(map(figure, method["runs"]), form))


def _mean(values: Iterable[float | None], form: str) -> str:
    known = [value for value in values if value is not None]
    return format(fmean(known), form) if known else "unknown"


PAIR_COLUMNS = (
    Column("pair", "", lambda pair: f"{pair['method']} against {pair['reference']}"),
    Column(
        "difference in points [interval]",
        "Accuracy of the first method minus that of the second on the same questions.",
        _difference,
    ),
    Column(
        "p, Holm", "p-value of no difference, corrected for all comparisons.", lambda pair: f"{pair['p_adjusted']:.2g}"
    ),
    Column("wins", "Questions on which the first method is better.", lambda pair: str(len(pair["wins"]))),
    Column("losses", "Questions on which the first method is worse.", lambda pair: str(len(pair["losses"]))),
    Column(
        "minimum detectable difference",
        "The difference in points that such a test finds in 4 of 5 cases.",
        lambda pair: f"{100 * pair['minimum_detectable_difference']:.1f}",
    ),
    Column("verdict", VERDICT_MEANS, itemgetter("verdict")),
)


def pairs_table(dataset: Row) -> Table:
    """One row per pair of methods, each on the same questions."""
    return table(PAIR_COLUMNS, dataset["pairs"])


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


def reading_help(comparison: Row) -> str:
    """Names the intervals and tests of the tables."""
    found = [pair for dataset in comparison["datasets"] for pair in dataset["pairs"]]
    tests, intervals = (", ".join(sorted({pair[key] for pair in found})) or "none" for key in ("test", "interval"))
    chosen = ", those that were asked and those with the reference" if comparison.get("asked") else ""
    return (
        f"Interval of an accuracy: Wilson's, 95 %. p, Holm: {tests}, adjusted for all {comparison['family']} comparisons "
        f"here{chosen}. Interval of a difference: at the level at which Holm's procedure tests the pair, so that 0 lies outside "
        "exactly if the verdict is better or worse; comparison.json also has the 95 % interval of each single difference "
        f"({intervals})."
    )
