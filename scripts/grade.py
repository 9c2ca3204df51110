"""Grades predictions from anywhere: each response against its gold answer, with the grader of this project.

Reads   JSONL, one response per line: a whole model output or a bare answer (`finish_reason` is optional);
        rows of a data set that is not in cotkit/core/datasets.py have "answer_kind": number, integer, latex or choice
    {"id": "q1", "dataset": "math500", "gold": "\\\\frac{1}{2}", "response": "So it is $\\\\boxed{0.5}$."}
Writes  the same rows with `extracted`, `verdict` and `rule` (the rule that decided) added, in the same order
    {"id": "q1", ..., "extracted": "0.5", "verdict": "correct", "rule": "rational"}

    python scripts/grade.py --input predictions.jsonl --output graded.jsonl
    python scripts/grade.py --input answers.jsonl --output graded.jsonl --dataset gsm8k --workers 8

Verdicts: correct wrong no_answer truncated grader_timeout gold_unparsable. docs/GRADING.md gives the conventions.
If gold answers cannot be read, the first ten ids are listed, the other rows are graded, and the exit code is 3.
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
from cotkit.core.finish_reasons import canonical
from cotkit.core.jsonl import Row
from cotkit.core.text_repair import control_character, repaired
from cotkit.grading.grader import VERDICTS, Item, grade_many

SHOWN = 10  # entries of a list that are printed; the graded file has all


def as_text(row: Row, field: str, where: str) -> str:
    """An id or a gold answer as text. Files from elsewhere often hold them as numbers."""
    value = row.get(field)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise UserError(f"{where}: field {field!r} must be a string or a number, found {value!r}")
    return str(value)


def reason_of(row: Row, where: str, unknown: Counter[str]) -> str:
    """The row's finish reason; one that no engine writes is counted in `unknown`."""
    reason = row.get("finish_reason") or "stop"
    if not isinstance(reason, str):
        raise UserError(f"{where}: field 'finish_reason' must be a string, found {reason!r}")
    if canonical(reason) is None:
        unknown[reason] += 1
    return reason


def read_items(
    source: Path, defaults: Row, limit: int | None, rows: deque[Row], unknown: Counter[str]
) -> Iterator[Item]:
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
        yield Item(name, kind, gold, repaired(row["response"]), reason_of(row, where, unknown))


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
    unknown_reasons: Counter[str] = Counter()
    unreadable_golds: list[str] = []
    rows: deque[Row] = deque()

    def graded_rows() -> Iterator[Row]:
        items = read_items(args.input, defaults, args.limit, rows, unknown_reasons)
        for grade in grade_many(items, args.workers):
            counts[grade.verdict] += 1
            if grade.verdict == "gold_unparsable":
                unreadable_golds.append(f"{grade.id} ({grade.rule})")
            yield rows.popleft() | {"extracted": grade.extracted, "verdict": grade.verdict, "rule": grade.rule}
        if not counts:
            raise UserError(f"{args.input}: holds no rows, so there is nothing to grade")

    jsonl.write_atomic(args.output, graded_rows())
    total = counts.total()
    for verdict in VERDICTS:
        print(f"{verdict:16} {counts[verdict]:8} {100 * counts[verdict] / max(total, 1):6.2f} %")
    print(f"{'total':16} {total:8}  -> {args.output}")
    for reason, number in unknown_reasons.most_common(SHOWN):
        print(f"finish_reason {reason!r} is not known: {number} texts count as ended by the model", file=sys.stderr)
    for entry in unreadable_golds[:SHOWN]:
        print(f"gold answer cannot be read: {entry}", file=sys.stderr)
    if len(unreadable_golds) > SHOWN:
        print(f"gold answers that cannot be read: {len(unreadable_golds)} in all", file=sys.stderr)
    return cli.SOME_ITEMS_FAILED if unreadable_golds else 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
