"""Writes a run's report: which method wins, by how much, whether the difference is real, and every output.

Reads   <run>/comparison.json (scripts/compare.py), predictions, scores, training logs, kept.report.json, manifests
Writes  <run>/report.md with pictures in <run>/report/, and <run>/report.html, a page that needs no network

    python scripts/report.py outputs/smollm2_cpu
    python scripts/report.py outputs/smollm2_cpu --report_to wandb --overwrite
"""

from __future__ import annotations

import sys
from pathlib import Path

from cotkit.core import cli, wandb_run
from cotkit.core.errors import UserError
from cotkit.core.files import require_folder, write_if_changed
from cotkit.core.jsonl import read_json
from cotkit.core.manifest import Input, Manifest, path_for
from cotkit.evaluation import paper_tables
from cotkit.evaluation.comparison import COMPARISON_SCHEMA
from cotkit.report import page, plots, recipe, sections
from cotkit.report.costs import costs
from cotkit.report.page import Report
from cotkit.report.run_data import read_adapters, read_curves, read_manifests, read_questions, read_training_sets

PAGE, PICTURES = "report.html", "report"
READ = (
    "comparison.json",
    "kept.report.json",
    "datasets/*.json*",
    "train/*/trainer_log.jsonl",
    "train/*/adapter_config.json",
    "predictions/*/*.jsonl",
    "*.manifest.json",
    "train/*.manifest.json",
    "predictions/*/*.manifest.json",
)


def sources(run: Path) -> dict[str, Input]:
    """Every file that the report depends on: those of the run, and the page's own."""
    found = {path for pattern in READ for path in run.glob(pattern)} - {path_for(run / PAGE)}
    named = {path.relative_to(run).as_posix(): Input(path) for path in sorted(found)}
    return named | {path.name: Input(path) for path in sorted(page.ASSETS.iterdir())}


def gather(run: Path) -> Report:
    """Reads the run. Raises UserError for files of another version."""
    comparison = read_json(run / "comparison.json")
    if comparison.get("schema") != COMPARISON_SCHEMA:
        raise UserError(f"{run}/comparison.json: was written by another version; run scripts/compare.py {run} again")
    manifests, curves = read_manifests(run), read_curves(run)
    # The data set of the finding comes first.
    datasets = sorted(comparison["datasets"], key=lambda dataset: dataset["finding"] != comparison["finding"])
    answers = [sections.answer_section(one, comparison["reference"], comparison["finding"]) for one in datasets]
    details = [sections.figures_section(one, costs(one["methods"], manifests)) for one in datasets]
    details.append(sections.help_section(comparison))
    account_path = run / "kept.report.json"
    if account_path.is_file():
        account = read_json(account_path)
        if "rounds" not in account:
            raise UserError(f"{account_path}: was written by another version; run filter_teacher_cot.py --overwrite")
        details.append(sections.filter_section(account))
    if sets := read_training_sets(run):
        details.append(sections.sets_section(sets))
    if curves:
        order = [method["method"] for method in comparison["datasets"][0]["methods"]]
        details.append(sections.training_section(curves, manifests, order))
    details += [recipe.recipe_section(run.name, manifests, read_adapters(run)), recipe.lineage_section(manifests)]
    questions = {one["dataset"]: read_questions(run / "predictions" / one["dataset"]) for one in datasets}
    return Report(run.name, comparison["finding"], answers, details, questions)


def write(run: Path, report: Report) -> list[Path]:
    """Writes the files of the report and returns their paths."""
    (run / PICTURES).mkdir(exist_ok=True)
    contents = {
        run / PICTURES / f"{picture.name}.png": plots.png(picture.draw(plots.WIDE)) for picture in report.pictures()
    }
    contents[run / "report.md"] = page.markdown(report, PICTURES).encode("utf-8")
    contents[run / PAGE] = page.html(report).encode("utf-8")
    for path, content in contents.items():
        write_if_changed(path, content)
    return list(contents)


def send(run: Path, paths: list[Path]) -> str:
    """Sends the comparison's table, its files and those of the report to Weights and Biases; returns a line about it."""
    comparison = read_json(run / "comparison.json")
    rows = paper_tables.rows(comparison, list(paper_tables.COLUMNS), {})
    compared = [path for path in (run / "comparison.json", run / "comparison.md") if path.is_file()]
    return wandb_run.report_comparison(rows, [*compared, *paths], f"{run.resolve().name}-comparison", run)


def main(argv: list[str] | None = None) -> int:
    parser = cli.StageParser(__doc__, "dry_run", "overwrite")
    parser.add_argument("run", type=Path, metavar="RUN", help="a folder under outputs/")
    parser.add_argument(
        "--report_to", choices=("none", "wandb"), default="none", help="also send the comparison's table and the report"
    )
    args = parser.parse(argv)
    require_folder(args.run)
    if not (args.run / "comparison.json").is_file():
        raise UserError(f"{args.run}: holds no comparison.json; run scripts/compare.py first")
    manifest = Manifest("report", args.run / PAGE, {}, sources(args.run), derived=True, overwrite=args.overwrite)
    if manifest.check() == "done":
        print(f"{args.run / PAGE}: done already, nothing to do")
        return 0
    report = gather(args.run)
    if not args.dry_run:
        manifest.begin()
        paths = write(args.run, report)
        manifest.finish(paths, {"questions": sum(map(len, report.questions.values()))})
        if args.report_to == "wandb":
            print(send(args.run, paths))
    print(f"{report.finding}\n\n{args.run / PAGE} and {args.run / 'report.md'} show all of it")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
