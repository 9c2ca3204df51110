"""Compares the scored methods of one run in pairs on the same questions: what differs, and how certain that is.

Reads   <run>/predictions/<dataset>/<method>.summary.json and .scores.jsonl   (see score.py); files of several training
        runs of one method are named <method>.seed<k>.summary.json, and the like
Writes  <run>/comparison.json and comparison.md; the first sentence of both is the finding

    python scripts/compare.py outputs/smollm2_cpu
    python scripts/compare.py outputs/qwen2_1.5b --reference strong_baseline

Every pair of methods is tested, and Holm's correction is over all pairs of all data sets. docs/COMPARISON.md describes
the figures, the fields of comparison.json and how a verdict is reached.
"""

from __future__ import annotations

import sys
from pathlib import Path

from cotkit.core import cli
from cotkit.core.files import write_if_changed
from cotkit.core.jsonl import Row, json_bytes, read_json
from cotkit.evaluation.comparison import compare
from cotkit.evaluation.comparison_tables import dataset_finding, finding, markdown


def trainings(run: Path) -> dict[str, Row]:
    """What each finished training of the run had: rows, optimizer steps, answer tokens trained on, held-out loss."""
    wanted = ("rows", "steps", "trained_tokens", "eval_loss")
    records = {
        path.name.removesuffix(".manifest.json"): read_json(path) for path in sorted(run.glob("train/*.manifest.json"))
    }
    finished = {name: record["counts"] for name, record in records.items() if record.get("status") == "done"}
    return {name: {key: counts.get(key) for key in wanted} for name, counts in finished.items()}


def main(argv: list[str] | None = None) -> int:
    parser = cli.StageParser(__doc__, "seed", "dry_run")
    parser.add_argument("run", type=Path, metavar="RUN", help="a folder under outputs/")
    parser.add_argument("--reference", default="baseline", help="what the finding compares with (default baseline)")
    args = parser.parse(argv)
    result = compare(args.run, args.reference, args.seed)
    for dataset in result["datasets"]:
        dataset["finding"] = dataset_finding(dataset, args.reference)
    result = {"finding": finding(result), **result, "trainings": trainings(args.run)}
    text = markdown(result)
    if not args.dry_run:
        write_if_changed(args.run / "comparison.json", json_bytes(result))
        write_if_changed(args.run / "comparison.md", text.encode("utf-8"))
    print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
