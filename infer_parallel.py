"""Stage 4: the base model, with or without an adapter, answers a test set.

Reads   <data_root>/<dataset>/test.jsonl    problems
Writes  predictions     {"id": "gsm8k-test-00000", "sample": 0, "dataset": "gsm8k", "response": "...", "thinking": "",
                        "finish_reason": "stop", "prompt_tokens": 97, "completion_tokens": 74}

    torchrun --standalone --nproc_per_node=2 infer_parallel.py --dataset gsm8k --base_model Qwen/Qwen2-1.5B \\
        --lora_path outputs/qwen2_1.5b/train/distilled --data_root data --batch_size 32 --output_path predictions.jsonl
    python infer_parallel.py --config configs/smollm2_cpu/infer.yaml --dataset gsm_symbolic --output_path out.jsonl

Each rank writes <output_path>.rank<N>; the last to finish merges them into input order. Killed anywhere, the same
command resumes, with any number of ranks.
"""

from __future__ import annotations

import sys
from pathlib import Path

from cotkit.core import cli
from cotkit.core.errors import UserError
from cotkit.core.jsonl import Row
from cotkit.core.manifest import Input
from cotkit.core.model_identity import fingerprint
from cotkit.core.problems import add_test_set_arguments, problem_path, read_problems
from cotkit.generation import engines, options, prompts, runner
from cotkit.generation.types import Completion, Request
from cotkit.grading.grader import split_thinking


def build_parser() -> cli.StageParser:
    parser = cli.StageParser(__doc__, "limit", "seed", "dry_run", "overwrite", keyed_by="dataset")
    stage = parser.add_argument_group("stage 4")
    add_test_set_arguments(stage)
    stage.add_argument(
        "--base_model", required=True, metavar="NAME", help="the student: hub name, folder or served name"
    )
    stage.add_argument("--lora_path", metavar="DIR", help="adapter folder; without it the base model answers")
    stage.add_argument("--output_path", type=Path, required=True, metavar="JSONL", help="predictions")
    options.add_arguments(parser, max_new_tokens=512)
    return parser


def check_adapter_folder(lora_path: str) -> None:
    """Raises UserError if the folder does not hold a finished adapter."""
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not (Path(lora_path) / name).is_file():
            raise UserError(f"{lora_path}: holds no {name}; --lora_path wants the output_dir of a finished training")


def prediction_row(problem: Row, request: Request, completion: Completion) -> Row:
    """The record of one prediction; `response` is the whole text that the model wrote."""
    thinking, _ = split_thinking(completion.text)
    row = {
        "id": request.id,
        "sample": request.sample,
        "dataset": problem["dataset"],
        "response": completion.text,
        "thinking": thinking,
        "finish_reason": completion.finish_reason,
        "prompt_tokens": completion.prompt_tokens,
        "completion_tokens": completion.completion_tokens,
    }
    return {**row, "error": completion.error} if completion.error else row


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse(argv)
    sampling = options.sampling_from(args)
    path = problem_path(args.data_root, args.dataset, args.split)
    problems = read_problems(path, args.limit)
    engines.check_engine(args, args.base_model, args.lora_path)
    if args.lora_path is not None:
        check_adapter_folder(args.lora_path)
    requests = [
        Request(problem["id"], sample, prompts.student_messages(problem["question"]))
        for problem in problems
        for sample in range(args.num_samples)
    ]
    if args.dry_run:
        print(engines.preview(args, args.base_model, requests[0], sampling))
        print(f"dry run: {len(requests)} requests would be made for {args.output_path}")
        return 0
    by_id = {problem["id"]: problem for problem in problems}
    job = runner.Job(
        stage="infer_parallel",
        output=args.output_path,
        requests=requests,
        inputs={"problems": Input(path, problems)},
        settings={
            "dataset": args.dataset,
            "model": args.base_model,
            "model_files": engines.identity(args.base_model, args.backend),
            "adapter": args.lora_path,
            "adapter_files": fingerprint(args.lora_path) if args.lora_path else None,
            "prompt": prompts.wording_hash(prompts.student_messages(prompts.PROBE["question"])),
            "num_samples": args.num_samples,
            **engines.settings_of(sampling, args.seed, args.backend),
        },
        to_row=lambda request, completion: prediction_row(by_id[request.id], request, completion),
        load=lambda: engines.load_backend(args, args.base_model, args.lora_path, sampling),
        model=engines.files_read(args.base_model, args.backend),
        seed=args.seed,
        overwrite=args.overwrite,
    )
    return runner.run(job, args)


if __name__ == "__main__":
    sys.exit(cli.run(main))
