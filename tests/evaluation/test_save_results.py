"""The results of a run without its texts and models: enough to make its tables again."""

from __future__ import annotations

import runpy
import shutil
from pathlib import Path

import pytest
from conftest import ROOT, run_script

from cotkit.core.errors import UserError


def save(run: Path, folder: Path) -> int:
    return runpy.run_path(str(ROOT / "scripts/dev/save_results.py"), run_name="save")["main"]([str(run), str(folder)])


def test_tables_are_made_again_from_saved_results_byte_for_byte(tiny_run: Path, tmp_path: Path):
    run, folder = tmp_path / "run", tmp_path / "results"
    shutil.copytree(tiny_run, run)
    assert save(run, folder) == 0
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert "predictions/gsm8k/distilled.scores.jsonl" in names and "train/distilled.manifest.json" in names
    assert not any("adapter_model" in name or name.endswith("distilled.jsonl") for name in names)
    for name in ("comparison.json", "comparison.md"):
        (folder / name).unlink()
    run_script("scripts/compare.py", folder)
    for name in ("comparison.json", "comparison.md"):
        assert (folder / name).read_bytes() == (run / name).read_bytes()
    for path in run.glob("predictions/*/distilled*"):
        path.unlink()
    assert save(run, folder) == 0
    assert not list(folder.glob("predictions/*/distilled*")) and list(folder.glob("predictions/*/baseline*"))


def test_a_run_without_scores_is_refused_and_nothing_is_removed(tiny_run: Path, tmp_path: Path):
    folder = tmp_path / "results"
    assert save(tiny_run, folder) == 0
    (tmp_path / "empty").mkdir()
    before = sorted(folder.rglob("*"))
    with pytest.raises(UserError, match="empty: holds no scores yet; run score.py first"):
        save(tmp_path / "empty", folder)
    assert sorted(folder.rglob("*")) == before


def test_the_results_of_another_run_are_not_replaced(tiny_run: Path, tmp_path: Path):
    other = tmp_path / "other"
    shutil.copytree(tiny_run, other)
    before = {path: path.stat().st_mtime_ns for path in other.rglob("*")}
    for folder in (other, tiny_run):
        with pytest.raises(UserError, match="is a run, whose results would be replaced; name another folder"):
            save(tiny_run, folder)
    assert {path: path.stat().st_mtime_ns for path in other.rglob("*")} == before


def test_the_manifest_of_the_page_that_is_not_copied_stays_behind(tiny_run: Path, tmp_path: Path):
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    (run / "report.html.manifest.json").write_text("{}", encoding="utf-8")
    assert save(run, tmp_path / "results") == 0
    assert not list((tmp_path / "results").glob("report*"))
