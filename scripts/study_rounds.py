"""Teacher tokens that rounds save: asking again only where nothing was kept, against a fixed number of samples for all.

Reads   two filter runs' kept rows and the rejected rows beside them: all samples, each with its tokens and its fate
Prints  tokens and coverage (problems with a kept sample) of every round and of every fixed number of samples, and how
        many tokens fewer the rounds took for the same coverage

    python teacher_cot.py --config configs/smollm2_cpu/teacher.yaml --num_samples 4 --temperature 0.7 \\
        --output_path outputs/fixed/teacher.jsonl
    python filter_teacher_cot.py --config configs/smollm2_cpu/filter.yaml --input_path outputs/fixed/teacher.jsonl \\
        --output_path outputs/fixed/kept.jsonl
    python scripts/study_rounds.py --rounds outputs/smollm2_cpu/kept.jsonl --fixed outputs/fixed/kept.jsonl

Tokens are those of prompts and completions together, which is what a teacher is paid for. The coverage of k samples is
the mean over problems of the chance that k of their samples hold a kept one (pass@k), so that it does not hang on which
sample came first. Between two numbers of samples, as many problems get one more as the coverage needs.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cotkit import cli
from cotkit.files import DataError
from cotkit.jsonl import Row, read, read_json, write_json_atomic
from cotkit.stats import pass_at_k

# A sample that says the same as a kept one is none the worse for it.
GOOD = ("kept", "near_duplicate")


@dataclass(frozen=True)
class Point:
    """What so many rounds or samples cost and brought."""

    number: int
    tokens: float
    coverage: float


def fates(kept: Path) -> dict[str, list[bool]]:
    """id -> whether each of its samples is good. Raises DataError where a file is missing."""
    samples: dict[str, list[bool]] = {}
    for path in (kept, kept.with_suffix(".rejected.jsonl")):
        for row in read(path):
            samples.setdefault(row["id"], []).append(row.get("reason", "kept") in GOOD)
    return samples


def round_points(report: Row) -> list[Point]:
    """The cumulative figures of the filter's report."""
    return [Point(row["round"], row["total_tokens"], row["coverage"]) for row in report["rounds"]]


def fixed_points(samples: dict[str, list[bool]], tokens: int) -> list[Point]:
    """One point a number of samples, from none; `tokens` are those of all samples.

    Raises:
        DataError: the problems have different numbers of samples.
    """
    numbers = {len(fate) for fate in samples.values()}
    if len(numbers) != 1:
        raise DataError(f"--fixed: every problem needs as many samples, found {sorted(numbers)}; make them in one round")
    most = numbers.pop()
    shares = [fmean(pass_at_k(most, sum(fate), k) for fate in samples.values()) for k in range(1, most + 1)]
    return [Point(0, 0, 0.0), *(Point(k, tokens * k / most, share) for k, share in enumerate(shares, 1))]


def tokens_for(coverage: float, points: Sequence[Point]) -> float | None:
    """The tokens for a coverage, straight between two points; None where the last point does not reach it."""
    for low, high in pairwise(points):
        if low.coverage <= coverage <= high.coverage and high.coverage > low.coverage:
            share = (coverage - low.coverage) / (high.coverage - low.coverage)
            return low.tokens + share * (high.tokens - low.tokens)
    return None


def compare(rounds: Sequence[Point], fixed: Sequence[Point]) -> list[Row]:
    """For every round the tokens of a fixed number of samples of the same coverage, None beyond what was measured."""
    rows = []
    for point in rounds:
        needed = tokens_for(point.coverage, fixed)
        saved = None if needed is None else 1 - point.tokens / needed
        rows.append({"rounds": point.number, "tokens": point.tokens, "coverage": point.coverage, "fixed_tokens": needed,
                     "saved": saved})  # fmt: skip
    return rows


def main(argv: list[str] | None = None) -> int:
    parser = cli.Parser(__doc__)
    parser.add_argument("--rounds", type=Path, required=True, metavar="JSONL", help="kept rows of a run with rounds")
    parser.add_argument("--fixed", type=Path, required=True, metavar="JSONL", help="kept rows of a run of one round")
    parser.add_argument("--report_path", type=Path, metavar="JSON", help="also write everything there")
    args = parser.parse(argv)
    samples = fates(args.fixed)
    if fates(args.rounds).keys() != samples.keys():
        raise DataError(f"{args.rounds} and {args.fixed} are not about the same problems; run both with the same --limit")
    rounds = round_points(read_json(args.rounds.with_suffix(".report.json")))
    fixed = fixed_points(samples, round_points(read_json(args.fixed.with_suffix(".report.json")))[-1].tokens)
    print(f"{len(samples)} problems")
    for point in fixed[1:]:
        print(f"samples for all, {point.number} each: {point.tokens:.0f} tokens, coverage {point.coverage:.1%}")
    compared = compare(rounds, fixed)
    for row in compared:
        same = "more than was measured" if row["saved"] is None else f"{row['fixed_tokens']:.0f}, so {row['saved']:.1%} fewer"
        did = f"rounds up to {row['rounds']}: {row['tokens']:.0f} tokens, coverage {row['coverage']:.1%}"
        print(f"{did}; samples for all take for the same {same}")
    if args.report_path is not None:
        write_json_atomic(args.report_path, {"fixed": [vars(point) for point in fixed], "rounds": compared})
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
