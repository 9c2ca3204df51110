"""Training sets as LLaMA-Factory 0.9.5 reads them, with their ``dataset_info.json``, and how they are declared.

A set is declared in one line, ``NAME = SOURCE [SELECTION] [CAP] [+ SOURCE ...]``, or by a name of `BUILT_IN` alone:

    distilled = kept first              the first kept sample of each question
    rejection_sampled = kept distinct 4 up to four kept samples with different equations
    complete = complete first       of those that leave no result of the data set's own solution out
    mixed = gold + kept first           the data set's own solution and the teacher's
    teacher_raw = teacher first         untouched responses, kept or not, to measure the filter itself
    preference = pairs                  shortest kept sample against one with a wrong answer or a false calculation
                                        and of like length, for DPO

Rows hold exactly their strings. LLaMA-Factory drops a row with a field of another kind with no more than a warning, and
giving `columns` resets every column that is not named, so all are named.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from cotkit.core.errors import UserError
from cotkit.core.files import AtomicWriter
from cotkit.core.jsonl import Row, dumps, read_chosen, write_json_atomic
from cotkit.core.problems import TRUNCATED
from cotkit.equations.checker import find_steps
from cotkit.filtering.selection import SELECTIONS, Account
from cotkit.filtering.target import reasoning
from cotkit.filtering.teacher_rows import TeacherFiles
from cotkit.generation import prompts
from cotkit.grading.grader import Grade, extract

if TYPE_CHECKING:
    from cotkit.filtering.selection import Mask


COLUMNS = {"system": "system", "prompt": "instruction", "query": "input", "response": "output"}
PAIR_COLUMNS = {
    "system": "system",
    "prompt": "instruction",
    "query": "input",
    "chosen": "chosen",
    "rejected": "rejected",
}

BUILT_IN = {
    "gold": "gold",
    "teacher_raw": "teacher first",
    "distilled": "kept",
    "rejection_sampled": "kept distinct 4",
    "mixed": "gold + kept",
    "preference": "pairs",
}
SOURCES = ("gold", "teacher", "kept", "complete", "pairs")
# Every preset trains on it; without it the filter let nothing pass.
NEEDED = "distilled"

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


@dataclass(frozen=True)
class SetPart:
    """Rows of one source; None leaves the choice to the stage's own `select` and `max_per_question`."""

    source: str
    select: str | None = None
    cap: int | None = None


@dataclass(frozen=True)
class TrainingSet:
    """A declared set: its rows are those of its parts, one after the other."""

    name: str
    parts: tuple[SetPart, ...]

    def __str__(self) -> str:
        parts = ((part.source, part.select, part.cap) for part in self.parts)
        return f"{self.name} = " + " + ".join(
            " ".join(str(word) for word in part if word is not None) for part in parts
        )

    @property
    def ranking(self) -> bool:
        return self.parts[0].source == "pairs"


def parse_set(text: str) -> TrainingSet:
    """An argparse type: one declared set; see the module's text. Raises ValueError saying what is wrong."""
    name, _, definition = (piece.strip() for piece in text.partition("="))
    if not _NAME.fullmatch(name) or name.endswith("_dev"):
        raise ValueError(f"a set's name is made of letters, digits and _ and does not end in _dev, found {name!r}")
    if not definition and name not in BUILT_IN:
        raise ValueError(
            f"{name!r} is no set that is known by its name ({', '.join(BUILT_IN)}); write {name} = SOURCE ..."
        )
    parts = tuple(_parse_part(piece) for piece in (definition or BUILT_IN[name]).split("+"))
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
    if source in ("gold", "pairs") and (select or cap):
        raise ValueError(f"{source} has one row a question, nothing to select")
    return SetPart(source, select, int(cap) if cap else None)


def parse_sets(texts: Iterable[TrainingSet]) -> dict[str, TrainingSet]:
    """The sets by name. Raises UserError for a name that stands twice."""
    sets: dict[str, TrainingSet] = {}
    for declared in texts:
        if declared.name in sets:
            raise UserError(f"sets: {declared.name!r} stands twice; give one of them another name")
        sets[declared.name] = declared
    return sets


def write_training_set(folder: Path, name: str, rows: Iterable[Row], ranking: bool = False) -> int:
    """Writes ``<folder>/<name>.jsonl``; returns the number of rows, and leaves no file where that is 0."""
    path = folder / f"{name}.jsonl"
    fields = tuple((PAIR_COLUMNS if ranking else COLUMNS).values())
    number = 0
    with AtomicWriter(path) as writer:
        for row in rows:
            if tuple(row) != fields or not all(isinstance(value, str) for value in row.values()):
                raise UserError(
                    f"training set {name}, row {number}: exactly the strings {', '.join(fields)} are allowed"
                )
            writer.write(dumps(row))
            number += 1
        if number == 0 and name == NEEDED:
            raise UserError(f"training set {name}: no rows are left; look at the filter's report and loosen its rules")
    if number == 0:
        path.unlink()  # LLaMA-Factory cannot load an empty file
    return number


def write_dataset_info(folder: Path, ranking: Mapping[str, bool]) -> Path:
    """Writes the index by which LLaMA-Factory finds the sets (name -> whether it holds pairs); returns its path."""
    path = folder / "dataset_info.json"
    entries = {
        name: {
            "file_name": f"{name}.jsonl",
            **({"ranking": True, "columns": PAIR_COLUMNS} if pairs else {"columns": COLUMNS}),
        }
        for name, pairs in ranking.items()
    }
    write_json_atomic(path, entries)
    return path


# What a teacher adds to a problem; see teacher_cot.py.
TEACHER_ONLY = frozenset(
    {"sample", "response", "thinking", "finish_reason", "prompt_tokens", "completion_tokens", "model", "error", "retry"}
)


@dataclass(frozen=True)
class FilterRun:
    """The files of a filter run and its account of their rows."""

    teacher: TeacherFiles
    kept: Path
    account: Account
    select: str = "first"
    cap: int | None = None

    def rows(self, declared: TrainingSet) -> Iterator[Row]:
        """The training rows of a declared set."""
        return self._pairs() if declared.ranking else chain.from_iterable(map(self._part, declared.parts))

    def _part(self, part: SetPart) -> Iterator[Row]:
        if part.source == "gold":
            return gold_rows(self.teacher.chosen(self.account.first()))
        select, cap = part.select or self.select, part.cap or (self.cap if part.select is None else None)
        if part.source == "teacher":
            raw = self.teacher.chosen(self.account.choose(self.account.raw(), select, cap))
            return (prompts.training_row(row["question"], row["response"].strip()) for row in raw)
        kept = self.account.kept()
        among = self.account.complete() if part.source == "complete" else kept
        chosen = read_chosen(self.kept, self.account.choose(among, select, cap)[kept])
        return (prompts.training_row(row["question"], row["target"]) for row in chosen)

    def _pairs(self) -> Iterator[Row]:
        """Preference rows; a half waits for its other half, which a teacher writes close by."""
        chosen, rejected = self.account.pairs()
        kept = self.account.kept()
        targets = read_chosen(self.kept, chosen[kept])
        halves: dict[str, dict[str, str | None]] = {}
        either = chosen | rejected
        for row, good in zip(self.teacher.chosen(either), chosen[either], strict=True):
            half = halves.setdefault(row["id"], {})
            half["chosen" if good else "rejected"] = next(targets)["target"] if good else wrong_target(row)
            if len(half) == 2 and half["rejected"] is not None:
                del halves[row["id"]]
                prompt = prompts.training_row(row["question"], "")
                del prompt["output"]
                yield {**prompt, "chosen": half["chosen"], "rejected": half["rejected"]}


def retry_rows(teacher: TeacherFiles, again: Mask, reasons: Sequence[str]) -> Iterator[Row]:
    """The problems for another round, each with the reason in `retry`; one truncated earlier keeps its larger budget.

    `again` and `reasons` are `Account.again`'s.
    """
    for row, reason in zip(teacher.chosen(again), reasons, strict=True):
        problem = {name: value for name, value in row.items() if name not in TEACHER_ONLY}
        yield {**problem, "retry": TRUNCATED if row.get("retry") == TRUNCATED else reason}


def wrong_target(row: Row) -> str | None:
    """A wrong response in the form of a target: its reasoning and its own answer on one last line.

    None if what was wrong stood in a calculator mark only, which a target does without.
    """
    found = extract(row["response"], row["dataset"])
    text = reasoning(row, Grade(row["id"], "wrong", found.answer, found.how, "", found.end))
    target = prompts.target(text, found.answer or "")
    wrong = found.answer != row["answer"] or any(not step.holds for step in find_steps(target))
    return target if wrong else None


def gold_rows(problems: Iterable[Row]) -> Iterator[Row]:
    """One training row a problem that has a solution: the data set's own reasoning."""
    for row in problems:
        if row["solution"].strip():
            yield prompts.training_row(row["question"], prompts.target(row["solution"], row["answer"]))
