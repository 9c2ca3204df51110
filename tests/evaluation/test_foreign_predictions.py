"""Predictions of other programs, with only an id and a text: scored, compared, shown in a report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import problem, read_rows, refused, run_script, write_rows

SYSTEMS = {"mine": range(8), "theirs": range(3)}  # name -> the problems that it solves


@pytest.fixture
def run(tmp_path: Path, data_root: Path) -> Path:
    """A run folder with the predictions of two systems on eight problems, scored."""
    for name, solved in SYSTEMS.items():
        rows = [
            {
                "id": problem(number)["id"],
                "response": f"So 1+1=2. The answer is {number + 1 if number in solved else 99}.",
            }
            for number in range(8)
        ]
        path = write_rows(tmp_path / f"run/predictions/gsm8k/{name}.jsonl", rows)
        run_script("score.py", "--dataset", "gsm8k", "--data_root", data_root, "--pred_path", path)
    return tmp_path / "run"


def summary(run: Path, name: str) -> dict[str, Any]:
    return json.loads((run / f"predictions/gsm8k/{name}.summary.json").read_text(encoding="utf-8"))


def test_an_id_and_a_response_are_enough_for_a_score(run: Path):
    found = summary(run, "theirs")
    assert (found["accuracy"], found["n"], found["samples"]) == (3 / 8, 8, 1)
    assert found["finish_reasons"] == {"unknown": 8}
    rows = read_rows(run / "predictions/gsm8k/theirs.scores.jsonl")
    assert {(row["sample"], row["finish_reason"], row["completion_tokens"]) for row in rows} == {(0, "unknown", None)}


def test_how_a_text_ended_is_unknown_and_not_zero(run: Path):
    found = summary(run, "mine")
    assert [found[key] for key in ("ended_with_eos", "stopped_at_answer", "truncated", "completion_tokens")] == [
        None
    ] * 4


def test_without_a_baseline_the_comparison_names_the_flag(run: Path):
    refused(run_script("scripts/compare.py", run, check=False), "no method 'baseline'", "--reference mine")


def test_foreign_systems_are_compared_and_reported(run: Path):
    run_script("scripts/compare.py", run, "--reference", "theirs")
    run_script("scripts/report.py", run)
    text = (run / "report.md").read_text(encoding="utf-8")
    assert "+62.5 points" in text and "| mine | 100.0 % [" in text and "words to the answer" in text
    assert "pipeline.sh" not in text, "no preset made this run"
    assert (run / "report.html").is_file()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"id": 7}, "'id' must be str"),
        ({"sample": "0"}, "'sample' must be int"),
        ({"finish_reason": None}, "'finish_reason' must be str"),
        ({"dataset": "aime"}, "a prediction on aime, but --dataset is gsm8k"),
        ({"response": None}, "'response' must be str"),
    ],
)
def test_a_field_that_is_given_must_be_right(run: Path, data_root: Path, change: dict[str, Any], says: str):
    path = run / "predictions/gsm8k/bad.jsonl"
    write_rows(path, [{"id": problem(0)["id"], "response": "1", **change}])
    done = run_script("score.py", "--dataset", "gsm8k", "--data_root", data_root, "--pred_path", path, check=False)
    refused(done, "bad.jsonl:1", says)


def test_two_rows_of_one_problem_need_sample_numbers(run: Path, data_root: Path):
    path = run / "predictions/gsm8k/twice.jsonl"
    write_rows(path, [{"id": problem(0)["id"], "response": "1"}] * 2)
    done = run_script("score.py", "--dataset", "gsm8k", "--data_root", data_root, "--pred_path", path, check=False)
    refused(done, "twice.jsonl:2", "is already in line 1")
