"""What every script sets before torch is imported, and what a CPU says of itself."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from cotkit.core import machine
from cotkit.core.errors import UserError

SCRIPTS = ["teacher_cot.py", "infer_parallel.py", "scripts/critic.py", "scripts/check_training.py"]
SCRIPTS += ["scripts/internal/train_record.py", "scripts/dev/bench_generation.py"]
# Runs a script's main function as `cli.run` does, and prints what torch's import will find.
PROBE = """
import os, runpy, sys
from cotkit.core import cli
module = runpy.run_path(sys.argv[1])
def main():
    print("torch" in sys.modules, *(os.environ.get(name) for name in sys.argv[2:]))
    return 0
sys.exit(module["cli"].run(main))
"""


def variables(script: str, **environment: str) -> list[str]:
    """Whether torch was imported before the script's main function began, then the values of `machine.DEFAULTS` there."""
    command = [sys.executable, "-c", PROBE, script, *machine.DEFAULTS]
    bare = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), **environment}
    done = subprocess.run(command, cwd=ROOT, env=bare, capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_started_by_hand_sets_the_variables_before_torch_is_imported(script: str):
    assert variables(script) == ["False", *machine.DEFAULTS.values()]


def test_what_the_user_has_set_is_kept():
    assert variables("infer_parallel.py", OMP_WAIT_POLICY="ACTIVE")[1] == "ACTIVE"


def test_the_shell_scripts_set_the_same():
    text = (ROOT / "scripts/internal/common.sh").read_text(encoding="utf-8")
    assert dict(re.findall(r'^export (\w+)="\$\{\1:-(\w+)\}"$', text, re.MULTILINE)) == machine.DEFAULTS


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("processor\t: 0\nflags\t\t: fpu avx512f avx512_bf16 rdpid\n", True),
        ("flags\t\t: fpu avx512f amx_bf16 amx_tile\n", True),
        ("Features\t: fp asimd bf16 i8mm\n", True),
        ("flags\t\t: fpu avx2 fma\nbugs\t\t: bf16\n", False),
        ("", False),
    ],
)
def test_bfloat16_units_are_read_from_the_flags_of_the_cpu(tmp_path: Path, text: str, expected: bool):
    (tmp_path / "cpuinfo").write_text(text, encoding="utf-8")
    assert machine.multiplies_bfloat16(tmp_path / "cpuinfo") is expected


def test_a_system_without_cpuinfo_has_no_known_units(tmp_path: Path):
    assert machine.multiplies_bfloat16(tmp_path / "none") is False


def test_a_rank_without_a_gpu_is_refused_by_name(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert machine.gpu_of_rank() == "cuda:1"
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(UserError, match=r"rank 2 .* torch finds 2 \(CUDA_VISIBLE_DEVICES=0,1\); .* NPROC=2"):
        machine.gpu_of_rank()


def test_torch_counts_gpus_where_there_is_a_driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr(machine, "DRIVERS", (str(tmp_path / "none"),))
    assert machine.count_gpus() == 0
    monkeypatch.setattr(machine, "DRIVERS", (str(tmp_path),))
    assert machine.count_gpus() == 2
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)  # a broken driver
    assert machine.count_gpus() == 0
