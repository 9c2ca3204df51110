"""Stage 4: the base model, with or without an adapter, answers a test set.

Reads   <data_root>/<dataset>/test.jsonl    problems
Writes  predictions     {"id": "gsm8k-test-00000", "sample": 0, "dataset": "gsm8k", "response": "...", "thinking": "",
                        "finish_reason": "stop", "prompt_tokens": 97, "completion_tokens": 74}

    torchrun --standalone --nproc_per_node=2 infer_parallel.py --dataset gsm8k --base_model Qwen/Qwen2-1.5B \\
        --lora_path outputs/qwen2_1.5b/train/distilled --data_root data --batch_size 32 --output_path predictions.jsonl
    python infer_parallel.py --config configs/smollm2_cpu/infer.yaml --dataset gsm_symbolic --output_path out.jsonl
    python infer_parallel.py --config configs/smollm2_cpu/infer.yaml --job gsm_symbolic baseline.jsonl \\
        --job gsm_symbolic distilled.jsonl outputs/smollm2_cpu/train/distilled

Each --job is one output, the same as that of a command of its own. Neighbours with the same adapter share a loaded model.
Each rank writes <output_path>.rank<N>. The rank that finishes last merges them into input order. After a kill the same
command resumes, with any number of ranks.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from cotkit.core import cli
from cotkit.core.jsonl import Row
from cotkit.core.manifest import Input
from cotkit.core.model_identity import fingerprint
from cotkit.core.problems import BY_DATASET, add_test_set_arguments, problem_path, read_problems
from cotkit.generation import adapters, engines, options, prompts, runner
from cotkit.generation.types import Completion, Request
from cotkit.grading.extraction import split_thinking


def build_parser() -> cli.StageParser:
    parser = cli.StageParser(__doc__, "limit", "seed", "dry_run", "overwrite", keyed_by=BY_DATASET)
    stage = parser.add_argument_group("stage 4")
    add_test_set_arguments(stage)
    stage.add_argument("--base_model", required=True, metavar="NAME", help="student: hub name, folder or served name")
    stage.add_argument("--lora_path", metavar="DIR", help="adapter folder; without it the base model answers")
    stage.add_argument("--output_path", type=Path, required=True, metavar="JSONL", help="predictions")
    stage.add_argument(
        "--job",
        action="append",
        nargs="+",
        metavar=("DATASET OUTPUT", "ADAPTER"),
        help="one of several outputs of this process, in place of --dataset, --output_path and --lora_path",
    )
    options.add_arguments(parser, max_new_tokens=512)
    return parser


def parse(argv: list[str] | None) -> list[argparse.Namespace]:
    """The flags of each output: a --job is read as the command that makes it alone, whose defaults may be its data set's."""
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--job", action="append", nargs="+", default=[])
    jobs, shared = early.parse_known_args(argv)
    parser = build_parser()
    commands = []
    for words in jobs.job:
        if not 2 <= len(words) <= 3:
            parser.error(f"--job {' '.join(words)}: a data set, an output and at most one adapter are expected")
        named = zip(("--dataset", "--output_path", "--lora_path"), words, strict=False)
        commands.append([*shared, *(f"{flag}={word}" for flag, word in named)])
    found = [parser.parse(command) for command in commands or [shared]]
    if any(args.job for args in found):
        parser.error("`job` is a flag and no key of a file of defaults")
    outputs = [args.output_path.resolve() for args in found]
    if repeated := next((path for path in outputs if outputs.count(path) > 1), None):
        parser.error(f"--job: {repeated} is the output of two jobs")
    return found


def prediction_row(problem: Row, request: Request, completion: Completion) -> Row:
    """The record of one prediction; `response` is the complete text that the model wrote."""
    thinking, _ = split_thinking(completion.response)
    row = {"id": request.id, "sample": request.sample, "dataset": problem["dataset"]}
    return {**row, "response": completion.response, "thinking": thinking, **completion.record()}


def job_of(args: argparse.Namespace) -> runner.Job:
    """The job that the flags describe, checked as far as that is possible without the model."""
    sampling, engine = options.sampling_from(args), options.engine_from(args, args.base_model, args.lora_path)
    path = problem_path(args.data_root, args.dataset, args.split)
    problems = read_problems(path, args.limit)
    engines.check(engine, sampling)
    adapter = None if args.lora_path is None else adapters.read(Path(args.lora_path))
    by_id = {problem["id"]: problem for problem in problems}
    return runner.Job(
        stage="infer_parallel",
        output=args.output_path,
        requests=[
            Request(problem["id"], sample, prompts.student_messages(problem["question"]))
            for problem in problems
            for sample in range(args.num_samples)
        ],
        inputs={"problems": Input(path, problems)},
        settings={
            "dataset": args.dataset,
            "adapter": args.lora_path,
            "adapter_files": fingerprint(args.lora_path) if args.lora_path else None,
            "prompt": prompts.wording_hash(prompts.student_messages(prompts.PROBE["question"])),
            "num_samples": args.num_samples,
        },
        to_row=lambda request, completion: prediction_row(by_id[request.id], request, completion),
        engine=engine,
        sampling=sampling,
        facts=adapter.origin() if adapter else {},
        options=options.run_from(args),
        expects_truncation=args.lora_path is None,  # an untrained student often does not end its texts
    )


def main(argv: list[str] | None = None) -> int:
    outputs = parse(argv)
    jobs = [job_of(args) for args in outputs]
    return runner.dry_run(*jobs) if outputs[0].dry_run else runner.run(*jobs)


if __name__ == "__main__":
    sys.exit(cli.run(main))
