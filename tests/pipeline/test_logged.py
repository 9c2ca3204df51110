"""The function of pipeline.sh that keeps what a stage prints."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT


def logged(folder: Path, command: str, has_work: str = "") -> subprocess.CompletedProcess[str]:
    """Runs a command through `logged` in the stage "try" of a run in `folder`."""
    text = (ROOT / "scripts/pipeline.sh").read_text(encoding="utf-8")
    found = re.search(r"^logged\(\) \{.*?^\}", text, re.MULTILINE | re.DOTALL)
    assert found
    code = f'set -euo pipefail\nrun="$1" stage=try has_work={has_work}\n{found[0]}\nlogged bash -c "$2"'
    (folder / "logs").mkdir(exist_ok=True)
    return subprocess.run(["bash", "-c", code, "x", folder, command], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("code", [0, 3])
def test_what_a_command_prints_is_shown_and_kept_and_its_exit_code_is_handed_on(tmp_path: Path, code: int):
    for _ in range(2):
        done = logged(tmp_path, f"echo out; echo err >&2; exit {code}")
        assert (done.returncode, done.stdout, done.stderr) == (code, "out\n", "err\n")
    kept = (tmp_path / "logs/try.log").read_text(encoding="utf-8")
    assert sorted(kept.split()) == ["err", "err", "out", "out"]
    assert [path.name for path in (tmp_path / "logs").iterdir()] == ["try.log"]


@pytest.mark.parametrize("words", ["x: done already, nothing to do", "x: trained already, nothing to do"])
def test_work_that_was_done_before_leaves_the_log_as_it_is(tmp_path: Path, words: str):
    logged(tmp_path, "echo first")
    done = logged(tmp_path, f"echo {words!r} >&2; echo table")
    assert (done.returncode, done.stdout, done.stderr) == (0, "table\n", f"{words}\n")
    assert (tmp_path / "logs/try.log").read_text(encoding="utf-8") == "first\n"
    logged(tmp_path, f"echo {words!r}; exit 1")  # a failure is kept in any case
    assert (tmp_path / "logs/try.log").read_text(encoding="utf-8") == f"first\n{words}\n"


def test_a_command_that_had_work_is_kept_though_a_part_of_it_was_done(tmp_path: Path):
    logged(tmp_path, "echo first")
    logged(tmp_path, "echo x: done already; echo y: 8 texts", has_work="1")
    assert (tmp_path / "logs/try.log").read_text(encoding="utf-8") == "first\nx: done already\ny: 8 texts\n"
