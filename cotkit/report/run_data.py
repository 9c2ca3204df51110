"""Reads a run's folder for its report: questions with every method's outputs, loss curves, training sets, manifests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from cotkit.core.datasets import AnswerKind, kind_of
from cotkit.core.errors import UserError
from cotkit.core.jsonl import Row, read, read_json, read_numbered
from cotkit.core.problems import read_problems
from cotkit.equations.checker import find_steps
from cotkit.evaluation.join import completed
from cotkit.evaluation.scored_runs import method_order
from cotkit.filtering.training_sets import COLUMNS, PAIR_COLUMNS
from cotkit.grading.extraction import extract

MANIFEST_ENDING = ".manifest.json"
# What an adapter's own file says of its training beside the settings: values that were left to the trainer's defaults.
ADAPTER_KEYS = ("lora_alpha", "lora_dropout", "target_modules")
SHOWN_ROWS = 6  # of each training set, to read
REMAKE_SETS = "filter_teacher_cot.py --overwrite writes the training sets anew"


@dataclass(frozen=True)
class Output:
    """One sample of one method; `before` ends with the graded answer, `after` is the text beyond it."""

    verdict: str
    extracted: str | None
    words: int
    words_to_answer: int
    finish_reason: str
    before: str
    after: str


@dataclass(frozen=True)
class Question:
    """A test question; outputs[method] are the method's samples in order."""

    id: str
    question: str
    answer: str
    solution: str
    outputs: dict[str, list[Output]]


@dataclass(frozen=True)
class Curve:
    """A method's losses as (step, loss)."""

    train: list[tuple[int, float]]
    evaluation: list[tuple[int, float]]


@dataclass(frozen=True)
class TrainingSetTexts:
    """Figures of the texts that a training set teaches (of a pair, the chosen text)."""

    rows: int
    questions: int
    words: float  # mean per row
    calculations: float  # mean per row of those that cotkit/equations/checker.py can check
    without: float  # share of rows without any calculation, from 0 to 1
    examples: list[Row]  # SHOWN_ROWS of its rows, evenly spaced


def read_questions(folder: Path) -> list[Question]:
    """The questions of one data set of a run, in the test set's order.

    Args:
        folder: <run>/predictions/<dataset>, scored.

    Raises:
        UserError: the test set of the predictions is gone, or a file does not fit it.
    """
    methods = sorted(
        (path.name.removesuffix(".scores.jsonl") for path in folder.glob("*.scores.jsonl")), key=method_order
    )
    if not methods:
        raise UserError(f"{folder}: holds no *.scores.jsonl; run score.py first")
    source = read_json(folder / f"{methods[0]}.summary.json{MANIFEST_ENDING}")["inputs"]["problems"]
    problems = read_problems(Path(source["path"]), source["rows"])
    kinds = {problem["id"]: kind_of(problem, problem["id"]) for problem in problems}
    outputs = {method: _outputs(folder, method, kinds) for method in methods}
    return [
        Question(
            *(problem[key] for key in ("id", "question", "answer", "solution")),
            {method: found.get(problem["id"], []) for method, found in outputs.items()},
        )
        for problem in problems
    ]


def _outputs(folder: Path, method: str, kinds: dict[str, AnswerKind]) -> dict[str, list[Output]]:
    """id -> samples of one method; scores and predictions are joined by (id, sample)."""
    rows = map(completed, read(folder / f"{method}.jsonl"))
    predictions = {(row["id"], row["sample"]): row for row in rows}
    missing = {"response": "", "finish_reason": "missing"}
    found: dict[str, list[Output]] = {}
    for score in read(folder / f"{method}.scores.jsonl"):
        prediction = predictions.get((score["id"], score["sample"]), missing)
        text = prediction["response"]
        end = extract(text, kinds[score["id"]]).end
        counts = (score[key] for key in ("verdict", "extracted", "words", "words_to_answer"))
        output = Output(*counts, prediction["finish_reason"], text[:end], text[end:])
        found.setdefault(score["id"], []).append(output)
    return found


def read_curves(run: Path) -> dict[str, Curve]:
    """method -> its losses, for every finished training of the run."""
    curves = {}
    for log in run.glob("train/*/trainer_log.jsonl"):
        manifest = log.parent.with_name(log.parent.name + MANIFEST_ENDING)
        # The log of a resumed training has some steps twice; its manifest has each step once.
        recorded = read_json(manifest).get("losses") if manifest.is_file() else None
        rows = recorded or [{"step": row["current_steps"], **row} for row in read(log)]
        losses = ([(row["step"], row[key]) for row in rows if key in row] for key in ("loss", "eval_loss"))
        curves[log.parent.name] = Curve(*losses)
    return dict(sorted(curves.items(), key=lambda item: method_order(item[0])))


def read_adapters(run: Path) -> dict[str, Row]:
    """Training -> the `ADAPTER_KEYS` of its adapter, as far as they are there; modules are sorted."""
    found = {}
    for path in sorted(run.glob("train/*/adapter_config.json")):
        config = read_json(path)
        values = {key: config[key] for key in ADAPTER_KEYS if config.get(key) is not None}
        found[path.parent.name] = {key: sorted(one) if isinstance(one, list) else one for key, one in values.items()}
    return found


def read_training_sets(run: Path) -> dict[str, TrainingSetTexts]:
    """name -> figures of its texts, in the order of dataset_info.json; {} if the run has no training sets.

    Sets in another form than the filter's are left out. Raises UserError for an empty or damaged one.
    """
    index, fields = run / "datasets/dataset_info.json", ((COLUMNS, "output"), (PAIR_COLUMNS, "chosen"))
    entries = read_json(index) if index.is_file() else {}
    return {
        name: _training_set(index.with_name(entry["file_name"]), field)
        for name, entry in entries.items()
        for columns, field in fields
        if entry.get("columns") == columns and "file_name" in entry
    }


def _training_set(path: Path, field: str) -> TrainingSetTexts:
    rows, questions, words, calculations = [], set(), [], []
    for number, row in read_numbered(path):
        if not (isinstance(row.get("instruction"), str) and isinstance(row.get(field), str)):
            raise UserError(f"{path}:{number}: no strings `instruction` and `{field}`; {REMAKE_SETS}")
        rows.append(row)
        questions.add(row["instruction"])
        words.append(len(row[field].split()))
        calculations.append(len(find_steps(row[field])))
    if not words:
        raise UserError(f"{path}: holds no rows; {REMAKE_SETS}")
    without = calculations.count(0) / len(words)
    examples = [rows[at * len(rows) // SHOWN_ROWS] for at in range(SHOWN_ROWS)] if len(rows) > SHOWN_ROWS else rows
    return TrainingSetTexts(len(rows), len(questions), fmean(words), fmean(calculations), without, examples)


def read_manifests(run: Path) -> dict[str, Row]:
    """Output's path within the run -> its manifest, in the order of completion; without the report's own.

    Training checkpoints and folders of other tools are not searched.
    """
    patterns = (f"{folder}*{MANIFEST_ENDING}" for folder in ("", "train/", "predictions/*/"))
    paths = [path for pattern in patterns for path in run.glob(pattern)]
    found = {path.relative_to(run).as_posix().removesuffix(MANIFEST_ENDING): read_json(path) for path in paths}
    by_time = sorted(found.items(), key=lambda item: (item[1]["written"], item[0]))
    return {name: manifest for name, manifest in by_time if manifest["stage"] != "report"}
