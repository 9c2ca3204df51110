"""The teacher's rows as the filter reads them: one file a round, one after the other, checked on the way."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import compress, islice
from pathlib import Path

from cotkit.core.errors import UserError
from cotkit.core.jsonl import Row, loads, read_lines, require
from cotkit.core.problems import PROBLEM_FIELDS
from cotkit.filtering.selection import Account

TEACHER_FIELDS = {
    **PROBLEM_FIELDS,
    "sample": int,
    "response": str,
    "finish_reason": str,
    "prompt_tokens": int,
    "completion_tokens": int,
}
COUNTS = ("prompt_tokens", "completion_tokens")


@dataclass
class TeacherFiles:
    """Rows of several files, of all of them together at most `limit`; `sizes` are the rows last read of each."""

    paths: list[Path]
    limit: int | None = None
    sizes: list[int] = field(default_factory=list)

    def rows(self, problem_ids: Container[str] | None = None) -> Iterator[Row]:
        """The checked rows in order. Raises UserError for a missing field or an id that no problem has."""
        for path, number, line in self._lines():
            row = loads(line, f"{path}:{number}")
            require(row, TEACHER_FIELDS, f"{path}:{number}")
            for name in COUNTS:
                if not 0 <= row[name] < 2**32:  # what the filter's account keeps of a row has 32 bits
                    raise UserError(f"{path}:{number}: {name} {row[name]} is no number of tokens; remove the row")
            if problem_ids is not None and row["id"] not in problem_ids:
                raise UserError(
                    f"{path}:{number}: no problem has the id {row['id']!r}; remove the row or give its problems"
                )
            yield row

    def chosen(self, mask: Iterable[bool]) -> Iterator[Row]:
        """The rows at the true places of `mask`; the others are not even parsed."""
        for path, number, line in compress(self._lines(), mask):
            yield loads(line, f"{path}:{number}")

    def _lines(self) -> Iterator[tuple[Path, int, bytes]]:
        """(file, line number, line) of at most `limit` rows."""
        return islice(self._all(), self.limit)

    def _all(self) -> Iterator[tuple[Path, int, bytes]]:
        self.sizes = [0] * len(self.paths)
        for at, path in enumerate(self.paths):
            for number, line in read_lines(path):
                self.sizes[at] += 1
                yield path, number, line

    def refuse_repeated(self, account: Account) -> None:
        """Raises UserError naming both places where two rows have one (id, sample)."""
        if (positions := account.repeated()) is None:
            return
        first, second = (entry for at, entry in enumerate(self._lines()) if at in positions)
        where = f"{second[0]}:{second[1]}"
        row = loads(second[2], where)
        earlier = f"line {first[1]}" if first[0] == second[0] else f"{first[0]}:{first[1]}"
        raise UserError(f"{where}: {(row['id'], row['sample'])} stands already in {earlier}; remove one of the two")
