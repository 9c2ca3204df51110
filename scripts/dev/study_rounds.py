"""Measures the teacher tokens that rounds save, against the same samples for all problems.

Reads   the report of a filter run with rounds, <stem>.report.json
Prints  tokens and coverage (problems with a kept sample) after every round, and what the same samples cost for all

    python scripts/dev/study_rounds.py --rounds outputs/smollm2_cpu/kept.jsonl

The same samples for all problems cover the same problems: a text depends only on its own seed, and a problem that has a
kept sample keeps it. Their cost is reckoned from the mean tokens of each round, prompts and completions together.
"""

from __future__ import annotations

import sys
from pathlib import Path

from cotkit.core import cli
from cotkit.core.jsonl import read_json


def main(argv: list[str] | None = None) -> int:
    parser = cli.StageParser(__doc__)
    parser.add_argument("--rounds", type=Path, required=True, metavar="JSONL", help="kept rows of a run with rounds")
    report = read_json(parser.parse(argv).rounds.with_suffix(".report.json"))
    for_all = 0.0
    for row in report["rounds"]:
        tokens = row["total_tokens"]
        for_all += (row["prompt_tokens"] + row["completion_tokens"]) / row["problems"] * report["problems"]
        print(
            f"round {row['round']}: {tokens} tokens, coverage {row['coverage']:.1%}; the same samples for all "
            f"{report['problems']} problems take {for_all:.0f} ({1 - tokens / for_all:.1%} saved)"
        )
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
