"""A method that is the preset's teacher: trained before the teacher stage, on problems that no student sees."""

from __future__ import annotations

import json
import runpy
import shutil
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, problem, read_rows, run_script, write_rows
from faults.faults_tools import Pipeline, edit_yaml, make_preset, write_yaml

from cotkit.core.errors import UserError
from cotkit.training.config import methods_of, read_config, teacher_method
from cotkit.training.preflight import check_keys


def expert_problems(first: int = 100) -> list[dict[str, Any]]:
    return [{**problem(number), "id": f"expert-{number}", "split": "expert"} for number in range(first, first + 6)]


@pytest.fixture
def preset(tiny_model: Path, tmp_path: Path) -> Path:
    """A preset of tiny models whose expert writes the teacher's rows and teaches `pupil` its distribution."""
    folder = make_preset(tmp_path / "mine", tiny_model)
    problems, gold = tmp_path / "data/amc23/test.jsonl", tmp_path / "expert.jsonl"
    write_rows(gold, expert_problems())
    write_rows(tmp_path / "dev.jsonl", [{**problem(number), "id": f"dev-{number}"} for number in range(50, 53)])
    teacher = {"input_path": str(problems), "model_name": str(tiny_model), "max_new_tokens": 8, "limit": 4}
    write_yaml(folder / "teacher.yaml", {**teacher, "lora_path": "expert", "mode": "solve"})
    write_yaml(folder / "filter.yaml", {"sets": ["gold"], "test_paths": [], "dev_path": str(tmp_path / "dev.jsonl")})
    answering = {"base_model": str(tiny_model), "max_new_tokens": 8, "limit": 4, "data_root": str(tmp_path / "data")}
    write_yaml(folder / "infer.yaml", answering)
    (folder / "train/distilled.yaml").unlink()
    expert = {"gold_path": str(gold), "dataset": "expert", "eval_dataset": "gold_dev"}
    write_yaml(folder / "train/expert.yaml", {**expert, "num_train_epochs": 2, "learning_rate": 0.01})
    write_yaml(folder / "train/pupil.yaml", {"stage": "distill", "dataset": "gold", "teacher": "expert"})
    edit_yaml(folder / "train.yaml", methods=["pupil"], num_train_epochs=1, learning_rate=0.001)
    return folder


@pytest.fixture
def prepared(preset: Path) -> Path:
    """The preset with its problems."""
    write_rows(
        preset.parent / "data/amc23/test.jsonl", [{**problem(number), "id": f"t{number}"} for number in range(4)]
    )
    return preset


def gold_set(preset: Path, *words: Any) -> int:
    main = runpy.run_path(str(ROOT / "scripts/gold_set.py"), run_name="gold_set")["main"]
    return main([str(preset / "train/expert.yaml"), "--run", str(preset.parent / "run"), *map(str, words)])


def test_its_set_is_exported_with_a_card(prepared: Path, capsys: pytest.CaptureFixture[str]):
    assert gold_set(prepared) == 0
    export = import_module("scripts.export")
    assert export.main([str(prepared.parent / "run"), "--data", "expert", "--dry_run"]) == 0
    card = capsys.readouterr().out
    assert "Contamination: none of the questions is in `" in card and "## The filter" not in card


def test_the_teacher_is_trained_first_whatever_is_wanted(preset: Path):
    assert teacher_method(preset) == "expert"
    for wanted in (None, "pupil", "expert,pupil", "all"):
        assert [path.stem for path in methods_of(preset, wanted)] == ["expert", "pupil"]
    edit_yaml(preset / "teacher.yaml", lora_path="./expert")
    assert teacher_method(preset) is None


def test_one_teacher_serves_all_seeds(preset: Path):
    config = read_config(preset / "train/pupil.yaml", [], preset.parent / "run", seed=2)
    assert config.output_dir == preset.parent / "run/train/pupil.seed2"
    assert config.values["teacher"] == str(preset.parent / "run/train/expert")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"lora_path": "expret"},
            r"teacher.yaml:\d: lora_path: expret: no such method; did you mean 'expert'\?.*\./expret",
        ),
        ({"lora_path": "pupil"}, r"pupil: this method is trained before all others; .*pupil.yaml needs `gold_path"),
    ],
)
def test_what_cannot_be_the_teacher_is_refused(preset: Path, changes: dict[str, Any], says: str):
    edit_yaml(preset / "teacher.yaml", **changes)
    with pytest.raises(UserError, match=says):
        methods_of(preset)


def test_its_training_set_lies_apart_from_those_of_the_filter(prepared: Path, capsys: pytest.CaptureFixture[str]):
    run = prepared.parent / "run"
    config = read_config(prepared / "train/expert.yaml", [], run)
    with pytest.raises(UserError, match=r"make it with: python scripts/gold_set.py \S+expert.yaml --run \S+run"):
        config.all_files()
    assert gold_set(prepared) == 0
    files = config.all_files()
    assert files == {name: run / f"datasets/expert/{name}.jsonl" for name in ("expert", "gold_dev")}
    rows = read_rows(files["expert"])
    assert [row["output"].rpartition("#### ")[2] for row in rows] == [row["answer"] for row in expert_problems()]
    assert len(read_rows(files["gold_dev"])) == 3
    before = files["expert"].stat().st_mtime_ns
    assert gold_set(prepared) == 0
    assert "done already" in capsys.readouterr().out and files["expert"].stat().st_mtime_ns == before
    write_rows(prepared.parent / "expert.jsonl", expert_problems(200))
    assert gold_set(prepared) == 0
    assert len(read_rows(files["expert"])) == 6 and read_rows(files["expert"]) != rows
    assert gold_set(prepared, "--limit", 2) == 0
    assert len(read_rows(files["expert"])) == 2


def test_steps_are_split_where_the_method_says_so(prepared: Path):
    calculated = {"solution": "She sells 28 + 3 + 9 = <<28+3+9=40>>40 eggs.", "answer": "40"}
    for path, number in (("expert.jsonl", 100), ("dev.jsonl", 50)):
        write_rows(prepared.parent / path, [problem(number, **calculated)])
    files = read_config(prepared / "train/expert.yaml", [], prepared.parent / "run")
    assert gold_set(prepared) == 0
    assert read_rows(files.all_files()["expert"])[0]["output"] == "She sells 28 + 3 + 9 = 40 eggs.\n#### 40"
    edit_yaml(prepared / "train/expert.yaml", split_steps=True)
    with pytest.raises(UserError, match="was made with other settings .split_steps: None -> True."):
        gold_set(prepared)
    assert gold_set(prepared, "--overwrite") == 0
    for name in ("expert", "gold_dev"):
        output = read_rows(files.all_files()[name])[0]["output"]
        assert output == "She sells 28 + 3 + 9 = 31 + 9 = 40 eggs.\n#### 40"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"split_steps": "please"}, r"expert.yaml:\d+: `split_steps: please`: must be true or false"),
        ({"split_steps": True, "gold_path": None}, "belongs to `gold_path`, which is missing"),
    ],
)
def test_split_steps_is_true_or_false_and_belongs_to_gold_path(prepared: Path, keys: dict[str, Any], message: str):
    edit_yaml(prepared / "train/expert.yaml", **keys)
    with pytest.raises(UserError, match=message):
        check_keys(read_config(prepared / "train/expert.yaml", [], prepared.parent / "run"))


@pytest.mark.parametrize(("number", "other"), [(2, "t2"), (51, "dev-51")])
def test_no_question_of_a_student_or_a_test_is_in_it(prepared: Path, number: int, other: str):
    write_rows(prepared.parent / "expert.jsonl", [*expert_problems(), {**problem(number), "id": "mine"}])
    with pytest.raises(UserError, match=f"expert.jsonl: the question of mine is also that of {other}; remove it"):
        gold_set(prepared)
    assert not (prepared.parent / "run").exists()


def test_a_method_on_the_filter_s_sets_and_problems_without_solutions_are_refused(prepared: Path):
    write_rows(prepared.parent / "expert.jsonl", [problem(100, solution=" ")])
    with pytest.raises(UserError, match="gsm8k-test-00100 has no solution to train on"):
        gold_set(prepared)
    edit_yaml(prepared / "train/expert.yaml", gold_path=None)
    with pytest.raises(UserError, match="expert.yaml: has no `gold_path`"):
        gold_set(prepared)


def test_a_name_is_a_method_of_the_run_that_the_output_lies_in():
    folder = runpy.run_path(str(ROOT / "teacher_cot.py"), run_name="teacher_cot")["adapter_folder"]
    named = [folder(name, Path("outputs/a/teacher.jsonl")) for name in (None, "expert", "./expert", "/x/y")]
    assert named == [None, "outputs/a/train/expert", "./expert", "/x/y"]


@pytest.mark.slow
def test_the_pipeline_trains_the_teacher_before_it_is_asked(preset: Path):
    pipeline = Pipeline(preset, preset.parent / "out")
    pipeline.words += ["--seeds", "1"]
    code, text = pipeline.finish()
    assert code == 0, text
    assert text.index("== teacher") < text.index("-- expert;") < text.index("== filter") < text.index("-- pupil.seed1;")
    run = pipeline.run
    manifest = json.loads((run / "teacher.jsonl.manifest.json").read_text(encoding="utf-8"))
    assert manifest["settings"]["adapter"] == str(run / "train/expert")
    assert len(read_rows(run / "datasets/expert/expert.jsonl")) == 6 and (run / "datasets/gold.jsonl").is_file()
    assert {"baseline", "expert", "pupil.seed1"} <= {path.stem for path in (run / "predictions/amc23").glob("*.jsonl")}
    assert "every manifest, hash and count is right" in run_script("scripts/verify.py", run).stdout

    weights = run / "train/expert/adapter_model.safetensors"
    before = weights.stat().st_mtime_ns
    (run / "kept.jsonl").unlink()
    (run / "kept.jsonl").mkdir()  # the filter cannot write it, so the repetition ends there
    pipeline.words += ["--from", "teacher"]
    code, text = pipeline.finish()
    assert code == 1 and "pipeline stopped in stage filter" in text, text
    assert "train/expert: trained already" in text and weights.stat().st_mtime_ns == before


@pytest.mark.slow
def test_a_teacher_on_another_model_or_in_one_round_only_is_a_fault(
    preset: Path, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("LLAMAFACTORY_VERBOSITY", "ERROR")  # the checks silence it in this process
    check = runpy.run_path(str(ROOT / "scripts/check_preset.py"), run_name="check_preset")["main"]
    words = [str(preset), "--run", str(tmp_path / "run")]
    assert check(words) == 0, capsys.readouterr().err
    other = shutil.copytree(tiny_model, tmp_path / "other")
    (other / "config.json").write_text("{}", encoding="utf-8")
    for changes, says in (
        ({"rounds": [{}, {"lora_path": "./x"}]}, "a round has another lora_path than expert"),
        ({"rounds": None, "model_name": str(other)}, f"other is not {tiny_model}, on which expert is trained"),
    ):
        edit_yaml(preset / "teacher.yaml", **changes)
        assert check(words) == 1
        assert says in capsys.readouterr().err
