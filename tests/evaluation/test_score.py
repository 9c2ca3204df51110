"""score.py: verdicts, words, steps, groups, several samples, and what it refuses."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from conftest import problem, read_rows, refused, run_script, write_rows

from cotkit.evaluation import stats
from cotkit.evaluation.metrics import Strata
from cotkit.grading.grader import VERDICTS


def prediction(number: int, response: str, **changes: Any) -> dict[str, Any]:
    row = {"id": f"gsm8k-test-{number:05d}", "sample": 0, "dataset": "gsm8k", "response": response, "thinking": ""}
    return {**row, "finish_reason": "stop", "prompt_tokens": 9, "completion_tokens": 9, **changes}


RUNAWAY = "Three and one: 3+1=4\n#### 4\nProblem: a new one\n#### 99"
PREDICTIONS = [
    prediction(0, "Then 0+1=1\n#### 1"),
    prediction(1, "Then 1+1=3\n#### 3"),
    prediction(2, "I do not know"),
    prediction(3, RUNAWAY),
    prediction(4, "Four and", finish_reason="length"),
    prediction(5, "<think>5+1=6 #### 6"),
    prediction(6, "#### 7"),
]


def score(data_root: Path, rows: list[dict[str, Any]], *more: Any, **options: Any) -> Any:
    path = write_rows(data_root.parent / "p/method.jsonl", rows)
    return run_script("score.py", "--dataset", "gsm8k", "--data_root", data_root, "--pred_path", path, *more, **options)


def summary_of(data_root: Path) -> dict[str, Any]:
    return json.loads((data_root.parent / "p/method.summary.json").read_text(encoding="utf-8"))


def test_every_question_counts_and_every_verdict_is_named(data_root: Path):
    done = score(data_root, PREDICTIONS)
    summary = summary_of(data_root)
    rows = read_rows(data_root.parent / "p/method.scores.jsonl")
    verdicts = ["correct", "wrong", "no_answer", "correct", "truncated", "truncated", "correct", "no_answer"]
    assert [row["verdict"] for row in rows] == verdicts
    assert summary["n"] == 8 == sum(summary["verdicts"].values())
    assert list(summary["verdicts"]) == list(VERDICTS)
    assert summary["accuracy"] == 3 / 8
    assert (round(summary["accuracy_low"], 4), round(summary["accuracy_high"], 4)) == (0.1368, 0.6943)  # Wilson, 3 of 8
    assert summary["missing"] == 1
    assert "1 without a prediction (counted as wrong)" in done.stdout
    assert rows[7]["finish_reason"] == "missing"
    assert set(rows[0]) == {
        "id",
        "sample",
        "extracted",
        "verdict",
        "words",
        "words_to_answer",
        "critic",
        "finish_reason",
        "completion_tokens",
        "steps",
        "steps_right",
    }


def test_words_are_counted_to_the_answer(data_root: Path):
    score(data_root, PREDICTIONS)
    row = read_rows(data_root.parent / "p/method.scores.jsonl")[3]
    assert row["words"] == len(RUNAWAY.split())
    assert row["words_to_answer"] == len(["Three", "and", "one:", "3+1=4", "####", "4"])


def test_runaway_text_ends_and_correct_steps(data_root: Path):
    score(data_root, PREDICTIONS)
    summary, rows = summary_of(data_root), read_rows(data_root.parent / "p/method.scores.jsonl")
    assert [(row["steps"], row["steps_right"]) for row in rows[:4]] == [(1, 1), (1, 0), (0, 0), (1, 1)]
    assert summary["steps"] == {"outputs": 3, "checked": 3, "right": 2, "share_right": 2 / 3}
    words = [len(row["response"].split()) for row in PREDICTIONS]
    assert summary["word_count"] == sum(words) / 7  # of the predictions that exist
    assert summary["runaway_text"] == 1 / 7
    assert summary["runaway_words"] == 6 / sum(words)
    assert (summary["ended_with_eos"], summary["truncated"], summary["stopped_at_answer"]) == (6 / 7, 1 / 7, 0.0)
    assert summary["completion_tokens"] == 9


def test_accuracy_by_level_subject_and_length_of_the_solution(data_root: Path):
    fields = [("Algebra", 1), ("Algebra", 2), ("Geometry", 1), ("Geometry", 1)]
    rows = [
        problem(number, subject=subject, level=level, solution="word " * (number + 1))
        for number, (subject, level) in enumerate(fields)
    ]
    write_rows(data_root / "gsm8k/test.jsonl", rows)
    score(data_root, [prediction(0, "#### 1"), prediction(1, "#### 2"), prediction(2, "#### 3")])
    strata = summary_of(data_root)["strata"]
    assert {name: (group["questions"], group["accuracy"]) for name, group in strata["subject"].items()} == {
        "Algebra": (2, 1.0),
        "Geometry": (2, 0.5),
    }
    assert list(strata["level"]) == ["1", "2"] and strata["level"]["1"]["accuracy"] == 2 / 3
    assert list(strata["solution_length"]) == [
        "1: 1 to 1 words",
        "2: 2 to 2 words",
        "3: 3 to 3 words",
        "4: 4 and more words",
    ]


def test_groups_by_length_are_quarters_and_lose_nobody():
    problems = [{"solution": "w " * (length % 97)} for length in range(1000)]
    strata = Strata(problems)
    groups = Counter(strata.of(row).get("solution_length") for row in problems)
    assert groups.pop(None) == sum(not row["solution"] for row in problems)
    assert len(groups) == 4 and all(220 <= size <= 280 for size in groups.values())


def test_a_second_run_and_a_run_after_deleting_give_the_same_bytes(data_root: Path):
    score(data_root, PREDICTIONS)
    files = [data_root.parent / f"p/method.{name}" for name in ("summary.json", "scores.jsonl")]
    before = [path.read_bytes() for path in files]
    assert "done already" in score(data_root, PREDICTIONS).stdout
    for path in files:
        path.unlink()
    score(data_root, PREDICTIONS)
    assert [path.read_bytes() for path in files] == before


def test_changed_predictions_are_scored_again(data_root: Path):
    score(data_root, PREDICTIONS)
    score(data_root, [*PREDICTIONS[:1], prediction(1, "#### 2"), *PREDICTIONS[2:]])
    assert summary_of(data_root)["accuracy"] == 4 / 8


def test_several_samples_of_a_question(data_root: Path):
    score(data_root, [prediction(0, "#### 1"), prediction(0, "#### 2", sample=1), prediction(1, "#### 2", sample=1)])
    summary = summary_of(data_root)
    assert (summary["n"], summary["missing"]) == (16, 13)
    assert summary["verdicts"]["correct"] == 2
    # Question 0: a tie of right and wrong, 0.5. Question 1: one answer, right. The others: none.
    assert summary["at_k"]["maj"] == 1.5 / 8


def test_at_k_equals_its_definitions(data_root: Path):
    answers = {0: ["1", "1", "2", "9"], 1: ["5", "5.0", "2", "2"], 2: ["7", "7", "7", "3"], 3: ["4"] * 4}
    score(
        data_root,
        [
            prediction(number, f"#### {answer}", sample=sample)
            for number, given in answers.items()
            for sample, answer in enumerate(given)
        ],
    )
    summary = summary_of(data_root)
    right = [2, 2, 1, 4, 0, 0, 0, 0]
    mean, error = stats.clustered_mean(Counter(count / 4 for count in right))
    at_k = summary["at_k"]
    assert (at_k["k"], summary["questions"], summary["samples"]) == (4, 8, 4)
    assert summary["accuracy"] == at_k["avg"] == pytest.approx(mean, abs=1e-12) == 9 / 32
    assert at_k["avg_error"] == pytest.approx(error, abs=1e-12)
    assert at_k["pass"] == pytest.approx(
        {"1": 9 / 32, "2": sum(stats.pass_at_k(4, c, 2) for c in right) / 8}, abs=1e-12
    )
    assert at_k["maj"] == (1 + 0.5 + 0 + 1) / 8  # 5 and 5.0 are one class, as large as that of 2
    # Clustered: wider than Wilson's interval of 32 independent trials, no wider than that of 8.
    width = summary["accuracy_high"] - summary["accuracy_low"]
    independent, questions = stats.wilson(9, 32), stats.wilson(9 / 4, 8)
    assert independent[1] - independent[0] < width <= questions[1] - questions[0] + 1e-12


def test_scores_of_an_older_schema_are_refused(data_root: Path):
    score(data_root, PREDICTIONS)
    path = data_root.parent / "p/method.summary.json.manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    del manifest["settings"]["schema"]
    path.write_text(json.dumps(manifest), encoding="utf-8")
    refused(score(data_root, PREDICTIONS, check=False), "schema: None -> 3", "--overwrite")


def test_the_original_protocol(data_root: Path):
    """The answer is the complete line after the first ####, else the last line. Words are those of the complete text."""
    rows = [
        prediction(0, "#### 1"),
        prediction(1, "so it is\n2"),
        prediction(2, "#### 3 apples"),
        prediction(3, RUNAWAY),
    ]
    score(data_root, rows, "--protocol", "original")
    summary = summary_of(data_root)
    assert summary["protocol"] == "original"
    assert summary["verdicts"]["correct"] >= 3
    assert summary["word_count"] == summary["words_to_answer"]


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([], "holds no predictions"),
        ([prediction(0, "#### 1"), prediction(0, "#### 1")], ":2: gsm8k-test-00000 is already in line 1"),
        ([prediction(99, "#### 1")], ":1: id 'gsm8k-test-00099' is not among the 8 problems"),
        ([prediction(0, "#### 1", dataset="amc23")], ":1: a prediction on amc23, but --dataset is gsm8k"),
        ([prediction(0, "#### 1", sample="0")], ":1: field 'sample' must be int"),
        ([problem(0)], ":1: field 'response' is missing"),
    ],
)
def test_bad_predictions_are_refused(data_root: Path, rows: list[dict[str, Any]], says: str):
    refused(score(data_root, rows, check=False), says)
    assert not (data_root.parent / "p/method.summary.json").exists()


def test_a_changed_score_file_is_not_overwritten_in_silence(data_root: Path):
    score(data_root, PREDICTIONS)
    (data_root.parent / "p/method.summary.json").write_text("{}", encoding="utf-8")
    refused(score(data_root, PREDICTIONS, check=False), "was changed after it was written")


def test_failed_requests_are_no_wrong_answers(data_root: Path):
    rows = [*PREDICTIONS[:5], prediction(5, "", finish_reason="error"), prediction(6, "", finish_reason="ABORT")]
    done = score(data_root, rows, check=False)
    assert done.returncode == 3
    assert "2 requests failed (gsm8k-test-00005, gsm8k-test-00006)" in done.stderr and "--allow_failed" in done.stderr
    assert not (data_root.parent / "p/method.summary.json").exists()
    done = score(data_root, rows, "--allow_failed")
    summary = summary_of(data_root)
    assert (summary["failed"], summary["missing"], summary["n"]) == (2, 3, 8)
    assert summary["completion_tokens"] == 9, "means are over the predictions that exist"
    assert "3 without a prediction (counted as wrong, 2 of them failed requests)" in done.stdout
