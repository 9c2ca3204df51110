"""Hugging Face transformers, on CPU, CUDA or MPS: the adapter merged, the batch bounded by what memory holds."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from cotkit.core.errors import UserError
from cotkit.generation.chat_model import check_model, load_model, load_tokenizer
from cotkit.generation.options import EngineOptions
from cotkit.generation.prompts import Message, render
from cotkit.generation.types import Sampling

if TYPE_CHECKING:
    from cotkit.generation.backends.continuous_batching import Decoder

reads_model_files = True
manifest_settings: dict[str, Any] = {}

# Default batch sizes. Measured on 2 cores with a 135M model: from 32 rows on, a larger batch makes no row cheaper. A GPU
# gains from larger batches, and its memory is the limit.
CPU_ROWS, GPU_ROWS = 64, 256
# Default limit in tokens on a CPU: 1.5 GiB of KV cache of a 135M model in float32.
CPU_TOKENS = 32768
# Share of the GPU memory that is free after loading which the KV cache may fill. The rest is for activations, and for the
# copy when a batch is rearranged.
GPU_CACHE_SHARE = 0.6


def pick_device(wanted: str) -> str:
    """The torch device: `auto` is this rank's GPU, else Apple's, else the CPU."""
    import torch

    if wanted in ("auto", "cuda") and torch.cuda.is_available():
        return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    if wanted == "auto":
        return "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.empty(1, device=wanted)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {wanted}: not on this machine ({str(error).splitlines()[0]})") from None
    return wanted


def check(options: EngineOptions) -> None:
    """Raises UserError if the model is neither a model folder nor a hub model's name."""
    check_model(options.model)


def preview(options: EngineOptions, messages: list[Message], sampling: Sampling) -> str:
    """The text that the model would read."""
    return render(load_tokenizer(options.model), messages, sampling.thinking)


def load(options: EngineOptions, sampling: Sampling) -> Decoder:
    """Loads the model, merges the adapter into it, and puts it on the device. Raises UserError if it cannot."""
    import torch

    from cotkit.generation.backends.continuous_batching import Decoder

    device = pick_device(options.device)
    dtype: Any = "auto" if options.dtype == "auto" else getattr(torch, options.dtype)
    if device == "cpu" and options.dtype == "auto":
        dtype = torch.float32
    tokenizer = load_tokenizer(options.model)
    model = load_model(options.model, options.adapter, dtype).to(device).eval()
    rows = options.batch_size or (CPU_ROWS if device == "cpu" else GPU_ROWS)
    tokens = options.max_batch_tokens or default_batch_tokens(model)
    return Decoder(model, tokenizer, sampling, rows, tokens, options.seed)


def default_batch_tokens(model: Any) -> int:
    """Tokens whose keys and values fit into a good part of the free memory of the model's device."""
    import torch

    if model.device.type != "cuda":
        return CPU_TOKENS
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    token_bytes = 2 * config.num_hidden_layers * heads * size * model.dtype.itemsize
    return int(torch.cuda.mem_get_info(model.device)[0] * GPU_CACHE_SHARE / token_bytes)
