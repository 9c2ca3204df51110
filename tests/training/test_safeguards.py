"""A training that diverges stops at once and says why; without half precision, all weights are in float32."""

from __future__ import annotations

import json
import math
import runpy
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import ROOT
from training.test_train import datasets_folder, steps_of, train, train_words  # noqa: F401  a fixture

from cotkit.core.errors import UserError
from cotkit.training.safeguards import SKIPPED_STEPS, DivergenceGuard, resume_on_numbered_cpus

STATE = SimpleNamespace(global_step=6)
RATE = SimpleNamespace(get_last_lr=lambda: [2e-4])


def step(guard: DivergenceGuard, gradient: float, fp16: bool = False) -> None:
    """One optimizer step of a model with two weights, of which one has no gradient."""
    model = torch.nn.ParameterList([torch.zeros(2), torch.zeros(1)])
    model[0].grad = torch.tensor([1.0, gradient])
    guard.on_pre_optimizer_step(SimpleNamespace(fp16=fp16), STATE, None, model=model, lr_scheduler=RATE)


@pytest.mark.parametrize("gradient", [math.inf, -math.inf, math.nan])
def test_a_gradient_that_is_not_finite_stops_before_the_weights_change(gradient: float):
    guard = DivergenceGuard()
    step(guard, 3.0)
    with pytest.raises(
        UserError, match=r"step 7, learning rate 0.0002\): the gradient is not finite; lower learning_rate"
    ):
        step(guard, gradient)


def test_float16_may_skip_a_few_steps_in_a_row_and_is_named_if_it_skips_more():
    guard = DivergenceGuard()
    for gradient in [*[math.inf] * (SKIPPED_STEPS - 1), 1.0, *[math.inf] * (SKIPPED_STEPS - 1)]:
        step(guard, gradient, fp16=True)
    with pytest.raises(UserError, match="set bf16: true and fp16: false"):
        step(guard, math.inf, fp16=True)


@pytest.mark.parametrize(
    ("logs", "fp16", "says"),
    [
        ({"loss": math.nan, "learning_rate": 1e-5}, False, r"\(step 6, learning rate 1e-05\): the loss is not finite"),
        ({"loss": math.inf}, True, "the loss is not finite; float16"),
        ({"eval_loss": math.nan}, False, "the held-out loss is not finite"),
        ({"loss": 1.0, "grad_norm": math.inf}, False, "the gradient is not finite"),
        ({"loss": 1.0, "grad_norm": math.inf}, True, None),  # loss scaling skips such a step
        ({"loss": 1.0, "grad_norm": 2.0}, False, None),
    ],
)
def test_what_is_logged_is_watched_too(logs: dict[str, float], fp16: bool, says: str | None):
    guard = DivergenceGuard()
    if says is None:
        guard.on_log(SimpleNamespace(fp16=fp16), STATE, None, logs)
    else:
        with pytest.raises(UserError, match=says):
            guard.on_log(SimpleNamespace(fp16=fp16), STATE, None, logs)


def test_a_checkpoint_whose_log_holds_infinity_is_not_damaged(tmp_path: Path):
    from safetensors.numpy import save_file

    state = {"global_step": 4, "log_history": [{"step": 4, "loss": 1.0, "grad_norm": math.inf}]}
    (tmp_path / "trainer_state.json").write_text(json.dumps(state), encoding="utf-8")
    save_file({}, tmp_path / "adapter_model.safetensors")
    (tmp_path / "optimizer.pt").touch()
    record = runpy.run_path(str(ROOT / "scripts/internal/train_record.py"), run_name="train_record")
    assert record["can_resume"](tmp_path)
    (tmp_path / "trainer_state.json").write_text('{"global_step": 4, "log_', encoding="utf-8")
    assert not record["can_resume"](tmp_path)


@pytest.fixture(scope="module")
def bfloat16_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model as the hub has most models: with weights in bfloat16."""
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("bfloat16") / "model"
    shutil.copytree(tiny_model, folder)
    AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.bfloat16).save_pretrained(folder)
    return folder


def test_the_state_of_several_ranks_loads_on_a_cpu(tmp_path: Path):
    path = tmp_path / "optimizer.pt"
    torch.save({"exp_avg": torch.arange(3.0)}, path)
    for _ in range(2):  # as two trainings in one process do
        resume_on_numbered_cpus()
    loaded = torch.load(path, map_location=torch.device("cpu", 0), weights_only=True)
    assert loaded["exp_avg"].tolist() == [0, 1, 2]
    with pytest.raises(RuntimeError, match="don't know how to restore"):
        torch.load(path, map_location="elsewhere", weights_only=True)


@pytest.mark.slow
def test_a_planted_overflow_stops_a_training_which_goes_on_with_the_mended_key(
    bfloat16_model: Path,
    datasets_folder: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: Any,
):
    """It trains embeddings and head too, so float32 activations meet weights that were saved in bfloat16."""
    monkeypatch.setenv("LOG", str(tmp_path / "log"))
    words = train_words(bfloat16_model, datasets_folder, tmp_path / "o", "additional_target=embed_tokens,lm_head")
    done = train([*words, "learning_rate=1e30"])
    assert done.returncode == 1
    said = (tmp_path / "log").read_text(encoding="utf-8")
    assert "error: the training diverges (step " in said and "is not finite; lower learning_rate" in said
    assert "Traceback" not in said
    done = train(words)  # what left no checkpoint binds nobody
    assert done.returncode == 0, done.stdout + done.stderr
    assert steps_of(tmp_path / "o") == 8
