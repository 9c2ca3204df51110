"""The published results: the README repeats what the study's account says, whose pictures are there and small."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from conftest import ROOT, run_script

STUDY = ROOT / "configs/smollm2_study"


def rows_of(path: Path) -> list[list[str]]:
    """The cells of every table row."""
    lines = path.read_text(encoding="utf-8").split("\n")
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]


def test_the_readme_shows_the_figures_of_the_study():
    """Accuracies there are in percent, with one digit; differences are those of the pairs against the baseline."""
    published = rows_of(STUDY / "RESULTS.md")
    accuracies = {row[0]: re.findall(r"\d\.\d{3}", row[1])[:3] for row in published if re.match(r"0\.\d{3} \[", row[1])}
    against = {row[0]: (row[1], row[-1]) for row in published if " against baseline" in row[0]}
    shown = [row for row in rows_of(ROOT / "README.md") if row[0] in accuracies and len(row) == 5]
    assert {row[0] for row in shown} == set(accuracies)
    for method, _, accuracy, difference, verdict in shown:
        assert re.findall(r"\d+\.\d", accuracy) == [f"{100 * float(value):.1f}" for value in accuracies[method]]
        assert method == "baseline" or (difference, verdict) == against[f"{method} against baseline"]


def test_pictures_are_there_and_small():
    pictures = [
        account.parent / name
        for account in STUDY.rglob("RESULTS.md")
        for name in re.findall(r"\]\(([^)]+\.png)\)", account.read_text(encoding="utf-8"))
    ]
    assert {picture.stat().st_size < 300_000 for picture in pictures} == {True}
    assert sorted(STUDY.rglob("*.png")) == sorted(pictures)


@pytest.mark.parametrize("study", [STUDY, STUDY / "ways", STUDY / "earlier/equal_teacher"])
def test_the_tables_are_those_of_the_committed_scores(study: Path, tmp_path: Path):
    """scripts/compare.py makes the comparison again, byte for byte, and the account shows its rows."""
    folder = shutil.copytree(study / "results", tmp_path / "results")
    published = (folder / "comparison.md").read_text(encoding="utf-8")
    for name in ("comparison.json", "comparison.md"):
        (folder / name).unlink()
    asked = study / "compare.yaml"
    run_script("scripts/compare.py", folder, *(("--config", asked) if asked.is_file() else ()))
    for name in ("comparison.json", "comparison.md"):
        assert (folder / name).read_bytes() == (study / "results" / name).read_bytes()
    rows = {line for line in published.split("\n") if line.startswith("| ")}
    shown = {line for line in (study / "RESULTS.md").read_text(encoding="utf-8").split("\n") if " against " in line}
    assert shown & rows and not {line for line in shown if line.startswith("| ")} - rows


def test_the_screenshot_of_a_report_is_there_and_small():
    assert "](docs/report.png)" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert 0 < (ROOT / "docs/report.png").stat().st_size < 200_000
