"""A preset names one student in train, filter and infer, or scripts/check_preset.py refuses it."""

from __future__ import annotations

import runpy
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from cotkit.core.errors import UserError

students = runpy.run_path(str(ROOT / "scripts/check_preset.py"), run_name="check_preset")["students"]
PRESETS = sorted(path.parent for path in ROOT.glob("configs/*/data.yaml"))


@pytest.fixture
def preset(tmp_path: Path) -> Path:
    """A copy of the default preset whose student is a hub model."""
    shutil.copytree(ROOT / "configs/smollm2_cpu", tmp_path / "preset")
    for name in ("train.yaml", "filter.yaml", "infer.yaml"):
        replace(tmp_path / "preset" / name, "data/models/SmolLM2-135M-Instruct", "owner/student")
    return tmp_path / "preset"


def check_student(preset: Path) -> None:
    for fault in students(preset):
        raise UserError(fault)


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.name)
def test_the_presets_name_one_student(preset: Path):
    check_student(preset)


@pytest.mark.parametrize(
    ("name", "old", "new", "says"),
    [
        (
            "infer.yaml",
            "owner/student",
            "owner/other",
            r"infer\.yaml:2: base_model: owner/other is another student than",
        ),
        (
            "filter.yaml",
            "owner/student",
            "owner/other",
            r"filter\.yaml:2: student_model: owner/other is another student",
        ),
        (
            "train.yaml",
            "owner/student",
            "owner/other",
            r"filter\.yaml:2: .* than .*train\.yaml:6: .*owner/other; write",
        ),
        ("train/mixed.yaml", "dataset: mixed", "dataset: mixed\nmodel_name_or_path: x/y", r"mixed\.yaml:3: .*: x/y is"),
        ("infer.yaml", "owner/student", "{gsm8k: owner/student, math500: owner/other}", r"base_model: owner/other is"),
    ],
)
def test_another_student_is_refused(preset: Path, name: str, old: str, new: str, says: str):
    check_student(preset)
    replace(preset / name, old, new)
    with pytest.raises(UserError, match=says):
        check_student(preset)


def test_models_are_compared_by_their_files(preset: Path, tiny_model: Path, tmp_path: Path):
    shutil.copytree(tiny_model, tmp_path / "copy")
    for name, model in [
        ("train.yaml", tiny_model),
        ("filter.yaml", f"{tiny_model}/"),
        ("infer.yaml", tmp_path / "copy"),
    ]:
        replace(preset / name, "owner/student", f"'{model}'")
    check_student(preset)
    (tmp_path / "copy/config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match="copy is another student than"):
        check_student(preset)


@pytest.mark.parametrize(("backend", "compared"), [("vllm", True), ("openai", False), ("fake", False)])
def test_a_served_student_may_have_any_name(preset: Path, backend: str, compared: Any):
    replace(preset / "infer.yaml", "base_model: owner/student", f"base_model: served\nbackend: {backend}")
    if compared:
        with pytest.raises(UserError, match="base_model: served is another student"):
            check_student(preset)
    else:
        check_student(preset)


def test_a_filter_without_a_student_is_fine(preset: Path):
    replace(preset / "filter.yaml", "student_model: owner/student\n", "")
    check_student(preset)
