"""A sweep's table and its limit of 12 runs."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from cotkit.core.errors import UserError


def write_record(folder: Path, name: str, rate: float, eval_loss: float, status: str = "done") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    record = {
        "status": status,
        "settings": {"learning_rate": rate, "lora_rank": 16, "num_train_epochs": 2},
        "counts": {
            "steps": 40,
            "trained_tokens": 8158,
            "train_loss": 0.5,
            "eval_loss": eval_loss,
            "train_runtime": 187.2,
        },
    }
    (folder / f"{name}.manifest.json").write_text(json.dumps(record), encoding="utf-8")


def table(folder: Path) -> int:
    return runpy.run_path(str(ROOT / "scripts/internal/sweep_table.py"), run_name="sweep_table")["main"]([str(folder)])


def test_the_best_held_out_loss_comes_first(tmp_path: Path, capsys: Any):
    folder = tmp_path / "sweep/gold"
    for name, rate, loss in (("a", 3e-4, 0.5), ("b", 1e-3, 0.25), ("c", 3e-3, 0.75)):
        write_record(folder, name, rate, loss)
    write_record(folder, "d", 1.0, 0.0, status="running")
    assert table(folder) == 0
    lines = capsys.readouterr().out.splitlines()[2:]
    assert lines[0] == "| 0.001 | 16 | 2 | 40 | 8,158 | 0.500 | 0.250 | 187 |"
    assert [line.split(" | ")[6] for line in lines] == ["0.250", "0.500", "0.750"]
    assert (tmp_path / "sweep/gold.md").read_text(encoding="utf-8").splitlines()[2] == lines[0]


def test_a_sweep_without_a_finished_run_says_what_makes_them(tmp_path: Path):
    with pytest.raises(UserError, match=r"no finished training .* scripts/sweep.sh"):
        table(tmp_path)


def test_more_than_twelve_runs_are_refused_before_any_begins(tmp_path: Path):
    done = subprocess.run(
        ["bash", "scripts/sweep.sh", "configs/smollm2_cpu", "--run", str(tmp_path / "run")],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "EPOCHS": "1 2 3"},
    )
    assert done.returncode == 1
    assert "18 runs; a sweep has at most 12" in done.stderr
    assert not (tmp_path / "run").exists()
