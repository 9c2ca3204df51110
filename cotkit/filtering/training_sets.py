"""Training sets as LLaMA-Factory 0.9.5 reads them, with their ``dataset_info.json``, and how they are declared.

A set is declared in one line, ``NAME = SOURCE [SELECTION] [CAP] [+ SOURCE ...]``, or by a name of `BUILT_IN` alone:

    distilled = kept first              the first kept sample of each question
    rejection_sampled = kept distinct 4 up to four kept samples with different equations
    complete = complete first           the first kept sample that calculates every result of the data set's solution
    aligned = complete aligned          of those samples the one that suits the student best (alignment.py)
    mixed = gold + kept first           the data set's own solution and the teacher's
    gold_split = gold_split             the data set's own solution, rewritten to one operation at a time (split_steps.py)
    teacher_raw = teacher first         untouched responses, kept or not, to measure the filter itself
    preference = pairs                  for DPO: the shortest kept sample, and one of similar length with a wrong answer
                                        or a false equation

Rows hold exactly the named strings: LLaMA-Factory drops a row with a field of another type and only warns. All columns
are named, since giving `columns` resets every column that is not named.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from cotkit.core.datasets import kind_of
from cotkit.core.errors import UserError
from cotkit.core.files import open_atomic
from cotkit.core.jsonl import Row, dumps, read_chosen, write_json_atomic
from cotkit.core.problems import TRUNCATED
from cotkit.equations.checker import wrong_steps
from cotkit.equations.split_steps import split_steps
from cotkit.filtering.target import reasoning
from cotkit.filtering.teacher_rows import TEACHER_ADDS, TeacherFiles
from cotkit.generation import prompts
from cotkit.grading.extraction import extract

if TYPE_CHECKING:
    from cotkit.filtering.selection import Selection

COLUMNS = {"system": "system", "prompt": "instruction", "query": "input", "response": "output"}
PAIR_COLUMNS = {name: COLUMNS[name] for name in ("system", "prompt", "query")} | {
    "chosen": "chosen",
    "rejected": "rejected",
}
BUILT_IN = {
    "gold": "gold",
    "gold_split": "gold_split",
    "teacher_raw": "teacher first",
    "distilled": "kept",
    "rejection_sampled": "kept distinct 4",
    "mixed": "gold + kept",
    "preference": "pairs",
}
GOLD = ("gold", "gold_split")  # sources that need no teacher
SOURCES = (*GOLD, "teacher", "kept", "complete", "pairs")
SELECTIONS = ("first", "shortest", "all", "distinct", "aligned")
ALIGNED = "aligned"
GOLD_DEV = "gold_dev"  # held-out problems with their own solutions, for the loss during training
NEEDED = "distilled"  # every preset trains on it; if it is empty, the filter kept nothing

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


@dataclass(frozen=True)
class SetPart:
    """Rows of one source. None leaves the choice to the stage's `select` and `max_per_question`."""

    source: str
    select: str | None = None
    cap: int | None = None


@dataclass(frozen=True)
class TrainingSet:
    """A declared set: the rows of its parts, one part after the other."""

    name: str
    parts: tuple[SetPart, ...]

    def __str__(self) -> str:
        parts = ([part.source, part.select, part.cap] for part in self.parts)
        texts = (" ".join(str(word) for word in words if word is not None) for words in parts)
        return f"{self.name} = " + " + ".join(texts)

    def aligned(self, select: str) -> list[SetPart]:
        """The parts whose rows are chosen for the student, where `select` is the stage's own selection."""
        return [
            part for part in self.parts if part.source in ("kept", "complete") and (part.select or select) == ALIGNED
        ]

    @property
    def ranking(self) -> bool:
        """Whether its rows are preference pairs."""
        return self.parts[0].source == "pairs"


def parse_set(text: str) -> TrainingSet:
    """An argparse type for one declared set; see the module's docstring. Raises ValueError saying what is wrong."""
    name, _, definition = (piece.strip() for piece in text.partition("="))
    if not _NAME.fullmatch(name) or name.endswith("_dev"):
        raise ValueError(f"a set's name is made of letters, digits and _ and does not end in _dev, found {name!r}")
    if not definition and name not in BUILT_IN:
        raise ValueError(f"{name!r} is not a built-in set ({', '.join(BUILT_IN)}); write {name} = SOURCE ...")
    parts = tuple(map(_parse_part, (definition or BUILT_IN[name]).split("+")))
    if len(parts) > 1 and any(part.source == "pairs" for part in parts):
        raise ValueError("pairs cannot be mixed with rows of another kind")
    return TrainingSet(name, parts)


def _parse_part(text: str) -> SetPart:
    source, *rest = text.split() or [""]
    if source not in SOURCES:
        raise ValueError(f"source {source!r} is not one of {', '.join(SOURCES)}")
    select = rest.pop(0) if rest and not rest[0].isdigit() else None
    if select is not None and select not in SELECTIONS:
        raise ValueError(f"selection {select!r} is not one of {', '.join(SELECTIONS)}")
    cap = rest.pop(0) if rest else None
    if rest or (cap is not None and not (cap.isdigit() and int(cap) > 0)):
        raise ValueError(f"{text.strip()!r}: SOURCE [SELECTION] [CAP] is expected, the cap at least 1")
    if source in (*GOLD, "pairs") and (select or cap):
        raise ValueError(f"{source} has one row per question, so there is nothing to select")
    if source == "teacher" and select == ALIGNED:
        raise ValueError("aligned chooses among kept rows; write kept aligned or complete aligned")
    return SetPart(source, select, int(cap) if cap else None)


def parse_sets(declared: Iterable[TrainingSet]) -> dict[str, TrainingSet]:
    """The sets by name. Raises UserError for a repeated name."""
    sets: dict[str, TrainingSet] = {}
    for one in declared:
        if one.name in sets:
            raise UserError(f"sets: {one.name!r} is declared twice; give one of them another name")
        sets[one.name] = one
    return sets


def write_training_set(folder: Path, name: str, rows: Iterable[Row], ranking: bool = False) -> int:
    """Writes ``<folder>/<name>.jsonl`` and returns the number of rows; leaves no file if that is 0."""
    path = folder / f"{name}.jsonl"
    fields = tuple((PAIR_COLUMNS if ranking else COLUMNS).values())
    number = 0
    with open_atomic(path) as writer:
        for row in rows:
            if tuple(row) != fields or not all(isinstance(value, str) for value in row.values()):
                names = ", ".join(fields)
                raise UserError(f"training set {name}, row {number}: exactly the strings {names} are allowed")
            writer.write(dumps(row))
            number += 1
        if number == 0 and name == NEEDED:
            raise UserError(
                f"training set {name}: no rows are left; the counts above show which rule rejected them: loosen it, or skip it with --skip_rules RULE"
            )
    if number == 0:
        path.unlink()  # LLaMA-Factory cannot load an empty file
    return number


def write_dataset_info(folder: Path, ranking: Mapping[str, bool]) -> None:
    """Writes the index by which LLaMA-Factory finds the sets: name -> whether it holds pairs."""
    kinds = {True: {"ranking": True, "columns": PAIR_COLUMNS}, False: {"columns": COLUMNS}}
    entries = {name: {"file_name": f"{name}.jsonl", **kinds[pairs]} for name, pairs in ranking.items()}
    write_json_atomic(folder / "dataset_info.json", entries)


def alike(folder: Path, names: Iterable[str]) -> list[list[str]]:
    """Groups of written sets that hold the same rows, in any order."""
    paths = [folder / f"{name}.jsonl" for name in names]
    sizes = Counter(path.stat().st_size for path in paths)
    groups: dict[int, list[str]] = {}
    for path in paths:
        if sizes[path.stat().st_size] > 1:  # the others need not be read
            with path.open("rb") as rows:
                total = sum(int.from_bytes(hashlib.sha256(row).digest()) for row in rows)
            groups.setdefault(total, []).append(path.stem)
    return [group for group in groups.values() if len(group) > 1]


@dataclass(frozen=True)
class SetSources:
    """Where the rows of training sets come from: the teacher's files, the kept rows, and the selection over them."""

    teacher: TeacherFiles
    kept: Path
    selection: Selection
    select: str = "first"
    cap: int | None = None

    def rows(self, declared: TrainingSet) -> Iterator[Row]:
        """The training rows of a declared set."""
        return self._pairs() if declared.ranking else chain.from_iterable(map(self._part, declared.parts))

    def _part(self, part: SetPart) -> Iterator[Row]:
        selection = self.selection
        if part.source in GOLD:
            return gold_rows(self.teacher.chosen(selection.first), part.source == "gold_split")
        select, cap = part.select or self.select, part.cap or (self.cap if part.select is None else None)
        if part.source == "teacher":
            select = "first" if select == ALIGNED else select  # the stage's selection: only kept rows are measured
            raw = self.teacher.chosen(selection.choose(selection.raw_trainable, select, cap))
            return (prompts.training_row(row["question"], row["response"].strip()) for row in raw)
        among = selection.complete if part.source == "complete" else selection.kept
        chosen = read_chosen(self.kept, selection.choose(among, select, cap)[selection.kept])
        return (prompts.training_row(row["question"], row["target"]) for row in chosen)

    def _pairs(self) -> Iterator[Row]:
        """Preference rows. The first half of a pair waits for the second, which a teacher usually writes close by."""
        chosen, rejected = self.selection.pairs()
        targets = read_chosen(self.kept, chosen[self.selection.kept])
        halves: dict[str, dict[str, str | None]] = {}
        either = chosen | rejected
        for row, is_chosen in zip(self.teacher.chosen(either), chosen[either], strict=True):
            half = halves.setdefault(row["id"], {})
            half["chosen" if is_chosen else "rejected"] = next(targets)["target"] if is_chosen else wrong_target(row)
            if len(half) == 2 and half["rejected"] is not None:
                del halves[row["id"]]
                prompt = prompts.training_row(row["question"], "")
                del prompt["output"]
                yield {**prompt, "chosen": half["chosen"], "rejected": half["rejected"]}


def retry_rows(teacher: TeacherFiles, selection: Selection) -> Iterator[Row]:
    """The problems for another round of the teacher, each with the reason in `retry`.

    A problem that was truncated in an earlier round keeps that reason, and so its larger token limit.
    """
    added = TEACHER_ADDS | {"retry"}
    rows, reasons = selection.without_kept()
    for row, reason in zip(teacher.chosen(rows), reasons, strict=True):
        problem = {name: value for name, value in row.items() if name not in added}
        yield {**problem, "retry": TRUNCATED if row.get("retry") == TRUNCATED else reason}


def wrong_target(row: Row) -> str | None:
    """A wrong response in the form of a target: its reasoning, then its own answer on one last line.

    None if only a calculator mark was wrong, since a target has no marks.
    """
    found = extract(row["response"], kind_of(row, row["id"]))
    target = prompts.target(reasoning(row["response"], found), found.answer or "")
    return target if found.answer != row["answer"] or wrong_steps(target) else None


def gold_rows(problems: Iterable[Row], split: bool = False) -> Iterator[Row]:
    """The data set's own solution of each problem that has one, as a training row; `split`: one operation at a time."""
    for row in problems:
        if row["solution"].strip():
            solution = split_steps(row["solution"]) if split else row["solution"]
            yield prompts.training_row(row["question"], prompts.target(solution, row["answer"]))
