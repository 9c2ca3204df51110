"""Stage 1: a teacher writes reasoning for every problem.

Reads   problems        {"id", "dataset", "split", "question", "solution", "answer"}
Writes  teacher rows    the problem's fields + {"sample": 0, "response": "...", "thinking": "", "finish_reason": "stop",
                        "prompt_tokens": 182, "completion_tokens": 61, "model": "Qwen/Qwen3-8B"}

    python teacher_cot.py --input_path data/gsm8k/train.jsonl --output_path outputs/teacher.jsonl \\
        --model_name Qwen/Qwen3-8B --batch_size 32 --max_new_tokens 512
    torchrun --standalone --nproc_per_node=2 teacher_cot.py --config configs/smollm2_cpu/teacher.yaml

Mode `rewrite` gives the teacher the reference solution and asks for a clear and concise one, as the original experiment
did. Mode `solve` gives it the problem alone. After a kill the same command resumes.

A later round asks again for the problems of which the filter kept no sample, with the settings of that round:

    python filter_teacher_cot.py --only_retry --input_path outputs/teacher.jsonl --output_path outputs/retry.round2.jsonl
    python teacher_cot.py --config configs/smollm2_cpu/teacher.yaml --round 2 \\
        --input_path outputs/retry.round2.jsonl --output_path outputs/teacher.round2.jsonl
"""

from __future__ import annotations

import sys
from itertools import chain
from pathlib import Path

from cotkit.core import cli, yaml_file
from cotkit.core.errors import UserError
from cotkit.core.jsonl import Row
from cotkit.core.manifest import Input
from cotkit.core.model_identity import fingerprint
from cotkit.core.problems import TRUNCATED, numbered_inputs, read_problem_files
from cotkit.generation import adapters, engines, options, prompts, runner
from cotkit.generation.types import Completion, Request
from cotkit.grading.extraction import split_thinking


def build_parser() -> cli.StageParser:
    parser = cli.StageParser(__doc__, "limit", "seed", "dry_run", "overwrite", rounds=("rounds", "round"))
    stage = parser.add_argument_group("stage 1")
    stage.add_argument("--input_path", nargs="+", type=Path, required=True, metavar="JSONL", help="problems")
    stage.add_argument("--output_path", type=Path, required=True, metavar="JSONL", help="teacher rows")
    stage.add_argument("--model_name", required=True, metavar="NAME", help="teacher: hub name, folder or served name")
    stage.add_argument(
        "--lora_path",
        metavar="DIR_OR_NAME",
        help="adapter of the teacher: a folder, or a method's name for train/NAME beside the output",
    )
    stage.add_argument("--mode", choices=("rewrite", "solve"), default="rewrite", help="default rewrite")
    options.add_arguments(parser, max_new_tokens=512)
    later = parser.add_argument_group("rounds, for problems without a kept sample")
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
        help="token limit for problems whose text was truncated in an earlier round (default: --max_new_tokens)",
    )
    return parser


def first_sample(config: Path | None, number: int) -> int:
    """The number of a problem's first sample in a round: after the samples of the configuration's earlier rounds."""
    if number == 1:
        return 0
    if config is None:
        raise UserError(f"--round {number} needs --config with a list `rounds`")
    samples, _ = yaml_file.read_yaml(config).get("num_samples", (1, 1))
    return sum(int(entry.get("num_samples", (samples, 1))[0]) for entry in yaml_file.rounds_of(config)[: number - 1])


def asks_again(config: Path | None) -> bool:
    """Whether the configuration has a later round with more tokens for problems whose text was truncated."""
    rounds = yaml_file.rounds_of(config)[1:] if config is not None else []
    return any("max_new_tokens_if_truncated" in entry for entry in rounds)


def check_solutions(files: dict[Path, list[Row]]) -> None:
    """Raises UserError for a problem without a solution to rewrite."""
    for path, problem in ((path, problem) for path, problems in files.items() for problem in problems):
        if not problem["solution"].strip():
            raise UserError(f"{path}: {problem['id']} has no solution to rewrite; use --mode solve, or remove it")


def adapter_folder(named: str | None, output: Path) -> str | None:
    """The folder of an adapter, where a name without a slash is a method of the run that the output lies in."""
    return named if named is None or "/" in named else str(output.parent / "train" / named)


def teacher_row(problem: Row, request: Request, completion: Completion, model: str) -> Row:
    """The record of one teacher sample. A closed think block goes to `thinking`, the rest of the text to `response`."""
    thinking, response = split_thinking(completion.response)
    row = {**problem, "sample": request.sample, "response": response, "thinking": thinking}
    return {**row, **completion.record(model=model)}


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse(argv)
    lora_path = adapter_folder(args.lora_path, args.output_path)
    sampling, engine = options.sampling_from(args), options.engine_from(args, args.model_name, lora_path)
    files = read_problem_files(args.input_path, args.limit)
    problems = list(chain.from_iterable(files.values()))
    if args.mode == "rewrite":
        check_solutions(files)
    engines.check(engine, sampling)
    adapter = None if lora_path is None else adapters.read(Path(lora_path))
    first = args.first_sample if args.first_sample is not None else first_sample(args.config, args.round)
    by_id = {problem["id"]: problem for problem in problems}
    job = runner.Job(
        stage="teacher_cot",
        output=args.output_path,
        requests=[
            Request(problem["id"], sample, prompts.teacher_messages(problem, args.mode), budget)
            for problem in problems
            for budget in [args.max_new_tokens_if_truncated if problem.get("retry") == TRUNCATED else None]
            for sample in range(first, first + args.num_samples)
        ],
        inputs={name: Input(path, files[path]) for name, path in numbered_inputs("problems", files).items()},
        settings={
            "mode": args.mode,
            "prompt": prompts.wording_hash(prompts.teacher_messages(prompts.PROBE, args.mode)),
            "num_samples": args.num_samples,
            "first_sample": first,
            "max_new_tokens_if_truncated": args.max_new_tokens_if_truncated,
            **({"adapter": lora_path, "adapter_files": fingerprint(lora_path)} if lora_path else {}),
        },
        to_row=lambda request, completion: teacher_row(by_id[request.id], request, completion, args.model_name),
        engine=engine,
        sampling=sampling,
        facts=adapter.origin() if adapter else {},
        options=options.run_from(args),
        expects_truncation=asks_again(args.config),
    )
    return runner.dry_run(job) if args.dry_run else runner.run(job)


if __name__ == "__main__":
    sys.exit(cli.run(main))
