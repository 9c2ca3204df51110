"""Hugging Face transformers, on CPU, CUDA or MPS: the adapter merged, the batch bounded by what memory holds."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, Any

from cotkit.core.errors import UserError
from cotkit.generation.chat_model import load_model, load_tokenizer, preview
from cotkit.generation.types import Sampling

if TYPE_CHECKING:
    from cotkit.generation.backends.continuous_batching import Decoder

__all__ = ["load", "preview"]

# Rows in flight. Measured on 2 cores with a 135M model: from 32 rows on a row costs the same, computing is the limit;
# a GPU is fed better by more, and there it is the memory that bounds them.
CPU_ROWS, GPU_ROWS = 64, 256
# Tokens in flight on a CPU; 1.5 GiB of keys and values of a 135M model in float32.
CPU_TOKENS = 32768
# Of a GPU's memory that is free once the model is there, the share that keys and values may fill; the rest is for
# computing, and for the copy when a batch is arranged anew.
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


def load(args: argparse.Namespace, model_name: str, adapter: str | None, sampling: Sampling) -> Decoder:
    """Loads a model, merges the adapter into it, and puts it on the device. Raises UserError if there is no such model."""
    import torch

    from cotkit.generation.backends.continuous_batching import Decoder

    device = pick_device(args.device)
    dtype: Any = "auto" if args.dtype == "auto" else getattr(torch, args.dtype)
    if device == "cpu" and args.dtype == "auto":
        dtype = torch.float32
    tokenizer = load_tokenizer(model_name)
    model = load_model(model_name, adapter, dtype).to(device).eval()
    rows = args.batch_size or (CPU_ROWS if device == "cpu" else GPU_ROWS)
    tokens = args.max_batch_tokens or default_batch_tokens(model)
    return Decoder(model, tokenizer, sampling, rows, tokens, args.seed)


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
