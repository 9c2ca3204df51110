"""The numbers that a model computes with: float32 on a CPU, bfloat16 where it is asked for."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import refused, run_script

from cotkit.core import machine
from cotkit.generation import engines
from cotkit.generation.backends import transformers_backend as backend
from cotkit.generation.options import EngineOptions
from cotkit.generation.types import Sampling


@pytest.fixture
def units(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Gives the CPU bfloat16 units, or takes them away."""
    monkeypatch.delenv(backend.PIPELINE, raising=False)
    return lambda there: monkeypatch.setattr(machine, "multiplies_bfloat16", lambda: there)


@pytest.mark.parametrize(
    ("wanted", "there", "dtype", "says"),
    [
        ("auto", True, torch.float32, "this CPU multiplies bfloat16: --dtype bfloat16 is faster"),
        ("auto", False, torch.float32, ""),
        ("float32", True, torch.float32, ""),
        ("bfloat16", True, torch.bfloat16, ""),
        ("bfloat16", False, torch.bfloat16, "this CPU has no units for bfloat16"),
    ],
)
def test_a_cpu_computes_in_float32_unless_told_otherwise(
    units: Any, caplog: pytest.LogCaptureFixture, wanted: str, there: bool, dtype: torch.dtype, says: str
):
    caplog.set_level(logging.INFO)
    units(there)
    assert backend.pick_dtype(wanted, "cpu") == dtype
    assert len(caplog.records) == bool(says) and says in caplog.text


def test_the_pipeline_gives_the_note_itself(
    units: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    caplog.set_level(logging.INFO)
    units(True)
    monkeypatch.setenv(backend.PIPELINE, "1")
    assert backend.pick_dtype("auto", "cpu") == torch.float32
    assert not caplog.records


def test_a_gpu_computes_in_the_models_own_type(units: Any):
    units(True)
    assert backend.pick_dtype("auto", "cuda:0") == "auto"


def test_a_chosen_dtype_identifies_the_texts(tiny_model: Path):
    settings = {
        dtype: engines.describe(EngineOptions("transformers", str(tiny_model), dtype=dtype), Sampling(8))
        for dtype in ("auto", "float32", "bfloat16")
    }
    assert "dtype" not in settings["auto"]
    assert (
        settings["bfloat16"] == {**settings["float32"], "dtype": "bfloat16"} == settings["auto"] | {"dtype": "bfloat16"}
    )


@pytest.mark.slow
def test_texts_in_bfloat16_are_not_mixed_with_others(tiny_model: Path, data_root: Path, tmp_path: Path):
    words = ["infer_parallel.py", "--dataset", "gsm8k", "--base_model", tiny_model, "--data_root", data_root]
    words += ["--output_path", tmp_path / "out.jsonl", "--max_new_tokens", 8]
    run_script(*words, "--dtype", "bfloat16")
    refused(run_script(*words, check=False), "dtype: 'bfloat16' -> None", "--overwrite")
