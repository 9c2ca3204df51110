"""The labelled cases of tests/data/cases, graded by scripts/grade.py."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest
from conftest import ROOT, read_rows

FILES = ("grading", "words_around_numbers", "answer_places", "thoughts")


def test_labelled_cases_get_their_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, output = tmp_path / "cases.jsonl", tmp_path / "graded.jsonl"
    texts = [(ROOT / f"tests/data/cases/{name}.jsonl").read_text(encoding="utf-8") for name in FILES]
    source.write_text("".join(texts), encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["grade.py", "--input", str(source), "--output", str(output), "--workers", "1"])
    with pytest.raises(SystemExit) as done:
        runpy.run_path(str(ROOT / "scripts/grade.py"), run_name="__main__")
    rows = read_rows(output)
    assert done.value.code == 0 and len(rows) == sum(text.count("\n") for text in texts) > 1000
    wrong = [
        f"{row['id']}: {row['verdict']} by {row['rule']}, {row['expected']} expected: {row['gold']!r} | {row['response']!r}"
        for row in rows
        if row["verdict"] != row["expected"]
    ]
    assert not wrong, "\n".join(wrong)
