"""Worker processes: hostile answers, dead workers, time limits, threads. All processes are real."""

from __future__ import annotations

import os
import runpy
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest
from conftest import ROOT

from cotkit.grading.equivalence import Decision
from cotkit.grading.grader import Item, _shared_pool, grade, grade_many
from cotkit.grading.worker_pool import BUDGET_S, GraderPool, WorkerError

MARGIN_S = 3.0  # a busy machine
# Comparisons that only a worker can decide: unknown commands on both sides.
EASY = (r"\lfloor x \rfloor + 2", r"2 + \lfloor x \rfloor", "latex")
UNEQUAL = (r"\lfloor x \rfloor + 2", r"3 + \lfloor x \rfloor", "latex")
# Each of these integrals takes computer algebra seconds; together they are far beyond any budget.
_INTEGRALS = (rf"\int_0^{{\infty}} e^{{-x^{{{n}}}}} \sin(x^{{{m}}}) dx" for n, m in ((7, 3), (9, 4), (11, 5), (13, 7)))
ENDLESS = (r"\int_0^{\pi} x^x dx", " + ".join(_INTEGRALS), "latex")


@pytest.fixture
def pool() -> Iterator[GraderPool]:
    pool = GraderPool(1)
    yield pool
    pool.close()


def hostile_answers(canary: str, n: int = 7) -> list[str]:
    """Those of the bench; code in them would make the file `canary`."""
    return runpy.run_path(str(ROOT / "scripts/dev/bench_grading.py"))["hostile_answers"](canary, n)


def resident_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def test_a_worker_answers(pool: GraderPool) -> None:
    assert pool.submit(*EASY).result() == Decision("correct", "math_verify")
    assert pool.submit(*UNEQUAL).result() == Decision("wrong", "math_verify")
    assert len(pool.pids()) == 1


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()]


def submit_and_find(pool: GraderPool, question: tuple[str, str, str]) -> tuple[Future[Decision], int]:
    """A comparison under way and the process that works on it; the pool has one worker, which is started."""
    worker = pool.pids()[0]
    while children(worker):  # the last comparison's, which ends after its reply
        time.sleep(0.01)
    future = pool.submit(*question)
    while not (found := children(worker)):
        time.sleep(0.001)
    return future, found[0]


def test_what_outlives_the_budget_costs_itself_only(pool: GraderPool) -> None:
    assert pool.submit(*EASY).result().verdict == "correct"
    start = time.monotonic()
    assert pool.submit(*ENDLESS).result() == Decision("grader_timeout", "time_budget")
    assert BUDGET_S <= time.monotonic() - start
    assert pool.submit(*UNEQUAL).result() == Decision("wrong", "math_verify")
    assert len(pool.pids()) == 1


def test_the_budget_is_cpu_time(pool: GraderPool) -> None:
    """A process that is stopped for longer than its budget, as on a loaded machine, still answers."""
    assert pool.submit(*EASY).result().verdict == "correct"
    question = (r"\int_0^1 x^9 e^x dx", r"\lfloor x \rfloor", "latex")
    expected = pool.submit(*question).result()
    late, child = submit_and_find(pool, (question[0], question[1] + " + 1", "latex"))
    os.kill(child, signal.SIGSTOP)
    time.sleep(BUDGET_S + 0.5)
    os.kill(child, signal.SIGCONT)
    assert late.result() == expected == Decision("wrong", "math_verify")


def test_a_worker_that_gets_no_cpu_time_is_replaced(pool: GraderPool, monkeypatch: pytest.MonkeyPatch) -> None:
    assert pool.submit(*EASY).result().verdict == "correct"
    worker = pool.pids()[0]
    monkeypatch.setattr("cotkit.grading.worker_pool.STUCK_S", 0.3)
    os.kill(worker, signal.SIGSTOP)
    assert pool.submit(*UNEQUAL).result() == Decision("grader_timeout", "worker_died")
    monkeypatch.undo()
    assert pool.submit(*ENDLESS).result() == Decision("grader_timeout", "time_budget")
    assert worker not in pool.pids() and not Path(f"/proc/{worker}").exists()


def test_each_comparison_starts_from_the_same_memory(pool: GraderPool) -> None:
    """A worker is one process for all questions, and each answer comes from a child of its own."""
    parent = pool.pids() or [pool.submit(*EASY).result() and pool.pids()[0]]
    futures = [pool.submit(EASY[0], EASY[1] + f" + {n}", EASY[2]) for n in range(20)]
    assert {future.result() for future in futures} == {
        Decision("correct", "math_verify"),
        Decision("wrong", "math_verify"),
    }
    assert pool.pids() == parent


@pytest.mark.parametrize("who", ["child", "worker"])
def test_a_process_that_is_killed_costs_one_item(pool: GraderPool, who: str) -> None:
    assert pool.submit(*EASY).result().verdict == "correct"
    worker = pool.pids()[0]
    lost, child = submit_and_find(pool, ENDLESS)
    os.kill(child if who == "child" else worker, signal.SIGKILL)
    assert lost.result() == Decision("grader_timeout", "worker_died")
    assert pool.submit(*UNEQUAL).result() == Decision("wrong", "math_verify")
    assert (pool.pids() == [worker]) == (who == "child")


def test_memory_is_limited(pool: GraderPool) -> None:
    assert pool.submit(*EASY).result().verdict == "correct"
    limits = Path(f"/proc/{pool.pids()[0]}/limits").read_text(encoding="utf-8")
    row = next(line for line in limits.split("\n") if line.startswith("Max address space"))
    assert int(row.split()[3]) <= 400 * 2**20
    assert resident_mb(pool.pids()[0]) <= 400


def test_workers_end_with_the_pool() -> None:
    pool = GraderPool(2)
    futures = [pool.submit(gold, answer + f" + {n}", dataset) for n, (gold, answer, dataset) in enumerate([EASY] * 6)]
    assert {future.result().verdict for future in futures} == {"correct", "wrong"}
    pids = pool.pids()
    pool.close()
    pool.close()
    assert 1 <= len(pids) <= 2 and not any(Path(f"/proc/{pid}").exists() for pid in pids)
    with pytest.raises(RuntimeError):
        pool.submit(*EASY)


def test_workers_end_when_the_program_is_killed() -> None:
    code = (
        "from cotkit.grading.worker_pool import GraderPool; import time\n"
        f"p = GraderPool(1); p.submit(*{EASY!r}).result(); print(p.pids()[0], flush=True); time.sleep(60)"
    )
    program = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert program.stdout is not None
    worker = int(program.stdout.readline())
    program.kill()
    program.wait()
    program.stdout.close()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{worker}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{worker}").exists()


def test_a_worker_that_cannot_start_is_an_error_not_a_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    pool = GraderPool(1)
    with pytest.raises(WorkerError, match="did not start"):
        pool.submit(*EASY).result()
    pool.close()


def test_secrets_stay_out_of_the_workers(pool: GraderPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "canary-token")
    assert pool.submit(*EASY).result().verdict == "correct"
    assert b"canary-token" not in Path(f"/proc/{pool.pids()[0]}/environ").read_bytes()


def test_workers_never_import_gmpy2(pool: GraderPool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """gmpy2 is importable here, and a process that imports it leaves a file and ends."""
    trace = tmp_path / "imported"
    (tmp_path / "gmpy2.py").write_text(
        f"open({str(trace)!r}, 'w').close(); raise SystemExit('gmpy2')", encoding="utf-8"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert subprocess.run([sys.executable, "-c", "import sympy"], check=False, capture_output=True).returncode
    trace.unlink()
    assert pool.submit(*EASY).result() == Decision("correct", "math_verify")
    assert pool.submit(EASY[0], r"2 + \lfloor x \rfloor + 12!^{2}", "latex").result().verdict == "wrong"
    assert not trace.exists()


def test_refuses_less_than_one_worker() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        GraderPool(0)


@pytest.mark.slow
@pytest.mark.parametrize("gold", [r"\frac{1}{2}", r"\lfloor x \rfloor"])
def test_each_hostile_answer_is_within_its_budget(gold: str, tmp_path: Path) -> None:
    """In CPU time, of this process and of the worker's children."""
    assert grade(Item("starts a worker", "latex", *EASY[:2])).verdict == "correct"
    for text in hostile_answers(str(tmp_path / "canary"), 9):
        start = time.process_time() + cpu_of_children(_shared_pool().pids()[0])
        assert grade(Item("h", "latex", gold, text)).verdict != "correct"
        spent = time.process_time() + cpu_of_children(_shared_pool().pids()[0]) - start
        assert spent < BUDGET_S + 1, text[:80]
    assert not list(tmp_path.iterdir())


def cpu_of_children(pid: int) -> float:
    """The CPU seconds of the children of `pid` that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
    return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")


FLOODS = {
    "unclosed boxes": "\\boxed{" * 20_000,
    "nested boxes": "\\boxed{" * 20_000 + "5" + "}" * 20_000,
    "boxes after the answer": "#### 5\n" + "\\boxed{7} " * 20_000,
    "markers": "#### x " * 40_000,
    "think tags": "<think></think>#### " * 10_000,
    "stars": "\\boxed{" + "*" * 200_000 + "}",
    "brackets": "\\boxed{" + "(" * 200_000 + "}",
    "statements": "the answer is not " * 20_000,
    "blanks": "#### " + " " * 300_000 + "5",
    "corrections": "#### 5\n" + "wait, " * 50_000 + "#### 6",
    "digit groups": "1,111," * 100_000,
    "backslashes": "\\" * 200_000,
    "dollars": "The answer is " + "$" * 100_000,
}


@pytest.mark.parametrize("name", FLOODS)
def test_extraction_is_linear_in_hostile_text(name: str) -> None:
    start = time.monotonic()
    for dataset in ("number", "latex"):
        grade(Item("f", dataset, "5", FLOODS[name]))
    assert time.monotonic() - start < 2 * 1.2 + MARGIN_S  # a quadratic scan takes minutes


def mixed_items() -> list[Item]:
    answers = (EASY[1], UNEQUAL[1], r"\lceil x \rceil", r"2 + \lfloor x \rfloor + 0", "7", r"\triangle ABC")
    return [Item(str(n), "latex", EASY[0], f"\\boxed{{{answers[n % len(answers)]}}}") for n in range(60)]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_any_number_of_workers_gives_the_same_grades(workers: int) -> None:
    items = mixed_items()
    assert list(grade_many(items, workers)) == [grade(item) for item in items]


@pytest.mark.slow
def test_the_same_grades_from_threads() -> None:
    items = mixed_items()
    expected = list(grade_many(items, 1))
    results: dict[int, object] = {}
    threads = [
        threading.Thread(
            target=lambda k=k: results.update({k: list(grade_many(items, 1)) if k % 2 else [grade(i) for i in items]})
        )
        for k in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(results[k] == expected for k in range(4))


def test_plain_answers_never_start_a_worker_nor_import_sympy() -> None:
    code = (
        "import sys; from cotkit.grading.grader import Item, grade_many\n"
        "rows = [('gsm8k', '5', '#### 5'), ('math500', '\\\\frac{1}{2}', '\\\\boxed{0.5}'), ('aime', '033', '33')]\n"
        "items = [Item('a', *row) for row in rows]\n"
        "print([g.verdict for g in grade_many(items)], 'sympy' in sys.modules, 'subprocess' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['correct', 'correct', 'correct'] False False"


@pytest.mark.slow
def test_grading_works_in_a_forked_process() -> None:
    code = (
        "import os; from cotkit.grading.grader import Item, _shared_pool, grade\n"
        f"item = Item('a', 'math500', {EASY[0]!r}, {EASY[1]!r}); first = grade(item).verdict\n"
        "workers = _shared_pool().pids(); child = os.fork()\n"
        "if child == 0: raise SystemExit(0 if grade(item).verdict == first == 'correct' else 1)\n"
        "print(os.waitpid(child, 0)[1], grade(item).verdict, _shared_pool().pids() == workers)\n"
        "os.kill(workers[0], 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "0 correct True"


def test_grading_works_from_a_program_on_standard_input() -> None:
    code = f"from cotkit.grading.grader import Item, grade\nprint(grade(Item('a', 'math500', {EASY[0]!r}, {EASY[1]!r})).verdict)"
    done = subprocess.run([sys.executable, "-"], input=code, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "correct"
