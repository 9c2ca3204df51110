"""Helpers of the distillation stage's tests: training sets, the YAML of a method, a teacher of its own."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import CHATML, ROOT, make_tokenizer, save_tiny_qwen2

from cotkit.filtering.training_sets import write_dataset_info, write_training_set
from cotkit.generation import prompts
from cotkit.training.config import read_config

# Like Qwen3's: with thinking off, the model's turn begins with an empty think block.
THINKING = CHATML.replace(
    "assistant\n' }}{% endif %}",
    "assistant\n' }}{% if enable_thinking is defined and enable_thinking is false %}"
    "{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}",
)

Write = Callable[..., Path]


def model_folder(folder: Path, chat_template: str = CHATML, more_tokens: tuple[str, ...] = (), seed: int = 1) -> Path:
    """A tiny random Qwen2 with other weights than the fixture's, and with more tokens."""
    tokenizer = make_tokenizer(folder)
    tokenizer.add_tokens(list(more_tokens))
    tokenizer.chat_template = chat_template
    tokenizer.save_pretrained(folder)
    vocabulary = len(tokenizer) + 24  # as published models have it: more scores than tokens
    return save_tiny_qwen2(folder, vocabulary, seed, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Training sets whose prompts and answers have different lengths."""
    folder = tmp_path_factory.mktemp("distill")
    rows = [
        prompts.training_row(f"What is {n}+1{' and no more' * (n % 3)}?", f"{n}+1={n + 1}{'.' * (n % 5)}\n#### {n + 1}")
        for n in range(16)
    ]
    for name in ("gold", "gold_dev"):
        write_training_set(folder / "datasets", name, rows)
    write_dataset_info(folder / "datasets", {"gold": False, "gold_dev": False})
    return folder


@pytest.fixture(scope="module")
def write(folder: Path, tiny_model: Path) -> Write:
    """Writes the YAML of a distillation method that differs in the given keys from the usual one."""

    def writer(name: str = "kd", **changes: Any) -> Path:
        values = {
            "stage": "distill",
            "dataset": "gold",
            "teacher": "start",
            "dataset_dir": str(folder / "datasets"),
            "output_dir": str(folder / "out put" / name),
            "model_name_or_path": str(tiny_model),
            "template": "qwen",
            "do_train": True,
            "finetuning_type": "lora",
            "lora_target": "all",
            "lora_rank": 8,
            "learning_rate": 1e-2,
            "per_device_train_batch_size": 4,
            "num_train_epochs": 2,
            "save_strategy": "steps",
            "save_steps": 2,
            "logging_steps": 1,
            "report_to": "none",
            "disable_gradient_checkpointing": True,
            "max_new_tokens": 12,
            "max_truncated": 1.0,
            **changes,
        }
        path = folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump({key: value for key, value in values.items() if value is not None}))
        return path

    return writer


def script() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "scripts/distill.py"), run_name="distill")


def trainer_of(path: Path) -> Any:
    trainer = script()["make_trainer"](read_config(path, []))
    trainer.state.stateful_callbacks = {}
    return trainer
