"""Rates the reasoning of several systems with an LLM judge, which is measured on texts of known worth first.

Reads   <data_root>/<dataset>/test.jsonl    problems with reference solutions
        predictions                         of one data set, one file a system (see infer_parallel.py)
Writes  <stem>.critic.json                  ratings from 1 to 5 of a fixed random subset, and the judge's own figures
        critic/<stem>.attempt<k>.jsonl      what was asked and replied: {"id": "distilled gsm8k-test-00000 validity",
                                            "sample": 0, "criterion": "validity", "rating": 4, "reply": "...", ...}

    python scripts/critic.py --dataset gsm8k --pred_path p/baseline.jsonl p/distilled.jsonl --model_name Qwen/Qwen3-8B
    python scripts/critic.py --config configs/qwen2_1.5b/critic.yaml --dataset gsm8k --pred_path p/*.jsonl

Run score.py afterwards: it puts the ratings and the judge's figures into scores and summaries. Killed anywhere, the
same command resumes. The exit code is 3 where fewer than 98 % of the calls gave a rating. docs/CRITIC.md says what the
figures mean.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from cotkit.core import cli
from cotkit.core.errors import UserError
from cotkit.core.files import sha256_file, write_if_changed
from cotkit.core.jsonl import Row, json_bytes, read, read_json
from cotkit.core.manifest import Input, path_for
from cotkit.core.problems import add_test_set_arguments, problem_path
from cotkit.evaluation import judge_controls, llm_judge
from cotkit.evaluation.join import Predictions, Problems, rows_asked
from cotkit.generation import engines, options, prompts, runner, shards
from cotkit.generation.options import RunOptions
from cotkit.generation.types import Completion, Request, Sampling

CONTROLS = "controls"  # the name of their files, as a system's stem


def build_parser() -> cli.StageParser:
    parser = cli.StageParser(__doc__, "limit", "seed", "dry_run", "overwrite", keyed_by="dataset")
    stage = parser.add_argument_group("critic")
    add_test_set_arguments(stage)
    stage.add_argument("--pred_path", type=Path, nargs="+", required=True, metavar="JSONL", help="a file a system")
    stage.add_argument("--model_name", required=True, metavar="NAME", help="the judge: hub name or folder")
    stage.add_argument("--critic_limit", type=cli.positive_int, default=200, metavar="N", help="problems (default 200)")
    stage.add_argument("--controls", type=cli.positive_int, default=100, metavar="N", help="references (default 100)")
    known = list(llm_judge.CRITERIA)
    stage.add_argument("--criteria", nargs="+", choices=known, default=known, help="default all")
    options.add_arguments(parser, max_new_tokens=256)
    # Replies quote answers, so nothing may stop there; retries and the retest need a draw of their own.
    parser.set_defaults(stop_at_answer=False, temperature=0.7)
    return parser


def check(args: argparse.Namespace) -> Sampling:
    """The sampling. Raises UserError where the flags cannot work."""
    sampling = options.sampling_from(args)
    if sampling.temperature == 0 or args.num_samples != 1 or sampling.stop_at_answer:
        raise UserError("the critic needs --temperature above 0, --num_samples 1 and --no-stop_at_answer: see --help")
    if args.is_done or args.merge_only:
        raise UserError("--is_done and --merge_only are for stages 1 and 4; a critic that is done says so in a moment")
    if shards.rank_and_world()[1] > 1:
        raise UserError("the critic runs in one process; to use more machines, give it a server (--backend openai)")
    folders, stems = ({getattr(path, part) for path in args.pred_path} for part in ("parent", "stem"))
    if len(folders) > 1 or len(stems) < len(args.pred_path):
        raise UserError("--pred_path: files of one folder, each once, are expected; run the critic once a folder")
    if len({rows_asked(path) for path in args.pred_path}) > 1:
        raise UserError("--pred_path: the systems were asked different numbers of problems, so they cannot be paired")
    engines.check(options.engine_from(args, args.model_name))
    return sampling


@dataclass(frozen=True)
class Call:
    """One rating that is wanted: of a text on a problem, by one criterion; `source` is a system's stem or a control."""

    source: str
    problem: Row
    text: str
    criterion: str

    @property
    def name(self) -> str:
        return f"{self.source} {self.problem['id']} {self.criterion}"

    def request(self, attempt: int) -> Request:
        return Request(self.name, attempt, llm_judge.messages(self.problem, self.text, self.criterion))


class LlmJudge:
    """Asks for ratings, a file an attempt; the model is loaded once, and only if something is missing."""

    def __init__(self, args: argparse.Namespace, sampling: Sampling, problems: Input) -> None:
        self.args, self.sampling, self.problems = args, sampling, problems
        self.engine = options.engine_from(args, args.model_name)
        self.load = cache(lambda: engines.load(self.engine, sampling))
        wording = [
            message for name in llm_judge.CRITERIA for message in llm_judge.messages(prompts.PROBE, "TEXT", name)
        ]
        self.wording = prompts.wording_hash(wording)

    def rate(self, name: str, calls: list[Call], inputs: dict[str, Input]) -> dict[str, int | None]:
        """Call name -> rating; whatever cannot be read is asked again with another seed, then left without a rating."""
        ratings: dict[str, int | None] = {}
        for attempt in range(llm_judge.ATTEMPTS):
            missing = [call for call in calls if ratings.get(call.name) is None]
            if missing:
                ratings.update(self._attempt(name, attempt, missing, inputs))
        return ratings

    def _attempt(self, name: str, attempt: int, calls: list[Call], inputs: dict[str, Input]) -> dict[str, int | None]:
        output = self.args.pred_path[0].parent / "critic" / f"{name}.attempt{attempt + 1}.jsonl"
        by_name = {call.name: call for call in calls}
        wanted = hashlib.sha256("\n".join(by_name).encode("utf-8")).hexdigest()[:16]
        # What is asked again depends on the replies before: a retry of other calls is done anew, not refused.
        manifest = path_for(output)
        stale = attempt > 0 and manifest.is_file() and read_json(manifest)["settings"]["calls"] != wanted
        job = runner.Job(
            stage="critic",
            output=output,
            requests=[call.request(attempt) for call in calls],
            inputs={"problems": self.problems, **inputs},
            settings={"prompt": self.wording, "calls": wanted},
            to_row=lambda request, completion: reply_row(by_name[request.id], request, completion),
            engine=self.engine,
            sampling=self.sampling,
            options=RunOptions(overwrite=self.args.overwrite or stale),
            load=self.load,
        )
        # A call that fails for good has no rating; the next attempt and the next run of the script try again.
        runner.run(job)
        return {row["id"]: row["rating"] for row in read(output)}


def reply_row(call: Call, request: Request, completion: Completion) -> Row:
    """The record of one reply."""
    row = {
        "id": request.id,
        "sample": request.sample,
        "source": call.source,
        "problem": call.problem["id"],
        "criterion": call.criterion,
        "rating": llm_judge.parse(completion.text, completion.finish_reason),
        "reply": completion.text,
        "finish_reason": completion.finish_reason,
        "prompt_tokens": completion.prompt_tokens,
        "completion_tokens": completion.completion_tokens,
    }
    return {**row, "error": completion.error} if completion.error else row


def all_calls(texts: Iterable[tuple[str, Row, str]], criteria: list[str]) -> list[Call]:
    return [Call(source, problem, text, criterion) for source, problem, text in texts for criterion in criteria]


def measure_judge(judge: LlmJudge, calls: list[Call], criteria: list[str]) -> Row:
    """criterion -> its controls, each with figure, limit and whether it was passed."""
    ids = list(dict.fromkeys(call.problem["id"] for call in calls))
    ratings = judge.rate(CONTROLS, calls, {})
    found = {(call.criterion, call.source, call.problem["id"]): ratings[call.name] for call in calls}
    sources = judge_controls.SOURCES
    return {
        name: judge_controls.measure({(s, i): found[name, s, i] for s in sources for i in ids}, ids, name)
        for name in criteria
    }


def rating_rows(calls: list[Call], ratings: dict[str, int | None]) -> list[Row]:
    """One record a problem, with a field for each criterion."""
    rows: dict[str, Row] = {}
    for call in calls:
        row = rows.setdefault(call.problem["id"], {"id": call.problem["id"], "sample": 0})
        row[call.criterion] = ratings[call.name]
    return list(rows.values())


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse(argv)
    sampling = check(args)
    path = problem_path(args.data_root, args.dataset, args.split)
    problems = Problems(path, args.limit or rows_asked(args.pred_path[0]))
    subset = llm_judge.chosen(problems, args.critic_limit)
    systems = {pred.stem: Predictions(pred, args.dataset, problems) for pred in args.pred_path}
    calls = {
        stem: all_calls(
            ((stem, row, llm_judge.judged_text(found.get(row["id"], 0)["response"], args.dataset)) for row in subset),
            args.criteria,
        )
        for stem, found in systems.items()
    }
    known = judge_controls.references(llm_judge.chosen(problems, len(problems)), args.controls, args.seed)
    controls = all_calls(judge_controls.texts(known), args.criteria)
    if args.dry_run:
        print(
            engines.preview(
                options.engine_from(args, args.model_name), next(iter(calls.values()))[0].request(0), sampling
            )
        )
        asked = f"{len(controls)} ratings of controls and {sum(map(len, calls.values()))} of systems"
        print(f"dry run: {asked} would be asked for")
        return 0
    judge = LlmJudge(args, sampling, Input(path, problems))
    figures = measure_judge(judge, controls, args.criteria)
    complete = True
    for pred in args.pred_path:
        ratings = judge.rate(pred.stem, calls[pred.stem], {"predictions": Input(pred)})
        record = {
            "schema": llm_judge.SCHEMA,
            "dataset": args.dataset,
            "predictions_sha256": sha256_file(pred),
            "judge": {**engines.describe(judge.engine, judge.sampling), "prompt": judge.wording},
            "criteria": args.criteria,
            "controls": figures,
            "ratings": rating_rows(calls[pred.stem], ratings),
        }
        write_if_changed(llm_judge.path_for(pred), json_bytes(record))
        described = llm_judge.describe(record)
        print(pred.stem, *llm_judge.lines(described), sep="\n  ")
        complete &= all(row["rated"] >= llm_judge.MIN_COVERAGE * row["asked"] for row in described["criteria"].values())
    return 0 if complete else cli.SOME_ITEMS_FAILED


if __name__ == "__main__":
    sys.exit(cli.run(main))
