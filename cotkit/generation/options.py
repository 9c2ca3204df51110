"""The flags of the scripts that generate texts, and the dataclasses that they become."""

from __future__ import annotations

import argparse
import logging
from dataclasses import dataclass

from cotkit.core import cli
from cotkit.core.errors import UserError
from cotkit.generation.types import Sampling

log = logging.getLogger(__name__)

BACKENDS = ("transformers", "vllm", "openai", "fake")
MIN_THINKING_TOKENS = 4096  # a smaller limit was probably meant for texts without a thinking part


@dataclass(frozen=True)
class EngineOptions:
    """Which engine runs which model, and how. Fields have the names and defaults of their flags.

    `adapter` is a folder with a LoRA adapter. `request_timeout` is in seconds. None leaves a value to the backend.
    """

    backend: str
    model: str
    adapter: str | None = None
    seed: int = 42
    device: str = "auto"
    dtype: str = "auto"
    batch_size: int | None = None
    max_batch_tokens: int | None = None
    tensor_parallel_size: int = 1
    gpu_memory_utilization: float | None = None
    merge_adapter: bool | None = None
    base_url: tuple[str, ...] = ()
    concurrency: int = 16
    request_timeout: float = 600.0
    max_retries: int = 5


@dataclass(frozen=True)
class RunOptions:
    """How a run treats its output: only ask whether it is finished, only merge, one folder per node, start over."""

    is_done: bool = False
    merge_only: bool = False
    separate_folders: bool = False
    overwrite: bool = False


def add_arguments(parser: argparse.ArgumentParser, max_new_tokens: int) -> None:
    """Adds the flags of `EngineOptions`, `Sampling` and `RunOptions`; `max_new_tokens` is the script's default."""
    yes_or_no = argparse.BooleanOptionalAction
    add = parser.add_argument_group("model and engine").add_argument
    add("--backend", choices=BACKENDS, default="transformers", help="default transformers; fake has no model")
    add(
        "--batch_size",
        type=cli.positive_int,
        metavar="ROWS",
        help="transformers: rows decoded together (default 64 on a CPU, 256 on a GPU)",
    )
    add(
        "--max_batch_tokens",
        type=cli.positive_int,
        metavar="TOKENS",
        help="transformers: limit of the batch in tokens, prompts and --max_new_tokens together; it bounds the memory "
        "(default 32768 on a CPU, what fits into 60 %% of the free memory on a GPU)",
    )
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default auto)")
    add(
        "--dtype",
        choices=("auto", "float32", "bfloat16", "float16"),
        default="auto",
        help="auto: the model's own on a GPU; float32 on a CPU, where texts then do not depend on the batch",
    )
    add = parser.add_argument_group(
        "vllm (--backend vllm; needs the environment of requirements-vllm.txt)"
    ).add_argument
    add("--tensor_parallel_size", type=cli.positive_int, default=1, metavar="N", help="GPUs per model (default 1)")
    add(
        "--gpu_memory_utilization",
        type=float,
        metavar="SHARE",
        help="share of the memory that an engine may take (default: vLLM's own on a GPU, 2 GiB for the cache on a CPU)",
    )
    add(
        "--merge_adapter",
        action=yes_or_no,
        help="merge the adapter into a copy of the weights (default: on a CPU, where vLLM's adapter kernels are slow)",
    )
    add = parser.add_argument_group("servers (--backend openai; the key is read from OPENAI_API_KEY)").add_argument
    add("--base_url", action=cli.Collect, nargs="+", metavar="URL", help="http://host:8000/v1; several share the work")
    add(
        "--concurrency",
        type=cli.positive_int,
        default=16,
        metavar="N",
        help="requests at once, per server (default 16)",
    )
    add(
        "--request_timeout",
        type=cli.positive_float,
        default=600.0,
        metavar="S",
        help="give up a request after so many seconds without a sign from the server (default 600)",
    )
    add("--max_retries", type=cli.whole_number, default=5, metavar="N", help="tries after a failed one (default 5)")
    add = parser.add_argument_group("sampling").add_argument
    add(
        "--max_new_tokens",
        type=cli.positive_int,
        default=max_new_tokens,
        metavar="N",
        help=f"tokens per completion (default {max_new_tokens})",
    )
    add("--num_samples", type=cli.positive_int, default=1, metavar="K", help="samples per problem (default 1)")
    add("--temperature", type=float, default=0.0, help="0 is greedy (default)")
    add("--top_p", type=float, default=1.0, help="1 is off (default)")
    add("--top_k", type=int, default=0, help="0 is off (default)")
    add("--thinking", action=yes_or_no, default=False, help="let the model think first (default: no)")
    add(
        "--stop_at_answer",
        action=yes_or_no,
        default=True,
        help="end a text when its first answer line is complete (default: yes)",
    )
    add = parser.add_argument_group("running").add_argument
    add("--is_done", action="store_true", help=f"only check whether the output is finished: exit 0 or {cli.NOT_DONE}")
    add("--merge_only", action="store_true", help="only merge the rank files that exist")
    add(
        "--separate_folders",
        action="store_true",
        help="several nodes without a shared folder: each keeps its rank files, to be copied together for --merge_only",
    )


def engine_from(args: argparse.Namespace, model: str, adapter: str | None = None) -> EngineOptions:
    """The engine that the flags ask for, with this model."""
    names = [name for name in EngineOptions.__dataclass_fields__ if name not in ("model", "adapter", "base_url")]
    chosen = {name: getattr(args, name) for name in names}
    return EngineOptions(model=model, adapter=adapter, base_url=tuple(args.base_url or ()), **chosen)


def run_from(args: argparse.Namespace) -> RunOptions:
    """The way of running that the flags ask for."""
    return RunOptions(args.is_done, args.merge_only, args.separate_folders, args.overwrite)


def sampling_from(args: argparse.Namespace) -> Sampling:
    """The sampling that the flags ask for. Raises UserError if they contradict one another."""
    if args.num_samples > 1 and args.temperature <= 0:
        raise UserError(
            f"--num_samples {args.num_samples} needs --temperature above 0: greedy samples are all the same"
        )
    if not 0 < args.top_p <= 1 or args.temperature < 0 or args.top_k < 0:
        raise UserError("--top_p must be in (0, 1], --temperature and --top_k at least 0")
    # Qwen3's model card forbids greedy decoding with thinking, and recommends a limit of 32768 tokens.
    if args.thinking and args.temperature <= 0:
        log.warning("warning: greedy thinking ends in loops; for Qwen3 --temperature 0.6 --top_p 0.95 --top_k 20")
    if args.thinking and args.max_new_tokens < MIN_THINKING_TOKENS:
        limit = args.max_new_tokens
        log.warning("warning: --max_new_tokens %d truncates thoughts before any answer; Qwen3's card says 32768", limit)
    return Sampling(args.max_new_tokens, args.temperature, args.top_p, args.top_k, args.thinking, args.stop_at_answer)
