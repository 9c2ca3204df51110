"""Grades predictions from anywhere: each response against its gold answer, with the grader of this project.

Reads   JSONL, one response a line: a whole model output or a bare answer (`finish_reason` is optional)
    {"id": "q1", "dataset": "math500", "gold": "\\\\frac{1}{2}", "response": "So it is $\\\\boxed{0.5}$."}
Writes  the same rows with `extracted`, `verdict` and `rule` (the rule that decided) added, in the same order
    {"id": "q1", ..., "extracted": "0.5", "verdict": "correct", "rule": "rational"}

    python scripts/grade.py --input predictions.jsonl --output graded.jsonl
    python scripts/grade.py --input answers.jsonl --output graded.jsonl --dataset gsm8k --workers 8

Verdicts: correct wrong no_answer truncated grader_timeout gold_unparsable; the conventions stand in docs/GRADING.md.
Exit code 3 when a gold answer cannot be read: those ids are listed and the rest is graded.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter, deque
from collections.abc import Iterator
from pathlib import Path

from cotkit.core import cli, jsonl
from cotkit.core.datasets import KINDS
from cotkit.core.errors import UserError
from cotkit.core.jsonl import Row
from cotkit.grading.grader import VERDICTS, Item, grade_many


def as_text(row: Row, field: str, where: str) -> str:
    """An id or a gold answer, which files from elsewhere often hold as a number."""
    value = row.get(field)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise UserError(f"{where}: field {field!r} must be a string or a number, found {value!r}")
    return str(value)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--input", required=True, type=Path, metavar="FILE", help="JSONL with id, dataset, gold, response"
    )
    parser.add_argument(
        "--output", required=True, type=Path, metavar="FILE", help="graded JSONL; replaced when complete"
    )
    parser.add_argument("--dataset", choices=sorted(KINDS), help="data set of rows that do not name one")
    parser.add_argument("--workers", type=cli.positive_int, metavar="N", help="processes (default: one a core)")
    parser.add_argument("--limit", type=cli.positive_int, metavar="N", help="only the first N rows, for testing")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def read_items(args: argparse.Namespace, rows: deque[Row]) -> Iterator[Item]:
    """Items in file order; each one's row is left in `rows` for the writer. Raises UserError with file and line."""
    for count, (line, row) in enumerate(jsonl.read_numbered(args.input), start=1):
        if args.limit is not None and count > args.limit:
            return
        where = f"{args.input}:{line}"
        if args.dataset is not None:
            row.setdefault("dataset", args.dataset)
        jsonl.require(row, {"dataset": str, "response": str}, where)
        name, gold = as_text(row, "id", where), as_text(row, "gold", where)
        if row["dataset"] not in KINDS:
            raise UserError(f"{where}: unknown dataset {row['dataset']!r}{cli.nearest(row['dataset'], KINDS)}")
        rows.append(row)
        yield Item(name, row["dataset"], gold, row["response"], row.get("finish_reason") or "stop")


def graded_rows(args: argparse.Namespace, counts: Counter[str], bad_golds: list[str]) -> Iterator[Row]:
    """The input rows with their grades; counts verdicts and collects the ids of unreadable golds."""
    rows: deque[Row] = deque()
    for grade in grade_many(read_items(args, rows), args.workers):
        counts[grade.verdict] += 1
        if grade.verdict == "gold_unparsable":
            bad_golds.append(f"{grade.id} ({grade.rule})")
        yield rows.popleft() | {"extracted": grade.extracted, "verdict": grade.verdict, "rule": grade.rule}


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    if args.input.resolve() == args.output.resolve():
        raise UserError(f"{args.output}: input and output are one file; name another output")
    counts: Counter[str] = Counter()
    bad_golds: list[str] = []
    jsonl.write_atomic(args.output, graded_rows(args, counts, bad_golds))
    total = counts.total()
    for verdict in VERDICTS:
        print(f"{verdict:16} {counts[verdict]:8} {100 * counts[verdict] / max(total, 1):6.2f} %")
    print(f"{'total':16} {total:8}  -> {args.output}")
    for entry in bad_golds:
        print(f"gold answer cannot be read: {entry}", file=sys.stderr)
    return cli.SOME_ITEMS_FAILED if bad_golds else 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
