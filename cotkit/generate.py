"""The one seam to every inference engine: a `Request` goes in, a `Completion` comes out as soon as it is finished."""

from __future__ import annotations

import argparse
import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from cotkit import cli
from cotkit.files import DataError
from cotkit.model_files import fingerprint
from cotkit.prompts import Message

log = logging.getLogger(__name__)

BACKENDS = ("transformers", "vllm", "openai", "fake")
FINISH_REASONS = ("stop", "answer", "length", "error")
MIN_THINKING_TOKENS = 4096  # a limit below this is taken for one that was meant for texts without thoughts


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen. Temperature 0 is greedy; top_p 1 and top_k 0 are off."""

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    thinking: bool = False
    stop_at_answer: bool = True


@dataclass(frozen=True)
class Request:
    """One completion that is wanted; (id, sample) is its key everywhere.

    `max_new_tokens` is a budget of its own, for a problem that needs more room than the others of a run.
    """

    id: str
    sample: int
    messages: list[Message]
    max_new_tokens: int | None = None

    def budget(self, sampling: Sampling) -> int:
        """How many tokens the completion may have; every backend asks here."""
        return self.max_new_tokens or sampling.max_new_tokens

    @property
    def key(self) -> tuple[str, int]:
        return self.id, self.sample

    def seed(self, run_seed: int) -> int:
        """A seed of its own, so that a sampled text does not depend on what ran beside it. 63 bits."""
        digest = hashlib.sha256(f"{run_seed}\n{self.id}\n{self.sample}".encode()).digest()
        return int.from_bytes(digest[:8], "big") >> 1


@dataclass(frozen=True)
class Completion:
    """What a model wrote, without the prompt and without the end-of-turn token.

    finish_reason is `stop` (the model ended its turn), `answer` (cut after its first complete answer line), `length`
    (the token limit) or `error` (no text; `error` says why). Token counts are the engine's own.
    """

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    error: str | None = None


class Backend(Protocol):
    """A loaded model."""

    def generate(self, requests: Sequence[Request]) -> Iterator[tuple[Request, Completion]]:
        """Yields every request exactly once, in the order in which they finish."""


def add_arguments(parser: argparse.ArgumentParser, max_new_tokens: int) -> None:
    """The flags of stages 1 and 4 that say what runs and how; `max_new_tokens` is the stage's default."""
    engine = parser.add_argument_group("model and engine")
    engine.add_argument("--backend", choices=BACKENDS, default="transformers", help="default transformers; fake has no model")
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
    _add_vllm_arguments(parser.add_argument_group("vllm (--backend vllm; needs the environment of requirements-vllm.txt)"))
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
    run.add_argument("--is_done", action="store_true", help=f"only say whether the output is finished: exit 0 or {cli.NOT_DONE}")
    run.add_argument("--merge_only", action="store_true", help="only merge the rank files that exist")
    run.add_argument(
        "--separate_folders",
        action="store_true",
        help="several nodes without a shared folder: each keeps its rank files, to be copied together for --merge_only",
    )


def _add_vllm_arguments(group: Any) -> None:
    group.add_argument("--tensor_parallel_size", type=cli.positive_int, default=1, metavar="N", help="GPUs a model (default 1)")
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
        "--base_url", action=cli.Gather, nargs="+", metavar="URL", help="http://host:8000/v1; several share the work"
    )
    group.add_argument(
        "--concurrency", type=cli.positive_int, default=16, metavar="N", help="requests at once, each server (default 16)"
    )
    group.add_argument(
        "--request_timeout", type=cli.positive_float, default=600.0, metavar="S",
        help="seconds without a sign from the server after which a request is given up (default 600)",
    )  # fmt: skip
    group.add_argument(
        "--max_retries", type=cli.whole_number, default=5, metavar="N", help="tries after a failed one (default 5)"
    )


def sampling_from(args: argparse.Namespace) -> Sampling:
    """The sampling that the flags ask for. Raises DataError where they contradict one another."""
    if args.num_samples > 1 and args.temperature <= 0:
        raise DataError(f"--num_samples {args.num_samples} needs --temperature above 0: greedy samples are all the same")
    if not 0 < args.top_p <= 1 or args.temperature < 0 or args.top_k < 0:
        raise DataError("--top_p must be in (0, 1], --temperature and --top_k at least 0")
    warn_of_thinking(args)
    return Sampling(
        args.max_new_tokens, args.temperature, args.top_p, args.top_k, args.thinking, args.stop_at_answer
    )


def warn_of_thinking(args: argparse.Namespace) -> None:
    """Says what makes thinking texts worthless: greedy decoding, which Qwen3's model card forbids, and a small limit."""
    if args.thinking and args.temperature <= 0:
        log.warning("warning: greedy thinking ends in loops; for Qwen3 --temperature 0.6 --top_p 0.95 --top_k 20")
    if args.thinking and args.max_new_tokens < MIN_THINKING_TOKENS:
        limit = args.max_new_tokens
        log.warning("warning: --max_new_tokens %d cuts thoughts off before any answer; Qwen3's card says 32768", limit)


def settings_of(sampling: Sampling, seed: int, backend: str) -> dict[str, Any]:
    """The part of a manifest's settings that says how texts were generated; greedy texts have no seed.

    Which engine ran a model is no part of it, but made-up texts never mix with a model's.
    """
    settings = asdict(sampling)
    if backend == "fake":
        settings["backend"] = backend
    return {**settings, "seed": seed} if sampling.temperature > 0 else settings


def files_read(name: str, backend: str) -> str | None:
    """The model whose files the backend reads: none where a server has them or there is no model."""
    return None if backend in ("openai", "fake") else name


def identity(name: str, backend: str) -> str:
    """Identifies a model in a manifest: a local one by its files, a served one by its name."""
    return fingerprint(name) if files_read(name, backend) else name


def check_engine(args: argparse.Namespace, model: str, adapter: str | None = None) -> None:
    """Raises DataError, in a moment, where `--backend` cannot run the model with what the flags say."""
    if args.backend == "openai":
        from cotkit.backends import openai_backend

        openai_backend.check(args, adapter)
    else:
        check_model(model, args.backend)


def check_model(name: str, backend: str = "transformers") -> None:
    """Raises DataError, in a moment, if `name` looks like a folder and is not a model's."""
    if backend == "fake":
        return
    if backend == "vllm" and find_spec("vllm") is None:
        raise DataError("--backend vllm: vLLM is not installed here; it has an environment of its own, requirements-vllm.txt")
    folder = Path(name)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise DataError(f"{name}: holds no config.json, so it is not a model folder")
    elif name.count("/") != 1 or name.startswith((".", "/")):
        hint = "; scripts/setup.sh makes it" if "SmolLM2" in name else ""
        raise DataError(f"{name}: no such model folder{hint}; a hub model is named owner/name")


def preview(args: argparse.Namespace, model: str, request: Request, sampling: Sampling) -> str:
    """The first prompt exactly as the model will read it; loads a tokenizer at most."""
    module = import_module(f"cotkit.backends.{args.backend}_backend")
    return f"--- prompt of {request.id}\n{module.preview(model, request.messages, sampling)}\n---"


def load_backend(args: argparse.Namespace, model: str, adapter: str | None, sampling: Sampling) -> Backend:
    """Loads the engine that `--backend` names. Heavy: call it when everything else has been checked."""
    module = import_module(f"cotkit.backends.{args.backend}_backend")
    return module.load(args, model, adapter, sampling)
