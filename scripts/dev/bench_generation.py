"""Speed and memory of generation: loops over `generate`, the library's continuous batching, our backends, and vLLM alone.

Reads   <data_root>/<dataset>/test.jsonl, a model, an adapter
Prints  a Markdown table: medians of the repetitions, and answers and tokens per second as multiples of the first part

    python scripts/dev/bench_generation.py --config configs/smollm2_cpu/infer.yaml --limit 64 --dataset gsm_symbolic \\
        --lora_path outputs/smollm2_cpu/train/strong_baseline
    python scripts/dev/bench_generation.py ... --vllm_python .venv-vllm/bin/python --parts plain,transformers,vllm,raw_vllm

| part | what runs |
|---|---|
| plain | padded batches in input order, `generate` until the slowest row ends |
| sorted_plain | the same with prompts sorted by length, which is the best that a plain loop can do |
| library | continuous batching of transformers itself, `generate_batch` |
| transformers_whole | the transformers backend with --no-stop_at_answer |
| transformers, vllm, openai | the backends with their defaults; openai needs --base_url |
| raw_vllm | vLLM's own `LLM.generate` on the same token ids, without this project |

Every measurement is a process of its own, and parts take turns. Loading and a warm-up are not counted. All parts get the
same prompts, the same merged weights, the same type (--dtype, float32 by default) and the same sampling (--temperature, --top_p,
--top_k; greedy by default). An answer is a row that ended with EOS or holds a complete answer line. Memory is the peak of the
process and its children.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from cotkit.core import cli
from cotkit.core.errors import UserError
from cotkit.core.jsonl import Row
from cotkit.core.markdown import Table
from cotkit.core.problems import add_test_set_arguments, problem_path, read_problems
from cotkit.generation import chat_model, engines, options, prompts
from cotkit.generation.types import Completion, Request
from cotkit.grading.extraction import answer_line_end

PARTS = ("plain", "sorted_plain", "library", "transformers_whole", "transformers", "vllm", "raw_vllm", "openai")
IN_VLLM = ("vllm", "raw_vllm")
WARM_UP_PROMPTS = 2
LIBRARY_BLOCK, LIBRARY_TOKENS = (
    16,
    512,
)  # tokens per block of its cache, and per pass; without a GPU it cannot choose them
PROMPTS = 64
PLAIN_BATCH = 32
HEADER = ["part", "answers", "answers/s", "x", "tokens/s", "x", "CPU s", "peak MiB", "seconds of each run"]

Run = Callable[[Sequence[Request]], list[Completion]]


def build_parser() -> cli.StageParser:
    parser = cli.StageParser(__doc__, "limit", "seed", "dry_run")
    bench = parser.add_argument_group(f"bench; --limit is the number of prompts (default {PROMPTS})")
    add_test_set_arguments(bench)
    bench.add_argument("--base_model", required=True, metavar="NAME", help="hub name or folder")
    bench.add_argument("--lora_path", metavar="DIR", help="adapter folder")
    bench.add_argument("--repetitions", type=cli.positive_int, default=3, metavar="N", help="default 3")
    bench.add_argument("--parts", metavar="A,B", help=f"some of {','.join(PARTS)} (default: all that can run)")
    bench.add_argument("--vllm_python", metavar="PATH", help="Python of the environment in which vLLM is installed")
    bench.add_argument("--only", choices=PARTS, help="measure one part in this process and print it as JSON")
    options.add_arguments(parser, max_new_tokens=160)
    return parser


def parts_of(args: argparse.Namespace) -> list[str]:
    """The parts to run. Raises UserError for one that does not exist or lacks its flag."""
    needs = {"vllm": "--vllm_python", "raw_vllm": "--vllm_python", "openai": "--base_url"}
    missing = {part: flag for part, flag in needs.items() if not getattr(args, flag[2:])}
    parts = args.parts.split(",") if args.parts else [part for part in PARTS if part not in missing]
    for part in parts:
        if part not in PARTS:
            raise UserError(f"--parts: no part {part!r}{cli.nearest(part, PARTS)}")
        if part in missing:
            raise UserError(f"--parts: {part} needs {missing[part]}")
    return parts


def requests_of(args: argparse.Namespace) -> list[Request]:
    problems = read_problems(problem_path(args.data_root, args.dataset, args.split), args.limit or PROMPTS)
    return [Request(problem["id"], 0, prompts.student_messages(problem["question"])) for problem in problems]


def loaded(args: argparse.Namespace) -> tuple[Any, Any, list[int]]:
    """Model, tokenizer and all tokens that end a turn, the same as in our backends."""
    import torch

    tokenizer = chat_model.load_tokenizer(args.base_model)
    model = chat_model.load_model(args.base_model, args.lora_path, getattr(torch, number_type(args))).eval()
    return model, tokenizer, sorted(chat_model.turn_end_ids(tokenizer, model.generation_config))


def number_type(args: argparse.Namespace) -> str:
    """`auto` is what our backends choose on a CPU."""
    return "float32" if args.dtype == "auto" else args.dtype


def generation_settings(args: argparse.Namespace) -> dict[str, Any]:
    """The flags' length and sampling, in the words of `generate`."""
    settings: dict[str, Any] = {"max_new_tokens": args.max_new_tokens, "do_sample": args.temperature > 0}
    if settings["do_sample"]:
        settings.update(temperature=args.temperature, top_p=args.top_p, top_k=args.top_k)
    return settings


def plain_loop(args: argparse.Namespace) -> Run:
    """The usual loop; `sorted_plain` puts prompts of similar length into one batch."""
    import torch

    model, tokenizer, ends = loaded(args)

    def run(requests: Sequence[Request]) -> list[Completion]:
        completions, size = [], args.batch_size or PLAIN_BATCH
        texts = [prompts.render(tokenizer, request.messages, False) for request in requests]
        if args.only == "sorted_plain":
            texts.sort(key=lambda text: -len(tokenizer(text, add_special_tokens=False)["input_ids"]))
        for start in range(0, len(texts), size):
            some = texts[start : start + size]
            batch = tokenizer(some, return_tensors="pt", padding=True, add_special_tokens=False)
            with torch.inference_mode():
                output = model.generate(**batch, **generation_settings(args), eos_token_id=ends)
            for tokens in output[:, batch["input_ids"].shape[1] :].tolist():
                completions.append(completed(tokenizer, tokens, ends))
        return completions

    return run


def library_batching(args: argparse.Namespace) -> Run:
    """Continuous batching of transformers, with a cache for as many rows as a batch of the plain loop has."""
    from transformers import ContinuousBatchingConfig, GenerationConfig

    model, tokenizer, ends = loaded(args)
    settings = GenerationConfig(**generation_settings(args), eos_token_id=ends, pad_token_id=tokenizer.pad_token_id)

    def run(requests: Sequence[Request]) -> list[Completion]:
        ids = [chat_model.encode(tokenizer, request.messages, False) for request in requests]
        rows = args.batch_size or PLAIN_BATCH
        blocks = rows * -(-(max(map(len, ids)) + args.max_new_tokens) // LIBRARY_BLOCK)
        cache = ContinuousBatchingConfig(block_size=LIBRARY_BLOCK, num_blocks=blocks, max_batch_tokens=LIBRARY_TOKENS)
        outputs = model.generate_batch(ids, settings, cache, progress_bar=False)
        return [completed(tokenizer, output.generated_tokens, ends) for output in outputs.values()]

    return run


def completed(tokenizer: Any, tokens: list[int], ends: list[int]) -> Completion:
    """A row of `generate`'s output, up to its first end token."""
    length = next((number for number, token in enumerate(tokens, 1) if token in ends), None)
    text = tokenizer.decode(tokens[:length], skip_special_tokens=True)
    return Completion(text, "length" if length is None else "stop", 0, length or len(tokens))


def raw_vllm(args: argparse.Namespace) -> Run:
    """vLLM's own batch interface, with the settings that our backend gives its engine on a CPU."""
    from cotkit.generation.backends import vllm_backend

    tokenizer = chat_model.load_tokenizer(args.base_model)
    with vllm_backend.engine_environment(1), tempfile.TemporaryDirectory() as folder:
        model = chat_model.load_model(args.base_model, args.lora_path, number_type(args))
        model.save_pretrained(folder)
        ends = sorted(chat_model.turn_end_ids(tokenizer, model.generation_config))
        del model
        from vllm import LLM, SamplingParams

        engine = LLM(
            model=folder,
            tokenizer=args.base_model,
            dtype=number_type(args),
            enforce_eager=True,
            enable_chunked_prefill=False,  # as in our backend, which says why
            seed=args.seed,
            kv_cache_memory_bytes=vllm_backend.CPU_CACHE_BYTES,
            max_model_len=-1,
            disable_log_stats=True,
        )

    def run(requests: Sequence[Request]) -> list[Completion]:
        ids = [chat_model.encode(tokenizer, request.messages, False) for request in requests]
        params = SamplingParams(
            temperature=args.temperature,
            top_p=args.top_p,
            top_k=args.top_k,
            seed=args.seed,
            max_tokens=args.max_new_tokens,
            stop_token_ids=ends,
        )
        outputs = engine.generate([{"prompt_token_ids": tokens} for tokens in ids], params, use_tqdm=False)
        first = [output.outputs[0] for output in outputs]
        return [Completion(one.text, str(one.finish_reason), 0, len(one.token_ids)) for one in first]

    return run


def backend_run(args: argparse.Namespace) -> Run:
    args.backend = args.only.removesuffix("_whole")
    sampling = replace(options.sampling_from(args), stop_at_answer=not args.only.endswith("_whole"))
    backend = engines.load(options.engine_from(args, args.base_model, args.lora_path), sampling)
    return lambda requests: [completion for _, completion in backend.generate(requests)]


def measure(args: argparse.Namespace) -> Row:
    """Measures the part --only in this process."""
    requests = requests_of(args)
    own = {"plain": plain_loop, "sorted_plain": plain_loop, "library": library_batching, "raw_vllm": raw_vllm}
    run = own.get(args.only, backend_run)(args)
    run(requests[:WARM_UP_PROMPTS])
    begun, used = time.monotonic(), cpu_seconds()
    completions = run(requests)
    seconds, used = time.monotonic() - begun, cpu_seconds() - used
    ended = [one.finish_reason in ("stop", "answer") or answer_line_end(one.text) is not None for one in completions]
    tokens = sum(one.completion_tokens for one in completions)
    found = {"rows": len(completions), "answers": sum(ended), "tokens": tokens}
    return {**found, "seconds": seconds, "cpu_seconds": used, "mib": peak_mib()}


def processes() -> list[Any]:
    """This process and its living children."""
    import psutil

    return [psutil.Process(), *psutil.Process().children(recursive=True)]


def cpu_seconds() -> float:
    """CPU time so far. Other load on the machine disturbs it less than wall time."""
    return sum(sum(process.cpu_times()[:2]) for process in processes())


def peak_mib() -> float:
    """Peak resident memory of these processes in MiB (VmHWM on Linux); shared memory counts in each."""
    total = 0
    for process in processes():
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
            total += next((int(line.split()[1]) for line in status.split("\n") if line.startswith("VmHWM")), 0)
    return total / 1024


def measure_elsewhere(part: str, args: argparse.Namespace, argv: list[str]) -> Row:
    """Measures a part in its own process. Raises UserError with the end of its messages if it fails."""
    python = args.vllm_python if part in IN_VLLM else sys.executable
    command = [python, str(Path(__file__).resolve()), *argv, "--only", part]
    done = subprocess.run(command, check=False, capture_output=True, text=True, encoding="utf-8")
    if done.returncode:
        raise UserError(f"{part} failed: {done.stderr.strip()[-1500:]}")
    found = json.loads(done.stdout.strip().split("\n")[-1])
    print(f"{part}: {found['seconds']:.1f} s", file=sys.stderr, flush=True)
    return found


def table(runs: dict[str, list[Row]]) -> str:
    """Medians of the repetitions, and multiples of the first part."""
    speeds = {
        part: [median(row[name] / row["seconds"] for row in rows) for name in ("answers", "tokens")]
        for part, rows in runs.items()
    }
    first = next(iter(speeds.values()))
    lines = []
    for part, rows in runs.items():
        (answers, tokens), first_row = speeds[part], rows[0]
        times = [f"{value / base:.2f}" if base else "" for value, base in zip(speeds[part], first, strict=True)]
        cpu, mib = (
            f"{median(row[name] for row in rows):.{digits}f}" for name, digits in (("cpu_seconds", 1), ("mib", 0))
        )
        seconds = ", ".join(f"{row['seconds']:.1f}" for row in rows)
        count = f"{first_row['answers']} of {first_row['rows']}"
        lines.append([part, count, f"{answers:.2f}", times[0], f"{tokens:.0f}", times[1], cpu, mib, seconds])
    return "\n".join(Table(HEADER, lines).lines())


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    args = build_parser().parse(argv)
    chat_model.check_model(args.base_model)
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
    print(table(runs))
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
