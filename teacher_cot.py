"""Stage 1: a teacher writes reasoning for every problem.

Reads   problems        {"id", "dataset", "split", "question", "solution", "answer"}
Writes  teacher rows    the problem's fields + {"sample": 0, "response": "...", "thinking": "", "finish_reason": "stop",
                        "prompt_tokens": 182, "completion_tokens": 61, "model": "Qwen/Qwen3-8B"}

    python teacher_cot.py --input_path data/gsm8k/train.jsonl --output_path outputs/teacher.jsonl \\
        --model_name Qwen/Qwen3-8B --batch_size 32 --max_new_tokens 512
    torchrun --standalone --nproc_per_node=2 teacher_cot.py --config configs/smollm2_cpu/teacher.yaml

Mode `rewrite` gives the teacher the reference solution and asks for a clear, concise one (the original experiment's
way); mode `solve` gives it the problem alone. Killed anywhere, the same command resumes.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from cotkit import cli, generate, prompts, runner
from cotkit.answers import split_thinking
from cotkit.files import DataError
from cotkit.generate import Completion, Request
from cotkit.jsonl import Row
from cotkit.manifest import Input
from cotkit.model_files import fingerprint
from cotkit.problems import read_problems


def build_parser() -> cli.Parser:
    parser = cli.Parser(__doc__)
    stage = parser.add_argument_group("stage 1")
    stage.add_argument("--input_path", type=Path, required=True, metavar="JSONL", help="problems")
    stage.add_argument("--output_path", type=Path, required=True, metavar="JSONL", help="teacher rows")
    stage.add_argument("--model_name", required=True, metavar="NAME", help="the teacher: hub name or folder")
    stage.add_argument("--mode", choices=("rewrite", "solve"), default="rewrite", help="default rewrite")
    generate.add_arguments(parser, max_new_tokens=512)
    return parser


def check_problems(problems: list[Row], args: argparse.Namespace) -> None:
    """Raises DataError where a problem lacks what the mode needs."""
    if args.mode != "rewrite":
        return
    for problem in problems:
        if not problem["solution"].strip():
            place = f"{args.input_path}: {problem['id']}"
            raise DataError(f"{place} has no solution to rewrite; use --mode solve, or remove it")


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
    sampling = generate.sampling_from(args)
    problems = read_problems(args.input_path, args.limit)
    check_problems(problems, args)
    generate.check_model(args.model_name, args.backend)
    requests = [
        Request(problem["id"], sample, prompts.teacher_messages(problem, args.mode))
        for problem in problems
        for sample in range(args.num_samples)
    ]
    if args.dry_run:
        print(generate.preview(args, args.model_name, requests[0], sampling))
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
            "model_files": fingerprint(args.model_name),
            "mode": args.mode,
            "prompt": prompts.wording_hash(prompts.teacher_messages(prompts.PROBE, args.mode)),
            "num_samples": args.num_samples,
            **generate.settings_of(sampling, args.seed, args.backend),
        },
        to_row=lambda request, completion: teacher_row(by_id[request.id], request, completion, args.model_name),
        load=lambda: generate.load_backend(args, args.model_name, None, sampling),
        model=generate.files_read(args.model_name, args.backend),
        seed=args.seed,
        overwrite=args.overwrite,
    )
    return runner.run(job, args)


if __name__ == "__main__":
    sys.exit(cli.run(main))
