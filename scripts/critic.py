"""Rates the reasoning of several systems with an LLM judge, which is first measured on texts of known worth.

Reads   <data_root>/<dataset>/test.jsonl    problems with reference solutions
        predictions                         of one data set, one file per system (see infer_parallel.py)
Writes  <stem>.critic.json                  ratings from 1 to 5 of a fixed random subset, and the judge's own figures
        critic/<stem>.attempt<k>.jsonl      requests and replies: {"id": "distilled gsm8k-test-00000 validity",
                                            "sample": 0, "criterion": "validity", "rating": 4, "reply": "...", ...}

    python scripts/critic.py --dataset gsm8k --pred_path p/baseline.jsonl p/distilled.jsonl --model_name Qwen/Qwen3-8B
    python scripts/critic.py --config configs/qwen2_1.5b/critic.yaml --dataset gsm8k --pred_path p/*.jsonl

Run score.py afterwards: it adds the ratings and the judge's figures to scores and summaries. If the run is killed, the
same command resumes it. The exit code is 3 if fewer than 98 % of the calls gave a rating. docs/CRITIC.md explains the
figures.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from cotkit.core import cli
from cotkit.core.datasets import kind_of
from cotkit.core.errors import UserError
from cotkit.core.files import sha256_file, write_if_changed
from cotkit.core.jsonl import Row, json_bytes, read, read_json
from cotkit.core.manifest import Input, path_for
from cotkit.core.problems import BY_DATASET, add_test_set_arguments, problem_path
from cotkit.evaluation import judge_controls, llm_judge
from cotkit.evaluation.join import Predictions, Problems, number_of_problems
from cotkit.generation import engines, options, prompts, runner, shards
from cotkit.generation.options import EngineOptions, RunOptions
from cotkit.generation.types import Completion, Request, Sampling

Ratings = dict[str, int | None]  # by the name of the call


def build_parser() -> cli.StageParser:
    parser = cli.StageParser(__doc__, "limit", "seed", "dry_run", "overwrite", keyed_by=BY_DATASET)
    stage = parser.add_argument_group("critic")
    add_test_set_arguments(stage)
    stage.add_argument("--pred_path", type=Path, nargs="+", required=True, metavar="JSONL", help="one file per system")
    stage.add_argument("--model_name", required=True, metavar="NAME", help="the judge: hub name or folder")
    stage.add_argument("--critic_limit", type=cli.positive_int, default=200, metavar="N", help="problems (default 200)")
    stage.add_argument("--controls", type=cli.positive_int, default=100, metavar="N", help="references (default 100)")
    known = list(llm_judge.CRITERIA)
    stage.add_argument("--criteria", nargs="+", choices=known, default=known, help="default all")
    options.add_arguments(parser, max_new_tokens=256)
    # Replies quote answers, so they must not stop there. Retries and the retest must differ from the first reply.
    parser.set_defaults(stop_at_answer=False, temperature=0.7)
    return parser


def check(args: argparse.Namespace) -> None:
    """Raises UserError if the flags cannot work."""
    if args.temperature == 0 or args.num_samples != 1 or args.stop_at_answer:
        raise UserError("the critic needs --temperature above 0, --num_samples 1 and --no-stop_at_answer: see --help")
    if args.is_done or args.merge_only:
        raise UserError("--is_done and --merge_only are for stages 1 and 4; a finished critic ends within a moment")
    if shards.rank_and_world()[1] > 1:
        raise UserError("the critic runs in one process; to use more machines, give it a server (--backend openai)")
    folders, stems = ({getattr(path, part) for path in args.pred_path} for part in ("parent", "stem"))
    if len(folders) > 1 or len(stems) < len(args.pred_path):
        raise UserError("--pred_path: needs different files of one folder; run the critic once per folder")
    if len({number_of_problems(path) for path in args.pred_path}) > 1:
        raise UserError("--pred_path: the systems answered different numbers of problems, so they cannot be paired")


@dataclass(frozen=True)
class Call:
    """A request for one rating of a text, by one criterion; `source` is a system's stem or the name of a control."""

    source: str
    problem: Row
    text: str
    criterion: str

    @property
    def name(self) -> str:
        return f"{self.source} {self.problem['id']} {self.criterion}"

    def request(self, attempt: int) -> Request:
        return Request(self.name, attempt, llm_judge.messages(self.problem, self.text, self.criterion))


@dataclass
class LlmJudge:
    """Requests ratings. Every attempt has an output file in `folder`; the model is loaded only if one is incomplete."""

    engine: EngineOptions
    sampling: Sampling
    problems: Input
    folder: Path
    overwrite: bool
    loader: engines.Loader = field(default_factory=engines.Loader)

    @cached_property
    def wording(self) -> str:
        """Identifies the prompts of all criteria."""
        chats = [llm_judge.messages(prompts.PROBE, "TEXT", name) for name in llm_judge.CRITERIA]
        return prompts.wording_hash([message for chat in chats for message in chat])

    def describe(self) -> Row:
        return {**engines.describe(self.engine, self.sampling), "prompt": self.wording}

    def rate(self, name: str, calls: list[Call], **inputs: Input) -> Ratings:
        """Unreadable replies are requested again with another seed; after all attempts the rating is None."""
        ratings: Ratings = {}
        for attempt in range(llm_judge.ATTEMPTS):
            if missing := [call for call in calls if ratings.get(call.name) is None]:
                ratings.update(self._attempt(name, attempt, missing, inputs))
        return ratings

    def _attempt(self, name: str, attempt: int, calls: list[Call], inputs: dict[str, Input]) -> Ratings:
        output = self.folder / f"{name}.attempt{attempt + 1}.jsonl"
        by_name = {call.name: call for call in calls}
        wanted = hashlib.sha256("\n".join(by_name).encode("utf-8")).hexdigest()[:16]
        # The calls of a retry depend on the earlier replies: a file of other calls is overwritten, not refused.
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
            options=RunOptions(overwrite=self.overwrite or stale),
        )
        # A call that failed has no rating; the next attempt and the next run of this script try it again.
        runner.run(job, loader=self.loader)
        return {row["id"]: row["rating"] for row in read(output)}


def reply_row(call: Call, request: Request, completion: Completion) -> Row:
    """The record of one reply."""
    row = {
        "id": request.id,
        "sample": request.sample,
        "source": call.source,
        "problem": call.problem["id"],
        "criterion": call.criterion,
        "rating": llm_judge.parse(completion.response, completion.finish_reason),
        "reply": completion.response,
        "finish_reason": completion.finish_reason,
        "prompt_tokens": completion.prompt_tokens,
        "completion_tokens": completion.completion_tokens,
    }
    return {**row, "error": completion.error} if completion.error else row


def all_calls(texts: Iterable[tuple[str, Row, str]], criteria: list[str]) -> list[Call]:
    return [Call(source, problem, text, criterion) for source, problem, text in texts for criterion in criteria]


def measure_judge(judge: LlmJudge, calls: list[Call], criteria: list[str]) -> Row:
    """criterion -> the judge's controls."""
    ids = list(dict.fromkeys(call.problem["id"] for call in calls))
    ratings = judge.rate("controls", calls)
    found: dict[str, dict[tuple[str, str], int | None]] = {name: {} for name in criteria}
    for call in calls:
        found[call.criterion][call.source, call.problem["id"]] = ratings[call.name]
    return {name: judge_controls.measure(found[name], ids, name) for name in criteria}


def rating_rows(calls: list[Call], ratings: Ratings) -> list[Row]:
    """One record per problem, with a field for each criterion."""
    rows: dict[str, Row] = {}
    for call in calls:
        row = rows.setdefault(call.problem["id"], {"id": call.problem["id"], "sample": 0})
        row[call.criterion] = ratings[call.name]
    return list(rows.values())


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse(argv)
    check(args)
    engine, sampling = options.engine_from(args, args.model_name), options.sampling_from(args)
    engines.check(engine, sampling)
    path = problem_path(args.data_root, args.dataset, args.split)
    problems = Problems(path, args.limit or number_of_problems(args.pred_path[0]))
    subset = llm_judge.chosen(problems, args.critic_limit)
    systems: dict[Path, list[Call]] = {}
    for pred in args.pred_path:
        found = Predictions(pred, args.dataset, problems)
        texts = (
            (row, llm_judge.judged_text(found.get(row["id"], 0)["response"], kind_of(row, row["id"]))) for row in subset
        )
        systems[pred] = all_calls(((pred.stem, *text) for text in texts), args.criteria)
    references = judge_controls.references(llm_judge.chosen(problems, len(problems)), args.controls, args.seed)
    controls = all_calls(judge_controls.texts(references), args.criteria)
    if args.dry_run:
        print(engines.preview(engine, systems[args.pred_path[0]][0].request(0), sampling))
        number = sum(map(len, systems.values()))
        print(f"dry run: {len(controls)} ratings of controls and {number} of systems would be requested")
        return 0
    judge = LlmJudge(engine, sampling, Input(path, problems), args.pred_path[0].parent / "critic", args.overwrite)
    figures = measure_judge(judge, controls, args.criteria)
    complete = True
    for pred, calls in systems.items():
        ratings = judge.rate(pred.stem, calls, predictions=Input(pred))
        record = {
            "schema": llm_judge.SCHEMA,
            "dataset": args.dataset,
            "predictions_sha256": sha256_file(pred),
            "judge": judge.describe(),
            "criteria": args.criteria,
            "controls": figures,
            "ratings": rating_rows(calls, ratings),
        }
        write_if_changed(llm_judge.path_for(pred), json_bytes(record))
        described = llm_judge.describe(record)
        print(pred.stem, *llm_judge.lines(described), sep="\n  ")
        complete &= all(row["rated"] >= llm_judge.MIN_COVERAGE * row["asked"] for row in described["criteria"].values())
    return 0 if complete else cli.SOME_ITEMS_FAILED


if __name__ == "__main__":
    sys.exit(cli.run(main))
