"""A run's speed, its seconds over several launches, and the warning of truncated texts."""

from __future__ import annotations

import os
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


def test_a_bar_counts_what_was_done_before_and_is_silent_without_a_terminal(capfd: pytest.CaptureFixture[str]):
    bar = progress.Progress("out.jsonl", total=5, done=3, silent=False)
    for reason in ("stop", "length"):
        bar.add(Completion("", reason, 10, 20))
    assert bar._bar.n == 3
    assert bar.close().startswith("2 results, 40 tokens in ")
    assert capfd.readouterr().err == ""
