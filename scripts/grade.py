"""Grades predictions from anywhere: each response against its gold answer, with the grader of this project.

Reads   JSONL, one response per line: a whole model output or a bare answer (`finish_reason` is optional);
        rows of a data set that is not in cotkit/core/datasets.py have "answer_kind": number, integer, latex or choice
    {"id": "q1", "dataset": "math500", "gold": "\\\\frac{1}{2}", "response": "So it is $\\\\boxed{0.5}$."}
Writes  the same rows with `extracted`, `verdict` and `rule` (the rule that decided) added, in the same order
    {"id": "q1", ..., "extracted": "0.5", "verdict": "correct", "rule": "rational"}

    python scripts/grade.py --input predictions.jsonl --output graded.jsonl
    python scripts/grade.py --input answers.jsonl --output graded.jsonl --dataset gsm8k --workers 8

Verdicts: correct wrong no_answer truncated grader_timeout gold_unparsable. docs/GRADING.md gives the conventions.
If a gold answer cannot be read, its id is listed, the other rows are graded, and the exit code is 3.
"""

from __future__ import annotations

import sys
from collections import Counter, deque
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from cotkit.core import cli, jsonl
from cotkit.core.datasets import ANSWER_KINDS, KINDS, kind_of
from cotkit.core.errors import UserError
from cotkit.core.jsonl import Row
from cotkit.core.text_repair import control_character, repaired
from cotkit.grading.grader import VERDICTS, Item, grade_many


def as_text(row: Row, field: str, where: str) -> str:
    """An id or a gold answer as text. Files from elsewhere often hold them as numbers."""
    value = row.get(field)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise UserError(f"{where}: field {field!r} must be a string or a number, found {value!r}")
    return str(value)


def read_items(source: Path, defaults: Row, limit: int | None, rows: deque[Row]) -> Iterator[Item]:
    """Yields the items of `source` and puts the row of each into `rows`. Raises UserError with file and line."""
    for line, row in islice(jsonl.read_numbered(source), limit):
        where = f"{source}:{line}"
        row = defaults | row
        jsonl.require(row, {"response": str}, where)
        name, gold = as_text(row, "id", where), as_text(row, "gold", where)
        kind = kind_of(row, where)
        gold = repaired(gold, formula=True)
        if found := control_character(gold):
            raise UserError(f"{where}: the gold answer holds {found}; remove it, or restore what stood there")
        rows.append(row)
        yield Item(name, kind, gold, repaired(row["response"]), row.get("finish_reason") or "stop")


def main(argv: list[str] | None = None) -> int:
    parser = cli.StageParser(__doc__, "limit")
    parser.add_argument(
        "--input", required=True, type=Path, metavar="FILE", help="JSONL with id, dataset, gold, response"
    )
    parser.add_argument(
        "--output", required=True, type=Path, metavar="FILE", help="graded JSONL; replaced when complete"
    )
    parser.add_argument("--dataset", choices=sorted(KINDS), help="data set of rows that do not name one")
    parser.add_argument("--answer_kind", choices=ANSWER_KINDS, help="kind of answer in rows that do not name one")
    parser.add_argument("--workers", type=cli.positive_int, metavar="N", help="processes (default: one per core)")
    args = parser.parse(argv)
    if args.input.resolve() == args.output.resolve():
        raise UserError(f"{args.output}: input and output are the same file; name another output")
    named = {"dataset": args.dataset, "answer_kind": args.answer_kind}
    defaults = {field: value for field, value in named.items() if value is not None}
    counts: Counter[str] = Counter()
    unreadable_golds: list[str] = []
    rows: deque[Row] = deque()

    def graded_rows() -> Iterator[Row]:
        for grade in grade_many(read_items(args.input, defaults, args.limit, rows), args.workers):
            counts[grade.verdict] += 1
            if grade.verdict == "gold_unparsable":
                unreadable_golds.append(f"{grade.id} ({grade.rule})")
            yield rows.popleft() | {"extracted": grade.extracted, "verdict": grade.verdict, "rule": grade.rule}

    jsonl.write_atomic(args.output, graded_rows())
    total = counts.total()
    for verdict in VERDICTS:
        print(f"{verdict:16} {counts[verdict]:8} {100 * counts[verdict] / max(total, 1):6.2f} %")
    print(f"{'total':16} {total:8}  -> {args.output}")
    for entry in unreadable_golds:
        print(f"gold answer cannot be read: {entry}", file=sys.stderr)
    return cli.SOME_ITEMS_FAILED if unreadable_golds else 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
