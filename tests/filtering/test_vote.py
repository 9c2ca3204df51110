"""Questions without a known answer get one by a vote over the teacher's samples."""

from __future__ import annotations

import re
import runpy
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, problem, read_rows, run_script, write_rows
from faults.faults_tools import Pipeline, edit_yaml, make_preset, write_yaml

from cotkit.core.errors import UserError
from cotkit.core.jsonl import read_json
from cotkit.grading.voting import answer_classes, winner
from cotkit.report.costs import TokenCosts
from cotkit.report.run_data import read_manifests


def samples(number: int, *answers: str | None, **changes: Any) -> list[dict[str, Any]]:
    """Teacher rows of one question; None is a text without an answer, "error" a failed request."""
    rows = []
    for sample, answer in enumerate(answers):
        text = "I cannot say." if answer is None else f"They have 3 + 4 = 7 of them.\n#### {answer}"
        row = {"sample": sample, "response": text, "thinking": "", "finish_reason": "stop", "model": "m"}
        if answer == "error":
            row |= {"response": "", "finish_reason": "error"}
        rows.append({**problem(number, **changes), **row, "prompt_tokens": 5, "completion_tokens": 9})
    return rows


def vote(folder: Path, rows: list[dict[str, Any]], *words: Any) -> int:
    write_rows(folder / "teacher.jsonl", rows)
    (folder / "run").mkdir(exist_ok=True)
    main = runpy.run_path(str(ROOT / "scripts/vote.py"), run_name="vote")["main"]
    return main(
        [
            str(w)
            for w in ("--input_path", folder / "teacher.jsonl", "--output_path", folder / "run/voted.jsonl", *words)
        ]
    )


def test_equivalent_answers_are_one_class_and_a_tie_has_no_winner():
    classes = answer_classes(["1/2", None, "0.5", "3", "1/2", ""], "latex")
    assert classes == ["1/2", None, "1/2", "3", "1/2", ""]
    assert winner(classes) == ("1/2", 3)
    assert winner(["1", "2", None, None]) is None and winner([None]) is None and winner([]) is None
    assert winner(["2", None, None]) == ("2", 1)


def test_the_answer_with_enough_votes_becomes_the_answer_of_all_samples(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    rows = [
        *samples(0, "18", "$18.00", "18", "7", answer=""),
        *samples(1, "5", "6", None, None, answer=""),  # a tie
        *samples(2, "5", None, None, answer=""),  # one of three
        *samples(3, "9", "error", "error", answer=""),  # a failed request is no vote
        *samples(4, "8", "8", "7", answer="7"),
        *samples(5, "1,000", "1000", answer="1000"),
    ]
    assert vote(tmp_path, rows) == 0
    voted, rejected = read_rows(tmp_path / "run/voted.jsonl"), read_rows(tmp_path / "run/voted.rejected.jsonl")
    assert len(voted) + len(rejected) == len(rows)
    found = {row["id"]: (row["answer"], row["votes"], row["voters"], row["given_answer"]) for row in voted}
    assert found == {
        "gsm8k-test-00000": ("18", 3, 4, ""),
        "gsm8k-test-00003": ("9", 1, 1, ""),
        "gsm8k-test-00004": ("8", 2, 3, "7"),
        "gsm8k-test-00005": ("1000", 2, 2, "1000"),
    }
    assert {row["id"]: (row["reason"], row["detail"]) for row in rejected} == {
        "gsm8k-test-00001": ("no_majority", "no single answer leads among 4"),
        "gsm8k-test-00002": ("no_majority", "1 of 3 for '5'"),
    }
    assert (
        "4 of 6 questions have an answer by vote (12 of 19 rows); of 2 whose answer is known the vote found 50.0%"
        in (capsys.readouterr().out)
    )
    assert vote(tmp_path, rows) == 0
    assert "done already" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"min_share: 0.5 -> 0.8"):
        vote(tmp_path, rows, "--min_share", 0.8)
    assert vote(tmp_path, rows, "--min_share", 0.75, "--overwrite") == 0
    assert {row["id"][-1] for row in read_rows(tmp_path / "run/voted.jsonl")} == {"0", "3", "5"}
    assert "every manifest, hash and count is right" in run_script("scripts/verify.py", tmp_path / "run").stdout


def test_a_sample_with_a_false_calculation_has_no_vote_unless_it_is_let(tmp_path: Path):
    rows = samples(0, "9", "9", "7", answer="")
    for row in rows[:2]:
        row["response"] = "They have 3 + 4 = 9 of them.\n#### 9"
    assert vote(tmp_path, rows) == 0
    assert [(row["answer"], row["votes"], row["voters"]) for row in read_rows(tmp_path / "run/voted.jsonl")] == [
        ("7", 1, 1)
    ] * 3
    assert vote(tmp_path, rows, "--let_all_vote", "--overwrite") == 0
    assert {row["answer"] for row in read_rows(tmp_path / "run/voted.jsonl")} == {"9"}


def test_what_cannot_be_voted_on_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="teacher.jsonl: holds no teacher rows"):
        vote(tmp_path, [])
    with pytest.raises(UserError, match=r"teacher.jsonl:2: \('gsm8k-test-00000', 0\) is already in line 1; remove"):
        vote(tmp_path, samples(0, "1") * 2)
    with pytest.raises(UserError, match="no question has 50% of its votes for one answer; lower --min_share, or let"):
        vote(tmp_path, samples(0, "1", "2"))
    assert not (tmp_path / "run/voted.jsonl").exists() and not (tmp_path / "run/voted.rejected.jsonl").exists()


@pytest.mark.slow
def test_the_pipeline_trains_on_voted_answers(tmp_path: Path, tiny_model: Path):
    preset = make_preset(tmp_path / "mine", tiny_model)
    write_yaml(preset / "filter.yaml", {"min_words": 5, "test_paths": [], "sets": ["gold", "distilled"]})
    edit_yaml(preset / "teacher.yaml", limit=4, temperature=0.7)
    questions = [{**problem(number), "id": f"more-{number}", "split": "unlabeled"} for number in range(100, 140)]
    own = {"questions_path": str(write_rows(tmp_path / "more.jsonl", questions)), "questions": 20, "votes": 3}
    write_yaml(preset / "train/voted.yaml", {**own, "dataset": "voted"})
    edit_yaml(preset / "train.yaml", methods=["distilled", "voted"], num_train_epochs=2, budget="steps of gold")
    code, text = Pipeline(preset, tmp_path / "out").finish()
    assert code == 0, text
    run = tmp_path / "out/mine"
    asked, voted = read_rows(run / "teacher.voted.jsonl"), read_rows(run / "voted.voted.jsonl")
    assert len(asked) == 20 * 3 and {row["split"] for row in voted} == {"unlabeled"}
    kept = {row["id"] for row in read_rows(run / "kept.voted.jsonl")}
    assert len(read_rows(run / "datasets/voted/voted.jsonl")) == len(kept) > 4
    steps = {name: read_json(run / f"train/{name}.manifest.json")["counts"]["steps"] for name in ("distilled", "voted")}
    assert steps["voted"] == steps["distilled"]  # those of gold, which is a set of the run
    assert import_module("scripts.export").main([str(run), "--data", "voted"]) == 0
    card = (run / "export/data-voted/README.md").read_text(encoding="utf-8")
    assert "of 20 questions" in card and "python scripts/vote.py --input_path" in card
    cost = TokenCosts(read_manifests(run)).cost_of("voted")
    assert cost and cost.teacher == sum(row["completion_tokens"] for row in asked)
    assert "every manifest, hash and count is right" in run_script("scripts/verify.py", run).stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("votes", "temperature", "says"),
    [
        (1, 0.7, r"voted.yaml:\d: `votes: 1`: a vote needs at least two samples of a question"),
        ("four", 0.7, r"voted.yaml:\d: `votes: four`: a vote needs at least two samples of a question"),
        (None, 0.7, r"voted.yaml: `votes` \(not set there\): a vote needs at least two samples"),
        (4, 0, r"teacher.yaml: temperature: 0, but the samples of voted vote, .*; set temperature: 0.7"),
    ],
)
def test_a_vote_needs_several_different_samples(
    tmp_path: Path, tiny_model: Path, votes: Any, temperature: float, says: str
):
    preset = make_preset(tmp_path / "mine", tiny_model)
    edit_yaml(preset / "teacher.yaml", temperature=temperature)
    questions = {"questions_path": str(tmp_path / "data/amc23/test.jsonl"), "dataset": "voted"}
    write_yaml(preset / "train/voted.yaml", questions if votes is None else {**questions, "votes": votes})
    edit_yaml(preset / "train.yaml", methods=["distilled", "voted"])
    done = run_script("scripts/check_preset.py", preset, "--run", tmp_path / "run", check=False)
    assert done.returncode == 1 and re.search(says, done.stderr), done.stderr


@pytest.mark.slow
def test_a_number_of_questions_that_is_none_is_a_fault(tmp_path: Path, tiny_model: Path):
    preset = make_preset(tmp_path / "mine", tiny_model)
    edit_yaml(preset / "teacher.yaml", temperature=0.7)
    questions = {"questions_path": str(tmp_path / "data/amc23/test.jsonl"), "dataset": "voted", "votes": 3}
    write_yaml(preset / "train/voted.yaml", {**questions, "questions": "all"})
    edit_yaml(preset / "train.yaml", methods=["distilled", "voted"])
    done = run_script("scripts/check_preset.py", preset, "--run", tmp_path / "run", check=False)
    assert done.returncode == 1 and re.search(r"voted.yaml:\d: `questions: all`: a whole number", done.stderr), (
        done.stderr
    )
