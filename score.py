"""Stage 5: grades predictions against gold answers.

Reads   <data_root>/<dataset>/test.jsonl    problems
        predictions                         (see infer_parallel.py)
        <stem>.critic.json                  ratings, if scripts/critic.py was run
Writes  <stem>.scores.jsonl     {"id": "gsm8k-test-00000", "sample": 0, "extracted": "18", "verdict": "correct",
                                "words": 61, "words_to_answer": 61, "critic": null, "finish_reason": "stop",
                                "completion_tokens": 98, "steps": 3, "steps_right": 3}
        <stem>.summary.json     accuracy with its interval; avg@k, pass@k and maj@k of several samples; verdicts, words,
                                runaway text, correct steps, groups of problems

    python score.py --dataset gsm8k --data_root data --pred_path predictions.jsonl
    python score.py --dataset gsm8k --pred_path predictions.jsonl --protocol original
    python score.py --dataset gsm8k --pred_path predictions.jsonl --explain gsm8k-test-00012

It needs no model, and the same files give the same bytes. A problem without a prediction counts as wrong. Predictions with
failed requests are not scored (exit code 3) without --allow_failed. `--protocol
original` applies the original experiment's rules; use it only to compare with the published table.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from itertools import groupby, islice, tee
from pathlib import Path

from cotkit.core import cli, lineage, wandb_run
from cotkit.core.datasets import kind_of
from cotkit.core.errors import UserError
from cotkit.core.files import locked, open_atomic
from cotkit.core.jsonl import Row, dumps, read_json, write_json_atomic
from cotkit.core.manifest import Input, Manifest, path_for
from cotkit.core.problems import BY_DATASET, add_test_set_arguments, problem_path
from cotkit.evaluation import llm_judge
from cotkit.evaluation.join import Predictions, Problems, number_of_problems
from cotkit.evaluation.metrics import SCHEMA, ScoreTally, Strata, one_line, score_row
from cotkit.grading.grader import Grade, Item, grade_many
from cotkit.grading.original_protocol import grade_original

Ratings = dict[tuple[str, int], float | None]  # the critic's, by (id, sample)


def build_parser() -> cli.StageParser:
    parser = cli.StageParser(__doc__, "limit", "dry_run", "overwrite", keyed_by=BY_DATASET)
    stage = parser.add_argument_group("stage 5")
    add_test_set_arguments(stage)
    stage.add_argument("--pred_path", type=Path, required=True, metavar="JSONL", help="predictions")
    stage.add_argument("--output_path", type=Path, metavar="JSON", help="summary (default <stem>.summary.json)")
    stage.add_argument("--allow_failed", action="store_true", help="count failed requests as wrong, and say so")
    stage.add_argument("--explain", metavar="ID", help="only show how the predictions for this problem are graded")
    stage.add_argument("--report_to", choices=("none", "wandb"), default="none", help="also send the summary's numbers")
    stage.add_argument(
        "--protocol",
        choices=("default", "original"),
        type=protocol_name,
        default="default",
        help="grading rules (default `default`)",
    )
    return parser


def protocol_name(text: str) -> str:
    """An argparse type: `seed` is an older name of `original`."""
    return "original" if text == "seed" else text


def grade_pairs(pairs: Iterable[tuple[Row, Row]], protocol: str) -> Iterator[Grade]:
    """The grades in the pairs' order."""
    items = (
        Item(problem["id"], kind_of(problem, problem["id"]), problem["answer"], row["response"], row["finish_reason"])
        for problem, row in pairs
    )
    return grade_original(items) if protocol == "original" else grade_many(items)


def write_scores(path: Path, pairs: Iterator[tuple[Row, Row]], tally: ScoreTally, ratings: Ratings) -> None:
    """Grades all pairs and writes each score at once; the grader reads ahead by a bounded number of pairs."""
    ahead, behind = tee(pairs)
    graded = zip(behind, grade_pairs(ahead, tally.protocol), strict=True)
    with open_atomic(path) as writer:
        for _, group in groupby(graded, key=lambda entry: entry[0][0]["id"]):
            scores = []
            for pair, grade in group:
                problem, row = pair
                scores.append(score_row(row, grade, tally.protocol, ratings.get((row["id"], row["sample"]))))
                writer.write(dumps(scores[-1]))
            tally.add(problem, scores)


def explain(args: argparse.Namespace, problems: Problems, predictions: Predictions) -> int:
    """Prints how the predictions for one problem are graded, and why."""
    if args.explain not in problems:
        first = next(iter(problems))["id"]
        raise UserError(f"{problems.path}: no problem has the id {args.explain!r}; the first is {first!r}")
    pairs = list(predictions.pairs(problem for problem in problems if problem["id"] == args.explain))
    for (problem, row), grade in zip(pairs, grade_pairs(pairs, args.protocol), strict=True):
        print(f"{problem['id']} sample {row['sample']}: {grade.verdict}")
        print(f"  question   {problem['question']!r}\n  response   {row['response']!r} ({row['finish_reason']})")
        print(f"  extracted  {grade.extracted!r} (how: {grade.how}, ends at character {grade.end})")
        print(f"  gold       {problem['answer']!r} (rule: {grade.rule})")
    return 0


def failed_requests(pred_path: Path, ids: list[str]) -> str:
    """Why predictions with failed requests are not scored, and what to do."""
    shown = ", ".join(ids[:3]) + (", ..." if len(ids) > 3 else "")
    number = "1 request" if len(ids) == 1 else f"{len(ids)} requests"
    return (
        f"error: {pred_path}: {number} failed ({shown}), which is no answer of the model; count them as wrong with "
        "--allow_failed, or run the same infer_parallel.py command again, which asks only for them"
    )


def origin(pred_path: Path) -> Row:
    """Model, adapter, prompt and seed of the predictions, by their manifest; {} without one."""
    if not path_for(pred_path).is_file():
        return {}
    made = read_json(path_for(pred_path))
    settings = made["settings"]
    named = {"name": settings["model"], "revision": None, "chat_template": None}
    return {
        "model": made.get("model") or named,
        "adapter": settings.get("adapter"),
        "prompt": settings.get("prompt"),
        "seed": made.get("seed"),
    }


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse(argv)
    path = problem_path(args.data_root, args.dataset, args.split)
    problems = Problems(path, args.limit or number_of_problems(args.pred_path))
    predictions = Predictions(args.pred_path, args.dataset, problems)
    if args.explain is not None:
        return explain(args, problems, predictions)
    lineage.check(args.pred_path)
    if predictions.failed and not args.allow_failed:
        print(failed_requests(args.pred_path, predictions.failed), file=sys.stderr)
        return cli.SOME_ITEMS_FAILED
    summary_path = args.output_path or args.pred_path.with_suffix(".summary.json")
    stem = summary_path.name.removesuffix(".json").removesuffix(".summary")
    scores_path = summary_path.with_name(f"{stem}.scores.jsonl")
    rated = llm_judge.load(args.pred_path, args.dataset)
    critic_input = {"critic": Input(llm_judge.path_for(args.pred_path))} if rated else {}
    manifest = Manifest(
        "score",
        summary_path,
        {"dataset": args.dataset, "split": args.split, "protocol": args.protocol, "schema": SCHEMA},
        {"problems": Input(path, problems), "predictions": Input(args.pred_path), **critic_input},
        derived=True,
        overwrite=args.overwrite,
    )
    if manifest.check() == "done":
        print(f"{summary_path}: done already, nothing to do")
        return 0
    if args.dry_run:
        first = next(grade_pairs(islice(predictions.pairs(problems), 1), args.protocol))
        number = len(problems) * len(predictions.samples)
        print(f"dry run: {number} predictions would be scored; the first: {first}")
        return 0
    with locked(summary_path):
        manifest.begin()
        tally = ScoreTally(args.dataset, args.protocol, len(predictions.samples), Strata(problems))
        write_scores(scores_path, predictions.pairs(problems), tally, llm_judge.by_item(rated))
        summary = {
            **tally.summary(),
            "critic": llm_judge.describe(rated) if rated else None,
            "problems_sha256": manifest.inputs["problems"].describe()["sha256"],
        }
        write_json_atomic(summary_path, summary)
        counts = {"n": summary["n"], "verdicts": summary["verdicts"], "truncated_share": summary["truncated"]}
        manifest.finish([summary_path, scores_path], counts, **origin(args.pred_path))
    if args.report_to == "wandb":
        print(wandb_run.report(summary, f"{args.pred_path.stem}-{args.dataset}", summary_path.parent))
    print(one_line(summary), *(llm_judge.lines(summary["critic"]) if rated else ()), sep="\n  ")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
