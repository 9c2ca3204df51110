"""A run's report, made from what the stages themselves wrote."""

from __future__ import annotations

import html
import json
import re
from importlib import import_module
from pathlib import Path

import pytest

import infer_parallel
import score
from cotkit.core import cli
from cotkit.filtering.training_sets import write_dataset_info, write_training_set
from cotkit.report.run_data import read_adapters
from tests.conftest import problem, write_rows

compare = import_module("scripts.compare")
make_report = import_module("scripts.report")
METHODS = ("baseline", "distilled")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A scored and compared run of two methods on four questions, answered without a model."""
    write_rows(tmp_path / "data" / "gsm8k" / "test.jsonl", [problem(number) for number in range(4)])
    for method in METHODS:
        path = tmp_path / "run" / "predictions" / "gsm8k" / f"{method}.jsonl"
        common = ["--dataset", "gsm8k", "--data_root", str(tmp_path / "data")]
        backend = ["--base_model", "none", "--backend", "fake", "--output_path", str(path)]
        assert infer_parallel.main([*common, *backend]) == 0
        assert score.main([*common, "--pred_path", str(path)]) == 0
    log = [{"current_steps": 1, "loss": 2.0}, {"current_steps": 2, "loss": 1.0}, {"current_steps": 2, "eval_loss": 1.5}]
    write_rows(tmp_path / "run" / "train" / "distilled" / "trainer_log.jsonl", log)
    assert compare.main([str(tmp_path / "run")]) == 0
    return tmp_path / "run"


def viewer_data(run: Path) -> list[dict]:
    """The data sets in the page, with every output as a dict."""
    page = (run / "report.html").read_text(encoding="utf-8")
    match = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert match
    data = json.loads(match[1])
    for dataset in data["sets"]:
        for question in dataset["questions"]:
            question["outputs"] = [
                [dict(zip(data["fields"], values, strict=True)) for values in samples]
                for samples in question["outputs"]
            ]
    return data["sets"]


def test_the_page_holds_every_output_of_every_method(run: Path) -> None:
    assert make_report.main([str(run)]) == 0
    (dataset,) = viewer_data(run)
    assert (dataset["name"], dataset["runs"], len(dataset["questions"])) == ("gsm8k", list(METHODS), 4)
    for place, method in enumerate(METHODS):
        rows = [
            json.loads(line) for line in (run / "predictions" / "gsm8k" / f"{method}.jsonl").read_bytes().splitlines()
        ]
        for row, question in zip(rows, dataset["questions"], strict=True):
            (shown,) = question["outputs"][place]
            assert (question["id"], shown["before"] + shown["after"]) == (row["id"], row["response"])


def test_the_finding_opens_both_forms(run: Path) -> None:
    make_report.main([str(run)])
    finding = json.loads((run / "comparison.json").read_bytes())["finding"]
    assert (run / "report.md").read_text(encoding="utf-8").startswith(f"# run\n\n{finding}\n")
    shown = html.unescape((run / "report.html").read_text(encoding="utf-8")).replace("<wbr>", "")
    assert f'<p class="finding">{finding}</p>' in shown


def test_every_picture_that_the_text_names_is_there_and_small(run: Path) -> None:
    make_report.main([str(run)])
    named = re.findall(r"\]\((report/[^)]+\.png)\)", (run / "report.md").read_text(encoding="utf-8"))
    assert {Path(name).name for name in named} >= {"gsm8k-accuracy.png", "gsm8k-differences.png", "losses.png"}
    assert all(0 < (run / name).stat().st_size < 300_000 for name in named)


def test_a_rerun_touches_nothing_and_new_scores_make_it_anew(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_report.main([str(run)])
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    make_report.main([str(run)])
    assert "nothing to do" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    comparison = json.loads((run / "comparison.json").read_bytes())
    (run / "comparison.json").write_text(json.dumps({**comparison, "finding": "Another finding."}), encoding="utf-8")
    make_report.main([str(run)])
    assert "Another finding." in (run / "report.md").read_text(encoding="utf-8")


def test_a_missing_prediction_is_shown_as_missing(run: Path, tmp_path: Path) -> None:
    path = run / "predictions" / "gsm8k" / "distilled.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:3]))
    score.main(["--dataset", "gsm8k", "--data_root", str(tmp_path / "data"), "--pred_path", str(path), "--overwrite"])
    compare.main([str(run)])
    make_report.main([str(run)])
    assert viewer_data(run)[0]["questions"][3]["outputs"][1][0]["finish_reason"] == "missing"


def test_a_run_that_was_not_compared_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(lambda: make_report.main([str(tmp_path)])) == 1
    assert "run scripts/compare.py first" in capsys.readouterr().err


def test_what_each_training_set_teaches_is_counted(run: Path) -> None:
    row = {"system": "s", "instruction": "q", "input": ""}
    outputs = ("2+2=4, and 4*3=12 apples.\n#### 12", "She has 12.\n#### 12", "They are 3+4=7.\n#### 7")
    write_training_set(run / "datasets", "mixed", [{**row, "output": text} for text in outputs])
    pair = {**row, "chosen": "2+2=4\n#### 4", "rejected": "5\n#### 5"}
    write_training_set(run / "datasets", "preference", [pair], ranking=True)
    write_dataset_info(run / "datasets", {"mixed": False, "preference": True})
    make_report.main([str(run)])
    lines = (run / "report.md").read_text(encoding="utf-8").split("\n")
    assert "| mixed | 3 | 1 | 5.3 | 1.00 | 33% |" in lines
    assert "| preference | 1 | 1 | 3.0 | 1.00 | 0% |" in lines


def test_training_sets_of_others_are_left_out_and_damaged_ones_named(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"system": "s", "instruction": "q", "input": "", "output": "2+2=4\n#### 4"}
    write_training_set(run / "datasets", "gold", [row])
    write_dataset_info(run / "datasets", {"gold": False})
    index = run / "datasets/dataset_info.json"
    others = {"hub": {"hf_hub_url": "a/b"}, "chats": {"file_name": "chats.json", "formatting": "sharegpt"}}
    write_rows(index, [{**json.loads(index.read_bytes()), **others}])
    make_report.main([str(run)])
    shown = (run / "report.md").read_text(encoding="utf-8")
    assert "\n| gold | 1 |" in shown
    assert not re.search(r"^\| (hub|chats) \|", shown, re.MULTILINE)
    for damaged, says in (
        ([row, {"output": 4}], "gold.jsonl:2: no strings `instruction`"),
        ([], "gold.jsonl: holds no rows"),
    ):
        write_rows(run / "datasets/gold.jsonl", damaged)
        assert cli.run(lambda: make_report.main([str(run)])) == 1
        assert says in capsys.readouterr().err


def test_an_adapter_says_what_was_left_to_defaults(run: Path) -> None:
    config = {"lora_alpha": 128, "target_modules": ["v_proj", "q_proj"], "lora_dropout": None, "r": 64}
    (run / "train/distilled/adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    assert read_adapters(run) == {"distilled": {"lora_alpha": 128, "target_modules": ["q_proj", "v_proj"]}}


def test_a_comparison_of_another_version_is_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    comparison = json.loads((run / "comparison.json").read_bytes())
    (run / "comparison.json").write_text(json.dumps({**comparison, "schema": 2}), encoding="utf-8")
    assert cli.run(lambda: make_report.main([str(run)])) == 1
    assert "comparison.json: was written by another version; run scripts/compare.py" in capsys.readouterr().err


def test_an_older_account_of_the_filter_is_refused_by_name(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "kept.report.json").write_text('{"read": 80, "kept": 74}', encoding="utf-8")
    assert cli.run(lambda: make_report.main([str(run)])) == 1
    assert "kept.report.json: was written by another version" in capsys.readouterr().err
