"""scripts/verify.py, scripts/trace.py and score.py --explain on a run made without a model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT, problem, read_rows, refused, run_script, write_rows

from cotkit.core.files import sha256_file

NUMBERS = range(12)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """data/ and run/ with every file of the stages that need no training."""
    root = tmp_path_factory.mktemp("made")
    run = root / "run"
    train = [problem(number, id=f"gsm8k-train-{number:05d}", split="train") for number in NUMBERS]
    write_rows(root / "data/gsm8k/train.jsonl", train)
    write_rows(root / "data/gsm8k/test.jsonl", [problem(number) for number in NUMBERS])
    fake = ["--backend", "fake"]
    files = ["--input_path", root / "data/gsm8k/train.jsonl", "--output_path", run / "teacher.jsonl"]
    run_script("teacher_cot.py", *fake, *files, "--model_name", "fake")
    run_script("filter_teacher_cot.py", "--input_path", run / "teacher.jsonl", "--output_path", run / "kept.jsonl")
    for method in ("baseline", "distilled"):
        output = run / f"predictions/gsm8k/{method}.jsonl"
        words = ["--dataset", "gsm8k", "--data_root", root / "data"]
        run_script("infer_parallel.py", *fake, *words, "--base_model", "fake", "--output_path", output)
        run_script("score.py", *words, "--pred_path", output)
    return root


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made / "run", tmp_path / "run")
    return tmp_path / "run"


def test_an_undamaged_run_has_no_findings(run: Path):
    assert "every manifest, hash and count is right" in run_script("scripts/verify.py", run).stdout


def test_an_exported_set_is_no_finding(run: Path):
    copy = run / "export/data-distilled/distilled.jsonl"
    copy.parent.mkdir(parents=True)
    copy.write_bytes(b"{}\n")
    assert "is right" in run_script("scripts/verify.py", run).stdout


def test_a_newer_style_of_the_report_is_no_finding(run: Path):
    style = ROOT / "cotkit/report/assets/report.css"
    record = json.loads((run / "teacher.jsonl.manifest.json").read_text(encoding="utf-8"))
    edit_manifest(run, inputs={**record["inputs"], "report.css": {"path": str(style), "sha256": "0" * 64}})
    assert "is right" in run_script("scripts/verify.py", run).stdout


def cut_scores(run: Path) -> str:
    path = run / "predictions/gsm8k/baseline.scores.jsonl"
    path.write_bytes(path.read_bytes()[:-40])
    return "baseline.scores.jsonl: was changed after it was written"


def remove_rejected(run: Path) -> str:
    (run / "kept.rejected.jsonl").unlink()
    return "kept.rejected.jsonl: is missing"


def leave_rank_file(run: Path) -> str:
    (run / "teacher.jsonl.rank1").write_bytes(b"")
    return "teacher.jsonl.rank1: left over"


def edit_manifest(run: Path, name: str = "teacher.jsonl", **changes: object) -> None:
    path = run / f"{name}.manifest.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    changed = {key: {**record[key], **value} if isinstance(value, dict) else value for key, value in changes.items()}
    path.write_text(json.dumps({**record, **changed}), encoding="utf-8")


def interrupt(run: Path) -> str:
    edit_manifest(run, status="running")
    return "status is 'running'"


def miscount(run: Path) -> str:
    edit_manifest(run, counts={"rows": 11})
    return "teacher.jsonl: its manifest and its records differ (rows: 11 -> 12)"


def forge_a_verdict(run: Path) -> str:
    """The hash is made to fit, so only the counts differ."""
    path = run / "predictions/gsm8k/baseline.scores.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"wrong"', b'"correct"', 1))
    forged = {path.name: {"sha256": sha256_file(path), "bytes": path.stat().st_size}}
    edit_manifest(run, "predictions/gsm8k/baseline.summary.json", outputs=forged)
    return "baseline.scores.jsonl: its manifest and its records differ (wrong: 12 -> 11; correct: None -> 1)"


def lose_a_manifest(run: Path) -> str:
    (run / "predictions/gsm8k/distilled.jsonl.manifest.json").unlink()
    return "distilled.jsonl: no manifest describes how it was made"


def other_problems(run: Path) -> str:
    other = write_rows(run / "other.jsonl", [problem(99)])
    edit_manifest(run, inputs={"problems": {"path": str(other), "rows": 1, "sha256": "0" * 64}})
    return "input problems"


DAMAGES = [cut_scores, remove_rejected, leave_rank_file, interrupt, miscount, other_problems, forge_a_verdict]
DAMAGES += [lose_a_manifest]


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_found(run: Path, damage: Callable[[Path], str]):
    says = damage(run)
    done = run_script("scripts/verify.py", run, check=False)
    assert done.returncode == 1
    assert any(says in line for line in done.stdout.split("\n")), done.stdout


def test_a_folder_without_manifests_is_refused(tmp_path: Path):
    refused(run_script("scripts/verify.py", tmp_path, check=False), "holds no manifest.json")


def test_a_training_problem_is_traced_from_question_to_training_row(made: Path):
    seen = set()
    for number in NUMBERS:
        words = [f"gsm8k-train-{number:05d}", "--run", made / "run", "--data_root", made / "data"]
        text = run_script("scripts/trace.py", *words).stdout
        assert f"Tom has {number} apples" in text
        assert f"gold '{number + 1}'" in text
        assert "training set gold" in text
        kept = "teacher sample 0 (stop): kept" in text
        assert kept != ("rejected, wrong_answer: " in text)
        assert kept == ("training set distilled" in text)
        seen.add(kept)
    assert seen == {True, False}


def test_preference_rows_are_traced(run: Path, made: Path):
    (row, *_) = read_rows(run / "datasets/gold.jsonl")
    target = row.pop("output")
    write_rows(run / "datasets/preference.jsonl", [{**row, "chosen": target, "rejected": "It is 7.\n#### 7"}])
    text = run_script("scripts/trace.py", "gsm8k-train-00000", "--run", run, "--data_root", made / "data").stdout
    assert "training set preference, chosen\n    Tom starts with 0 apples." in text
    assert "training set preference, rejected\n    It is 7." in text


def test_a_test_problem_is_traced_through_every_method(made: Path):
    text = run_script(
        "scripts/trace.py", "gsm8k-test-00003", "--run", made / "run", "--data_root", made / "data"
    ).stdout
    for method in ("baseline", "distilled"):
        assert f"{method} sample 0 (stop): wrong, extracted '" in text
    assert "teacher sample" not in text


def test_an_unknown_id_is_refused(made: Path):
    words = ["nothing-00001", "--run", made / "run", "--data_root", made / "data"]
    refused(run_script("scripts/trace.py", *words, check=False), "nothing-00001: not found in 3 files")


def test_a_verdict_is_explained(made: Path):
    path = made / "run/predictions/gsm8k/baseline.jsonl"
    before = {file: file.stat().st_mtime_ns for file in made.rglob("*")}
    words = ["score.py", "--dataset", "gsm8k", "--data_root", made / "data", "--pred_path", path, "--explain"]
    text = run_script(*words, "gsm8k-test-00003").stdout
    assert "gsm8k-test-00003 sample 0: wrong" in text
    assert "how: answer_line" in text
    assert "gold       '4' (rule: " in text
    assert "Tom has 3 apples" in text
    refused(run_script(*words, "gsm8k-test-99999", check=False), "no problem has the id 'gsm8k-test-99999'")
    assert {file: file.stat().st_mtime_ns for file in made.rglob("*")} == before
