"""Faults 9, 10, 16 to 19, 29 and 31: malformed, large and hostile input, other locales, and code that runs data."""

from __future__ import annotations

import ast
import json
import os
import shutil
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, memory_growth, problem, read_rows, refused, run_script, write_rows
from faults.faults_tools import filtering, infer, scoring, teach
from grading.test_grader import CASES, item_of
from grading.test_worker_pool import EASY, ENDLESS, UNEQUAL
from test_static import CODE, violations

import filter_teacher_cot
from cotkit.core import jsonl
from cotkit.grading.equivalence import Decision
from cotkit.grading.grader import Item, grade_many
from cotkit.grading.worker_pool import BUDGET_S, GraderPool

LINE = json.dumps(problem(0)).encode()
OTHER = json.dumps(problem(1)).encode()
MALFORMED: dict[str, tuple[bytes, str | None]] = {  # file and the message; None: it is read as two problems
    "bad UTF-8": (LINE + b"\n" + OTHER.replace(b"Tom", b"T\xffm") + b"\n", ":2: not UTF-8"),
    "byte-order mark": (b"\xef\xbb\xbf" + LINE + b"\n" + OTHER + b"\n", None),
    "CRLF": (LINE + b"\r\n" + OTHER + b"\r\n", None),
    "blank lines": (b"\n" + LINE + b"\n  \n" + OTHER + b"\n\n", None),
    "NUL": (LINE + b"\n" + OTHER.replace(b"Tom", b"T\x00m") + b"\n", ":2: not a JSON record"),
    "lone surrogate": (LINE + b"\n" + OTHER.replace(b"Tom", rb"T\ud800m") + b"\n", ":2: holds a lone surrogate"),
    "line separators in text": (LINE + b"\n" + OTHER.replace(b"Tom", "T\u2028\u0085m".encode()) + b"\n", None),
    "NaN": (LINE + b"\n" + OTHER.replace(b'"2"', b"NaN") + b"\n", ":2: not a JSON record (NaN"),
    "Infinity": (LINE + b"\n" + OTHER.replace(b'"2"', b"Infinity") + b"\n", ":2: not a JSON record (Infinity"),
    "5,000 digits": (LINE + b"\n" + OTHER.replace(b'"2"', b"7" * 5000) + b"\n", ":2: not a JSON record"),
    "100,000 brackets": (LINE + b"\n" + OTHER.replace(b'"2"', b"[" * 100_000) + b"\n", ":2: nested too deeply"),
    "duplicate key": (LINE + b"\n" + OTHER.replace(b"{", b'{"id": 1, ', 1) + b"\n", ":2: not a JSON record (key 'id'"),
    "top-level array": (b"[" + LINE + b",\n" + OTHER + b"]\n", ":1: not a JSON record"),
    "wrong type": (LINE + b"\n" + OTHER.replace(b'"2"', b"2") + b"\n", ":2: field 'answer' must be str, found int"),
    "empty file": (b"", ": holds no problems"),
    "no final newline": (LINE + b"\n" + OTHER, None),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_f09_malformed_inputs(tmp_path: Path, name: str):
    raw, message = MALFORMED[name]
    (tmp_path / "problems.jsonl").write_bytes(raw)
    done = run_script(*teach(tmp_path), check=message is None)
    if message is None:
        assert [row["id"] for row in read_rows(tmp_path / "out.jsonl")] == ["gsm8k-test-00000", "gsm8k-test-00001"]
    else:
        refused(done, f"{tmp_path / 'problems.jsonl'}{message}")
        assert not (tmp_path / "out.jsonl").exists()
    assert (tmp_path / "problems.jsonl").read_bytes() == raw


@pytest.mark.slow
def test_f10_long_files_and_lines(tmp_path: Path):
    """score.py may grow by 100 MB over its size after imports for a million rows; this measures 60,000 rows."""
    rows = 60_000
    write_rows(tmp_path / "data/gsm8k/test.jsonl", [problem(number) for number in range(rows)])
    base = {"sample": 0, "dataset": "gsm8k", "finish_reason": "stop"}
    predictions = [{"id": problem(number)["id"], "response": f"#### {number + 1}", **base} for number in range(rows)]
    write_rows(tmp_path / "p.jsonl", predictions)
    assert memory_growth("score", *scoring(tmp_path)[1:])[1] < 30 * 1024
    write_rows(tmp_path / "p.jsonl", [{**predictions[0], "response": "7" * 50_000_000}])
    refused(run_script(*scoring(tmp_path), check=False), "p.jsonl:1: the line is longer than 16 MiB")


def prediction(number: int, response: str, **changes: Any) -> dict[str, Any]:
    row = {"id": problem(number)["id"], "sample": 0, "dataset": "gsm8k", "response": response, "finish_reason": "stop"}
    return {**row, **changes}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([prediction(0, "#### 1"), prediction(2, "#### 3")], None),
        ([prediction(0, "#### 1"), prediction(9, "")], "p.jsonl:2: id 'gsm8k-test-00009' is not among the 4 problems"),
        ([prediction(0, "#### 1")] * 2, "p.jsonl:2: gsm8k-test-00000 is already in line 1"),
        ([], "p.jsonl: holds no predictions"),
    ],
    ids=["missing", "extra", "duplicated", "empty"],
)
def test_f16_predictions_and_gold(tmp_path: Path, rows: list[dict[str, Any]], message: str | None):
    """The denominator is the number of problems, four here, one of them without a gold answer."""
    golds = [problem(number) for number in range(3)] + [problem(3, answer="")]
    write_rows(tmp_path / "data/gsm8k/test.jsonl", golds)
    write_rows(tmp_path / "p.jsonl", rows)
    done = run_script(*scoring(tmp_path), check=message is None)
    if message is not None:
        refused(done, message)
        assert not (tmp_path / "p.summary.json").exists()
        return
    summary = jsonl.read_json(tmp_path / "p.summary.json")
    assert (summary["n"], summary["accuracy"], summary["missing"]) == (4, 0.5, 2)
    assert summary["verdicts"]["gold_unparsable"] == 1
    assert "2 without a prediction (counted as wrong)" in done.stdout


HOSTILE = """
import json, os, resource, sys, time
from grading.test_worker_pool import EASY, UNEQUAL, hostile_answers, resident_mb
from cotkit.grading.grader import Item, grade_many
golds = (("math500", EASY[0]), ("gsm8k", "5"))
items = []
for n, text in enumerate(hostile_answers(sys.argv[1])):
    items += [Item(f"h{n}", *golds[n % 2], text), Item(f"n{n}", *golds[0], f"\\\\boxed{{{(EASY, UNEQUAL)[n % 2][1]}}}")]
list(grade_many([Item(str(n), "math500", EASY[0], EASY[1] + f" + {n}") for n in range(4)], workers=2))  # starts both workers
verdicts = [grade.verdict for grade in grade_many(items, workers=2)]
# ru_maxrss of this process itself would be inherited from the pytest that started it.
workers = resource.getrusage(resource.RUSAGE_CHILDREN)
peak = max(resident_mb(os.getpid()) * 1024, workers.ru_maxrss)
print(json.dumps([verdicts, time.process_time() + workers.ru_utime + workers.ru_stime, peak]))
"""


@pytest.mark.slow
def test_f17_hostile_answers(tmp_path: Path):
    """At most 3 s per answer, 60 s for all on each of two workers and 1 GB; code in an answer is not run."""
    done = run_script("-c", HOSTILE, tmp_path / "canary", PYTHONPATH=f"{ROOT}:{ROOT / 'tests'}")
    verdicts, cpu_seconds, peak = json.loads(done.stdout)
    hostile, neighbours = verdicts[::2], verdicts[1::2]
    assert len(hostile) >= 40
    assert set(hostile) <= {"wrong", "no_answer", "grader_timeout"}
    assert neighbours == ["correct", "wrong"] * (len(hostile) // 2)
    assert BUDGET_S < 3
    assert cpu_seconds < 2 * 60
    assert peak < 2**20  # kB
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_f17_a_worker_that_dies_costs_one_item():
    """Its item is marked as such; the items before and after it are graded."""
    pool = GraderPool(1)
    assert pool.submit(*EASY).result().verdict == "correct"
    first = pool.pids()[0]
    lost = pool.submit(*ENDLESS)
    time.sleep(0.2)
    os.kill(first, signal.SIGKILL)
    assert lost.result() == Decision("grader_timeout", "worker_died")
    assert pool.submit(*UNEQUAL).result() == Decision("wrong", "math_verify")
    assert pool.pids()[0] != first
    pool.close()


@pytest.mark.slow
def test_f18_labelled_answers_and_plain_pairs():
    """No disagreement with the table of labelled equivalences (2 % may), and 1,000 plain pairs in at most 5 s."""
    assert len({case[:3] for case in CASES}) >= 300
    graded = grade_many((item_of(case, number) for number, case in enumerate(CASES)), workers=2)
    off = [
        f"{case.gold!r} | {case.response!r}: {case.verdict} expected ({case.reason}), {found.verdict} by {found.rule}"
        for case, found in zip(CASES, graded, strict=True)
        if found.verdict != case.verdict
    ]
    assert not off, "\n".join(off)
    began = time.monotonic()
    plain = [Item(str(number), "gsm8k", str(number), f"so\n#### {number + number % 2}") for number in range(1000)]
    assert Counter(found.verdict for found in grade_many(plain, workers=1)) == {"correct": 500, "wrong": 500}
    assert time.monotonic() - began < 5


def test_f19_generations_that_are_no_solution(tmp_path: Path):
    """Each is rejected with its reason; no truncated sample is kept."""
    good = "Tom starts with 4 apples.\nThen he has 4+1=5 apples.\n#### 5"
    rows = {
        "truncated": {"response": good.replace("#### 5", ""), "finish_reason": "length"},
        "no_answer_line": {"response": ""},
        "unclosed_think": {"response": "<think>4+1=5, so #### 5"},
        "no_answer_line ": {"response": "He has \\boxed{4} or rather \\boxed{5} apples."},
        "no_answer_line  ": {"response": "He has some.", "thinking": "so \\boxed{5}"},
        "kept": {"response": good},
    }
    base = {"sample": 0, "thinking": "", "finish_reason": "stop", "model": "m"}
    base |= {"prompt_tokens": 9, "completion_tokens": 9}
    teacher = [{**problem(4, id=f"gsm8k-test-{number:05d}"), **base, **row} for number, row in enumerate(rows.values())]
    write_rows(tmp_path / "out.jsonl", teacher)
    assert filter_teacher_cot.main(filtering(tmp_path)[1:]) == 0
    found = {row["id"]: row["reason"] for row in read_rows(tmp_path / "kept.rejected.jsonl")}
    kept = {row["id"]: "kept" for row in read_rows(tmp_path / "kept.jsonl")}
    assert [(found | kept)[row["id"]] for row in teacher] == [reason.strip() for reason in rows]


@pytest.mark.slow
def test_f29_locale_folder_and_time_zone(tmp_path: Path):
    """Every stage writes and prints the same bytes in another locale, folder and time zone, for non-ASCII names too."""
    printed = []
    for name, environment in (("ä", {}), ("ö", {"LC_ALL": "C", "PYTHONUTF8": "0", "TZ": "Asia/Kathmandu"})):
        folder = tmp_path / name
        rows = [problem(number, question=f"Wie → {number}?") for number in range(6)]
        write_rows(folder / "data/gsm8k/test.jsonl", rows)
        shutil.copy(folder / "data/gsm8k/test.jsonl", folder / "problems.jsonl")
        stages = [teach(folder), filtering(folder), infer(folder, "p.jsonl", "fake"), scoring(folder)]
        stages.append([*scoring(folder), "--explain", problem(3)["id"]])
        cwd = tmp_path if environment else ROOT
        printed.append([run_script(*words, cwd=cwd, **environment).stdout for words in stages][-1])
    files = [path for path in (tmp_path / "ä").rglob("[!.]*") if path.is_file() and "manifest" not in path.name]
    assert len(files) > 10
    for path in files:
        assert (tmp_path / "ö" / path.relative_to(tmp_path / "ä")).read_bytes() == path.read_bytes(), path
    assert printed[0] == printed[1]
    assert "→" in printed[0]


def test_f31_nothing_that_runs_data_as_code():
    """tests/test_static.py lists what is forbidden."""
    found = {path.name: list(violations(ast.parse(path.read_text(encoding="utf-8")))) for path in CODE}
    assert len(found) > 40
    assert not {name: lines for name, lines in found.items() if lines}
