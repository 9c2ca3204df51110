"""Rounds: problems without a kept sample are asked again with settings of their own; the filter judges all samples."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, problem, read_rows, run_script, write_rows
from generation.chat_server import ChatServer

import filter_teacher_cot
import teacher_cot
from cotkit.core import yaml_file
from cotkit.core.errors import UserError

ROUNDS = """
backend: fake
model_name: fake
max_new_tokens: 50
rounds:
  - {}
  - {temperature: 0.7, num_samples: 2, max_new_tokens_if_truncated: 90}
  - {mode: solve, temperature: 1}
"""


def preset(folder: Path, text: str = ROUNDS) -> Path:
    path = folder / "teacher.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def teach(folder: Path, number: int, source: Path, *more: Any) -> Path:
    output = folder / ("teacher.jsonl" if number == 1 else f"teacher.round{number}.jsonl")
    words = ["--config", folder / "teacher.yaml", "--round", number, "--input_path", source, "--output_path", output]
    assert teacher_cot.main([str(word) for word in (*words, *more)]) == 0
    return output


def ask_again(folder: Path, number: int, source: Path, *more: str) -> Path:
    output = folder / f"retry.round{number}.jsonl"
    words = ["--only_retry", "--input_path", str(source), "--output_path", str(output)]
    assert filter_teacher_cot.main([*words, *more]) == 0
    return output


def keep(folder: Path, *sources: Path) -> dict[str, Any]:
    words = ["--output_path", folder / "kept.jsonl", "--input_path", *sources]
    assert filter_teacher_cot.main([str(word) for word in words]) == 0
    return json.loads((folder / "kept.report.json").read_text(encoding="utf-8"))


def two_rounds(folder: Path, problems: int = 40) -> list[Path]:
    folder.mkdir(exist_ok=True)
    preset(folder)
    source = write_rows(folder.with_suffix(".problems"), [problem(number) for number in range(problems)])
    first = teach(folder, 1, source)
    return [first, teach(folder, 2, ask_again(folder, 2, first))]


def test_only_problems_without_a_kept_sample_are_asked_again(tmp_path: Path):
    files = two_rounds(tmp_path)
    first, second = map(read_rows, files)
    report = keep(tmp_path, *files)
    kept, rejected = read_rows(tmp_path / "kept.jsonl"), read_rows(tmp_path / "kept.rejected.jsonl")
    kept_first = {row["id"] for row in kept if row["sample"] == 0}
    assert {row["id"] for row in second} == {row["id"] for row in first} - kept_first
    assert {(row["id"], row["sample"]) for row in second} == {
        (row["id"], sample) for row in second for sample in (1, 2)
    }
    assert {row["retry"] for row in second} == {"wrong_answer"}
    assert len(kept) + len(rejected) == len(first) + len(second)
    assert [row["covered"] for row in report["rounds"]] == [len(kept_first), len({row["id"] for row in kept})]
    assert report["rounds"][0]["covered"] < report["rounds"][1]["covered"] == report["problems_with_kept"]
    tokens = [sum(row["prompt_tokens"] + row["completion_tokens"] for row in rows) for rows in (first, second)]
    assert [row["total_tokens"] for row in report["rounds"]] == [tokens[0], sum(tokens)]
    assert "| 2 | " in (tmp_path / "kept.report.md").read_text(encoding="utf-8")


@pytest.mark.usefixtures("short_delays")
def test_a_stronger_teacher_is_a_change_of_two_lines(tmp_path: Path):
    """Removes the adapter from the study's teacher.yaml and takes the alternative in its comment."""
    text = (ROOT / "configs/smollm2_study/teacher.yaml").read_text(encoding="utf-8")
    text, removed = re.subn(r"(?m)^lora_path: .*\n", "", text)
    assert removed == 1
    (line,) = re.findall(r"^# ( - &teacher \{.*)$", text, re.MULTILINE)
    with ChatServer() as server:
        line = line.replace("http://gpu1:8000/v1", server.url)
        preset(tmp_path, text.replace("  - &teacher {}", f" {line}"))
        source = write_rows(tmp_path / "problems.jsonl", [problem(number) for number in range(2)])
        for number in (1, 2):
            rows = read_rows(teach(tmp_path, number, source))
            assert {row["model"] for row in rows} == {"Qwen/Qwen3-8B"}
            assert len(rows) == 2 * 4
    assert {body["model"] for body in server.bodies} == {"Qwen/Qwen3-8B"}
    assert {body["temperature"] for body in server.bodies} == {0.7}


def test_finished_rounds_change_nothing_and_pass_the_checks(tmp_path: Path, capsys: Any):
    files = two_rounds(tmp_path)
    keep(tmp_path, *files)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    capsys.readouterr()
    again = two_rounds(tmp_path)
    keep(tmp_path, *again)
    assert capsys.readouterr().out.count("done already") == 2
    changed = {path for path, time in before.items() if path.stat().st_mtime_ns != time}
    assert {path.name for path in changed} <= {"teacher.yaml"}
    assert "every manifest, hash and count is right" in run_script("scripts/verify.py", tmp_path).stdout
    asked_twice = read_rows(files[1])[0]["id"]
    text = run_script("scripts/trace.py", asked_twice, "--run", tmp_path, "--data_root", tmp_path).stdout
    assert [f"teacher sample {sample} " in text for sample in range(4)] == [True, True, True, False]


def test_other_rules_do_not_change_what_is_asked_again_but_more_problems_do(tmp_path: Path, capsys: Any):
    files = two_rounds(tmp_path)
    asked, answered = (tmp_path / "retry.round2.jsonl").read_bytes(), files[1].read_bytes()
    ask_again(tmp_path, 2, files[0], "--min_words", "400")
    assert "made by other rules and is kept" in capsys.readouterr().out
    assert (tmp_path / "retry.round2.jsonl").read_bytes() == asked
    again = two_rounds(tmp_path, problems=60)
    assert (tmp_path / "retry.round2.jsonl").read_bytes().startswith(asked)
    assert again[1].read_bytes().startswith(answered)
    assert len(read_rows(again[1])) > answered.count(b"\n")


def test_a_truncated_problem_gets_the_larger_budget_and_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    preset(tmp_path)
    counts = {"prompt_tokens": 9, "completion_tokens": 50}
    rows = [
        {**problem(4), **counts, "sample": 0, "response": "Tom", "finish_reason": "length"},
        {**problem(5), **counts, "sample": 0, "response": "#### 1", "finish_reason": "stop"},
        {**problem(6), **counts, "sample": 1, "response": "#### 1", "finish_reason": "stop", "retry": "truncated"},
    ]
    retried = ask_again(tmp_path, 2, write_rows(tmp_path / "teacher.jsonl", rows))
    reasons = ["truncated", "length", "truncated"]
    assert read_rows(retried) == [
        {**problem(number), "retry": reason} for number, reason in zip((4, 5, 6), reasons, strict=True)
    ]
    jobs: list[Any] = []
    monkeypatch.setattr(teacher_cot.runner, "run", lambda job: jobs.append(job) or 0)
    teach(tmp_path, 2, retried)
    teach(tmp_path, 2, retried, "--first_sample", 7)
    assert [request.sample for request in jobs[1].requests] == [7, 8] * 3
    assert [request.sample for request in jobs[0].requests] == [1, 2] * 3
    assert [request.max_new_tokens for request in jobs[0].requests] == [90, 90, None, None, 90, 90]


def test_numbers_and_settings_of_a_round(tmp_path: Path):
    config = preset(tmp_path)
    words = ["--config", config, "--input_path", "x", "--output_path", "y"]

    def parse(*more: Any) -> Any:
        return teacher_cot.build_parser().parse([str(word) for word in (*words, *more)])

    third = parse("--round", 3)
    assert (third.mode, third.temperature, third.num_samples) == ("solve", 1.0, 1)
    assert (parse("--round", 3, "--mode", "rewrite").mode, parse().mode) == ("rewrite", "rewrite")
    assert [teacher_cot.first_sample(config, number) for number in (1, 2, 3)] == [0, 1, 3]
    assert len(yaml_file.rounds_of(config)) == 3


@pytest.mark.parametrize(
    ("text", "number", "says"),
    [
        (
            "seed: 1\nrounds:\n  - {}\n  - {temprature: 1}\n",
            1,
            ":4: unknown key 'temprature'; did you mean 'temperature'?",
        ),
        ("rounds:\n  - {}\n  - {num_samples: 0}\n", 1, ":3: num_samples: 0 does not fit"),
        ("rounds: 3\n", 1, ":1: rounds: a list of entries is expected"),
        ("rounds: [{}, solve]\n", 1, ":1: rounds: {key: value} is expected, found 'solve'"),
        ("rounds: [{}, {}]\n", 3, "--round 3: "),
        (None, 2, "--round 2 needs --config with a list `rounds`"),
    ],
)
def test_rounds_that_make_no_sense_are_refused(tmp_path: Path, text: str | None, number: int, says: str):
    source = write_rows(tmp_path / "problems.jsonl", [problem(4)])
    words = ["--input_path", source, "--output_path", tmp_path / "o", "--round", number]
    words += ["--model_name", "fake", "--backend", "fake"]
    words += ["--config", preset(tmp_path, text)] if text is not None else []
    with pytest.raises(UserError) as refusal:
        teacher_cot.main([str(word) for word in words])
    assert says in str(refusal.value)
    assert not (tmp_path / "o").exists()


def test_one_sample_in_two_files_is_refused_naming_both(tmp_path: Path):
    files = two_rounds(tmp_path)
    repeated = write_rows(tmp_path / "more.jsonl", read_rows(files[0])[2:3])
    with pytest.raises(UserError) as refusal:
        keep(tmp_path, *files, repeated)
    assert f"{repeated}:1: ('gsm8k-test-00002', 0) is already in {files[0]}:3; " in str(refusal.value)
    assert not (tmp_path / "kept.jsonl").exists()


def test_the_study_counts_what_rounds_save(tmp_path: Path, capsys: Any):
    """Four problems; the second round asked one of them."""
    first = {"round": 1, "problems": 4, "rows": 4, "prompt_tokens": 40, "completion_tokens": 8, "coverage": 0.5}
    second = {"round": 2, "problems": 1, "rows": 1, "prompt_tokens": 10, "completion_tokens": 2, "coverage": 2 / 3}
    report = {"problems": 4, "rounds": [{**first, "total_tokens": 48}, {**second, "total_tokens": 60}]}
    (tmp_path / "kept.report.json").write_text(json.dumps(report), encoding="utf-8")
    study = runpy.run_path(str(ROOT / "scripts/dev/study_rounds.py"))
    assert study["main"](["--rounds", str(tmp_path / "kept.jsonl")]) == 0
    printed = capsys.readouterr().out
    assert "round 1: 48 tokens, coverage 50.0%; the same samples for all 4 problems take 48 (0.0% saved)" in printed
    assert "round 2: 60 tokens, coverage 66.7%; the same samples for all 4 problems take 96 (37.5% saved)" in printed
