"""Stage 1: a teacher writes reasoning for every problem.

Reads   problems        {"id", "dataset", "split", "question", "solution", "answer"}
Writes  teacher rows    the problem's fields + {"sample": 0, "response": "...", "thinking": "", "finish_reason": "stop",
                        "prompt_tokens": 182, "completion_tokens": 61, "model": "Qwen/Qwen3-8B"}

    python teacher_cot.py --input_path data/gsm8k/train.jsonl --output_path outputs/teacher.jsonl \\
        --model_name Qwen/Qwen3-8B --batch_size 32 --max_new_tokens 512
    torchrun --standalone --nproc_per_node=2 teacher_cot.py --config configs/smollm2_cpu/teacher.yaml

Mode `rewrite` gives the teacher the reference solution and asks for a clear, concise one (the original experiment's
way); mode `solve` gives it the problem alone. Killed anywhere, the same command resumes.

Problems of which the filter kept no sample get another chance in a later round, with that round's settings:

    python filter_teacher_cot.py --only_retry --input_path outputs/teacher.jsonl --output_path outputs/retry.round2.jsonl
    python teacher_cot.py --config configs/smollm2_cpu/teacher.yaml --round 2 \\
        --input_path outputs/retry.round2.jsonl --output_path outputs/teacher.round2.jsonl
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from cotkit.core import cli
from cotkit.core.errors import UserError
from cotkit.core.jsonl import Row
from cotkit.core.manifest import Input
from cotkit.core.problems import TRUNCATED, read_problems
from cotkit.generation import engines, options, prompts, runner
from cotkit.generation.types import Completion, Request
from cotkit.grading.grader import split_thinking


def build_parser() -> cli.StageParser:
    parser = cli.StageParser(__doc__, "limit", "seed", "dry_run", "overwrite", rounds=("rounds", "round"))
    stage = parser.add_argument_group("stage 1")
    stage.add_argument("--input_path", type=Path, required=True, metavar="JSONL", help="problems")
    stage.add_argument("--output_path", type=Path, required=True, metavar="JSONL", help="teacher rows")
    stage.add_argument(
        "--model_name", required=True, metavar="NAME", help="the teacher: hub name, folder or served name"
    )
    stage.add_argument("--mode", choices=("rewrite", "solve"), default="rewrite", help="default rewrite")
    options.add_arguments(parser, max_new_tokens=512)
    later = parser.add_argument_group("rounds, for problems that the filter kept no sample of")
    later.add_argument(
        "--round",
        type=cli.positive_int,
        default=1,
        metavar="N",
        help="take the Nth entry of the configuration's `rounds` on top of its other keys (default 1)",
    )
    later.add_argument(
        "--first_sample",
        type=cli.whole_number,
        metavar="N",
        help="number of a problem's first sample (default: after those of the configuration's earlier rounds)",
    )
    later.add_argument(
        "--max_new_tokens_if_truncated",
        type=cli.positive_int,
        metavar="N",
        help="for problems of which the filter says that a text was truncated (default: --max_new_tokens)",
    )
    return parser


def first_sample(args: argparse.Namespace) -> int:
    """The number of a problem's first sample: as given, or after those of the configuration's earlier rounds."""
    if args.first_sample is not None:
        return args.first_sample
    if args.round == 1:
        return 0
    if args.config is None:
        raise UserError(f"--round {args.round} needs --config with a list `rounds`")
    samples, _ = cli.read_yaml(args.config).get("num_samples", (1, 1))
    return sum(int(entry.get("num_samples", (samples, 1))[0]) for entry in cli.rounds_of(args.config)[: args.round - 1])


def requests_for(problems: list[Row], args: argparse.Namespace) -> list[Request]:
    """Every sample that is wanted, a problem's together; problems with a truncated text get their own budget."""
    requests, first = [], first_sample(args)
    for problem in problems:
        messages = prompts.teacher_messages(problem, args.mode)
        budget = args.max_new_tokens_if_truncated if problem.get("retry") == TRUNCATED else None
        numbers = range(first, first + args.num_samples)
        requests += [Request(problem["id"], sample, messages, budget) for sample in numbers]
    return requests


def check_problems(problems: list[Row], args: argparse.Namespace) -> None:
    """Raises UserError where a problem lacks what the mode needs."""
    if args.mode != "rewrite":
        return
    for problem in problems:
        if not problem["solution"].strip():
            place = f"{args.input_path}: {problem['id']}"
            raise UserError(f"{place} has no solution to rewrite; use --mode solve, or remove it")


def teacher_row(problem: Row, request: Request, completion: Completion, model: str) -> Row:
    """The record of one teacher sample; `response` is the text without a closed think block, which is `thinking`."""
    thinking, response = split_thinking(completion.text)
    row = {
        **problem,
        "sample": request.sample,
        "response": response,
        "thinking": thinking,
        "finish_reason": completion.finish_reason,
        "prompt_tokens": completion.prompt_tokens,
        "completion_tokens": completion.completion_tokens,
        "model": model,
    }
    return {**row, "error": completion.error} if completion.error else row


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse(argv)
    sampling = options.sampling_from(args)
    problems = read_problems(args.input_path, args.limit)
    check_problems(problems, args)
    engines.check_engine(args, args.model_name)
    requests = requests_for(problems, args)
    if args.dry_run:
        print(engines.preview(args, args.model_name, requests[0], sampling))
        print(f"dry run: {len(requests)} requests would be made for {args.output_path}")
        return 0
    by_id = {problem["id"]: problem for problem in problems}
    job = runner.Job(
        stage="teacher_cot",
        output=args.output_path,
        requests=requests,
        inputs={"problems": Input(args.input_path, problems)},
        settings={
            "model": args.model_name,
            "model_files": engines.identity(args.model_name, args.backend),
            "mode": args.mode,
            "prompt": prompts.wording_hash(prompts.teacher_messages(prompts.PROBE, args.mode)),
            "num_samples": args.num_samples,
            "first_sample": requests[0].sample,
            "max_new_tokens_if_truncated": args.max_new_tokens_if_truncated,
            **engines.settings_of(sampling, args.seed, args.backend),
        },
        to_row=lambda request, completion: teacher_row(by_id[request.id], request, completion, args.model_name),
        load=lambda: engines.load_backend(args, args.model_name, None, sampling),
        model=engines.files_read(args.model_name, args.backend),
        seed=args.seed,
        overwrite=args.overwrite,
    )
    return runner.run(job, args)


if __name__ == "__main__":
    sys.exit(cli.run(main))
