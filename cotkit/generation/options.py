"""The flags of the scripts that generate texts, and the dataclasses that they become."""

from __future__ import annotations

import argparse
import logging
from dataclasses import MISSING, dataclass, fields
from typing import Any

from cotkit.core import cli
from cotkit.core.errors import UserError
from cotkit.core.files import ROOT
from cotkit.generation.types import Sampling

log = logging.getLogger(__name__)

BACKENDS = ("transformers", "vllm", "openai", "fake")
VLLM_PYTHON = ROOT / ".venv-vllm/bin/python"  # of the environment that scripts/setup.sh --vllm makes
DTYPES = ("auto", "float32", "bfloat16", "float16")
THINKING_TOKENS = 32768  # max_new_tokens that Qwen3's model card recommends
MIN_THINKING_TOKENS = 4096  # a lower limit was probably meant for texts without thinking


@dataclass(frozen=True)
class EngineOptions:
    """Which engine runs which model, and how. `add_arguments` explains the fields; None leaves a choice to the backend."""

    backend: str
    model: str
    adapter: str | None = None  # folder of a LoRA adapter
    seed: int = 42
    batch_size: int | None = None
    max_batch_tokens: int | None = None
    device: str = "auto"
    dtype: str = "auto"
    tensor_parallel_size: int = 1
    gpu_memory_utilization: float | None = None
    merge_adapter: bool | None = None
    base_url: tuple[str, ...] = ()
    concurrency: int = 16
    request_timeout: float = 600.0
    max_retries: int = 5


@dataclass(frozen=True)
class RunOptions:
    """How a run treats its output; see `add_arguments`."""

    overwrite: bool = False
    is_done: bool = False
    merge_only: bool = False
    separate_folders: bool = False


def add_arguments(parser: argparse.ArgumentParser, max_new_tokens: int) -> None:
    """Adds the flags that choose engine, sampling and run; `max_new_tokens` is the script's default."""
    count = {"type": cli.positive_int, "metavar": "N"}
    yes_or_no = argparse.BooleanOptionalAction

    add = parser.add_argument_group("model and engine").add_argument
    add("--backend", choices=BACKENDS, default="transformers", help="default %(default)s; fake makes texts up")
    add("--batch_size", **count, help="transformers: rows decoded together (default 64 on a CPU, 256 on a GPU)")
    add(
        "--max_batch_tokens",
        **count,
        help="transformers: the most tokens of these rows, prompts and --max_new_tokens together; limits the memory "
        "(default 32768 on a CPU, what fits into 60 %% of the free memory on a GPU)",
    )
    add("--device", help="auto, cpu, cuda, cuda:1, mps (default auto)")
    add(
        "--dtype",
        choices=DTYPES,
        help="auto (default): the model's own on a GPU; float32 on a CPU, which makes texts independent of the batch",
    )

    add = parser.add_argument_group(
        "vllm (--backend vllm; needs the environment of requirements-vllm.txt)"
    ).add_argument
    add("--tensor_parallel_size", **count, help="GPUs per model (default %(default)s)")
    add(
        "--gpu_memory_utilization",
        type=float,
        metavar="SHARE",
        help="share of the memory that an engine may take (default: vLLM's own on a GPU, 2 GiB of KV cache on a CPU)",
    )
    add(
        "--merge_adapter",
        action=yes_or_no,
        help="merge the adapter into a copy of the weights (default: on a CPU, where vLLM's LoRA kernels are slow, and where it has complete layers)",
    )

    add = parser.add_argument_group("servers (--backend openai; the key is read from OPENAI_API_KEY)").add_argument
    add("--base_url", action=cli.Collect, nargs="+", metavar="URL", help="http://host:8000/v1; several share the work")
    add("--concurrency", **count, help="parallel requests per server (default %(default)s)")
    add(
        "--request_timeout",
        type=cli.positive_float,
        metavar="S",
        help="give a request up after so many seconds of silence (default 600)",
    )
    add("--max_retries", type=cli.whole_number, metavar="N", help="tries after a failed one (default %(default)s)")

    add = parser.add_argument_group("sampling").add_argument
    add("--max_new_tokens", **count, default=max_new_tokens, help="limit of a text (default %(default)s)")
    add("--num_samples", **count, default=1, help="samples per problem (default %(default)s)")
    add("--temperature", type=float, help="0 is greedy (default)")
    add("--top_p", type=float, help="1 is off (default)")
    add("--top_k", type=int, help="0 is off (default)")
    add("--thinking", action=yes_or_no, help="let the model think first (default: off)")
    add("--stop_at_answer", action=yes_or_no, help="end a text after its first complete answer line (default: on)")
    add("--stop_at_loop", action=yes_or_no, help="end a text that repeats a run of tokens without end (default: off)")

    add = parser.add_argument_group("running").add_argument
    add("--is_done", action="store_true", help=f"only check whether the output is done: exit code 0 or {cli.NOT_DONE}")
    add("--merge_only", action="store_true", help="only merge the rank files that exist")
    add(
        "--separate_folders",
        action="store_true",
        help="several nodes without a shared folder: each keeps its rank files; copy them together for --merge_only",
    )
    for options in (EngineOptions, Sampling):
        known = {field.name: field.default for field in fields(options) if field.default is not MISSING}
        parser.set_defaults(**{name: known[name] for name in known.keys() - {"adapter", "seed"}})


def sampling_from(args: argparse.Namespace) -> Sampling:
    """The sampling that the flags ask for. Raises UserError if they contradict one another."""
    sampling = _from(args, Sampling)
    if args.num_samples > 1 and sampling.temperature <= 0:
        raise UserError(
            f"--num_samples {args.num_samples} needs --temperature above 0: greedy samples are all the same"
        )
    if not 0 < sampling.top_p <= 1 or sampling.temperature < 0 or sampling.top_k < 0:
        raise UserError("--top_p must be in (0, 1], --temperature and --top_k at least 0")
    if sampling.thinking and sampling.temperature <= 0:
        log.warning("warning: greedy thinking ends in loops; for Qwen3 --temperature 0.6 --top_p 0.95 --top_k 20")
    if sampling.thinking and sampling.max_new_tokens < MIN_THINKING_TOKENS:
        text = "warning: --max_new_tokens %d truncates thinking before any answer; Qwen3's model card recommends %d"
        log.warning(text, sampling.max_new_tokens, THINKING_TOKENS)
    return sampling


def engine_from(args: argparse.Namespace, model: str, adapter: str | None = None) -> EngineOptions:
    """The engine that the flags ask for, with this model."""
    return _from(args, EngineOptions, model=model, adapter=adapter, base_url=tuple(args.base_url or ()))


def run_from(args: argparse.Namespace) -> RunOptions:
    return _from(args, RunOptions)


def _from(args: argparse.Namespace, options: type[Any], **values: Any) -> Any:
    names = [field.name for field in fields(options) if field.name not in values]
    return options(**{name: getattr(args, name) for name in names}, **values)
