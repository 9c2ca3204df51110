"""The README's commands, run as it prints them in a fresh clone."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, read_rows
from faults.faults_tools import edit_yaml

README = (ROOT / "README.md").read_text(encoding="utf-8")


def by_hand() -> str:
    """The block of commands after "By hand"."""
    found = re.search(r"^By hand.*?```bash\n(.*?)```", README, re.MULTILINE | re.DOTALL)
    assert found
    return found[1]


@pytest.fixture(scope="module")
def clone(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository's files without any data. Its small model is a tiny one, and its teacher makes texts up."""
    folder = tmp_path_factory.mktemp("clone") / "cot distill"
    words = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(words, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    assert not (folder / "data/gsm_symbolic/train.jsonl").exists()
    shutil.copytree(tiny_model, folder / "data/models/SmolLM2-135M-Instruct")
    preset = folder / "configs/smollm2_cpu"
    edit_yaml(preset / "teacher.yaml", backend="fake", model_name="fake")
    edit_yaml(preset / "filter.yaml", max_tokens=1024)  # the tiny tokenizer needs more tokens for a text
    edit_yaml(preset / "train.yaml", cutoff_len=1024, num_train_epochs=1)
    edit_yaml(preset / "infer.yaml", limit=4, max_new_tokens=8)
    return folder


def run(clone: Path, commands: str) -> subprocess.CompletedProcess[str]:
    """Runs commands in the clone, in the environment of the tests in place of .venv; stops at the first that fails."""
    environment = {**os.environ, "PYTHONPATH": str(clone), "VIRTUAL_ENV": sys.prefix}
    environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    script = "set -euo pipefail\n" + commands.replace("source .venv/bin/activate\n", "")
    return subprocess.run(
        ["bash", "-c", script], cwd=clone, env=environment, check=False, capture_output=True, text=True, timeout=600
    )


@pytest.mark.slow
def test_the_stages_by_hand_run_as_printed(clone: Path):
    commands = by_hand()
    done = run(clone, commands)
    assert done.returncode == 0, done.stdout + done.stderr
    made = clone / "outputs/by_hand"
    for name in (
        "report.html",
        "comparison.md",
        "train/distilled/adapter_model.safetensors",
        "datasets/gold_dev.jsonl",
    ):
        assert (made / name).is_file()
    assert "every manifest, hash and count is right" in done.stdout
    assert "teacher sample 0" in done.stdout and "training set gold" in done.stdout
    again = run(clone, commands)
    assert again.returncode == 0, again.stdout + again.stderr
    assert (again.stdout + again.stderr).count("done already") == 8 and "trained already" in again.stdout
    traced = re.findall(r"scripts/trace\.py (\S+)", README)  # also where it names the default run, with more problems
    assert len(traced) >= 2
    teacher = {row["id"] for row in read_rows(made / "teacher.jsonl")}
    assert teacher.issuperset(traced)
