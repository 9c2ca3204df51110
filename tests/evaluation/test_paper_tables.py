"""Tables for papers, and comparisons over several run folders."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from conftest import write_rows
from evaluation.test_compare import add_method, one_sample
from evaluation.test_scored_runs import train_manifest

from cotkit.core.errors import UserError
from scripts import compare


@pytest.fixture
def run(tmp_path: Path) -> Path:
    for stem, correct in (("baseline", range(8)), ("strong_baseline", range(20)), ("teacher_raw", range(36))):
        add_method(tmp_path / "one", stem, one_sample(correct))
    return tmp_path / "one"


def printed(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    assert compare.main([str(word) for word in words]) == 0
    return capsys.readouterr().out


def test_csv_keeps_every_digit(run: Path, capsys: pytest.CaptureFixture[str]):
    rows = list(csv.DictReader(io.StringIO(printed(capsys, run, "--format", "csv"))))
    assert [row["method"] for row in rows] == ["baseline", "strong_baseline", "teacher_raw"]
    assert float(rows[1]["difference"]) == pytest.approx(12 / 40)
    assert rows[0]["difference"] == "" and rows[2]["verdict"] == "better"
    comparison = json.loads((run / "comparison.json").read_text(encoding="utf-8"))
    assert float(rows[2]["difference_low"]) == comparison["datasets"][0]["pairs"][1]["verdict_low"]


def test_chosen_columns_and_names(run: Path, capsys: pytest.CaptureFixture[str]):
    columns = ["--columns", "method", "accuracy", "accuracy_low", "accuracy_high", "verdict"]
    latex = printed(capsys, run, "--format", "latex", *columns, "--names", "teacher_raw=Raw & unfiltered")
    assert latex.startswith("\\begin{tabular}{lrl}\n\\toprule\nmethod & accuracy (\\%) & verdict \\\\")
    assert "\nstrong\\_baseline & 50.0 [35.2, 64.8] & better \\\\\n" in latex
    assert "\nRaw \\& unfiltered & 90.0 [" in latex
    markdown = printed(capsys, run, "--format", "md", *columns)
    assert "| baseline | 20.0 [10.5, 34.8] | -- |" in markdown
    assert [list(row) for row in json.loads(printed(capsys, run, "--format", "json", *columns))] == [columns[1:]] * 3


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--columns", "acuracy"], "--columns acuracy: no such column; did you mean 'accuracy'"),
        (["--names", "teacher=T"], "--names teacher=...: no such method; did you mean 'teacher_raw'"),
    ],
)
def test_unknown_columns_and_methods_are_refused(run: Path, words: list[str], says: str):
    with pytest.raises(UserError, match=says):
        compare.main([str(run), "--format", "csv", *words])


def test_methods_of_several_runs_are_compared(run: Path, capsys: pytest.CaptureFixture[str]):
    other = run.with_name("two")
    for folder in (run, other):
        write_rows(folder / "predictions/gsm8k/baseline.jsonl", [{"id": "q0", "response": "#### 1"}])
    add_method(other, "baseline", one_sample(range(8)))
    add_method(other, "strong_baseline", one_sample(range(30)))
    for folder, rate in ((run, 1e-4), (other, 2e-4)):
        train_manifest(folder, "strong_baseline", learning_rate=rate)
    text = printed(capsys, run, other)
    assert "| baseline |" in text and "| one/strong_baseline |" in text and "| two/strong_baseline |" in text
    assert "two/strong_baseline differs from one/strong_baseline in: learning_rate: 0.0001 -> 0.0002" in text
    assert not (run / "comparison.json").exists(), "several runs have no file of their own"
    write_rows(other / "predictions/gsm8k/baseline.jsonl", [{"id": "q0", "response": "#### 2"}])
    text = printed(capsys, run, other, "--reference", "one/baseline")  # the same scores, but other texts
    assert "| one/baseline |" in text and "| two/baseline |" in text
    with pytest.raises(UserError, match="no data set was scored in all of them"):
        add_method(run.with_name("three"), "baseline", one_sample(range(8)))
        (run.with_name("three") / "predictions/gsm8k").rename(run.with_name("three") / "predictions/other")
        summary = run.with_name("three") / "predictions/other/baseline.summary.json"
        summary.write_text(summary.read_text(encoding="utf-8").replace('"gsm8k"', '"other"'), encoding="utf-8")
        compare.main([str(run), str(run.with_name("three"))])


def test_folders_of_one_name_are_told_apart_by_their_paths(run: Path, capsys: pytest.CaptureFixture[str]):
    twin = run.parent / "elsewhere" / run.name
    add_method(twin, "baseline", one_sample(range(9)))
    text = printed(capsys, run, twin, "--reference", f"{run}/baseline")
    assert f"| {run}/baseline |" in text and f"| {twin}/baseline |" in text


@pytest.mark.parametrize(
    "words", [["--columns", "method"], ["--names", "baseline=B"], ["--format", "md", "--names", "B"]]
)
def test_flags_that_would_mean_nothing_are_refused(run: Path, words: list[str], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as refused:
        compare.main([str(run), *words])
    assert refused.value.code == 2
    said = capsys.readouterr().err
    assert "give --format too" in said or "METHOD=NAME is expected, found 'B'" in said
