"""A table as data, for Markdown and for the report's page alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """Cells are shown as they are; the first column names the row."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def lines(self) -> Iterator[str]:
        """The lines of a Markdown table; columns after the first are set to the right."""
        for row in (self.header, ["---", *["---:"] * (len(self.header) - 1)], *self.rows):
            yield "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |"
