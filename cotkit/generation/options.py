"""The flags of the scripts that generate texts, and what they ask for."""

from __future__ import annotations

import argparse
import logging
from typing import Any

from cotkit.core import cli
from cotkit.core.errors import UserError
from cotkit.generation.types import Sampling

log = logging.getLogger(__name__)


BACKENDS = ("transformers", "vllm", "openai", "fake")


MIN_THINKING_TOKENS = 4096  # a limit below this is taken for one that was meant for texts without thoughts


def add_arguments(parser: argparse.ArgumentParser, max_new_tokens: int) -> None:
    """The flags of stages 1 and 4 that say what runs and how; `max_new_tokens` is the stage's default."""
    engine = parser.add_argument_group("model and engine")
    engine.add_argument(
        "--backend", choices=BACKENDS, default="transformers", help="default transformers; fake has no model"
    )
    engine.add_argument(
        "--batch_size",
        type=cli.positive_int,
        metavar="ROWS",
        help="transformers: rows decoded together (default 64 on a CPU, 256 on a GPU)",
    )
    engine.add_argument(
        "--max_batch_tokens",
        type=cli.positive_int,
        metavar="TOKENS",
        help="transformers: what these rows may come to, prompts and --max_new_tokens: bounds the memory "
        "(default 32768 on a CPU, what fits into 60 %% of the free memory on a GPU)",
    )
    engine.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default auto)")
    engine.add_argument(
        "--dtype",
        choices=("auto", "float32", "bfloat16", "float16"),
        default="auto",
        help="auto: the model's own on a GPU, float32 on a CPU, where texts then do not depend on the batch",
    )
    _add_vllm_arguments(
        parser.add_argument_group("vllm (--backend vllm; needs the environment of requirements-vllm.txt)")
    )
    _add_server_arguments(parser.add_argument_group("servers (--backend openai; the key is read from OPENAI_API_KEY)"))
    sampling = parser.add_argument_group("sampling")
    sampling.add_argument("--max_new_tokens", type=cli.positive_int, default=max_new_tokens, metavar="N")
    sampling.add_argument("--num_samples", type=cli.positive_int, default=1, metavar="K", help="samples a problem")
    sampling.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (default)")
    sampling.add_argument("--top_p", type=float, default=1.0, help="1 is off (default)")
    sampling.add_argument("--top_k", type=int, default=0, help="0 is off (default)")
    sampling.add_argument("--thinking", action=argparse.BooleanOptionalAction, default=False, help="let it think first")
    sampling.add_argument(
        "--stop_at_answer",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="end a text when its first answer line is complete (default)",
    )
    run = parser.add_argument_group("running")
    run.add_argument(
        "--is_done", action="store_true", help=f"only say whether the output is finished: exit 0 or {cli.NOT_DONE}"
    )
    run.add_argument("--merge_only", action="store_true", help="only merge the rank files that exist")
    run.add_argument(
        "--separate_folders",
        action="store_true",
        help="several nodes without a shared folder: each keeps its rank files, to be copied together for --merge_only",
    )


def _add_vllm_arguments(group: Any) -> None:
    group.add_argument(
        "--tensor_parallel_size", type=cli.positive_int, default=1, metavar="N", help="GPUs a model (default 1)"
    )
    group.add_argument(
        "--gpu_memory_utilization",
        type=float,
        metavar="SHARE",
        help="share of the memory that an engine may take (default: vLLM's own on a GPU, 2 GiB for the cache on a CPU)",
    )
    group.add_argument(
        "--merge_adapter",
        action=argparse.BooleanOptionalAction,
        help="merge the adapter into a copy of the weights (default: on a CPU, where vLLM's adapter kernels are slow)",
    )


def _add_server_arguments(group: Any) -> None:
    group.add_argument(
        "--base_url", action=cli.Collect, nargs="+", metavar="URL", help="http://host:8000/v1; several share the work"
    )
    group.add_argument(
        "--concurrency",
        type=cli.positive_int,
        default=16,
        metavar="N",
        help="requests at once, each server (default 16)",
    )
    group.add_argument(
        "--request_timeout",
        type=cli.positive_float,
        default=600.0,
        metavar="S",
        help="seconds without a sign from the server after which a request is given up (default 600)",
    )
    group.add_argument(
        "--max_retries", type=cli.whole_number, default=5, metavar="N", help="tries after a failed one (default 5)"
    )


def sampling_from(args: argparse.Namespace) -> Sampling:
    """The sampling that the flags ask for. Raises UserError where they contradict one another."""
    if args.num_samples > 1 and args.temperature <= 0:
        raise UserError(
            f"--num_samples {args.num_samples} needs --temperature above 0: greedy samples are all the same"
        )
    if not 0 < args.top_p <= 1 or args.temperature < 0 or args.top_k < 0:
        raise UserError("--top_p must be in (0, 1], --temperature and --top_k at least 0")
    warn_of_thinking(args)
    return Sampling(args.max_new_tokens, args.temperature, args.top_p, args.top_k, args.thinking, args.stop_at_answer)


def warn_of_thinking(args: argparse.Namespace) -> None:
    """Says what makes thinking texts worthless: greedy decoding, which Qwen3's model card forbids, and a small limit."""
    if args.thinking and args.temperature <= 0:
        log.warning("warning: greedy thinking ends in loops; for Qwen3 --temperature 0.6 --top_p 0.95 --top_k 20")
    if args.thinking and args.max_new_tokens < MIN_THINKING_TOKENS:
        limit = args.max_new_tokens
        log.warning("warning: --max_new_tokens %d cuts thoughts off before any answer; Qwen3's card says 32768", limit)
