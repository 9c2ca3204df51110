"""Speed and memory of generation: a plain loop over `generate`, this project's backends, and vLLM by itself.

Reads   <data_root>/<dataset>/test.jsonl, a model, an adapter
Prints  a Markdown table (and writes it to --output): answers a second, tokens a second, peak memory, medians of the
        repetitions, and each as a multiple of the plain loop

    python scripts/dev/bench_generation.py --config configs/smollm2_cpu/infer.yaml --limit 64 --dataset gsm_symbolic \\
        --lora_path outputs/smollm2_cpu/train/strong_baseline
    python scripts/dev/bench_generation.py ... --vllm_python .venv-vllm/bin/python --parts plain,transformers,vllm,raw_vllm

| part | what runs |
|---|---|
| plain | batches in input order, padded, `generate` until the slowest row ends |
| transformers_whole | the transformers backend with --no-stop_at_answer |
| transformers, vllm, openai | the backends as they are by default; openai needs --base_url |
| raw_vllm | vLLM's own `LLM.generate` over the same token ids, nothing of this project around it |

Every part of every repetition is a process of its own, parts take turns, and loading and a warm-up are not counted. All
get the same prompts, the same merged weights, greedy decoding. An answer is a row that ended by itself or whose answer
line is complete. Memory is the peak of the process and its children.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cotkit.generation import engines, options
from cotkit.generation.chat_model import check_model

ROOT = Path(__file__).resolve().parents[2]
from cotkit.core import cli
from cotkit.core.datasets import PREPARABLE
from cotkit.core.errors import UserError
from cotkit.core.files import write_bytes_atomic
from cotkit.core.jsonl import Row
from cotkit.core.problems import problem_path, read_problems
from cotkit.generation import prompts
from cotkit.generation.types import Completion, Request, Sampling
from cotkit.grading.extraction import answer_line_end

PARTS = ("plain", "transformers_whole", "transformers", "vllm", "raw_vllm", "openai")
IN_VLLM = ("vllm", "raw_vllm")
WARM_UP = 2  # prompts
PROMPTS = 64
PLAIN_BATCH = 32

Run = Callable[[Sequence[Request]], list[Completion]]


def build_parser() -> cli.StageParser:
    parser = cli.StageParser(__doc__, "limit", "seed", "dry_run")
    bench = parser.add_argument_group("bench; --limit is the number of prompts (default 64)")
    bench.add_argument("--base_model", required=True, metavar="NAME", help="hub name or folder")
    bench.add_argument("--lora_path", metavar="DIR", help="adapter folder")
    bench.add_argument("--dataset", default="gsm_symbolic", choices=PREPARABLE, help="default gsm_symbolic")
    bench.add_argument("--data_root", type=Path, default=Path("data"), help="prepared problems (default data)")
    bench.add_argument("--repetitions", type=cli.positive_int, default=3, metavar="N", help="default 3")
    bench.add_argument("--parts", metavar="A,B", help=f"some of {','.join(PARTS)} (default: all that can run)")
    bench.add_argument("--vllm_python", metavar="PATH", help="interpreter of the environment that vLLM is installed in")
    bench.add_argument("--output", type=Path, metavar="MD", help="where the table goes as well")
    bench.add_argument("--only", choices=PARTS, help="measure one part here and now, and print it as JSON")
    options.add_arguments(parser, max_new_tokens=160)
    return parser


def parts_of(args: argparse.Namespace) -> list[str]:
    """The parts to run. Raises UserError for one that does not exist or lacks its flag."""
    lacks = {"vllm": "--vllm_python", "raw_vllm": "--vllm_python", "openai": "--base_url"}
    missing = {part: flag for part, flag in lacks.items() if not getattr(args, flag[2:], None)}
    parts = args.parts.split(",") if args.parts else [part for part in PARTS if part not in missing]
    for part in parts:
        if part not in PARTS:
            raise UserError(f"--parts: no part {part!r}{cli.nearest(part, PARTS)}")
        if part in missing:
            raise UserError(f"--parts: {part} needs {missing[part]}")
    return parts


def requests_of(args: argparse.Namespace) -> list[Request]:
    path = problem_path(args.data_root, args.dataset, "test")
    problems = read_problems(path, args.limit or PROMPTS)
    return [Request(problem["id"], 0, prompts.student_messages(problem["question"])) for problem in problems]


def plain_loop(args: argparse.Namespace) -> Run:
    """The usual loop; it knows both ends of a turn, as ours does."""
    import torch

    from cotkit.generation import chat_model

    tokenizer = chat_model.load_tokenizer(args.base_model)
    model = chat_model.load_model(args.base_model, args.lora_path, torch.float32).eval()
    ends = sorted(chat_model.turn_end_ids(tokenizer, model.generation_config))

    def run(requests: Sequence[Request]) -> list[Completion]:
        completions, size = [], args.batch_size or PLAIN_BATCH
        for start in range(0, len(requests), size):
            texts = [prompts.render(tokenizer, request.messages, False) for request in requests[start : start + size]]
            batch = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
            with torch.inference_mode():
                output = model.generate(**batch, max_new_tokens=args.max_new_tokens, do_sample=False, eos_token_id=ends)
            for tokens in output[:, batch["input_ids"].shape[1] :].tolist():
                completions.append(completed(tokenizer, tokens, ends))
        return completions

    return run


def completed(tokenizer: Any, tokens: list[int], ends: list[int]) -> Completion:
    """A row of `generate`'s output, without what comes after its end."""
    length = next((number for number, token in enumerate(tokens, 1) if token in ends), None)
    text = tokenizer.decode(tokens[:length], skip_special_tokens=True)
    return Completion(text, "length" if length is None else "stop", 0, length or len(tokens))


def raw_vllm(args: argparse.Namespace) -> Run:
    """vLLM's own batch interface, with the settings that our backend gives its engine on a CPU."""
    from cotkit.generation import chat_model
    from cotkit.generation.backends import vllm_backend

    tokenizer = chat_model.load_tokenizer(args.base_model)
    with vllm_backend.engine_environment(1), tempfile.TemporaryDirectory() as folder:
        model = chat_model.load_model(args.base_model, args.lora_path, "float32")
        model.save_pretrained(folder)
        ends = sorted(chat_model.turn_end_ids(tokenizer, model.generation_config))
        del model
        from vllm import LLM, SamplingParams

        engine = LLM(
            model=folder,
            tokenizer=args.base_model,
            dtype="float32",
            enforce_eager=True,
            seed=args.seed,
            kv_cache_memory_bytes=vllm_backend.CPU_CACHE_BYTES,
            max_model_len=-1,
            disable_log_stats=True,
        )

    def run(requests: Sequence[Request]) -> list[Completion]:
        ids = [chat_model.encode(tokenizer, request.messages, False) for request in requests]
        params = SamplingParams(temperature=0.0, max_tokens=args.max_new_tokens, stop_token_ids=ends)
        outputs = engine.generate([{"prompt_token_ids": tokens} for tokens in ids], params, use_tqdm=False)
        first = [output.outputs[0] for output in outputs]
        return [Completion(one.text, str(one.finish_reason), 0, len(one.token_ids)) for one in first]

    return run


def backend_run(args: argparse.Namespace, part: str) -> Run:
    args.backend = part.removesuffix("_whole")
    sampling = Sampling(args.max_new_tokens, stop_at_answer=not part.endswith("_whole"))
    backend = engines.load(options.engine_from(args, args.base_model, args.lora_path), sampling)
    return lambda requests: [completion for _, completion in backend.generate(requests)]


def measure(args: argparse.Namespace) -> Row:
    """One part, in this process."""
    requests = requests_of(args)
    loads = {"plain": plain_loop, "raw_vllm": raw_vllm}
    run = loads[args.only](args) if args.only in loads else backend_run(args, args.only)
    run(requests[:WARM_UP])
    begun, used = time.monotonic(), cpu_seconds()
    completions = run(requests)
    seconds, used = time.monotonic() - begun, cpu_seconds() - used
    answers = sum(
        one.finish_reason in ("stop", "answer") or answer_line_end(one.text) is not None for one in completions
    )
    tokens = sum(one.completion_tokens for one in completions)
    found = {"rows": len(completions), "answers": answers, "tokens": tokens}
    return {**found, "seconds": seconds, "cpu_seconds": used, "mib": peak_mib()}


def processes() -> list[Any]:
    """This process and the children that still live."""
    import psutil

    return [psutil.Process(), *psutil.Process().children(recursive=True)]


def cpu_seconds() -> float:
    """Time on all cores so far: what a busy machine disturbs least."""
    return sum(sum(process.cpu_times()[:2]) for process in processes())


def peak_mib() -> float:
    """Peak resident memory of these processes in MiB (VmHWM on Linux); what they share is counted in each."""
    total = 0
    for process in processes():
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
            total += next((int(line.split()[1]) for line in status.split("\n") if line.startswith("VmHWM")), 0)
    return total / 1024


def measure_elsewhere(part: str, args: argparse.Namespace, argv: list[str]) -> Row:
    """One part in a process of its own. Raises UserError with the end of its messages if it fails."""
    python = args.vllm_python if part in IN_VLLM else sys.executable
    command = [python, str(Path(__file__).resolve()), *argv, "--only", part]
    done = subprocess.run(command, check=False, capture_output=True, text=True, encoding="utf-8")
    if done.returncode:
        raise UserError(f"{part} failed: {done.stderr.strip()[-1500:]}")
    found = json.loads(done.stdout.strip().split("\n")[-1])
    answers, tokens = (found[name] / found["seconds"] for name in ("answers", "tokens"))
    costs = f"{found['seconds']:.1f} s, {found['cpu_seconds']:.1f} s of CPU, {found['mib']:.0f} MiB"
    print(f"{part}: {answers:.2f} answers/s, {tokens:.0f} tokens/s, {costs}", file=sys.stderr, flush=True)
    return found


def table(runs: dict[str, list[Row]]) -> str:
    """Medians of the repetitions; the first part is 1."""
    lines = ["| part | answers | answers/s | x | tokens/s | x | CPU s | peak MiB | seconds of each run |"]
    lines.append("|---|" + "---|" * 8)
    medians = {
        part: [statistics.median(row[name] / row["seconds"] for row in rows) for name in ("answers", "tokens")]
        for part, rows in runs.items()
    }
    first = next(iter(medians.values()))
    for part, rows in runs.items():
        answers, tokens = medians[part]
        ratios = [f"{value / base:.2f}" if base else "" for value, base in zip(medians[part], first, strict=True)]
        seconds = ", ".join(f"{row['seconds']:.1f}" for row in rows)
        lines.append(
            f"| {part} | {rows[0]['answers']} of {rows[0]['rows']} | {answers:.2f} | {ratios[0]} | {tokens:.0f} | {ratios[1]} "
            f"| {statistics.median(row['cpu_seconds'] for row in rows):.1f} "
            f"| {statistics.median(row['mib'] for row in rows):.0f} | {seconds} |"
        )
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    args = build_parser().parse(argv)
    check_model(args.base_model)
    if args.only:
        print(json.dumps(measure(args)))
        return 0
    parts = parts_of(args)
    if args.dry_run:
        print(f"dry run: {len(requests_of(args))} prompts, {args.repetitions} times: {', '.join(parts)}")
        return 0
    runs: dict[str, list[Row]] = {part: [] for part in parts}
    for _ in range(args.repetitions):
        for part in parts:
            runs[part].append(measure_elsewhere(part, args, argv))
    print(table(runs), end="")
    if args.output:
        write_bytes_atomic(args.output, [table(runs).encode("utf-8")])
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
