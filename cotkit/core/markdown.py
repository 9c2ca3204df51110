"""A table as data, for Markdown files and the report's page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """A table whose cells are shown as they are. The first column names the row."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def lines(self) -> Iterator[str]:
        """The lines of a Markdown table. Columns after the first are aligned to the right."""
        for row in (self.header, ["---", *["---:"] * (len(self.header) - 1)], *self.rows):
            yield "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |"
