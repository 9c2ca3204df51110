"""Hugging Face transformers on CPU, CUDA or MPS: merges the adapter and limits the batch by the free memory."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cotkit.core import machine
from cotkit.core.errors import UserError
from cotkit.core.manifest import PIPELINE
from cotkit.generation import adapters, chat_model
from cotkit.generation.backends import families
from cotkit.generation.options import EngineOptions
from cotkit.generation.prompts import Message, render
from cotkit.generation.types import Sampling

if TYPE_CHECKING:
    from cotkit.generation.backends.continuous_batching import Decoder

log = logging.getLogger(__name__)

reads_model_files = True
manifest_settings: dict[str, str] = {}
ends_loops = True
sampler = "inverse_cdf"  # cotkit/generation/backends/sampling.py

# Rows in flight. Measured on 2 cores with a 135M model: from 32 rows on the time per row is constant, since computing is
# the limit. A GPU is used better by more rows; there memory limits them.
CPU_ROWS, GPU_ROWS = 64, 256
# Tokens in flight on a CPU: a KV cache of 1.5 GiB for a 135M model in float32.
CPU_TOKENS = 32768
# The share of a GPU's memory, free after the model is loaded, that the KV cache may fill. The rest is for computing and
# for the copy while a batch is rearranged.
GPU_CACHE_SHARE = 0.6
BFLOAT16_NOTE = (
    "this CPU multiplies bfloat16: --dtype bfloat16 is faster, with other texts (docs/GENERATION.md, Numbers)"
)


def check(options: EngineOptions) -> None:
    chat_model.check_model(options.model)
    if options.adapter is not None:
        adapters.check(options.model, Path(options.adapter))


def preview(options: EngineOptions, messages: list[Message], sampling: Sampling) -> str:
    families.require_supported(families.read_config(options.model), options.model)
    return render(chat_model.load_tokenizer(options.model), messages, sampling.thinking)


def load(options: EngineOptions, sampling: Sampling) -> Decoder:
    """Loads the model, merges the adapter into it, and moves it to the device. Raises UserError if that is impossible."""

    from cotkit.generation.backends.continuous_batching import Decoder

    families.require_supported(families.read_config(options.model), options.model)
    device = pick_device(options.device)
    dtype = pick_dtype(options.dtype, device)
    tokenizer = chat_model.load_tokenizer(options.model)
    model = chat_model.load_model(options.model, options.adapter, dtype, device).eval()
    rows = options.batch_size or (CPU_ROWS if device == "cpu" else GPU_ROWS)
    tokens = options.max_batch_tokens or default_batch_tokens(model)
    return Decoder(model, tokenizer, sampling, rows, tokens, options.seed)


def pick_device(wanted: str) -> str:
    """The torch device: `auto` is this rank's GPU, else Apple's, else the CPU. Raises UserError if it does not exist."""
    import torch

    if wanted in ("auto", "cuda") and torch.cuda.is_available():
        return machine.gpu_of_rank()
    if wanted == "auto":
        return "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.empty(1, device=wanted)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {wanted}: not on this machine ({str(error).splitlines()[0]})") from None
    return wanted


def pick_dtype(wanted: str, device: str) -> Any:
    """The torch dtype, or "auto" for the model's own. A note says what a CPU's bfloat16 units would change, or lack."""
    import torch

    if device == "cpu" and wanted == "auto":
        if machine.multiplies_bfloat16() and PIPELINE not in os.environ:
            log.info("%s", BFLOAT16_NOTE)
        return torch.float32
    if device == "cpu" and wanted == "bfloat16" and not machine.multiplies_bfloat16():
        log.warning("warning: this CPU has no units for bfloat16, so --dtype bfloat16 is far slower than float32")
    return "auto" if wanted == "auto" else getattr(torch, wanted)


def default_batch_tokens(model: Any) -> int:
    """The number of tokens whose keys and values fill `GPU_CACHE_SHARE` of the free memory; `CPU_TOKENS` without CUDA."""
    import torch

    if model.device.type != "cuda":
        return CPU_TOKENS
    from cotkit.generation.backends.kv_slots import token_bytes

    free, _ = torch.cuda.mem_get_info(model.device)
    return int(free * GPU_CACHE_SHARE / token_bytes(model))
