"""Reads the teacher's rows: one file per round, one after the other, each row checked."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import compress, islice
from pathlib import Path

from cotkit.core.datasets import kind_of
from cotkit.core.errors import UserError
from cotkit.core.jsonl import Row, loads, read_lines, require
from cotkit.core.problems import PROBLEM_FIELDS

COUNTS = {"prompt_tokens": int, "completion_tokens": int}
TEACHER_FIELDS = {**PROBLEM_FIELDS, "sample": int, "response": str, "finish_reason": str, **COUNTS}
# What a teacher adds to a problem; see teacher_cot.py.
TEACHER_ADDS = TEACHER_FIELDS.keys() - PROBLEM_FIELDS.keys() | {"thinking", "model", "error"}


@dataclass
class TeacherFiles:
    """The first `limit` rows of several files. `sizes` counts the rows of each file that the latest pass has read."""

    paths: tuple[Path, ...]
    limit: int | None = None
    sizes: list[int] = field(default_factory=list)

    def rows(self, problem_ids: Container[str] | None = None) -> Iterator[Row]:
        """The rows in order. Raises UserError for a missing field, an unknown data set, or an id that is not in `problem_ids`."""
        for path, number, line in self._lines():
            where = f"{path}:{number}"
            row = loads(line, where)
            require(row, TEACHER_FIELDS, where)
            kind_of(row, where)
            for name in COUNTS:
                if not 0 <= row[name] < 2**32:  # the tally has 32 bits for it
                    raise UserError(f"{where}: {name} {row[name]} is no number of tokens; remove the row")
            if problem_ids is not None and row["id"] not in problem_ids:
                raise UserError(f"{where}: no problem has the id {row['id']!r}; remove the row or give its problems")
            yield row

    def chosen(self, mask: Iterable[bool]) -> Iterator[Row]:
        """The rows for which `mask` is true. The others are not parsed."""
        for path, number, line in compress(self._lines(), mask):
            yield loads(line, f"{path}:{number}")

    def _lines(self) -> Iterator[tuple[Path, int, bytes]]:
        """(file, line number, line) of at most `limit` rows."""
        return islice(self._all_lines(), self.limit)

    def _all_lines(self) -> Iterator[tuple[Path, int, bytes]]:
        self.sizes = [0] * len(self.paths)
        for at, path in enumerate(self.paths):
            for number, line in read_lines(path):
                self.sizes[at] += 1
                yield path, number, line

    def refuse_repeated(self, positions: tuple[int, int] | None) -> None:
        """Raises UserError naming both lines if there are two rows with the same (id, sample), at these positions."""
        if positions is None:
            return
        first, second = (line for at, line in enumerate(self._lines()) if at in positions)
        where = f"{second[0]}:{second[1]}"
        row = loads(second[2], where)
        earlier = f"line {first[1]}" if first[0] == second[0] else f"{first[0]}:{first[1]}"
        raise UserError(f"{where}: {(row['id'], row['sample'])} is already in {earlier}; remove one of the two")
