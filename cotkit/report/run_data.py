"""What a run's folder holds, gathered for its report: questions with every method's output, training curves, manifests."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from cotkit.core.errors import UserError
from cotkit.core.jsonl import Row, read, read_json, read_numbered
from cotkit.core.problems import read_problems
from cotkit.equations.checker import find_steps
from cotkit.evaluation.comparison import method_order
from cotkit.filtering.training_sets import COLUMNS, PAIR_COLUMNS
from cotkit.grading.grader import extract

MANIFEST_ENDING = ".manifest.json"
MAKE_SETS_ANEW = "filter_teacher_cot.py --overwrite writes the training sets anew"


@dataclass(frozen=True)
class Output:
    """One sample of one method; `before` ends with the answer that was graded, `after` is what it wrote beyond that."""

    verdict: str
    extracted: str | None
    words: int
    words_to_answer: int
    finish_reason: str
    before: str
    after: str


@dataclass(frozen=True)
class Question:
    """A test question with the outputs of all methods: outputs[method] are its samples in order."""

    id: str
    question: str
    solution: str
    answer: str
    outputs: dict[str, list[Output]]


@dataclass(frozen=True)
class Curve:
    """A method's losses: (step, loss) as LLaMA-Factory logged them."""

    train: list[tuple[int, float]]
    evaluation: list[tuple[int, float]]


@dataclass(frozen=True)
class SetContents:
    """What a set teaches (of a pair the chosen text): means of words and of calculations that can be checked (see
    cotkit/equations/checker.py), and the share of texts without any, from 0 to 1."""

    rows: int
    questions: int
    words: float
    calculations: float
    without: float


def read_questions(folder: Path) -> list[Question]:
    """The questions of one data set of a run, in the test set's order.

    Args:
        folder: <run>/predictions/<dataset>, scored.

    Raises:
        UserError: the test set that the predictions were made from is not there any more, or a file does not fit it.
    """
    methods = sorted(
        (path.name.removesuffix(".scores.jsonl") for path in folder.glob("*.scores.jsonl")), key=method_order
    )
    if not methods:
        raise UserError(f"{folder}: holds no *.scores.jsonl; run score.py first")
    source = read_json(folder / f"{methods[0]}.jsonl{MANIFEST_ENDING}")["inputs"]["problems"]
    problems = read_problems(Path(source["path"]), source["rows"])
    by_method = {method: _outputs(folder, method) for method in methods}
    return [
        Question(
            problem["id"],
            problem["question"],
            problem["solution"],
            problem["answer"],
            {method: outputs.get(problem["id"], []) for method, outputs in by_method.items()},
        )
        for problem in problems
    ]


def _outputs(folder: Path, method: str) -> dict[str, list[Output]]:
    """id -> samples of one method; scores and predictions are joined by (id, sample)."""
    texts = {(row["id"], row["sample"]): row for row in read(folder / f"{method}.jsonl")}
    found: dict[str, list[Output]] = {}
    for score in read(folder / f"{method}.scores.jsonl"):
        prediction = texts.get((score["id"], score["sample"]))  # none: a missing prediction, which counts as wrong
        text = prediction["response"] if prediction else ""
        end = extract(text, folder.name).end
        output = Output(
            score["verdict"],
            score["extracted"],
            score["words"],
            score["words_to_answer"],
            prediction["finish_reason"] if prediction else "missing",
            text[:end],
            text[end:],
        )
        found.setdefault(score["id"], []).append(output)
    return found


def read_curves(run: Path) -> dict[str, Curve]:
    """method -> its losses, for every finished training of the run."""
    curves = {}
    for log in run.glob("train/*/trainer_log.jsonl"):
        manifest = log.parent.with_name(log.parent.name + MANIFEST_ENDING)
        # The log of a resumed training holds some steps twice, its manifest each once.
        whole = read_json(manifest).get("losses") if manifest.is_file() else None
        rows = whole or [{"step": row["current_steps"], **row} for row in read(log)]
        curves[log.parent.name] = Curve(
            [(row["step"], row["loss"]) for row in rows if "loss" in row],
            [(row["step"], row["eval_loss"]) for row in rows if "eval_loss" in row],
        )
    return dict(sorted(curves.items(), key=lambda item: method_order(item[0])))


def read_training_sets(run: Path) -> dict[str, SetContents]:
    """name -> what the set is made of, in the order of dataset_info.json; none where the run has no training sets.

    Sets that somebody added in another form than the filter's are left out. Raises UserError for an empty or damaged one.
    """
    index, fields = run / "datasets/dataset_info.json", ((COLUMNS, "output"), (PAIR_COLUMNS, "chosen"))
    entries = read_json(index) if index.is_file() else {}
    return {
        name: _training_set(index.with_name(entry["file_name"]), field)
        for name, entry in entries.items()
        for columns, field in fields
        if entry.get("columns") == columns and "file_name" in entry
    }


def _training_set(path: Path, field: str) -> SetContents:
    questions, words, calculations = set(), [], []
    for number, row in read_numbered(path):
        if not (isinstance(row.get("instruction"), str) and isinstance(row.get(field), str)):
            raise UserError(f"{path}:{number}: no strings `instruction` and `{field}`; {MAKE_SETS_ANEW}")
        questions.add(row["instruction"])
        words.append(len(row[field].split()))
        calculations.append(len(find_steps(row[field])))
    if not words:
        raise UserError(f"{path}: holds no rows; {MAKE_SETS_ANEW}")
    return SetContents(
        len(words), len(questions), fmean(words), fmean(calculations), calculations.count(0) / len(words)
    )


def read_manifests(run: Path) -> dict[str, Row]:
    """Path of the output within the run -> its manifest, in the order in which the outputs were finished; the report's own is left out."""
    found = {}
    for path in _manifest_paths(run):
        output = path.with_name(path.name.removesuffix(MANIFEST_ENDING))
        manifest = read_json(path)
        if manifest["stage"] != "report":
            found[output.relative_to(run).as_posix()] = manifest
    return dict(sorted(found.items(), key=lambda item: (item[1]["written"], item[0])))


def _manifest_paths(run: Path) -> Iterator[Path]:
    """Beside the stages' outputs; training checkpoints and folders of other tools are not searched."""
    for pattern in ("*", "train/*", "predictions/*/*"):
        yield from run.glob(f"{pattern}{MANIFEST_ENDING}")
