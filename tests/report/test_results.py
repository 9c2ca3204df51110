"""The published results: the README repeats what the study's account says, whose pictures are there and small."""

from __future__ import annotations

import re

from conftest import ROOT

STUDY = ROOT / "configs/smollm2_study"


def tables(text: str) -> list[list[str]]:
    """The rows of every table, in order."""
    return [block.rstrip("\n").split("\n") for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)]


def test_the_readme_shows_the_figures_of_the_study():
    published = {row for table in tables((STUDY / "RESULTS.md").read_text(encoding="utf-8")) for row in table}
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    section = readme.split("\n## A real comparison\n")[1].split("\n## ")[0]
    shown = tables(section)
    assert len(shown) == 2
    assert all(set(table) <= published for table in shown)


def test_pictures_are_there_and_small():
    names = re.findall(r"\]\((results/[^)]+)\)", (STUDY / "RESULTS.md").read_text(encoding="utf-8"))
    assert {(STUDY / name).stat().st_size < 300_000 for name in names} == {True}
    assert sorted(STUDY.glob("results/*")) == sorted(STUDY / name for name in set(names))
