"""What a run will cost, before anything runs: time, memory and disk from sizes of models, rows and tokens.

Estimates, not promises: good to a factor of two. A model of N weights does 2 N operations a token forward; LoRA goes
back through the activations only (2 N more), and gradient checkpointing runs forward once more.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from cotkit.core.errors import UserError
from cotkit.core.jsonl import Row, read_json

# Measured with SmolLM2's tokenizer on 500 rows each of gsm8k, gsm_symbolic and math500: questions 3.9, 3.8, 2.6;
# solutions, which are full of digits, 2.3, 2.5, 2.3.
CHARACTERS_A_TOKEN = {"question": 3.8, "solution": 2.4}
LOAD_SECONDS = 12  # a process until its model is loaded; measured on the CPU preset


@dataclass(frozen=True)
class Device:
    """What one device sustains: operations a second in training, in reading prompts and in writing tokens; bytes a
    second from its memory while decoding; seconds a decoding step costs beside that; bytes of memory."""

    train: float
    prefill: float
    decode: float
    bandwidth: float
    step: float
    memory: float


def _gpu(peak: float, bandwidth: float, gigabytes: float) -> Device:
    """A GPU from its data sheet: 35 % of the dense 16-bit peak in training, 50 % in prompts, 70 % of the bandwidth
    are usual; 25 ms a step is what transformers' Python code takes for some 30 layers."""
    return Device(0.35 * peak, 0.5 * peak, 0.5 * peak, 0.7 * bandwidth, 0.025, gigabytes * 1e9)


# cpu: measured, 2 cores without bfloat16 units, float32, SmolLM2-135M: see docs/TRAINING.md. GPUs: NVIDIA's data sheets.
DEVICES = {
    "cpu": Device(6.1e10, 1.1e11, 3.1e10, 1e10, 0.0, 16e9),
    "t4": _gpu(65e12, 320e9, 16),
    "l4": _gpu(121e12, 300e9, 24),
    "4090": _gpu(165e12, 1008e9, 24),
    "a100": _gpu(312e12, 2039e9, 80),
    "h100": _gpu(989e12, 3350e9, 80),
}


@dataclass(frozen=True)
class Shape:
    """The sizes of a decoder: hidden, layers, vocabulary, feed-forward, keys and values of one layer."""

    hidden: int
    layers: int
    vocabulary: int
    feed_forward: int
    keys: int
    tied: bool

    @property
    def embeddings(self) -> int:
        return self.vocabulary * self.hidden * (1 if self.tied else 2)

    @property
    def weights(self) -> int:
        per_layer = 2 * self.hidden * (self.hidden + self.keys) + 3 * self.hidden * self.feed_forward
        return self.layers * per_layer + self.embeddings


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
    """Seconds to answer `rows` prompts of so many tokens each, in batches, by one process."""
    operations = 2 * shape.weights
    step = max(device.step + 2 * shape.weights / device.bandwidth, min(batch, rows) * operations / device.decode)
    if device.step == 0:  # a CPU is bound by its arithmetic
        step = min(batch, rows) * operations / device.decode
    return LOAD_SECONDS + rows * prompt * operations / device.prefill + rows / min(batch, rows) * written * step


def train_seconds(device: Device, shape: Shape, tokens: float, checkpointing: bool) -> float:
    """Seconds to train on so many tokens, prompts included."""
    return LOAD_SECONDS + tokens * shape.weights * (6 if checkpointing else 4) / device.train


def trainable(shape: Shape, config: Row) -> int:
    """Weights that LoRA trains: two thin matrices for each target, and whole copies of `additional_target`."""
    sizes = {
        "q_proj": 2 * shape.hidden,
        "o_proj": 2 * shape.hidden,
        "k_proj": shape.hidden + shape.keys,
        "v_proj": shape.hidden + shape.keys,
        "gate_proj": shape.hidden + shape.feed_forward,
        "up_proj": shape.hidden + shape.feed_forward,
        "down_proj": shape.hidden + shape.feed_forward,
    }
    wanted = str(config.get("lora_target", "all"))
    targets = sizes if wanted == "all" else re.split(r"[,\s]+", wanted)
    copies = len(re.findall(r"embed_tokens|lm_head", str(config.get("additional_target") or "")))
    lora = int(config.get("lora_rank", 8)) * shape.layers * sum(sizes.get(name, 0) for name in targets)
    return lora + copies * shape.vocabulary * shape.hidden


def train_bytes(shape: Shape, config: Row, tokens_a_row: float) -> float:
    """Memory of training: the weights, then 16 bytes for each trained one (itself, gradient, two moments in float32),
    then activations: one hidden state a layer with checkpointing, else some 34 (Korthikanti et al. 2022,
    arXiv:2205.05198, without attention scores), and the scores of the vocabulary three times in float32."""
    half = bool(config.get("bf16") or config.get("fp16"))
    batch = int(config.get("per_device_train_batch_size", 8)) * (2 if config.get("stage") == "dpo" else 1)
    size = 2 if half else 4
    states = 34 / 2 if config.get("disable_gradient_checkpointing") else 1
    activations = batch * tokens_a_row * (shape.layers * shape.hidden * states * size + shape.vocabulary * 12)
    references = 2 if config.get("ref_model_adapters") else 1
    return references * shape.weights * size + 16 * trainable(shape, config) + activations


def generate_bytes(shape: Shape, batch: int, tokens: float, half: bool) -> float:
    """Memory of generation: the weights, keys and values of a batch."""
    size = 2 if half else 4
    return size * (shape.weights + batch * tokens * 2 * shape.layers * shape.keys)


def adapter_bytes(shape: Shape, config: Row) -> float:
    return 4.0 * trainable(shape, config)  # saved in float32


def clock(seconds: float) -> str:
    """In the unit that a person would use."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def gigabytes(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.0f} MB"
