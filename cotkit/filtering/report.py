"""The filter's report: counts that sum exactly, kept rows by difficulty and by round, examples of every reason."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cotkit.core.files import write_bytes_atomic
from cotkit.core.jsonl import Row
from cotkit.core.markdown import Table
from cotkit.filtering.rules import REASONS
from cotkit.filtering.tally import EXAMPLES, FilterTally
from cotkit.filtering.target import CHANGES

if TYPE_CHECKING:
    from cotkit.filtering.selection import Selection


def summarize(tally: FilterTally, selection: Selection, round_sizes: Sequence[int]) -> Row:
    """All counts but those of the training sets. Every row that was read is kept or has exactly one reason."""
    rounds = selection.rounds(round_sizes)
    return {
        "read": tally.counts.total(),
        "kept": tally.counts["kept"],
        "rejected": {reason: tally.counts[reason] for reason in REASONS},
        "problems": int(selection.first.sum()),
        "problems_with_kept": rounds[-1]["covered"],
        "rounds": rounds,
        "changes": {name: tally.changes[name] for name in CHANGES},
        "by_gold_words": selection.by_gold_words(),
    }


def show(summary: Row) -> str:
    """The counts as a table for the screen, without the rules that rejected nothing, then one line per round."""
    read_count = summary["read"]
    rejected = [(reason, number) for reason, number in summary["rejected"].items() if number]
    counts = [("kept", summary["kept"]), *rejected, ("read", read_count)]
    return "\n".join(
        [f"  {name:<22}{number:>8}{number / read_count:>8.1%}" for name, number in counts]
        + [
            f"  round {row['round']}: {row['covered']} of {summary['problems']} problems have a kept sample "
            f"({row['coverage']:.1%}), {row['total_tokens']} teacher tokens so far"
            for row in summary["rounds"]
        ]
    )


def write_markdown(path: Path, summary: Row, examples: dict[str, list[Row]]) -> None:
    """Writes the report for the reader."""
    read_count = summary["read"]
    reasons = {"kept": summary["kept"], **summary["rejected"], "read": read_count}
    covered = f"{summary['problems_with_kept']} of {summary['problems']} problems have a kept sample."
    parts = [
        "# What the filter did",
        _table(["rule", "rows", "share"], [[name, count, count / read_count] for name, count in reasons.items()]),
        "## Rounds of the teacher",
        _records(summary["rounds"]),
        covered + " The last three columns are cumulative: problems with a kept row, their share, and prompt and "
        "completion tokens.",
        "## Kept rows by the words of the gold solution (quartiles of the problems)",
        _records(summary["by_gold_words"]),
        "## What was changed in kept rows",
        _table(["change", "rows"], [[CHANGES[name], count] for name, count in summary["changes"].items()]),
        "## Training sets",
        _table(["set", "rows"], [list(item) for item in summary["training_sets"].items()]),
        f"## Examples (up to {EXAMPLES} per reason, drawn at random)",
    ]
    for reason, rows in examples.items():
        parts.append(f"### {reason}")
        for row in rows:
            detail = row["detail"] or "unchanged"
            parts.append(f"`{row['id']}`, sample {row['sample']}, gold `{row['answer']}`: {detail}")
            # Markdown shows indented text as it is, whatever marks it holds.
            parts.append("\n".join("    " + line for line in row["response"].split("\n")))
    write_bytes_atomic(path, [("\n\n".join(parts) + "\n").encode("utf-8")])


def _records(rows: list[Row]) -> str:
    """A table whose columns are the fields of the rows."""
    if not rows:
        return "No problem has a solution."
    return _table([name.replace("_", " ") for name in rows[0]], [list(row.values()) for row in rows])


def _table(header: list[str], rows: list[list[Any]]) -> str:
    cells = [[f"{cell:.1%}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    return "\n".join(Table(header, cells).lines())
