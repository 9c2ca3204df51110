"""Teacher tokens that rounds save: asking again only where nothing was kept, against a fixed number of samples for all.

Reads   the report of a filter run with rounds; with --fixed the kept and the rejected rows of a run of one round
Prints  tokens and coverage (problems with a kept sample) after every round, and what the same coverage costs otherwise

    python scripts/dev/study_rounds.py --rounds outputs/smollm2_cpu/kept.jsonl

Otherwise is, first, the same samples for all problems. They cover the same problems, since a text depends on nothing but
its own seed and a problem that has a kept sample keeps it; a sample is reckoned at the mean tokens of its round. Second,
as many samples of one kind as it takes, which another run has to make:

    python teacher_cot.py --config configs/smollm2_cpu/teacher.yaml --num_samples 4 --temperature 0.7 \\
        --output_path outputs/fixed/teacher.jsonl
    python filter_teacher_cot.py --config configs/smollm2_cpu/filter.yaml --input_path outputs/fixed/teacher.jsonl \\
        --output_path outputs/fixed/kept.jsonl
    python scripts/dev/study_rounds.py --rounds outputs/smollm2_cpu/kept.jsonl --fixed outputs/fixed/kept.jsonl

Its coverage of k samples is the mean over problems of the chance that k of their samples hold a kept one (pass@k);
between two numbers of samples, as many problems get one more as the coverage needs. Tokens are those of prompts and
completions together, which is what a teacher is paid for.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean

from cotkit.core import cli
from cotkit.core.errors import UserError
from cotkit.core.jsonl import Row, read, read_json, write_json_atomic
from cotkit.evaluation.stats import pass_at_k

# A sample that says the same as a kept one is none the worse for it.
GOOD = ("kept", "near_duplicate")


@dataclass(frozen=True)
class RoundPoint:
    """What so many rounds or samples cost and brought."""

    number: int
    tokens: float
    coverage: float


def fates(kept: Path) -> dict[str, list[bool]]:
    """id -> whether each of its samples is good. Raises UserError where a file is missing."""
    samples: dict[str, list[bool]] = {}
    for path in (kept, kept.with_suffix(".rejected.jsonl")):
        for row in read(path):
            samples.setdefault(row["id"], []).append(row.get("reason", "kept") in GOOD)
    return samples


def round_points(report: Row) -> list[RoundPoint]:
    """The cumulative figures of the filter's report."""
    return [RoundPoint(row["round"], row["total_tokens"], row["coverage"]) for row in report["rounds"]]


def same_samples(report: Row) -> list[float]:
    """After every round the tokens that the same samples take for all problems."""
    totals = [0.0]
    for row in report["rounds"]:
        mean = (row["prompt_tokens"] + row["completion_tokens"]) / row["rows"]
        totals.append(totals[-1] + mean * row["rows"] / row["problems"] * report["problems"])
    return totals[1:]


def fixed_points(samples: dict[str, list[bool]], tokens: int) -> list[RoundPoint]:
    """One point a number of samples, from none; `tokens` are those of all samples.

    Raises:
        UserError: the problems have different numbers of samples.
    """
    numbers = {len(fate) for fate in samples.values()}
    if len(numbers) != 1:
        raise UserError(
            f"--fixed: every problem needs as many samples, found {sorted(numbers)}; make them in one round"
        )
    most = numbers.pop()
    shares = [fmean(pass_at_k(most, sum(fate), k) for fate in samples.values()) for k in range(1, most + 1)]
    return [RoundPoint(0, 0, 0.0), *(RoundPoint(k, tokens * k / most, share) for k, share in enumerate(shares, 1))]


def tokens_for(coverage: float, points: Sequence[RoundPoint]) -> float | None:
    """The tokens for a coverage, straight between two points; None where the last point does not reach it."""
    for low, high in pairwise(points):
        if low.coverage <= coverage <= high.coverage and high.coverage > low.coverage:
            share = (coverage - low.coverage) / (high.coverage - low.coverage)
            return low.tokens + share * (high.tokens - low.tokens)
    return None


def saved(tokens: float, otherwise: float | None) -> str:
    return "more than was measured" if otherwise is None else f"{otherwise:.0f} ({1 - tokens / otherwise:.1%} saved)"


def fixed_of(rounds: Path, fixed: Path) -> list[RoundPoint]:
    """The curve of the second run. Raises UserError where the two are not about the same problems."""
    samples = fates(fixed)
    if fates(rounds).keys() != samples.keys():
        raise UserError(f"{rounds} and {fixed} are not about the same problems; run both with the same --limit")
    return fixed_points(samples, read_json(fixed.with_suffix(".report.json"))["rounds"][-1]["total_tokens"])


def main(argv: list[str] | None = None) -> int:
    parser = cli.StageParser(__doc__)
    parser.add_argument("--rounds", type=Path, required=True, metavar="JSONL", help="kept rows of a run with rounds")
    parser.add_argument("--fixed", type=Path, metavar="JSONL", help="kept rows of a run of one round")
    parser.add_argument("--report_path", type=Path, metavar="JSON", help="also write everything there")
    args = parser.parse(argv)
    report = read_json(args.rounds.with_suffix(".report.json"))
    fixed = fixed_of(args.rounds, args.fixed) if args.fixed else []
    for point in fixed[1:]:
        print(f"samples of one kind, {point.number} each: {point.tokens:.0f} tokens, coverage {point.coverage:.1%}")
    compared = []
    for point, same in zip(round_points(report), same_samples(report), strict=True):
        one_kind = tokens_for(point.coverage, fixed)
        compared.append({**vars(point), "same_samples": same, "one_kind": one_kind})
        otherwise = f"; samples of one kind take {saved(point.tokens, one_kind)}" if fixed else ""
        print(
            f"round {point.number}: {point.tokens:.0f} tokens, coverage {point.coverage:.1%}; the same samples for all "
            f"{report['problems']} problems take {saved(point.tokens, same)}{otherwise}"
        )
    if args.report_path is not None:
        write_json_atomic(args.report_path, {"rounds": compared, "fixed": [vars(point) for point in fixed]})
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
