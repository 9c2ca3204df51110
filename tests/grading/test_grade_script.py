"""scripts/grade.py as a command, on real files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROWS = [
    {"id": "a", "dataset": "gsm8k", "gold": "18", "response": "9*2 = 18\n#### 18\nProblem:\n#### 7", "model": "m"},
    {"id": "b", "dataset": "math500", "gold": "\\frac{1}{2}", "response": "0.5"},
    {"id": "c", "dataset": "math500", "gold": "(3,4]", "response": "\\boxed{[3,4]}"},
    {"id": "d", "dataset": "aime", "gold": "033", "response": "so", "finish_reason": "length"},
    {"id": "e", "dataset": "amc23", "gold": 27.0, "response": "none"},
]


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / "grade.py"), *map(str, arguments)]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def read(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def test_adds_its_fields_and_prints_the_counts(tmp_path: Path) -> None:
    output = tmp_path / "out put.jsonl"
    done = run("--input", write(tmp_path / "in.jsonl", ROWS), "--output", output)
    assert done.returncode == 0, done.stderr
    graded = read(output)
    assert [{k: row[k] for k in ROWS[n]} for n, row in enumerate(graded)] == ROWS
    assert [row["verdict"] for row in graded] == ["correct", "correct", "wrong", "truncated", "no_answer"]
    assert [row["extracted"] for row in graded] == ["18", "0.5", "[3,4]", None, None]
    assert [row["rule"] for row in graded[:3]] == ["exact", "rational", "interval"]
    counts = {line.split()[0]: int(line.split()[1]) for line in done.stdout.split("\n") if line}
    assert counts == {
        "correct": 2,
        "wrong": 1,
        "no_answer": 1,
        "truncated": 1,
        "grader_timeout": 0,
        "gold_unparsable": 0,
        "total": 5,
    }


def test_names_the_golds_it_cannot_read(tmp_path: Path) -> None:
    rows = [*ROWS, {"id": "bad-1", "dataset": "gsm8k", "gold": "", "response": "#### 5"}]
    done = run("--input", write(tmp_path / "in.jsonl", rows), "--output", tmp_path / "out.jsonl")
    assert done.returncode == 3 and "bad-1" in done.stderr
    assert len(read(tmp_path / "out.jsonl")) == len(rows)


def test_the_data_set_can_be_given_for_all(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"id": 1, "gold": "5", "response": "#### 5"}]
    done = run("--input", write(tmp_path / "in.jsonl", rows), "--output", tmp_path / "out.jsonl", "--dataset", "gsm8k")
    assert done.returncode == 0 and read(tmp_path / "out.jsonl")[0]["verdict"] == "correct"


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"id": "a", "dataset": "gsm9k", "gold": "5", "response": "5"}, ("in.jsonl:6", "gsm9k", "gsm8k")),
        ({"id": "a", "dataset": "gsm8k", "gold": "5"}, ("in.jsonl:6", "response")),
        ({"id": "a", "dataset": "gsm8k", "gold": None, "response": "5"}, ("in.jsonl:6", "gold")),
        ({"id": "a", "gold": "5", "response": "5"}, ("in.jsonl:6", "dataset")),
    ],
)
def test_bad_rows_stop_it_with_file_and_line(row: dict[str, object], words: tuple[str, ...], tmp_path: Path) -> None:
    done = run("--input", write(tmp_path / "in.jsonl", [*ROWS, row]), "--output", tmp_path / "out.jsonl")
    assert done.returncode == 1 and all(word in done.stderr for word in words), done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "out.jsonl").exists()


def test_a_missing_input_is_an_error_of_one_line(tmp_path: Path) -> None:
    done = run("--input", tmp_path / "none.jsonl", "--output", tmp_path / "out.jsonl")
    assert done.returncode == 1 and len(done.stderr.strip().split("\n")) == 1 and "none.jsonl" in done.stderr


def test_input_and_output_must_differ(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", ROWS)
    done = run("--input", source, "--output", source)
    assert done.returncode == 1 and read(source) == ROWS


def test_many_unreadable_golds_are_ten_lines_and_a_count(tmp_path: Path) -> None:
    rows = [{"id": f"bad-{n:03}", "dataset": "gsm8k", "gold": "", "response": "#### 5"} for n in range(250)]
    done = run("--input", write(tmp_path / "in.jsonl", rows), "--output", tmp_path / "out.jsonl")
    lines = done.stderr.strip().split("\n")
    assert done.returncode == 3 and len(lines) == 11
    assert [line.split(": ")[1].split()[0] for line in lines[:10]] == [f"bad-{n:03}" for n in range(10)]
    assert "250" in lines[-1] and len(read(tmp_path / "out.jsonl")) == 250


@pytest.mark.parametrize("text", ["", "\n\n"])
def test_a_file_without_rows_is_an_error_of_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text(text)
    done = run("--input", tmp_path / "in.jsonl", "--output", tmp_path / "out.jsonl")
    assert done.returncode == 1 and not (tmp_path / "out.jsonl").exists()
    assert len(done.stderr.strip().split("\n")) == 1 and "in.jsonl: holds no rows" in done.stderr


def test_finish_reasons_of_other_engines(tmp_path: Path) -> None:
    reasons = ["MAX_TOKENS", "max_tokens", "length", "end_turn", "EOS_TOKEN", "", None, "because", "because"]
    rows: list[dict[str, object]] = [
        {"id": str(n), "dataset": "gsm8k", "gold": "18", "response": "#### 18", "finish_reason": reason}
        for n, reason in enumerate(reasons)
    ]
    done = run("--input", write(tmp_path / "in.jsonl", rows), "--output", tmp_path / "out.jsonl")
    assert [row["verdict"] for row in read(tmp_path / "out.jsonl")] == ["truncated"] * 3 + ["correct"] * 6
    assert done.returncode == 0 and "'because' is not known: 2 texts" in done.stderr


def test_a_finish_reason_that_is_no_text_is_refused(tmp_path: Path) -> None:
    rows = [ROWS[0] | {"finish_reason": 5}]
    done = run("--input", write(tmp_path / "in.jsonl", rows), "--output", tmp_path / "out.jsonl")
    assert done.returncode == 1 and "in.jsonl:1: field 'finish_reason'" in done.stderr


def test_limit(tmp_path: Path) -> None:
    done = run("--input", write(tmp_path / "in.jsonl", ROWS), "--output", tmp_path / "out.jsonl", "--limit", "2")
    assert done.returncode == 0 and len(read(tmp_path / "out.jsonl")) == 2


def test_formulas_that_a_json_reader_damaged_are_graded_as_they_were_written(tmp_path: Path):
    r"""In JSON, ``"\frac"`` with one backslash is a form feed and ``rac``."""
    rows = [
        {"id": "gold", "dataset": "math500", "gold": "\x0crac{1}{2}", "response": "0.5"},
        {"id": "answer", "dataset": "math500", "gold": "0.5", "response": "So \x08oxed{\x0crac{1}{2}}."},
        {"id": "both", "dataset": "math500", "gold": "3 \times 4", "response": "$\\boxed{12}$"},
    ]
    write(tmp_path / "in.jsonl", rows)
    assert run("--input", tmp_path / "in.jsonl", "--output", tmp_path / "out.jsonl").returncode == 0
    lines = (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()
    graded = [json.loads(line) for line in lines]
    assert [row["verdict"] for row in graded] == ["correct"] * 3
    assert [row["response"] for row in graded] == [row["response"] for row in rows]


def test_a_gold_answer_with_a_control_character_is_refused_by_line(tmp_path: Path):
    rows = [{"id": "a", "dataset": "math500", "gold": gold, "response": "5"} for gold in ("5", "5\x0cunny")]
    write(tmp_path / "in.jsonl", rows)
    done = run("--input", tmp_path / "in.jsonl", "--output", tmp_path / "out.jsonl")
    assert done.returncode == 1
    assert "in.jsonl:2: the gold answer holds the control character U+000C before 'unny'" in done.stderr
    assert not (tmp_path / "out.jsonl").exists()
