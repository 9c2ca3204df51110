"""The published results: the README repeats what the study's account says, whose pictures are there and small."""

from __future__ import annotations

import re
from pathlib import Path

from conftest import ROOT

STUDY = ROOT / "configs/smollm2_study"


def rows_of(path: Path) -> list[list[str]]:
    """The cells of every table row."""
    lines = path.read_text(encoding="utf-8").split("\n")
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]


def test_the_readme_shows_the_figures_of_the_study():
    """Accuracies there are in percent, with one digit; differences are those of the pairs against the baseline."""
    published = rows_of(STUDY / "RESULTS.md")
    accuracies = {row[0]: re.findall(r"\d\.\d{3}", row[1])[:3] for row in reversed(published) if "0." in row[1]}
    against = {row[0]: (row[1], row[-1]) for row in reversed(published) if " against baseline" in row[0]}
    shown = [row for row in rows_of(ROOT / "README.md") if row[0] in accuracies and len(row) == 5]
    assert len(shown) == 5
    for method, _, accuracy, difference, verdict in shown:
        assert re.findall(r"\d+\.\d", accuracy) == [f"{100 * float(value):.1f}" for value in accuracies[method]]
        assert method == "baseline" or (difference, verdict) == against[f"{method} against baseline"]


def test_pictures_are_there_and_small():
    names = re.findall(r"\]\((results/[^)]+)\)", (STUDY / "RESULTS.md").read_text(encoding="utf-8"))
    assert {(STUDY / name).stat().st_size < 300_000 for name in names} == {True}
    assert sorted(STUDY.glob("results/*")) == sorted(STUDY / name for name in set(names))


def test_the_screenshot_of_a_report_is_there_and_small():
    assert "](docs/report.png)" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert 0 < (ROOT / "docs/report.png").stat().st_size < 200_000
