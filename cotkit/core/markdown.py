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
        figures: whether the columns after the first hold figures, which Markdown aligns to the right.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    explanations: Mapping[str, str] = field(default_factory=dict)
    links: Mapping[tuple[int, int], str] = field(default_factory=dict)
    figures: bool = True

    def lines(self) -> Iterator[str]:
        """The lines of a Markdown table."""
        alignment = ["---", *["---:" if self.figures else "---"] * (len(self.header) - 1)]
        for row in (self.header, alignment, *self.rows):
            yield "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |"
