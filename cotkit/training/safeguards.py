"""What LLaMA-Factory's trainings and the distillation lack: they stop when they diverge, train in the precision asked for, and
resume with several ranks on a CPU."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from cotkit.core.errors import UserError
from cotkit.training.preflight import HALF_PRECISION

# Loss scaling in float16 starts at 65,536. It skips a step whose gradient overflows and halves the scale. A few such steps
# in a row are normal; after eight the scale is 256, and what still overflows is the model and not the scale.
SKIPPED_STEPS = 8


class DivergenceGuard(TrainerCallback):
    """Raises UserError at a loss or gradient that is not finite, before the optimizer puts it into the weights."""

    def __init__(self) -> None:
        self.skipped = 0  # steps in a row that float16's loss scaling skips

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        args.logging_nan_inf_filter = False  # the Trainer would log the mean of the other losses instead

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **objects: Any
    ) -> None:
        gradients = (weights.grad for weights in objects["model"].parameters() if weights.grad is not None)
        # One number per tensor, and one wait for the device per step.
        sums = [gradient.float().sum() for gradient in gradients]
        if not sums or bool(torch.stack(sums).isfinite().all()):
            self.skipped = 0
            return
        self.skipped += 1
        if not args.fp16 or self.skipped >= SKIPPED_STEPS:
            raise diverged("gradient", args, state.global_step + 1, objects["lr_scheduler"].get_last_lr()[0])

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, Any], **_: Any
    ) -> None:
        watched = {"loss": "loss", "eval_loss": "held-out loss"}
        if not args.fp16:
            watched["grad_norm"] = "gradient"
        for key, name in watched.items():
            if not math.isfinite(logs.get(key, 0)):
                raise diverged(name, args, state.global_step, logs.get("learning_rate"))


def diverged(what: str, args: TrainingArguments, step: int, rate: float | None) -> UserError:
    """The error that names step, learning rate and what to change."""
    at = f"step {step}" if rate is None else f"step {step}, learning rate {rate:.2g}"
    remedy = "lower learning_rate"
    if args.fp16:
        remedy = (
            "float16 (fp16: true) overflows with these weights: set bf16: true and fp16: false, or lower learning_rate"
        )
    return UserError(f"the training diverges ({at}): the {what} is not finite; {remedy}")


def load_in_float32(values: dict[str, Any]) -> None:
    """Makes LLaMA-Factory load weights in float32, unless a key of `values` asks for half precision.

    By itself it takes them in the type in which they were saved, mostly bfloat16. Its LoRA weights are float32, and only
    autocast, which half precision brings, lets both types meet in one product.
    """
    from llamafactory.model import loader

    if any(values.get(key) for key in HALF_PRECISION):
        return
    load_config = loader.load_config

    def in_float32(*words: Any) -> Any:
        config = load_config(*words)
        config.dtype = torch.float32
        return config

    loader.load_config = in_float32


@cache  # torch sorts what is registered, and fails at two functions with the same priority
def resume_on_numbered_cpus() -> None:
    """Makes a checkpoint load on ``cpu:0``, as the device of every rank is called when several train on a CPU.

    The Trainer moves the optimizer's state to this device, and torch by itself knows only ``cpu``.
    """
    torch.serialization.register_package(
        0, lambda storage: None, lambda storage, location: storage if location.startswith("cpu:") else None
    )
