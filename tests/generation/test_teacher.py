from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, problem, read_rows, refused, run_script, write_rows

from cotkit.generation import prompts
from cotkit.generation.types import Completion, Request

pytestmark = pytest.mark.slow


def teach(tmp_path: Path, model: Path, *more: Any, **options: Any) -> Any:
    path = tmp_path / "problems.jsonl"
    if not path.exists():
        write_rows(path, [problem(number) for number in range(3)])
    words = ["--input_path", path, "--output_path", tmp_path / "teacher.jsonl", "--model_name", model]
    return run_script("teacher_cot.py", *words, "--batch_size", 2, "--max_new_tokens", 8, *more, **options)


def test_a_row_is_its_problem_and_what_the_teacher_wrote(tmp_path: Path, tiny_model: Path):
    teach(tmp_path, tiny_model, "--num_samples", 2, "--temperature", 0.7)
    rows = read_rows(tmp_path / "teacher.jsonl")
    assert [(row["id"], row["sample"]) for row in rows] == [
        (problem(number)["id"], sample) for number in range(3) for sample in range(2)
    ]
    for row in rows:
        number = int(row["id"][-5:])
        assert problem(number).items() <= row.items()
        assert row["model"] == str(tiny_model)
        assert row["finish_reason"] in ("stop", "answer", "length")
        assert 1 <= row["completion_tokens"] <= 8
    assert len({row["response"] for row in rows}) > 1


def test_a_tuned_model_can_be_the_teacher(tmp_path: Path, tiny_model: Path, tiny_adapter: Path):
    teach(tmp_path, tiny_model)
    base = read_rows(tmp_path / "teacher.jsonl")
    refused(teach(tmp_path, tiny_model, "--lora_path", tiny_adapter, check=False), "adapter: None -> ")
    teach(tmp_path, tiny_model, "--lora_path", tiny_adapter, "--overwrite")
    tuned = read_rows(tmp_path / "teacher.jsonl")
    assert [row["id"] for row in tuned] == [row["id"] for row in base]
    assert [row["response"] for row in tuned] != [row["response"] for row in base]
    manifest = json.loads((tmp_path / "teacher.jsonl.manifest.json").read_text(encoding="utf-8"))
    assert manifest["adapter_base"] == str(tiny_model)


@pytest.mark.parametrize(
    ("text", "thinking", "response"),
    [
        ("3+4=7\n#### 7", "", "3+4=7\n#### 7"),
        ("<think>hmm</think>\n3+4=7\n#### 7", "hmm", "\n3+4=7\n#### 7"),
        ("<think>hmm</think>", "hmm", ""),
        ("<think>so #### 7", "", "<think>so #### 7"),
        ("", "", ""),
    ],
)
def test_only_a_closed_think_block_leaves_the_response(text: str, thinking: str, response: str):
    script = runpy.run_path(str(ROOT / "teacher_cot.py"), run_name="teacher_cot")
    row = script["teacher_row"](problem(1), Request("a", 0, []), Completion(text, "stop", 1, 1), "m")
    assert (row["thinking"], row["response"]) == (thinking, response)


def test_rewriting_shows_the_solution_and_solving_does_not():
    problem_row = problem(5, solution="Then <<5+1=6>>6.")
    shown = "".join(message["content"] for message in prompts.teacher_messages(problem_row, "rewrite"))
    assert all(piece in shown for piece in (problem_row["question"], "Then 6.\n#### 6"))
    assert "<<" not in shown
    hidden = prompts.teacher_messages(problem_row, "solve")
    assert hidden == prompts.student_messages(problem_row["question"])
    assert "Then" not in hidden[1]["content"].replace(prompts.INSTRUCTION, "")


def test_braces_in_a_question_are_only_text():
    question = r"What is $\frac{1}{2}$ of {x} %s {0}?"
    assert question in prompts.student_messages(question)[1]["content"]
    shown = prompts.teacher_messages(problem(1, question=question), "rewrite")
    assert any(question in message["content"] for message in shown)


def test_a_problem_without_a_solution_cannot_be_rewritten(tmp_path: Path, tiny_model: Path):
    write_rows(tmp_path / "problems.jsonl", [problem(0), problem(1, solution="")])
    refused(teach(tmp_path, tiny_model, check=False), "gsm8k-test-00001 has no solution", "--mode solve")
    teach(tmp_path, tiny_model, "--mode", "solve")
    assert len(read_rows(tmp_path / "teacher.jsonl")) == 2


def test_failed_rows_are_listed_retried_and_not_counted_as_done(tmp_path: Path, tiny_model: Path):
    """A prompt over the context cannot be answered; exit code 3 says so, and the next run tries again."""
    write_rows(tmp_path / "problems.jsonl", [problem(0), problem(1, solution="7 " * 1100)])
    for _ in range(2):
        done = teach(tmp_path, tiny_model, check=False)
        assert done.returncode == 3
        assert "1 results failed: gsm8k-test-00001" in done.stderr
        rows = read_rows(tmp_path / "teacher.jsonl")
        assert [row["finish_reason"] == "error" for row in rows] == [False, True]
    assert "1 of 2 results are there already" in done.stderr


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--num_samples", 2], "needs --temperature above 0"),
        (["--temperature", 1, "--top_p", 0], "--top_p must be in"),
        (["--batch_size", 0], "must be at least 1"),
        (["--batchsize", 3], "unknown argument --batchsize (did you mean '--batch_size'?)"),
    ],
)
def test_flags_that_make_no_sense_are_refused(tmp_path: Path, tiny_model: Path, flags: list[Any], says: str):
    refused(teach(tmp_path, tiny_model, *flags, check=False), says)
    assert not (tmp_path / "teacher.jsonl").exists()
