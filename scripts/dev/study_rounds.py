"""Measures the teacher tokens that rounds save: asking again only where nothing was kept, or a fixed number of samples.

Reads   the report of a filter run with rounds; with --fixed also the kept and rejected rows of a run with one round
Prints  tokens and coverage (problems with a kept sample) after every round, and what the same coverage costs otherwise

    python scripts/dev/study_rounds.py --rounds outputs/smollm2_cpu/kept.jsonl

There are two alternatives. The first is the same samples for all problems. They cover the same problems, since a text
depends only on its own seed, and a problem that has a kept sample keeps it. Its cost is reckoned from the mean tokens of
each round. The second is as many samples with equal settings as the coverage takes. Another run has to make them:

    python teacher_cot.py --config configs/smollm2_cpu/teacher.yaml --num_samples 4 --temperature 0.7 \\
        --output_path outputs/fixed/teacher.jsonl
    python filter_teacher_cot.py --config configs/smollm2_cpu/filter.yaml --input_path outputs/fixed/teacher.jsonl \\
        --output_path outputs/fixed/kept.jsonl
    python scripts/dev/study_rounds.py --rounds outputs/smollm2_cpu/kept.jsonl --fixed outputs/fixed/kept.jsonl

Its coverage with k samples is the mean over problems of pass@k, where a sample passes if it is kept. Between k and k+1
samples, only as many problems get one more as the coverage needs. Tokens are those of prompts and completions.
"""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path
from statistics import fmean

from cotkit.core import cli
from cotkit.core.errors import UserError
from cotkit.core.jsonl import Row, read, read_json
from cotkit.evaluation.stats import pass_at_k

GOOD = ("kept", "near_duplicate")  # a near duplicate of a kept sample is as good as that one

Point = tuple[float, float]  # tokens, coverage


def samples_of(kept: Path) -> dict[str, list[bool]]:
    """id -> whether each of its samples is good. Raises UserError if a file is missing."""
    samples: dict[str, list[bool]] = {}
    for path in (kept, kept.with_suffix(".rejected.jsonl")):
        for row in read(path):
            samples.setdefault(row["id"], []).append(row.get("reason", "kept") in GOOD)
    return samples


def fixed_points(samples: dict[str, list[bool]], tokens: int) -> list[Point]:
    """The point of each number of samples from 0 on, if all samples took so many tokens.

    Raises UserError if the problems have different numbers of samples.
    """
    numbers = {len(good) for good in samples.values()}
    if len(numbers) != 1:
        raise UserError(f"--fixed: every problem needs as many samples, found {sorted(numbers)}; use one round")
    most = numbers.pop()
    shares = [fmean(pass_at_k(most, sum(good), k) for good in samples.values()) for k in range(1, most + 1)]
    return [(0.0, 0.0), *((tokens * k / most, share) for k, share in enumerate(shares, 1))]


def read_fixed(rounds: Path, fixed: Path) -> list[Point]:
    """The points of the second run. Raises UserError if the two runs are not about the same problems."""
    samples = samples_of(fixed)
    if samples_of(rounds).keys() != samples.keys():
        raise UserError(f"{rounds} and {fixed} are not about the same problems; run both with the same --limit")
    return fixed_points(samples, read_json(fixed.with_suffix(".report.json"))["rounds"][-1]["total_tokens"])


def tokens_for(coverage: float, points: list[Point]) -> float | None:
    """The tokens for a coverage, by linear interpolation; None if the last point does not reach it."""
    for (low_tokens, low), (high_tokens, high) in pairwise(points):
        if low <= coverage <= high and high > low:
            return low_tokens + (coverage - low) / (high - low) * (high_tokens - low_tokens)
    return None


def compared(report: Row, points: list[Point]) -> list[str]:
    """One line per round."""
    lines, same = [], 0.0
    for row in report["rounds"]:
        tokens, mean = row["total_tokens"], (row["prompt_tokens"] + row["completion_tokens"]) / row["rows"]
        same += mean * row["rows"] / row["problems"] * report["problems"]
        line = f"round {row['round']}: {tokens} tokens, coverage {row['coverage']:.1%}; the same samples for all "
        line += f"{report['problems']} problems take {saved(tokens, same)}"
        if points:
            line += f"; samples of one kind take {saved(tokens, tokens_for(row['coverage'], points))}"
        lines.append(line)
    return lines


def saved(tokens: float, otherwise: float | None) -> str:
    return "more than was measured" if otherwise is None else f"{otherwise:.0f} ({1 - tokens / otherwise:.1%} saved)"


def main(argv: list[str] | None = None) -> int:
    parser = cli.StageParser(__doc__)
    parser.add_argument("--rounds", type=Path, required=True, metavar="JSONL", help="kept rows of a run with rounds")
    parser.add_argument("--fixed", type=Path, metavar="JSONL", help="kept rows of a run with one round")
    args = parser.parse(argv)
    points = read_fixed(args.rounds, args.fixed) if args.fixed else []
    for number, (tokens, coverage) in enumerate(points[1:], 1):
        print(f"samples of one kind, {number} each: {tokens:.0f} tokens, coverage {coverage:.1%}")
    print("\n".join(compared(read_json(args.rounds.with_suffix(".report.json")), points)))
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
