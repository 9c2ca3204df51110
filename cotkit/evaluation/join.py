"""Joins problems and predictions by (id, sample). Files may be in any order; neither is held in memory."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from cotkit.core.errors import UserError
from cotkit.core.files import open_input
from cotkit.core.finish_reasons import is_failed
from cotkit.core.jsonl import Row, loads, read, read_json, read_numbered, require
from cotkit.core.line_index import LineIndex
from cotkit.core.manifest import path_for
from cotkit.core.problems import as_problem, checked_problems, repeated_id
from cotkit.generation.shards import show

# What a prediction needs, and what it may leave out. Predictions of other programs often have only an id and a text.
REQUIRED = {"id": str, "response": str}
OPTIONAL = {"sample": int, "dataset": str, "finish_reason": str}
LEFT_OUT: Row = {"sample": 0, "finish_reason": "unknown", "completion_tokens": None}
MISSING: Row = {"response": "", "finish_reason": "missing", "completion_tokens": 0}


def completed(prediction: Row) -> Row:
    """The prediction with the values that apply where it leaves a field out."""
    return {**LEFT_OUT, **prediction}


class Problems:
    """The problems of a file. Every iteration reads the file again.

    Checks all rows when it is created and raises UserError as `read_problems` does.
    """

    def __init__(self, path: Path, limit: int | None) -> None:
        self.path, self._limit = path, limit
        self._ids = LineIndex()
        for number, row in islice(checked_problems(path), limit):
            self._ids.add(row["id"], number)
        if lines := self._ids.repeated():
            raise repeated_id(path, *lines, self._id_in(lines[1]))
        if not len(self):
            raise UserError(f"{path}: holds no problems; make it with scripts/prepare_data.py")

    def _id_in(self, line: int) -> str:
        return next(str(as_problem(row)["id"]) for number, row in read_numbered(self.path) if number == line)

    def __len__(self) -> int:
        return len(self._ids)

    def __iter__(self) -> Iterator[Row]:
        return islice(map(as_problem, read(self.path)), self._limit)

    def __contains__(self, problem_id: str) -> bool:
        return problem_id in self._ids


class Predictions:
    """The predictions of a file, read one by one through an index of byte offsets by (id, sample).

    Raises UserError for another data set, an unknown id or a repeated key, with file and line.
    """

    def __init__(self, path: Path, dataset: str, problems: Problems) -> None:
        self.path = path
        self.failed: list[str] = []  # requests that the engine gave up; their empty text is no answer of the model
        self._line_of = LineIndex()
        samples: set[int] = set()
        for number, row in read_numbered(path):
            where = f"{path}:{number}"
            require(row, REQUIRED | {name: kind for name, kind in OPTIONAL.items() if name in row}, where)
            row = completed(row)
            key = (row["id"], row["sample"])
            if row.get("dataset", dataset) != dataset:
                raise UserError(f"{where}: a prediction on {row['dataset']}, but --dataset is {dataset}")
            if row["id"] not in problems:
                known = f"is not among the {len(problems)} problems of {problems.path}"
                raise UserError(f"{where}: id {row['id']!r} {known}; are --split and --limit those of the predictions?")
            self._line_of.add(key, number)
            samples.add(row["sample"])
            if is_failed(row["finish_reason"]):
                self.failed.append(row["id"])
        if lines := self._line_of.repeated():
            key = next((row["id"], row.get("sample", 0)) for number, row in read_numbered(path) if number == lines[1])
            raise UserError(f"{path}:{lines[1]}: {show(key)} is already in line {lines[0]}; remove one of the two")
        if not samples:
            raise UserError(f"{path}: holds no predictions; run infer_parallel.py first")
        self.samples = sorted(samples)
        self._file = open_input(path)
        self._starts = array("Q", [0])
        for line in self._file:
            self._starts.append(self._starts[-1] + len(line))

    def get(self, problem_id: str, sample: int) -> Row:
        """The prediction, or an empty one with the finish reason `missing`."""
        number = self._line_of.get((problem_id, sample))
        if number is None:
            return {**MISSING, "id": problem_id, "sample": sample}
        self._file.seek(self._starts[number - 1])
        return completed(loads(self._file.readline().removeprefix(b"\xef\xbb\xbf"), f"{self.path}:{number}"))

    def pairs(self, problems: Iterator[Row] | Problems) -> Iterator[tuple[Row, Row]]:
        """Yields (problem, prediction) in the problems' order, for every sample number that any problem has."""
        for problem in problems:
            for sample in self.samples:
                yield problem, self.get(problem["id"], sample)


def number_of_problems(predictions: Path) -> int | None:
    """The number of problems that the predictions were made for, by their manifest; None without a manifest."""
    manifest = path_for(predictions)
    return read_json(manifest)["inputs"]["problems"]["rows"] if manifest.is_file() else None
