"""Mistakes in a preset's YAMLs: each is one line that names the place, before anything has run."""

from __future__ import annotations

import re
import runpy
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import ROOT, SMOLLM2

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not SMOLLM2.is_dir(), reason="SmolLM2 is not there; scripts/setup.sh makes it"),
]
STUDENT = "data/models/SmolLM2-135M-Instruct"


@pytest.fixture(scope="module")
def check_preset():
    return runpy.run_path(str(ROOT / "scripts/check_preset.py"), run_name="check_preset")["main"]


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """The checks silence LLaMA-Factory in this process; the trainings of later tests must not inherit that."""
    monkeypatch.setenv("LLAMAFACTORY_VERBOSITY", "ERROR")


@pytest.fixture
def preset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the default preset; the working directory is the repository, where its paths are looked up."""
    monkeypatch.chdir(ROOT)
    return Path(shutil.copytree(ROOT / "configs/smollm2_cpu", tmp_path / "mine"))


# A key with its number, whatever that is.
KEYS = ("limit", "batch_size", "max_words", "max_tokens", "max_new_tokens", "lora_rank", "learning_rate")
NUMBER = {key: re.compile(rf"^{key}: [\d.e+-]+", re.MULTILINE) for key in KEYS}

# (file, its text, the text instead, what the line must say)
MISTAKES = [
    ("data.yaml", "[gsm_symbolic]", "[gsm_symbolik]", ("data.yaml:2", "did you mean 'gsm_symbolic'?")),
    ("data.yaml", "seed: 42", "sede: 42", ("data.yaml:3", "'sede'", "did you mean 'seed'?")),
    ("teacher.yaml", "mode: rewrite", "mode: rewriting", ("teacher.yaml", "mode", "rewrite")),
    ("teacher.yaml", NUMBER["limit"], "limit: many", ("teacher.yaml", "limit", "'many'")),
    ("teacher.yaml", NUMBER["batch_size"], "batch_size: 0", ("teacher.yaml", "batch_size", "at least 1")),
    (
        "teacher.yaml",
        f"model_name: {STUDENT}",
        "model_name: data/models/Smol",
        ("data/models/Smol", "no such model folder"),
    ),
    ("teacher.yaml", f"model_name: {STUDENT}", "# no model", ("teacher.yaml", "--model_name")),
    (
        "teacher.yaml",
        "data/gsm_symbolic/train.jsonl",
        "data/gsm8k/train.jsonl",
        ("teacher.yaml", "data/gsm8k/train.jsonl"),
    ),
    ("teacher.yaml", "  - {}", "  - {temperatur: 1}", ("teacher.yaml", "'temperatur'", "did you mean 'temperature'?")),
    ("filter.yaml", NUMBER["max_words"], "max_wrods: 80", ("filter.yaml", "'max_wrods'", "did you mean 'max_words'?")),
    ("filter.yaml", NUMBER["max_tokens"], "max_tokens: 4096", ("train.yaml", "cutoff_len", "4096")),
    ("filter.yaml", "sets: [gold,", "sets: [golden,", ("filter.yaml", "'golden'", "gold")),
    ("filter.yaml", "distilled, rejection", "rejection", ("distilled.yaml", "dataset", "does not declare it")),
    ("filter.yaml", "dev_path: data/gsm_symbolic/dev.jsonl", "", ("train.yaml", "eval_dataset", "dev_path")),
    ("filter.yaml", f"student_model: {STUDENT}", "student_model: Qwen/Qwen2-1.5B", ("filter.yaml", "another student")),
    ("infer.yaml", f"base_model: {STUDENT}", "base_model: Qwen/Qwen2-1.5B", ("infer.yaml", "another student")),
    ("infer.yaml", NUMBER["limit"], "limit: {gsm8q: 48}", ("infer.yaml", "gsm8q", "did you mean 'gsm8k'?")),
    ("infer.yaml", NUMBER["max_new_tokens"], "max_new_tokens: -1", ("infer.yaml", "max_new_tokens", "at least")),
    ("infer.yaml", NUMBER["batch_size"], "batch_size: [48]", ("infer.yaml", "batch_size", "single value")),
    ("train.yaml", "template: qwen ", "template: qwenn ", ("train.yaml", "template", "did you mean 'qwen")),
    ("train.yaml", "template: qwen ", "template: llama3 ", ("train.yaml", "does not fit", "fitting are", "chatml")),
    ("train.yaml", NUMBER["lora_rank"], "lora_rnak: 64", ("train.yaml", "'lora_rnak'", "did you mean 'lora_rank'?")),
    ("train.yaml", NUMBER["learning_rate"], "learning_rate: fast", ("train.yaml", "learning_rate", "fast")),
    ("train.yaml", "save_strategy: epoch", "save_strategy: epochs", ("train.yaml", "save_strategy", "epochs")),
    (
        "train.yaml",
        "save_strategy: epoch",
        "save_strategy: steps\nload_best_model_at_end: true",
        ("train.yaml", "strategy"),
    ),
    (
        "train.yaml",
        "methods: [strong",
        "methods: [stronk",
        ("no method 'stronk_baseline'", "did you mean 'strong_baseline'?"),
    ),
    ("train.yaml", "seed: 42", "seed: 42\nseed: 43", ("train.yaml", "appears twice")),
    ("train.yaml", NUMBER["lora_rank"], "lora_rank: [64", ("train.yaml", "not valid YAML")),
    ("score.yaml", None, "protocol: orignal\n", ("score.yaml", "protocol", "orignal")),
]


def replace(path: Path, text: str | re.Pattern[str] | None, instead: str) -> None:
    """Replaces a text or what matches a pattern, which must be there; None stands for all of the file."""
    before = path.read_text(encoding="utf-8")
    pattern = re.compile(re.escape(text)) if isinstance(text, str) else text or re.compile("(?s).*")
    after, number = pattern.subn(lambda _: instead, before, count=1)
    assert number == 1
    path.write_text(after, encoding="utf-8")


@pytest.mark.parametrize(("file", "text", "instead", "says"), MISTAKES)
def test_a_mistake_is_one_line_that_names_its_place(
    check_preset,
    preset: Path,
    capsys: pytest.CaptureFixture[str],
    file: str,
    text: str | re.Pattern[str] | None,
    instead: str,
    says: tuple[str],
):
    replace(preset / file, text, instead)
    words = [] if "methods:" in instead else ["--methods", "distilled"]
    assert check_preset([str(preset), "--run", str(preset.parent / "run"), *words]) == 1
    lines = capsys.readouterr().err.strip().split("\n")
    assert any(all(word in line for word in says) for line in lines), lines
    assert len(lines) <= 3, lines
    assert not (preset.parent / "run").exists()


@pytest.mark.parametrize(
    ("pair", "says"),
    [
        ("distiled against baseline", "no method 'distiled'; did you mean 'distilled'?"),
        ("distilled against baseline on gsm_symbolik", "no test set 'gsm_symbolik'"),
        ("distilled versus baseline", "'A against B'"),
    ],
)
def test_the_pairs_to_compare_exist(check_preset, preset: Path, capsys: Any, pair: str, says: str):
    (preset / "compare.yaml").write_text(f"pairs: [distilled against strong_baseline, {pair}]\n", encoding="utf-8")
    assert check_preset([str(preset), "--methods", "distilled", "--run", str(preset.parent / "run")]) == 1
    (line,) = capsys.readouterr().err.strip().split("\n")
    assert says in line and f"{preset / 'compare.yaml'}:" in line


def test_several_mistakes_are_found_at_once(check_preset, preset: Path, capsys: pytest.CaptureFixture[str]):
    for file, text, instead, _ in (MISTAKES[3], MISTAKES[9], MISTAKES[20]):
        replace(preset / file, text, instead)
    assert check_preset([str(preset), "--methods", "distilled", "--run", str(preset.parent / "run")]) == 1
    lines = capsys.readouterr().err
    assert all(word in lines for word in ("teacher.yaml", "filter.yaml", "train.yaml"))


def test_a_full_disk_is_a_fault(check_preset, preset: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2**30))
    assert check_preset([str(preset), "--methods", "distilled", "--run", str(preset.parent / "run")]) == 1
    assert "the disk has 1.0 GiB left" in capsys.readouterr().err


@pytest.mark.parametrize("name", sorted(path.parent.name for path in ROOT.glob("configs/*/data.yaml")))
def test_the_presets_have_no_fault(check_preset, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(ROOT)
    assert check_preset([f"configs/{name}", "--methods", "all", "--run", str(tmp_path / "run")]) == 0
