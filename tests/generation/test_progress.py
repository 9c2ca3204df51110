"""A run's speed, its seconds over several launches, and the warning of truncated texts."""

from __future__ import annotations

import io
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cotkit.generation import progress
from cotkit.generation.types import Completion, Sampling


def test_seconds_of_earlier_launches(tmp_path: Path):
    begun = "2026-01-01T00:00:00Z"
    at = 1767225600  # the same moment in seconds
    assert progress.earlier_seconds({"status": "done", "seconds": 12.5, "started": begun}, []) == 12.5
    path = tmp_path / "out.jsonl.rank0"
    path.write_bytes(b"")
    os.utime(path, (at + 40, at + 40))
    killed = {"status": "running", "started": begun, "earlier_seconds": 2.0}
    assert progress.earlier_seconds(killed, [path]) == 42.0
    assert progress.earlier_seconds(killed, []) == 2.0


@pytest.mark.parametrize(
    ("share", "thinking", "says"),
    [(0.01, True, None), (0.02, False, "512; raise it"), (0.5, True, "raise it to 32768")],
)
def test_truncated_texts_are_warned_about_above_one_percent(share: float, thinking: bool, says: str | None):
    warning = progress.truncation_warning(share, Sampling(512, thinking=thinking))
    assert (warning is None) == (says is None)
    assert (says or "") in (warning or "")


def test_rates_of_a_run_that_took_no_time_are_finite():
    assert progress.speed({"rows": 2, "completion_tokens": 30}, 0.0) == {
        "tokens_per_second": 300.0,
        "rows_per_second": 20.0,
    }


def progress_of(monkeypatch: pytest.MonkeyPatch, at: list[float], done: int = 0) -> progress.Progress:
    """A rank with 10 rows, whose clock shows `at[0]`."""
    monkeypatch.setattr(progress.time, "monotonic", lambda: at[0])
    return progress.Progress("out.jsonl", total=10, done=done, silent=False)


def test_a_sign_of_life_says_rows_speed_truncation_and_time_left(monkeypatch: pytest.MonkeyPatch):
    at = [0.0]
    running = progress_of(monkeypatch, at, done=2)
    at[0] = 31.0
    assert running.sign() == "out.jsonl: loading the model, 31 s so far"
    running.loaded()
    at[0] = 61.0
    assert running.sign() == "out.jsonl: 2 of 10 rows, none in 30 s; the time left is not known yet"
    for reason in ("stop", "length"):
        running.add(Completion("", reason, 10, 300))
    at[0] = 91.0
    assert running.sign() == "out.jsonl: 4 of 10 rows, 10 tokens/s, 50.0% truncated, about 3 min left"
    assert running.summary() == "2 results, 600 tokens in 60 s (10 tokens/s, 0.03 rows/s)"


def test_without_a_terminal_signs_come_by_themselves_until_the_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """Also while the model is loaded, and no more after an error."""
    monkeypatch.setattr(progress, "LIFE_SIGN_SECONDS", 0.01)
    caplog.set_level("INFO")
    with pytest.raises(KeyError), progress.Progress("out.jsonl", 5, 0, silent=False):
        wait_for(lambda: "out.jsonl: loading the model" in caplog.text)
        raise KeyError
    wait_for(lambda: "_give_signs" not in str(threading.enumerate()))


def test_other_ranks_give_no_signs(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(progress, "LIFE_SIGN_SECONDS", 0.01)
    with progress.Progress("out.jsonl", 5, 0, silent=True):
        assert "_give_signs" not in str(threading.enumerate())


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_terminal_gets_a_bar_that_counts_what_was_done_before(monkeypatch: pytest.MonkeyPatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    with progress.Progress("out.jsonl", total=5, done=3, silent=False) as running:
        running.loaded()
        running.add(Completion("", "length", 10, 20))
        assert running._bar.n == 4
    assert "4/5" in sys.stderr.getvalue() and "100.0% truncated" in sys.stderr.getvalue()
    assert "_give_signs" not in str(threading.enumerate())


def test_a_finished_run_is_one_readable_line():
    rows = [{"finish_reason": reason, "prompt_tokens": 5, "completion_tokens": 30} for reason in ["stop", "length"] * 2]
    counts = progress.count([*rows, {**rows[0], "finish_reason": "answer"}])
    expected = "5 texts: 2 ended with EOS, 1 stopped at the answer, 2 truncated (40.0%); "
    assert progress.summary(counts, 15.0, 15.0) == expected + "15 s with loading, 10 tokens/s"
    assert (
        progress.summary(counts, 15.0, 5.0) == expected + "15 s (5 s of them in this launch) with loading, 10 tokens/s"
    )
