"""A preset that describes problems of its own in data.yaml."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from conftest import read_rows, refused, run_script
from faults.faults_tools import Pipeline, edit_yaml, make_preset, write_yaml
from preparation.test_prepare_own_data import DESCRIBED, bakery, prepared, refusal, run, write_csv

from cotkit.core.errors import UserError
from cotkit.preparation import description


def describe(folder: Path, *entries: Any, **more: Any) -> Path:
    """Writes a data.yaml."""
    folder.mkdir(exist_ok=True)
    write_yaml(folder / "data.yaml", {"dataset": list(entries), "data_root": str(folder.parent / "data"), **more})
    return folder / "data.yaml"


def test_a_preset_describes_its_own_data(tmp_path: Path):
    write_csv(tmp_path / "my preset/bakery.csv", [bakery(number) for number in range(10)])
    entry = {"name": "bakery", "input": "bakery.csv", **DESCRIBED, "split": {"train": 0.5, "test": 0.5}}
    config = describe(tmp_path / "my preset", entry, {**entry, "name": "second", "seed": 7})
    run(tmp_path, "--config", config)
    assert {split: len(rows) for split, rows in prepared(tmp_path).items()} == {"train": 5, "test": 5}
    assert prepared(tmp_path)["test"] != prepared(tmp_path, "second")["test"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"qestion": "prompt"}, "data.yaml:3: unknown key 'qestion'; did you mean 'question'?"),
        ({"data_root": "x"}, "data.yaml:3: unknown key 'data_root'"),
        ({"kind": "numbr"}, "data.yaml:3: kind: 'numbr' is not one of number, integer, latex, choice"),
        ({"kind": None}, "data.yaml:3: no kind is given"),
        ({"seed": "x"}, "data.yaml:3: seed: 'x' does not fit"),
        ({"split": {"train": 0.5}}, "data.yaml:3: split 'train:0.5': the shares must add up to 1"),
        ({"input": "none.csv"}, "none.csv: not found"),
        ({"name": "b"}, "two sets of problems are called 'b'"),
    ],
)
def test_descriptions_that_cannot_work_are_refused_by_line(tmp_path: Path, change: dict[str, Any], says: str):
    write_csv(tmp_path / "preset/bakery.csv", [bakery(number) for number in range(10)])
    first = '{"name": b, "input": bakery.csv, "question": prompt, "answer": final, "kind": number}'
    entry = json.dumps({"name": "a", "input": "bakery.csv", **DESCRIBED, **change})
    config = tmp_path / "preset/data.yaml"
    config.write_text(f"dataset:\n  - {first}\n  - {entry}\n", encoding="utf-8")
    assert says in refusal(tmp_path, "--config", config, "--data_root", tmp_path / "data")
    assert not (tmp_path / "data/a").exists()


def preset_script(preset: Path, what: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return run_script("scripts/internal/preset.py", preset, what, **options)


def test_the_preset_s_test_sets_are_those_with_a_test_split(tmp_path: Path):
    preset = make_preset(tmp_path / "preset", tmp_path)
    entry = {"name": "bakery", "input": "bakery.csv", **DESCRIBED, "split": "train:0.9,dev:0.1"}
    describe(preset, entry, "amc23", source=str(tmp_path / "raw"))
    write_csv(preset / "bakery.csv", [bakery(number) for number in range(10)])
    write_yaml(preset / "filter.yaml", {"min_words": 5})
    run(tmp_path, "--config", preset / "data.yaml")
    assert preset_script(preset, "test_sets").stdout.split() == ["amc23"]
    assert preset_script(preset, "test_paths").stdout.split() == [str(tmp_path / "data/amc23/test.jsonl")]
    describe(preset, entry)
    refused(preset_script(preset, "test_sets", check=False), "data.yaml: no data set has a test split")


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ("amc24", "data.yaml:3: no data set 'amc24'; did you mean 'amc23'?"),
        ({"input": "x.csv"}, "data.yaml:3: a description needs a name"),
    ],
)
def test_unknown_names_of_a_preset_are_refused_by_line(tmp_path: Path, entry: Any, says: str):
    with pytest.raises(UserError, match=re.escape(says)):
        description.datasets_of(describe(tmp_path / "preset", entry))


@pytest.mark.slow
def test_a_preset_with_its_own_csv_goes_through_the_pipeline(tiny_model: Path, tmp_path: Path):
    preset = make_preset(tmp_path / "bakery preset", tiny_model)
    write_csv(preset / "bakery.csv", [bakery(number) for number in range(200)])
    describe(preset, {"name": "bakery", "input": "bakery.csv", **DESCRIBED})
    train = str(tmp_path / "data/bakery/train.jsonl")
    edit_yaml(preset / "teacher.yaml", input_path=train, model_name="fake", limit=20)
    edit_yaml(preset / "filter.yaml", problems_path=train, dev_path=train.replace("train", "dev"), test_paths=[])
    edit_yaml(preset / "infer.yaml", base_model="fake")
    edit_yaml(preset / "train.yaml", num_train_epochs=1, learning_rate=0.001)
    pipeline = Pipeline(preset, tmp_path / "outputs")
    code, printed = pipeline.finish()
    assert code == 0, printed
    (dataset,) = json.loads((pipeline.run / "comparison.json").read_text(encoding="utf-8"))["datasets"]
    assert dataset["dataset"] == "bakery"
    assert {method["method"] for method in dataset["methods"]} == {"baseline", "distilled"}
    scores = read_rows(pipeline.run / "predictions/bakery/baseline.scores.jsonl")
    assert [row["id"] for row in scores] == [row["id"] for row in prepared(tmp_path)["test"]]
    assert all(row["verdict"] in ("correct", "wrong") for row in scores)
    assert "A bakery bakes" in (pipeline.run / "report.html").read_text(encoding="utf-8")


def test_nothing_is_written_before_all_sets_of_a_preset_are_checked(tmp_path: Path):
    write_csv(tmp_path / "preset/good.csv", [bakery(number) for number in range(10)])
    write_csv(tmp_path / "preset/bad.csv", [bakery(number, final="many") for number in range(10)])
    entries = [{"name": name, "input": f"{name}.csv", **DESCRIBED} for name in ("good", "bad")]
    assert "bad.csv: 10 faults" in refusal(
        tmp_path, "--config", describe(tmp_path / "preset", "gsm_symbolic", *entries)
    )
    assert not (tmp_path / "data").exists()
