"""The teacher's rows as the filter reads them: one file a round, one after the other, checked on the way."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from cotkit.contamination import hash64
from cotkit.files import DataError
from cotkit.jsonl import Row, read_numbered, require
from cotkit.problems import PROBLEM_FIELDS
from cotkit.selection import Account

TEACHER_FIELDS = {
    **PROBLEM_FIELDS, "sample": int, "response": str, "finish_reason": str, "prompt_tokens": int, "completion_tokens": int,
}  # fmt: skip


@dataclass
class TeacherFiles:
    """Rows of several files, of all of them together at most `limit`; `sizes` are the rows last read of each."""

    paths: list[Path]
    limit: int | None = None
    sizes: list[int] = field(default_factory=list)

    def rows(self, problem_ids: Collection[int] | None = None) -> Iterator[Row]:
        """The checked rows in order. Raises DataError for a missing field or an id that no problem has."""
        for path, number, row in self._numbered():
            require(row, TEACHER_FIELDS, f"{path}:{number}")
            if problem_ids is not None and hash64(row["id"]) not in problem_ids:
                raise DataError(
                    f"{path}:{number}: no problem has the id {row['id']!r}; remove the row or give its problems"
                )
            yield row

    def _numbered(self) -> Iterator[tuple[Path, int, Row]]:
        """(file, line, row)."""
        return islice(self._all(), self.limit)

    def _all(self) -> Iterator[tuple[Path, int, Row]]:
        self.sizes = [0] * len(self.paths)
        for at, path in enumerate(self.paths):
            for number, row in read_numbered(path):
                self.sizes[at] += 1
                yield path, number, row

    def refuse_repeated(self, account: Account) -> None:
        """Raises DataError naming both places where two rows have one (id, sample)."""
        if (positions := account.repeated()) is None:
            return
        first, second = (entry for at, entry in enumerate(self._numbered()) if at in positions)
        key = (second[2]["id"], second[2]["sample"])
        earlier = f"line {first[1]}" if first[0] == second[0] else f"{first[0]}:{first[1]}"
        raise DataError(f"{second[0]}:{second[1]}: {key} stands already in {earlier}; remove one of the two")
