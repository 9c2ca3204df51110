"""Shows everything that a run has about one problem.

Reads   <data_root>/*/*.jsonl, and in RUN teacher.jsonl, teacher.round<N>.jsonl, kept.jsonl, kept.rejected.jsonl,
        datasets/*.jsonl, predictions/<dataset>/<method>.jsonl and .scores.jsonl, as far as they exist
Prints  question, gold answer, teacher samples and whether they were kept, training rows, predictions and their verdicts

    python scripts/trace.py gsm_symbolic-train-00007 --run outputs/smollm2_cpu
    python scripts/trace.py gsm_symbolic-test-00007 --run outputs/smollm2_cpu
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from cotkit.core import cli
from cotkit.core.errors import UserError
from cotkit.core.files import require_folder
from cotkit.core.jsonl import Row, read
from cotkit.core.problems import as_problem
from cotkit.generation import prompts
from cotkit.training.budget import ANSWERS


def rows_of(path: Path, problem_id: str) -> list[Row]:
    """A file's records of one problem. None if there is no such file."""
    return [row for row in map(as_problem, read(path)) if row["id"] == problem_id] if path.is_file() else []


def find_problem(problem_id: str, run: Path, data_root: Path) -> Row:
    """The problem's record in the teacher's file or the prepared problems. Raises UserError if it is in neither."""
    paths = [run / "teacher.jsonl", *sorted(data_root.glob("*/*.jsonl"))]
    for path in paths:
        if found := rows_of(path, problem_id):
            return found[0]
    raise UserError(f"{problem_id}: not found in {len(paths)} files (teacher.jsonl of {run}, {data_root}/*/*.jsonl)")


def section(title: str, text: str) -> str:
    """A heading and the text below it, indented."""
    return f"{title}\n" + "\n".join(f"    {line}" for line in text.split("\n"))


def teacher_samples(problem_id: str, run: Path) -> Iterator[str]:
    """The teacher's samples, and whether the filter kept them."""
    kept = {row["sample"]: "kept" for row in rows_of(run / "kept.jsonl", problem_id)}
    rejected_rows = rows_of(run / "kept.rejected.jsonl", problem_id)
    rejected = {row["sample"]: f"rejected, {row['reason']}: {row['detail']}" for row in rejected_rows}
    later = sorted(run.glob("teacher.round*.jsonl"), key=lambda path: (len(path.name), path.name))
    for path in [run / "teacher.jsonl", *later]:
        for row in rows_of(path, problem_id):
            result = {**rejected, **kept}.get(row["sample"], "not filtered yet")
            yield section(f"teacher sample {row['sample']} ({row['finish_reason']}): {result}", row["response"])


def training_rows(problem: Row, run: Path) -> Iterator[str]:
    """The rows of every training set that ask this question."""
    instruction = prompts.training_row(problem["question"], "")["instruction"]
    for path in sorted((run / "datasets").glob("*.jsonl")):
        for row in read(path):
            if row.get("instruction") == instruction:
                for field in (name for name in ANSWERS if name in row):
                    title = f"training set {path.stem}" + ("" if field == "output" else f", {field}")
                    yield section(title, row[field])


def predictions(problem_id: str, run: Path) -> Iterator[str]:
    """Every method's predictions and their verdicts."""
    for path in sorted((run / "predictions").glob("*/*.jsonl")):
        if path.name.endswith(".scores.jsonl"):
            continue
        scores = {row["sample"]: row for row in rows_of(path.with_suffix(".scores.jsonl"), problem_id)}
        for row in rows_of(path, problem_id):
            score = scores.get(row["sample"])
            verdict = f"{score['verdict']}, extracted {score['extracted']!r}" if score else "not scored yet"
            yield section(f"{path.stem} sample {row['sample']} ({row['finish_reason']}): {verdict}", row["response"])


def trace(problem_id: str, run: Path, data_root: Path) -> Iterator[str]:
    """All sections about one problem."""
    problem = find_problem(problem_id, run, data_root)
    title = f"{problem_id} ({problem['dataset']} {problem['split']}), gold {problem['answer']!r}"
    yield section(title, problem["question"])
    yield from teacher_samples(problem_id, run)
    yield from training_rows(problem, run)
    yield from predictions(problem_id, run)


def main(argv: list[str] | None = None) -> int:
    parser = cli.StageParser(__doc__)
    parser.add_argument("id", help="id of the problem, such as gsm8k-test-00012")
    parser.add_argument("--run", type=Path, required=True, metavar="DIR", help="folder of the run")
    parser.add_argument("--data_root", type=Path, default=Path("data"), help="prepared problems (default data)")
    args = parser.parse(argv)
    require_folder(args.run)
    print("\n\n".join(trace(args.id, args.run, args.data_root)))
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
