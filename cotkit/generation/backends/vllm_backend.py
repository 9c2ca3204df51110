"""vLLM inside this command: continuous batching with a paged KV cache, one engine per rank, in its own processes.

vLLM decides which rows are decoded together and reuses shared prompt beginnings (prefix caching), so `--batch_size` has no
effect. Prompts go in and completions come out as token ids: they are rendered, decoded and ended exactly as by the
transformers backend. vLLM needs its own environment; a command that is started elsewhere continues there.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any

from cotkit.core.errors import OtherPython, UserError
from cotkit.generation import adapters, chat_model
from cotkit.generation.backends.transformers_backend import preview
from cotkit.generation.chat_model import ActiveRow, answered, decode, encode, looped, opened_thought, turn_end_ids
from cotkit.generation.options import VLLM_PYTHON, EngineOptions
from cotkit.generation.types import Completion, Request, Sampling

log = logging.getLogger(__name__)

__all__ = ["VllmBackend", "check", "load", "preview"]

reads_model_files = True
manifest_settings: dict[str, str] = {}
ends_loops = True
sampler = "vllm"

# vLLM reserves memory for one of these ranks; an adapter gets the next larger one.
LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)

# KV cache of an engine on a CPU: 46,000 tokens of SmolLM2-135M in float32. VLLM_CPU_KVCACHE_SPACE overrides it.
CPU_CACHE_BYTES = 2 * 2**30

# Variables of torchrun. vLLM's processes would take them for their own: with TORCHELASTIC_USE_AGENT_STORE they wait for
# a store that the launcher does not offer them.
LAUNCHER_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
LAUNCHER_PREFIXES = ("LOCAL_", "GROUP_", "ROLE_", "TORCHELASTIC_")

# The engine's processes are killed if they have not ended by then; Ctrl-C must end everything within 5 s.
SHUTDOWN_SECONDS = 2.0

# Errors only, on stderr, and no usage report. What the user has set wins.
QUIET = {
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
    "VLLM_NO_USAGE_STATS": "1",
    "PYTHONWARNINGS": "ignore::FutureWarning,ignore::UserWarning:multiprocessing.resource_tracker",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    "TORCH_LOGS": "-all",  # torch's way to write "errors only"
}


def check(options: EngineOptions) -> None:
    """Raises UserError if vLLM is not installed or the model's name is wrong, OtherPython if it is installed elsewhere."""
    if find_spec("vllm") is None:
        fact = "--backend vllm: vLLM is not installed here; it has an environment of its own (requirements-vllm.txt)"
        if VLLM_PYTHON.is_file() and Path(sys.prefix) != VLLM_PYTHON.parents[1]:
            raise OtherPython(f"{fact}: {VLLM_PYTHON}", VLLM_PYTHON)
        raise UserError(f"{fact}, which `bash scripts/setup.sh --vllm` makes; such a stage then runs there by itself")
    chat_model.check_model(options.model)
    if options.adapter is not None:
        adapters.check(options.model, Path(options.adapter))


def load(options: EngineOptions, sampling: Sampling) -> VllmBackend:
    """Starts an engine. Raises UserError if the model or adapter cannot be used, or if the engine does not start."""
    from transformers import AutoConfig, GenerationConfig

    tokenizer = chat_model.load_tokenizer(options.model)
    if options.adapter is not None:
        adapters.check_on_model(options.model, Path(options.adapter))
    try:
        generation = GenerationConfig.from_pretrained(options.model)
    except OSError:  # without one, the model's configuration names the end token
        generation = GenerationConfig.from_model_config(AutoConfig.from_pretrained(options.model))
    with engine_environment(options.tensor_parallel_size), tempfile.TemporaryDirectory(prefix="merged-") as folder:
        engine, lora = _start(options, Path(folder))
    guard_children()
    atexit.register(engine.engine_core.shutdown, timeout=SHUTDOWN_SECONDS)
    return VllmBackend(engine, tokenizer, turn_end_ids(tokenizer, generation), sampling, options.seed, lora)


def _start(options: EngineOptions, folder: Path) -> tuple[Any, Any]:
    """(engine, its LoRARequest or None). A merged adapter's weights are saved in `folder`, where the engine reads them."""
    logging.getLogger("vllm").setLevel(logging.ERROR)  # during the import; afterwards vLLM sets up its own logging
    from vllm import EngineArgs, LLMEngine
    from vllm.lora.request import LoRARequest
    from vllm.platforms import current_platform

    on_cpu = current_platform.is_cpu()
    if options.device not in ("auto", current_platform.device_type):
        raise UserError(f"--device {options.device}: this vLLM was built for {current_platform.device_type}")
    arguments: dict[str, Any] = {"dtype": "float32" if on_cpu and options.dtype == "auto" else options.dtype}
    if options.gpu_memory_utilization is not None:
        arguments["gpu_memory_utilization"] = options.gpu_memory_utilization
    elif on_cpu:
        arguments["kv_cache_memory_bytes"] = CPU_CACHE_BYTES
    weights, lora = options.model, None
    if options.adapter is not None and merges(Path(options.adapter), options.merge_adapter, on_cpu):
        chat_model.load_model(options.model, options.adapter, arguments["dtype"]).save_pretrained(folder)
        weights = str(folder)
    elif options.adapter is not None:
        lora = LoRARequest("adapter", 1, options.adapter)
        arguments.update(enable_lora=True, max_loras=1, max_lora_rank=_lora_rank(Path(options.adapter)))
    try:
        engine = LLMEngine.from_engine_args(
            EngineArgs(
                model=weights,
                skip_tokenizer_init=True,
                seed=options.seed,
                enable_prefix_caching=True,
                max_model_len=-1,  # the model's own context, or as much of it as fits into memory
                tensor_parallel_size=options.tensor_parallel_size,
                enforce_eager=on_cpu,  # on a CPU compiling takes longer than it saves
                # vLLM rewinds the generator of a row whose prompt it has read in part; torch's CPU generator cannot.
                enable_chunked_prefill=False if on_cpu else None,
                disable_log_stats=True,
                use_tqdm_on_load=False,
                **arguments,
            )
        )
        if lora is not None:
            engine.add_lora(lora)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"vLLM does not start with {options.model}: {str(error).splitlines()[0]}") from error
    return engine, lora


def merges(adapter: Path, wanted: bool | None, on_cpu: bool) -> bool:
    """Whether an adapter is merged into the weights; `wanted` is None where the user leaves that to the backend.

    Raises UserError where it must be merged and the user refuses.
    """
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    if complete := config.get("modules_to_save"):
        fact = f"{adapter} has complete copies of {' and '.join(complete)}, which vLLM cannot add to a loaded model"
        if wanted is False:
            raise UserError(f"{fact}; remove --no-merge_adapter")
        if wanted is None:
            log.info("%s: the adapter is merged into a copy of the weights", fact)
            return True
    return on_cpu if wanted is None else wanted


def _lora_rank(adapter: Path) -> int:
    """The smallest of `LORA_RANKS` that fits the adapter. Raises UserError if it is larger than all."""
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    rank = max([config["r"], *(config.get("rank_pattern") or {}).values()])
    for reserved in LORA_RANKS:
        if rank <= reserved:
            return reserved
    raise UserError(f"{adapter}: rank {rank}, but vLLM's largest is {LORA_RANKS[-1]}; use --merge_adapter")


def guard_children() -> None:
    """Makes this process's children end with it, even if it is killed. An orphaned engine would keep its memory.

    A shell waits for the end of a pipe whose other end only this process holds.
    """
    pids = [str(child.pid) for child in multiprocessing.active_children()]
    command = ["sh", "-c", 'read -r _; kill -9 "$@"', "guard", *pids]
    guard = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True)
    atexit.register(guard.kill)


@contextlib.contextmanager
def engine_environment(tensor_parallel_size: int) -> Iterator[None]:
    """The environment in which an engine's processes start: no variable of torchrun, this rank's GPUs or cores."""
    before = dict(os.environ)
    for name in before:
        if name in LAUNCHER_VARIABLES or name.startswith(LAUNCHER_PREFIXES):
            del os.environ[name]
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    local_rank, ranks = int(before.get("LOCAL_RANK", "0")), int(before.get("LOCAL_WORLD_SIZE", "1"))
    if ranks > 1:
        gpus = gpus_of_rank(before.get("CUDA_VISIBLE_DEVICES"), local_rank, ranks, tensor_parallel_size)
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus
    # By default vLLM binds the threads of every rank to the same cores, and leaves one core idle even of two.
    if "VLLM_CPU_OMP_THREADS_BIND" not in before:
        os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
        if ranks > 1 or "OMP_NUM_THREADS" not in before:
            os.environ["OMP_NUM_THREADS"] = str(max(1, len(os.sched_getaffinity(0)) // (ranks * tensor_parallel_size)))
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def gpus_of_rank(visible: str | None, local_rank: int, ranks: int, each: int) -> str:
    """The `each` GPUs of one of `ranks` engines on this node, separated by commas. Raises UserError if there are too few."""
    needed = ranks * each
    gpus = visible.split(",") if visible else [str(number) for number in range(needed)]
    if len(gpus) < needed:
        fact = f"{ranks} ranks with --tensor_parallel_size {each} need {needed} GPUs"
        raise UserError(f"{fact}, CUDA_VISIBLE_DEVICES has {len(gpus)}")
    return ",".join(gpus[local_rank * each : (local_rank + 1) * each])


class VllmBackend:
    """A running engine, made by `load`."""

    def __init__(
        self, engine: Any, tokenizer: Any, turn_ends: set[int], sampling: Sampling, seed: int, lora: Any = None
    ) -> None:
        self.engine, self.tokenizer, self.turn_ends = engine, tokenizer, turn_ends
        self.sampling, self.seed, self.lora = sampling, seed, lora
        self.context: int = engine.vllm_config.model_config.max_model_len
        # The engine also holds as many waiting rows as it decodes, so it can fill a free slot at once.
        self.window: int = 2 * engine.vllm_config.scheduler_config.max_num_seqs
        self._numbers = count()

    def close(self) -> None:
        """Ends the engine's processes, which hold the model's memory."""
        self.engine.engine_core.shutdown(timeout=SHUTDOWN_SECONDS)

    def generate(self, requests: Sequence[Request]) -> Iterator[tuple[Request, Completion]]:
        waiting, running = iter(requests), {}
        while True:
            while len(running) < self.window and (request := next(waiting, None)) is not None:
                prompt = encode(self.tokenizer, request.messages, self.sampling.thinking)
                row = ActiveRow(request, prompt, self.sampling, opened_thought(self.tokenizer, prompt))
                if row.need > self.context:
                    yield request, row.too_long(f"the model's context of {self.context}")
                else:
                    running[self._add(row)] = row
            if not running:
                return
            finished = {}
            for output in self._step():
                row = running.get(output.request_id)
                completion = row and self._advance(row, output.outputs[0])
                if completion:
                    finished[output.request_id] = completion
            self.engine.abort_request(
                [name for name, done in finished.items() if done.finish_reason in ("answer", "loop")]
            )
            for name, completion in finished.items():
                yield running.pop(name).request, completion

    def _add(self, row: ActiveRow) -> str:
        """Hands a row to the engine; returns the engine's name for it."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        sampling, name = self.sampling, str(next(self._numbers))
        watched = sampling.stop_at_answer or sampling.stop_at_loop
        params = SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            seed=row.request.seed(self.seed) if sampling.temperature > 0 else None,
            max_tokens=row.request.budget(sampling),
            stop_token_ids=sorted(self.turn_ends),
            detokenize=False,
            # New tokens one by one are needed only to notice the end of an answer line, or a loop.
            output_kind=RequestOutputKind.DELTA if watched else RequestOutputKind.FINAL_ONLY,
        )
        self.engine.add_request(name, {"prompt_token_ids": row.prompt}, params, lora_request=self.lora)
        return name

    def _step(self) -> list[Any]:
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            return self.engine.step()
        except EngineDeadError as error:
            raise UserError("vLLM's engine died, its own message is above; the same command resumes") from error

    def _advance(self, row: ActiveRow, output: Any) -> Completion | None:
        """Adds new tokens to a row; returns its completion if they end it."""
        for token in output.token_ids:
            row.tokens.append(token)
            if self.sampling.stop_at_answer and (text := answered(self.tokenizer, row.tokens, row.opened)) is not None:
                return row.finished("answer", text)
            if self.sampling.stop_at_loop and looped(row.tokens):
                return row.finished("loop", decode(self.tokenizer, row.tokens))
        if output.finish_reason == "stop":
            return row.finished("stop", decode(self.tokenizer, row.tokens[:-1]))
        if output.finish_reason == "length":
            return row.finished("length", decode(self.tokenizer, row.tokens))
        return None if output.finish_reason is None else row.failed(f"vLLM gave up ({output.finish_reason})")
