"""A table as data, for Markdown files and the report's page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Table:
    """A table whose cells are shown as they are. The first column names the row.

    Attributes:
        explanations: column -> one sentence on what it holds.
        links: (row, column), from 0 -> the address that this cell links to on the page; Markdown has no links.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    explanations: Mapping[str, str] = field(default_factory=dict)
    links: Mapping[tuple[int, int], str] = field(default_factory=dict)

    def lines(self) -> Iterator[str]:
        """The lines of a Markdown table. Columns after the first are aligned to the right."""
        for row in (self.header, ["---", *["---:"] * (len(self.header) - 1)], *self.rows):
            yield "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |"
