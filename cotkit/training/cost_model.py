"""Estimates what a run costs before it starts: time, memory and disk from the sizes of models, rows and tokens.

The estimates are good to a factor of two. A model of N weights takes 2 N operations per token forward (Kaplan et al. 2020,
arXiv:2001.08361). LoRA goes back through the activations only (2 N more), and gradient checkpointing runs forward again.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

from cotkit.core.errors import UserError
from cotkit.core.jsonl import Row, read_json

# Measured with SmolLM2's tokenizer on 500 rows each of gsm8k, gsm_symbolic and math500. Questions: 3.9, 3.8, 2.6.
# Solutions, which are full of digits: 2.3, 2.5, 2.3.
CHARACTERS_PER_TOKEN = {"question": 3.8, "solution": 2.4}
LOAD_SECONDS = 12  # until a process has loaded its model; measured on the CPU preset


@dataclass(frozen=True)
class Device:
    """What one device sustains.

    `train`, `prefill` and `decode` are operations per second, `bandwidth` is bytes per second from its memory while
    decoding, `step` the fixed seconds of a decoding step, `memory` bytes.
    """

    train: float
    prefill: float
    decode: float
    bandwidth: float
    step: float
    memory: float


def _gpu(peak: float, bandwidth: float, gigabytes: float) -> Device:
    """A GPU from its data sheet. Usual are 35 % of the dense 16-bit peak in training, 50 % in prefill, and 70 % of the
    bandwidth. The Python code of transformers takes about 25 ms per step for 30 layers."""
    return Device(0.35 * peak, 0.5 * peak, 0.5 * peak, 0.7 * bandwidth, 0.025, gigabytes * 1e9)


# cpu: measured on 2 cores without bfloat16 units in float32 with SmolLM2-135M, see docs/TRAINING.md; arithmetic limits it,
# not its memory. cpu_bfloat16: on a CPU with such units, training takes 1.75 and generation 2.2 times fewer CPU seconds than
# in float32 (docs/GENERATION.md, Numbers). GPUs: NVIDIA's data sheets.
DEVICES = {
    "cpu": Device(6.1e10, 1.1e11, 3.1e10, math.inf, 0.0, 16e9),
    "cpu_bfloat16": Device(1.07e11, 2.4e11, 6.8e10, math.inf, 0.0, 16e9),
    "t4": _gpu(65e12, 320e9, 16),
    "l4": _gpu(121e12, 300e9, 24),
    "4090": _gpu(165e12, 1008e9, 24),
    "a100": _gpu(312e12, 2039e9, 80),
    "h100": _gpu(989e12, 3350e9, 80),
}


@dataclass(frozen=True)
class Shape:
    """The sizes of a decoder. `keys` is the width of the keys, and of the values, of one layer."""

    hidden: int
    layers: int
    vocabulary: int
    feed_forward: int
    keys: int
    tied: bool

    @property
    def weights(self) -> int:
        per_layer = 2 * self.hidden * (self.hidden + self.keys) + 3 * self.hidden * self.feed_forward
        return self.layers * per_layer + self.vocabulary * self.hidden * (1 if self.tied else 2)


# Of the presets' hub models, from their config.json.
SHAPES = {
    "Qwen/Qwen2-1.5B": Shape(1536, 28, 151936, 8960, 256, True),
    "Qwen/Qwen3-8B": Shape(4096, 36, 151936, 12288, 1024, False),
}


def shape_of(model: str) -> Shape:
    """Raises UserError for a model that is neither a folder nor among `SHAPES`."""
    if model in SHAPES:
        return SHAPES[model]
    file = Path(model) / "config.json"
    if not file.is_file():
        raise UserError(
            f"{model}: its sizes are not known; download it and give its folder, or add it to cotkit/training/cost_model.py"
        )
    config: Row = read_json(file)
    heads = config["num_attention_heads"]
    head = config.get("head_dim") or config["hidden_size"] // heads
    return Shape(
        config["hidden_size"],
        config["num_hidden_layers"],
        config["vocab_size"],
        config["intermediate_size"],
        head * config.get("num_key_value_heads", heads),
        bool(config.get("tie_word_embeddings")),
    )


def generate_seconds(device: Device, shape: Shape, rows: int, prompt: float, written: float, batch: int) -> float:
    """Seconds in which one process answers `rows` prompts in batches; `prompt` and `written` are tokens per row."""
    operations, batch = 2 * shape.weights, min(batch, rows)
    step = max(device.step + operations / device.bandwidth, batch * operations / device.decode)  # 2 bytes per weight
    return LOAD_SECONDS + rows * prompt * operations / device.prefill + rows / batch * written * step


def train_seconds(device: Device, shape: Shape, tokens: float, checkpointing: bool) -> float:
    """Seconds to train on so many tokens, prompts included."""
    return LOAD_SECONDS + tokens * shape.weights * (6 if checkpointing else 4) / device.train


def trainable(shape: Shape, config: Row) -> int:
    """Weights that LoRA trains: two thin matrices for each target, and full copies for `additional_target`."""
    sizes = {
        **dict.fromkeys(("q_proj", "o_proj"), 2 * shape.hidden),
        **dict.fromkeys(("k_proj", "v_proj"), shape.hidden + shape.keys),
        **dict.fromkeys(("gate_proj", "up_proj", "down_proj"), shape.hidden + shape.feed_forward),
    }
    wanted = str(config.get("lora_target", "all"))
    targets = sizes if wanted == "all" else re.split(r"[,\s]+", wanted)
    copies = len(re.findall(r"embed_tokens|lm_head", str(config.get("additional_target") or "")))
    lora = int(config.get("lora_rank", 8)) * shape.layers * sum(sizes.get(name, 0) for name in targets)
    return lora + copies * shape.vocabulary * shape.hidden


def train_bytes(shape: Shape, config: Row, tokens_per_row: float) -> float:
    """Memory of training.

    It is the sum of the weights, 16 bytes for each trained weight (itself, its gradient and two moments in float32), the
    activations, and three copies of the vocabulary's scores in float32. The activations are one hidden state per layer
    with checkpointing, else about 34 bytes per number (Korthikanti et al. 2022, arXiv:2205.05198, without attention scores).
    """
    size = 2 if config.get("bf16") or config.get("fp16") else 4
    batch = int(config.get("per_device_train_batch_size", 8)) * (2 if config.get("stage") == "dpo" else 1)
    states = 34 / 2 if config.get("disable_gradient_checkpointing") else 1
    activations = batch * tokens_per_row * (shape.layers * shape.hidden * states * size + shape.vocabulary * 12)
    models = 2 if config.get("ref_model_adapters") else 1
    return models * shape.weights * size + 16 * trainable(shape, config) + activations


def generate_bytes(shape: Shape, batch: int, tokens: float, half: bool) -> float:
    """Memory of generation: the weights, and the keys and values of a batch."""
    return (2 if half else 4) * (shape.weights + batch * tokens * 2 * shape.layers * shape.keys)


def adapter_bytes(shape: Shape, config: Row) -> float:
    return 4.0 * trainable(shape, config)  # saved in float32
