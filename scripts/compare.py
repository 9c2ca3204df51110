"""Compares the scored methods of a run in pairs on the same questions: differences, intervals, tests, verdicts.

Reads   <run>/predictions/<dataset>/<method>.summary.json and .scores.jsonl   (see score.py); with several training
        runs of a method, their names are <method>.seed<k>.summary.json and .scores.jsonl
Writes  <run>/comparison.json and comparison.md; the first sentence of both is the finding
        <run>/comparison.json.manifest.json    the scores that they were made from, with their hashes

    python scripts/compare.py outputs/smollm2_cpu
    python scripts/compare.py outputs/qwen2_1.5b --reference strong_baseline
    python scripts/compare.py outputs/qwen2_1.5b --pairs "distilled against strong_baseline" "mixed against distilled on gsm8k"
    python scripts/compare.py outputs/qwen2_1.5b --format latex --columns method accuracy accuracy_low accuracy_high
    python scripts/compare.py outputs/first outputs/second                     prints; a name in both gets its run in front

Every pair of methods is tested, with Holm's correction over all pairs of all data sets. With --pairs, or `pairs` in the
preset's compare.yaml, only these pairs are, and every method against the reference; a correction over fewer pairs shows
smaller differences. docs/COMPARISON.md explains the figures, the fields of comparison.json and the verdicts.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from cotkit.core import cli
from cotkit.core.files import require_folder, write_if_changed
from cotkit.core.jsonl import Row, json_bytes, read_json
from cotkit.core.manifest import SUFFIX, Input, Manifest
from cotkit.evaluation import paper_tables
from cotkit.evaluation.comparison import AskedPair, compare
from cotkit.evaluation.comparison_tables import COMPARED_COUNTS, dataset_finding, finding, markdown


def trainings(run: Path) -> dict[str, Row]:
    """Method -> rows, optimizer steps, answer tokens and held-out loss of its training, if that is finished."""
    found = {}
    for path in sorted(run.glob(f"train/*{SUFFIX}")):
        record = read_json(path)
        if record.get("status") == "done":
            counts = {key: record["counts"].get(key) for key in COMPARED_COUNTS}
            found[path.name.removesuffix(SUFFIX)] = counts
    return found


def write(run: Path, result: Row, text: str) -> None:
    """Writes comparison.json and comparison.md, and which scores they were made from. Files that would not change stay."""
    paths = run / "comparison.json", run / "comparison.md"
    scores = [path for kind in ("summary.json", "scores.jsonl") for path in run.glob(f"predictions/*/*.{kind}")]
    named = {path.relative_to(run / "predictions").as_posix(): Input(path) for path in sorted(scores)}
    settings = {"reference": result["reference"], **({"pairs": result["asked"]} if "asked" in result else {})}
    manifest = Manifest("compare", paths[0], settings, named)
    changed = [write_if_changed(paths[0], json_bytes(result)), write_if_changed(paths[1], text.encode("utf-8"))]
    made_from = {name: one.describe() for name, one in named.items()}
    if any(changed) or not manifest.path.is_file() or manifest.read()["inputs"] != made_from:
        manifest.finish(paths, {"pairs": result["family"]})


def renaming(text: str) -> tuple[str, str]:
    """An argparse type: METHOD=NAME."""
    method, equals, name = text.partition("=")
    if not (method and equals and name):
        raise argparse.ArgumentTypeError(f"METHOD=NAME is expected, found {text!r}")
    return method, name


def asked_pair(text: str) -> AskedPair:
    """An argparse type: "A against B" or "A against B on DATASET"."""
    match = re.fullmatch(r"(\S+) against (\S+)(?: on (\S+))?", text.strip())
    if not match or match[1] == match[2]:
        raise argparse.ArgumentTypeError(f"'A against B' or 'A against B on DATASET' is expected, found {text!r}")
    return AskedPair(*match.groups())


def build_parser() -> cli.StageParser:
    parser = cli.StageParser(__doc__, "dry_run")
    parser.add_argument(
        "run", nargs="+", type=Path, metavar="RUN", help="a folder under outputs/; several are printed only"
    )
    parser.add_argument(
        "--reference", default="baseline", help="method that the finding compares with (default baseline)"
    )
    parser.add_argument(
        "--pairs",
        nargs="+",
        default=[],
        type=asked_pair,
        metavar="'A against B'",
        help="test these pairs, and every method against the reference, instead of all pairs; with ' on DATASET' on "
        "this data set only",
    )
    parser.add_argument(
        "--format", choices=paper_tables.FORMATS, help="print one table of the methods instead of the whole comparison"
    )
    names = ", ".join(paper_tables.COLUMNS)
    parser.add_argument("--columns", nargs="+", metavar="COLUMN", help=f"of that table: {names}")
    parser.add_argument("--names", nargs="+", metavar="METHOD=NAME", type=renaming, help="other names in that table")
    return parser


def main(argv: list[str] | None = None) -> int:
    parser = build_parser()
    args = parser.parse(argv)
    if not args.format and (args.columns or args.names):
        parser.error("--columns and --names choose what --format prints; give --format too")
    runs = list(dict.fromkeys(args.run))
    for run in runs:
        require_folder(run)
    result = compare(runs, args.reference, args.pairs)
    scored = [dataset["dataset"] for dataset in result["datasets"]]
    for pair in args.pairs:
        if pair.dataset not in (None, *scored):
            print(f"warning: {pair}: no such data set was scored{cli.nearest(pair.dataset, scored)}", file=sys.stderr)
    for dataset in result["datasets"]:
        dataset["finding"] = dataset_finding(dataset, args.reference)
    result = {"finding": finding(result), **result, "trainings": trainings(runs[0]) if len(runs) == 1 else {}}
    text = markdown(result)
    if len(runs) == 1 and not args.dry_run:
        write(runs[0], result, text)
    if args.format:
        text = paper_tables.text(
            paper_tables.rows(result, args.columns or list(paper_tables.COLUMNS), dict(args.names or [])), args.format
        )
    print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
