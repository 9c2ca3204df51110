"""Stage 2: reasons, the canonical answer line, reruns, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import problem, raw_rows, read_rows, refused, run_script, write_rows

import filter_teacher_cot
from cotkit.core.errors import UserError
from cotkit.filtering import rules
from cotkit.filtering.records import Parameters, Record


def teacher_row(number: int, response: str, **changes: Any) -> dict[str, Any]:
    extra = {"sample": 0, "response": response, "thinking": "", "finish_reason": "stop", "prompt_tokens": 9}
    return {**problem(number), **extra, "completion_tokens": 9, "model": "m", **changes}


GOOD = "Tom starts with 4 apples.\nThen he has 4+1=5 apples.\n#### 5"
CASES = {
    "kept": [
        teacher_row(4, GOOD),
        teacher_row(4, GOOD + "\nProblem: what else?\n#### 9"),
        teacher_row(4, GOOD.replace("#### 5", "#### **$5.00**")),
    ],
    "failed": [teacher_row(4, "", finish_reason="error", error="server gone")],
    "truncated": [
        teacher_row(4, GOOD.replace("#### 5", ""), finish_reason="length"),
        teacher_row(4, GOOD[:30], finish_reason="length"),
    ],
    "looped": [teacher_row(4, GOOD, finish_reason="loop")],
    "unclosed_think": [teacher_row(4, "<think>4+1=5, so the answer is #### 5")],
    "banned_phrase": [teacher_row(4, "Let me think. " + GOOD), teacher_row(4, "WAIT, no. " + GOOD)],
    "task_talk": [teacher_row(4, "As in the original solution, " + GOOD)],
    "no_answer_line": [
        teacher_row(4, GOOD.replace("####", "It is")),
        teacher_row(4, "He has \\boxed{5} apples in the end."),
    ],
    "malformed_answer_line": [teacher_row(4, GOOD.replace("#### 5", "#### x"))],
    "length": [teacher_row(4, "#### 5"), teacher_row(4, " ".join(f"pear{n}" for n in range(400)) + GOOD)],
    "repetition": [teacher_row(4, "He buys one more apple. " * 5 + GOOD)],
    "garbled": [teacher_row(4, GOOD.replace("has", "has \ufffd"))],
    "leftover_markup": [teacher_row(4, f"Assistant: {GOOD}"), teacher_row(4, f"<solution>\n{GOOD}")],
    "wrong_answer": [teacher_row(4, GOOD.replace("#### 5", "#### 6"))],
    "wrong_steps": [teacher_row(4, GOOD.replace("4+1=5", "4+2=5"))],
}


@pytest.mark.parametrize(("reason", "row"), [(reason, row) for reason, rows in CASES.items() for row in rows])
def test_each_rule_gives_its_reason(reason: str, row: dict[str, Any]):
    found = rules.judge(Record(row), {name: rule.bound(Parameters()) for name, rule in rules.RULES.items()})
    assert (found.reason if found else "kept") == reason


@pytest.mark.parametrize("clean", ["They read a book, then wait.", "He is Okafor.", "Hmmm is no word, smoky, eh"])
def test_banned_phrases_are_whole_words(clean: str):
    row = teacher_row(4, clean + "\n" + GOOD)
    assert rules.banned_phrase(Record(row), banned=("ok,", "hmm", "ok")) is None


def test_no_official_solution_holds_a_banned_phrase():
    pattern = rules.phrase_pattern(Parameters.banned)
    assert pattern is not None
    rows = raw_rows("gsm8k/train.jsonl")
    assert len(rows) >= 100
    assert not [number for number, row in rows.items() if pattern.search(row["answer"])]


def all_rows() -> list[dict[str, Any]]:
    rows = [row for group in CASES.values() for row in group]
    return [{**row, "id": f"gsm8k-test-{100 + number:05d}"} for number, row in enumerate(rows)]


def run_filter(tmp_path: Path, rows: list[dict[str, Any]], *more: Any, **options: Any) -> Any:
    source = write_rows(tmp_path / "teacher.jsonl", rows)
    return run_script(
        "filter_teacher_cot.py", "--input_path", source, "--output_path", tmp_path / "kept.jsonl", *more, **options
    )


def test_every_row_is_kept_or_has_one_reason(tmp_path: Path):
    rows = all_rows()
    run_filter(tmp_path, rows)
    kept, rejected = read_rows(tmp_path / "kept.jsonl"), read_rows(tmp_path / "kept.rejected.jsonl")
    assert sorted(row["id"] for row in kept + rejected) == [row["id"] for row in rows]
    report = json.loads((tmp_path / "kept.report.json").read_text(encoding="utf-8"))
    assert report["read"] == len(rows) == report["kept"] + sum(report["rejected"].values())
    for reason in rules.REASONS:
        assert (
            report["rejected"][reason] == len(CASES.get(reason, [])) == sum(row["reason"] == reason for row in rejected)
        )
    assert all(row["detail"] for row in rejected)


def test_kept_rows_end_in_one_canonical_answer_line(tmp_path: Path):
    run_filter(tmp_path, all_rows())
    for row in read_rows(tmp_path / "kept.jsonl"):
        assert row["target"].split("\n")[-1] == "#### 5"
        assert row["target"].count("####") == 1
        assert "Problem:" not in row["target"]


@pytest.mark.slow
def test_longer_rows_are_dropped_and_never_truncated(tmp_path: Path, tiny_model: Path):
    short, long = (
        teacher_row(4, GOOD),
        teacher_row(5, " ".join(f"pear{n}" for n in range(60)) + GOOD.replace("#### 5", "#### 6")),
    )
    run_filter(tmp_path, [short, long], "--student_model", tiny_model, "--max_tokens", 330)
    kept, rejected = read_rows(tmp_path / "kept.jsonl"), read_rows(tmp_path / "kept.rejected.jsonl")
    assert kept[0]["tokens"] <= 330
    assert rejected[0]["reason"] == "too_many_tokens"


def test_a_second_run_changes_nothing_and_new_rules_are_refused(tmp_path: Path):
    rows = [teacher_row(4, GOOD)]
    run_filter(tmp_path, rows)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.name != "teacher.jsonl"}
    assert "done already" in run_filter(tmp_path, rows).stdout
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.name != "teacher.jsonl"} == before
    refused(run_filter(tmp_path, rows, "--max_words", 7, check=False), "(max_words: 300 -> 7)", "--overwrite")
    run_filter(tmp_path, [*rows, teacher_row(5, GOOD)])  # more teacher rows: it is computed anew
    assert len(read_rows(tmp_path / "kept.rejected.jsonl")) == 1


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([], "holds no teacher rows"),
        ([teacher_row(4, GOOD), teacher_row(4, GOOD)], ":2: ('gsm8k-test-00004', 0) is already in line 1"),
        ([problem(4)], ":1: field 'sample' is missing"),
        ([teacher_row(4, 5)], ":1: field 'response' must be str, found int"),  # type: ignore[arg-type]
        ([{**teacher_row(4, GOOD), "prompt_tokens": -1}], ":1: prompt_tokens -1 is no number of tokens"),
        ([teacher_row(4, "no")], "training set distilled: no rows are left"),
    ],
)
def test_bad_input_is_refused(tmp_path: Path, rows: list[dict[str, Any]], says: str):
    refused(run_filter(tmp_path, rows, check=False), says)
    assert not (tmp_path / "kept.jsonl.manifest.json").exists() or "running" in (
        tmp_path / "kept.jsonl.manifest.json"
    ).read_text(encoding="utf-8")


WRONG = GOOD.replace("4+1=5", "5+1=6").replace("#### 5", "#### 6")
OTHER = "He has 4 apples and gets one: 1+4 makes 5 apples.\n#### 5"


def test_problems_without_a_kept_sample_are_written_for_another_round(tmp_path: Path):
    run_filter(
        tmp_path,
        [teacher_row(4, WRONG), teacher_row(5, GOOD), teacher_row(5, "no", sample=1), teacher_row(4, GOOD, sample=1)],
    )
    assert read_rows(tmp_path / "kept.retry.jsonl") == [{**problem(5), "retry": "wrong_answer"}]
    report = json.loads((tmp_path / "kept.report.json").read_text(encoding="utf-8"))
    assert (report["problems"], report["problems_with_kept"], report["rounds"][0]["total_tokens"]) == (2, 1, 72)


def test_near_duplicates_and_contaminated_questions_go(tmp_path: Path):
    tests = write_rows(tmp_path / "test.jsonl", [problem(5, id="gsm8k-test-99999")])
    rows = [
        teacher_row(4, GOOD),
        teacher_row(4, GOOD + "\n", sample=1),
        teacher_row(4, OTHER, sample=2),
        teacher_row(5, GOOD.replace("4", "5").replace("=5", "=6").replace("#### 5", "#### 6")),
    ]
    run_filter(tmp_path, rows, "--test_paths", tests, "--max_overlap", 1)
    assert [row["sample"] for row in read_rows(tmp_path / "kept.jsonl")] == [0, 2]
    found = {row["reason"]: row["detail"] for row in read_rows(tmp_path / "kept.rejected.jsonl")}
    assert set(found) == {"near_duplicate", "contaminated"}
    assert "gsm8k-test-00005" in found["contaminated"]
    assert "gsm8k-test-99999" in found["contaminated"]


def test_the_report_shows_changes_difficulty_and_examples(tmp_path: Path):
    long = teacher_row(6, GOOD.replace("#### 5", "#### 9"), solution="word " * 40 + "6+1=7")
    changed = teacher_row(
        4, "<think>4+1</think>" + GOOD.replace("4+1=5", "4+1=<<4+1=5>>5") + ".\nQuestion: more?\n#### 8"
    )
    run_filter(tmp_path, [changed, long, teacher_row(7, "no")])
    report = json.loads((tmp_path / "kept.report.json").read_text(encoding="utf-8"))
    assert report["changes"] == {
        "text_after_answer": 1,
        "answer_line": 1,
        "calculator_marks": 1,
        "headings": 0,
        "think_removed": 1,
        "think_kept": 0,
    }
    assert [(row["read"], row["kept"]) for row in report["by_gold_words"]] == [(2, 1), (1, 0)]
    assert report["examples"]["wrong_answer"][0]["id"] == long["id"]
    text = (tmp_path / "kept.report.md").read_text(encoding="utf-8")
    assert "| wrong_answer | 1 | 33.3% |" in text
    assert "### no_answer_line" in text
    assert read_rows(tmp_path / "kept.jsonl")[0]["target"] == GOOD
    run_filter(tmp_path, [changed], "--keep_thinking", "--overwrite")
    assert read_rows(tmp_path / "kept.jsonl")[0]["target"] == "<think>\n4+1\n</think>\n\n" + GOOD


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "examples:\n- 'length keep: one two three four five six'\n- 'length keep: Five.'\n",
            ":3: rule length must keep",
        ),
        ("max_words: 3\nexamples: ['length keep: a b c d e f']\n", ":2: rule length must keep"),
        ("examples: ['lenght keep: x']\n", ":1: an example is written"),
        ("max_wordz: 3\n", ":1: unknown key 'max_wordz'"),
        ("skip_rules: [lenght]\n", ":1: skip_rules: 'lenght' is not one of"),
        ("sets: ['a = gild']\n", ":1: sets: 'a = gild' does not fit (source 'gild'"),
    ],
)
def test_a_config_that_contradicts_itself_is_refused_by_line(tmp_path: Path, text: str, says: str):
    config = tmp_path / "filter.yaml"
    config.write_text(text, encoding="utf-8")
    source = write_rows(tmp_path / "teacher.jsonl", [teacher_row(4, GOOD)])
    words = ["--config", str(config), "--input_path", str(source), "--output_path", str(tmp_path / "kept.jsonl")]
    with pytest.raises(UserError) as refusal:
        filter_teacher_cot.main(words)
    assert f"{config}{says}" in str(refusal.value)
    assert not (tmp_path / "kept.jsonl").exists()


def test_a_row_whose_id_no_problem_has_is_refused(tmp_path: Path):
    problems = write_rows(tmp_path / "problems.jsonl", [problem(4)])
    done = run_filter(tmp_path, [teacher_row(4, GOOD), teacher_row(5, GOOD)], "--problems_path", problems, check=False)
    refused(done, "teacher.jsonl:2: no problem has the id 'gsm8k-test-00005'")
