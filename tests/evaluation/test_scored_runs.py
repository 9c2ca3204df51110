"""What compare.py refuses before it compares: scores that do not fit together, and runs that are not one method."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import read_rows, write_rows
from evaluation.test_compare import add_method, compared, one_sample

from cotkit.core.errors import UserError
from scripts import compare


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"protocol": "original"}, "baseline and distilled were scored by different protocols (default and original)"),
        ({"schema": 1}, "distilled.summary.json: schema 1 of score.py, but 3 is needed; run score.py again"),
        ({"dataset": "amc23"}, "distilled.summary.json: scores of amc23 in the folder of gsm8k"),
        ({"n": 41}, "distilled.scores.jsonl: has another number of items"),
        ({"problems_sha256": "1"}, "baseline and distilled were scored against different problem files"),
    ],
)
def test_what_cannot_be_compared_is_refused(tmp_path: Path, changes: dict[str, Any], says: str):
    add_method(tmp_path, "baseline", one_sample(range(8)))
    add_method(tmp_path, "distilled", one_sample(range(8)), **changes)
    with pytest.raises(UserError) as error:
        compare.main([str(tmp_path)])
    assert says in str(error.value)
    assert not (tmp_path / "comparison.json").exists()


def train_manifest(run: Path, stem: str, sha256: str = "a1", **settings: Any) -> None:
    path = run / f"train/{stem}.manifest.json"
    path.parent.mkdir(exist_ok=True)
    record = {"stage": "train", "status": "running", "settings": settings, "inputs": {"gold": {"sha256": sha256}}}
    path.write_text(json.dumps(record), encoding="utf-8")


@pytest.mark.parametrize(
    ("second", "says"),
    [
        ({"learning_rate": 2e-4, "seed": 2}, "learning_rate: 0.0001 -> 0.0002"),
        ({"learning_rate": 1e-4, "seed": 2, "sha256": "b2"}, "data of gold: 'a1' -> 'b2'"),
        ({"learning_rate": 1e-4, "seed": 2, "adapter_name_or_path": "distilled.seed2"}, None),
    ],
)
def test_runs_of_different_recipes_are_not_one_method(tmp_path: Path, second: dict[str, Any], says: str | None):
    for seed in (1, 2):
        add_method(tmp_path, f"distilled.seed{seed}", one_sample(range(8)))
    add_method(tmp_path, "baseline", one_sample(range(8)))
    train_manifest(tmp_path, "distilled.seed1", learning_rate=1e-4, seed=1, adapter_name_or_path="distilled.seed1")
    train_manifest(tmp_path, "distilled.seed2", **second)
    if says is None:
        compared(tmp_path)
        return
    with pytest.raises(UserError) as error:
        compare.main([str(tmp_path)])
    assert "distilled.seed2 was trained by another recipe than distilled.seed1" in str(error.value)
    assert says in str(error.value) and "--from train" in str(error.value)


def test_missing_and_double_ids_are_named(tmp_path: Path):
    add_method(tmp_path, "baseline", one_sample(range(8)))
    add_method(tmp_path, "distilled", one_sample(range(8), 39))
    with pytest.raises(UserError, match=r"distilled lacks 1 question \(q39\)"):
        compare.main([str(tmp_path)])
    add_method(tmp_path, "distilled", one_sample(range(8)))
    scores = tmp_path / "predictions/gsm8k/distilled.scores.jsonl"
    rows = read_rows(scores)
    write_rows(scores, [*rows[:-1], rows[3]])
    with pytest.raises(UserError, match="distilled.scores.jsonl:40: q3 is already in line 4"):
        compare.main([str(tmp_path)])
    with pytest.raises(
        UserError,
        match="no method 'none'; name the one to compare with: --reference baseline; the scored methods are baseline, distilled",
    ):
        write_rows(scores, rows)
        compare.main([str(tmp_path), "--reference", "none"])
    with pytest.raises(UserError, match="no such folder"):
        compare.main([str(tmp_path / "nothing")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="run score.py first"):
        compare.main([str(tmp_path / "empty")])


def test_a_question_without_all_samples_is_refused(tmp_path: Path):
    add_method(tmp_path, "baseline", [[True, True], [True, False]])
    scores = tmp_path / "predictions/gsm8k/baseline.scores.jsonl"
    write_rows(scores, read_rows(scores)[:-1])
    with pytest.raises(UserError, match=r"1 question \(q1\) with fewer than 2 samples"):
        compare.main([str(tmp_path)])
