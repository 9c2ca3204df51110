"""Training sets as LLaMA-Factory 0.9.5 reads them, with their ``dataset_info.json``, and how they are declared.

A set is declared in one line, ``NAME = SOURCE [SELECTION] [CAP] [+ SOURCE ...]``, or by a name of `BUILT_IN` alone:

    distilled = kept first              the first kept sample of each question
    rejection_sampled = kept distinct 4 up to four kept samples with different equations
    distilled_whole = whole first       of those that leave no result of the data set's own solution out
    mixed = gold + kept first           the data set's own solution and the teacher's
    teacher_raw = teacher first         untouched responses, kept or not, to measure the filter itself
    preference = pairs                  shortest kept sample against one with a wrong answer or a false calculation
                                        and of like length, for DPO

Rows hold exactly their strings. LLaMA-Factory drops a row with a field of another kind with no more than a warning, and
giving `columns` resets every column that is not named, so all are named.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cotkit.files import AtomicWriter, DataError
from cotkit.jsonl import Row, dumps, write_json_atomic
from cotkit.selection import SELECTIONS

COLUMNS = {"system": "system", "prompt": "instruction", "query": "input", "response": "output"}
PAIR_COLUMNS = {"system": "system", "prompt": "instruction", "query": "input", "chosen": "chosen", "rejected": "rejected"}

BUILT_IN = {
    "gold": "gold",
    "teacher_raw": "teacher first",
    "distilled": "kept",
    "rejection_sampled": "kept distinct 4",
    "mixed": "gold + kept",
    "preference": "pairs",
}
SOURCES = ("gold", "teacher", "kept", "whole", "pairs")
# Every preset trains on it; without it the filter let nothing pass.
NEEDED = "distilled"

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Part:
    """Rows of one source; None leaves the choice to the stage's own `select` and `max_per_question`."""

    source: str
    select: str | None = None
    cap: int | None = None


@dataclass(frozen=True)
class TrainingSet:
    """A declared set: its rows are those of its parts, one after the other."""

    name: str
    parts: tuple[Part, ...]

    def __str__(self) -> str:
        parts = ((part.source, part.select, part.cap) for part in self.parts)
        return f"{self.name} = " + " + ".join(" ".join(str(word) for word in part if word is not None) for part in parts)

    @property
    def ranking(self) -> bool:
        return self.parts[0].source == "pairs"


def parse_set(text: str) -> TrainingSet:
    """An argparse type: one declared set; see the module's text. Raises ValueError saying what is wrong."""
    name, _, definition = (piece.strip() for piece in text.partition("="))
    if not _NAME.fullmatch(name) or name.endswith("_dev"):
        raise ValueError(f"a set's name is made of letters, digits and _ and does not end in _dev, found {name!r}")
    if not definition and name not in BUILT_IN:
        raise ValueError(f"{name!r} is no set that is known by its name ({', '.join(BUILT_IN)}); write {name} = SOURCE ...")
    parts = tuple(_parse_part(piece) for piece in (definition or BUILT_IN[name]).split("+"))
    if len(parts) > 1 and any(part.source == "pairs" for part in parts):
        raise ValueError("pairs cannot be mixed with rows of another kind")
    return TrainingSet(name, parts)


def _parse_part(text: str) -> Part:
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
    return Part(source, select, int(cap) if cap else None)


def parse_sets(texts: Iterable[TrainingSet]) -> dict[str, TrainingSet]:
    """The sets by name. Raises DataError for a name that stands twice."""
    sets: dict[str, TrainingSet] = {}
    for declared in texts:
        if declared.name in sets:
            raise DataError(f"sets: {declared.name!r} stands twice; give one of them another name")
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
                raise DataError(f"training set {name}, row {number}: exactly the strings {', '.join(fields)} are allowed")
            writer.write(dumps(row))
            number += 1
        if number == 0 and name == NEEDED:
            raise DataError(f"training set {name}: no rows are left; look at the filter's report and loosen its rules")
    if number == 0:
        path.unlink()  # LLaMA-Factory cannot load an empty file
    return number


def write_dataset_info(folder: Path, ranking: Mapping[str, bool]) -> Path:
    """Writes the index by which LLaMA-Factory finds the sets (name -> whether it holds pairs); returns its path."""
    path = folder / "dataset_info.json"
    entries = {
        name: {"file_name": f"{name}.jsonl", **({"ranking": True, "columns": PAIR_COLUMNS} if pairs else {"columns": COLUMNS})}
        for name, pairs in ranking.items()
    }
    write_json_atomic(path, entries)
    return path
