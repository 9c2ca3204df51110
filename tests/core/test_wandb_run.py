"""Weights and Biases: online with a key, offline without one, scores as one run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from conftest import problem, run_script, write_rows

from cotkit.core import wandb_run


@pytest.fixture
def no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Removes all keys of the environment. Returns the path of a netrc file that does not exist yet."""
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    return tmp_path / "netrc"


def test_without_a_key_it_is_offline(no_key: Path, monkeypatch: pytest.MonkeyPatch):
    assert wandb_run.mode() == "offline"
    no_key.write_text("machine example.org login user password x\n", encoding="utf-8")
    assert wandb_run.mode() == "offline"
    no_key.write_text("machine api.wandb.ai login user password x\n", encoding="utf-8")
    assert wandb_run.mode() == "online"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert wandb_run.mode() == "disabled"


def test_an_environment_key_is_a_key(no_key: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WANDB_API_KEY", "x")
    assert wandb_run.mode() == "online"


@pytest.mark.slow
def test_the_comparison_and_the_report_are_recorded_offline(no_key: Path, tiny_run: Path, tmp_path: Path):
    run = shutil.copytree(tiny_run, tmp_path / "a run")
    done = run_script("scripts/report.py", run, "--report_to", "wandb", WANDB_DATA_DIR=str(tmp_path / "staged"))
    assert len(list((tmp_path / "staged").glob("**/tmp*"))) > 2  # the files of the artifact
    assert "no key, so a run-comparison is recorded offline" in done.stdout
    (table,) = run.glob("wandb/offline-run-*/files/media/table/comparison_*.table.json")
    found = json.loads(table.read_text(encoding="utf-8"))
    at = found["columns"].index("method")
    assert sorted(row[at] for row in found["data"]) == ["baseline", "distilled"]
    (log,) = run.glob("wandb/offline-run-*/*.wandb")
    recorded = log.read_bytes()
    for name in (b"a_run-comparison", b"report.html", b"comparison.json"):
        assert name in recorded


@pytest.mark.slow
def test_scores_are_recorded_offline_without_a_key(no_key: Path, tmp_path: Path):
    write_rows(tmp_path / "data/gsm8k/test.jsonl", [problem(number) for number in range(2)])
    row = {"sample": 0, "dataset": "gsm8k", "thinking": "", "finish_reason": "stop"}
    row |= {"prompt_tokens": 1, "completion_tokens": 1}
    predictions = [{"id": problem(number)["id"], "response": f"#### {number + 1}", **row} for number in range(2)]
    path = write_rows(tmp_path / "out/distilled.jsonl", predictions)
    done = run_script(
        "score.py", "--dataset", "gsm8k", "--data_root", tmp_path / "data", "--pred_path", path, "--report_to", "wandb"
    )
    assert "no key, so distilled-gsm8k is recorded offline" in done.stdout
    assert list((tmp_path / "out/wandb").glob("offline-run-*/*.wandb"))
    assert json.loads((tmp_path / "out/distilled.summary.json").read_text(encoding="utf-8"))["accuracy"] == 1
