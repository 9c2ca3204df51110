"""The plan of a run: its estimates against a run that was measured, what is done already, what does not fit."""

from __future__ import annotations

import json
import re
import runpy
import shutil
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, problem, write_rows

import infer_parallel
import teacher_cot
from cotkit.core.errors import UserError
from cotkit.training import cost_model
from cotkit.training.cost_model import DEVICES, Shape, shape_of

SMOLLM2_SHAPE = Shape(hidden=576, layers=30, vocabulary=49152, feed_forward=1536, keys=192, tied=True)
# Seconds of the CPU preset's run on 2 cores: (prompt tokens, written tokens, rows, batch) -> measured.
GENERATED = [((315, 36, 80, 40), 89.8), ((83, 154, 48, 48), 83.7), ((83, 33, 48, 48), 33.7), ((83, 50, 48, 48), 54.1)]
TRAINED = [(21_800, 186.8), (18_900, 151.1)]  # tokens -> seconds
ADAPTER_BYTES = 19_593_064  # of rank 16 on all linear layers, with its header


@pytest.fixture
def preset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The CPU preset's YAMLs beside 20 problems, in a folder of their own; the model is two sizes in a file."""
    monkeypatch.chdir(tmp_path)
    for dataset, split in (("gsm_symbolic", "train"), ("gsm_symbolic", "test")):
        write_rows(tmp_path / f"data/{dataset}/{split}.jsonl", [problem(number) for number in range(20)])
    model = tmp_path / "data/models/SmolLM2-135M-Instruct"
    model.mkdir(parents=True)
    config = {
        "hidden_size": 576,
        "num_hidden_layers": 30,
        "vocab_size": 49152,
        "intermediate_size": 1536,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "tie_word_embeddings": True,
    }
    (model / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return ROOT / "configs/smollm2_cpu"


def plan(capsys: Any, *words: Any) -> str:
    script = runpy.run_path(str(ROOT / "scripts/plan.py"), run_name="plan")
    assert script["main"]([str(word) for word in words]) == 0
    return capsys.readouterr().out


def test_sizes_follow_from_a_models_configuration(preset: Path):
    assert shape_of("data/models/SmolLM2-135M-Instruct") == SMOLLM2_SHAPE
    assert SMOLLM2_SHAPE.weights == pytest.approx(134.5e6, rel=0.01)
    assert cost_model.SHAPES["Qwen/Qwen2-1.5B"].weights == pytest.approx(1.54e9, rel=0.01)
    assert cost_model.SHAPES["Qwen/Qwen3-8B"].weights == pytest.approx(8.19e9, rel=0.01)
    assert cost_model.adapter_bytes(SMOLLM2_SHAPE, {"lora_rank": 16}) == pytest.approx(ADAPTER_BYTES, rel=0.01)
    only_q = cost_model.trainable(SMOLLM2_SHAPE, {"lora_rank": 8, "lora_target": "q_proj"})
    assert only_q == 8 * 30 * (576 + 576)
    both = cost_model.trainable(SMOLLM2_SHAPE, {"lora_target": "q_proj", "additional_target": "embed_tokens,lm_head"})
    assert both == only_q + 2 * 49152 * 576
    with pytest.raises(UserError, match="its sizes are not known"):
        shape_of("some/model")


@pytest.mark.parametrize(("run", "measured"), GENERATED)
def test_generation_takes_about_what_was_measured(run: tuple[int, int, int, int], measured: float):
    prompt, written, rows, batch = run
    seconds = cost_model.generate_seconds(DEVICES["cpu"], SMOLLM2_SHAPE, rows, prompt, written, batch)
    assert measured / 1.5 < seconds < measured * 1.5


@pytest.mark.parametrize(("tokens", "measured"), TRAINED)
def test_training_takes_about_what_was_measured(tokens: int, measured: float):
    seconds = cost_model.train_seconds(DEVICES["cpu"], SMOLLM2_SHAPE, tokens, checkpointing=False)
    assert measured / 1.5 < seconds < measured * 1.5


def test_the_plan_counts_rows_and_steps_and_knows_what_is_done(preset: Path, tmp_path: Path, capsys: Any):
    output = plan(capsys, preset)
    assert "| teacher | 39 |" in output  # five rounds: 20 problems, and in each later one half as many
    assert "| train strong_baseline | 20 |" in output  # one gold row per problem
    assert "| train distilled | 18 |" in output  # nine in ten are kept
    assert "| 10 |" in output.split("train strong_baseline")[1].splitlines()[0]  # 20 rows, batch 4, 2 epochs
    assert "done" not in output
    run = tmp_path / "outputs/smollm2_cpu"
    row = {"system": "s", "instruction": "i", "input": "", "output": "1+1=2\n#### 2"}
    write_rows(run / "datasets/distilled.jsonl", [row] * 12)
    for output, status in (("teacher.jsonl", "done"), ("train/distilled", "running")):
        path = run / f"{output}.manifest.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"status": status}), encoding="utf-8")
    output = plan(capsys, preset, "--methods", "all", "--seeds", "1", "2")
    assert "done, is skipped" in output.split("| teacher |")[1].splitlines()[0]
    assert "| train distilled.seed1 | 12 |" in output  # counted, not expected
    assert output.count("| train dpo.seed") == 2
    assert "begun, will continue" in plan(capsys, preset).split("train distilled")[1].splitlines()[0]


def test_a_value_may_differ_between_test_sets_and_be_left_out_for_one(preset: Path, tmp_path: Path, capsys: Any):
    """infer.yaml says how long a gsm8k text may be, not how many rows; critic.yaml is read in the same way."""
    write_rows(tmp_path / "data/gsm8k/test.jsonl", [problem(number) for number in range(20)])
    study = shutil.copytree(ROOT / "configs/smollm2_study", tmp_path / "study")
    infer = study / "infer.yaml"
    infer.write_text(
        infer.read_text(encoding="utf-8").replace(", gsm8k: 100}", "}").replace("300", "5"), encoding="utf-8"
    )
    critic = "model_name: data/models/SmolLM2-135M-Instruct\ncritic_limit: {gsm8k: 3}\ncontrols: 2\n"
    (study / "critic.yaml").write_text(critic, encoding="utf-8")
    output = plan(capsys, study, "--methods", "distilled")
    assert "| infer distilled on gsm_symbolic | 5 |" in output
    assert "| infer distilled on gsm8k | 20 |" in output  # no entry: all of them
    assert "| critic on gsm_symbolic | 12 |" in output  # the first 5 rows of two systems, and the 2 controls
    assert "| critic on gsm8k | 8 |" in output


def duration(output: str, method: str) -> float:
    """The seconds of a training in the plan."""
    number, unit = re.search(rf"\| train {method} \|.*?\| ([\d.]+) (s|min|h) \|", output).groups()
    return float(number) * {"s": 1, "min": 60, "h": 3600}[unit]


def test_rows_of_sets_that_are_not_there_yet_follow_from_their_declaration(preset: Path, tmp_path: Path, capsys: Any):
    """20 problems, 16 samples each; a set that filter.yaml does not declare is named before anything runs."""
    study = shutil.copytree(ROOT / "configs/smollm2_study", tmp_path / "study")
    write_rows(tmp_path / "data/gsm8k/test.jsonl", [problem(number) for number in range(20)])
    output = plan(capsys, study, "--methods", "all")
    rows = dict(re.findall(r"\| train (\w+) \| (\d+) \|", output))
    assert rows == {
        "strong_baseline": "20",
        "teacher_raw": "20",
        "distilled": "20",
        "rejection_sampled": "80",
        **dict.fromkeys(("complete", "logit_kd", "on_policy", "self_taught", "sft_continued"), "80"),
        "aligned": "20",
        "mixed": "40",
        "dpo": "20",
    }
    seconds = {name: duration(output, name) for name in ("complete", "logit_kd", "sft_continued", "on_policy")}
    assert seconds["complete"] < seconds["logit_kd"]  # the teacher reads the rows too
    assert seconds["sft_continued"] < seconds["on_policy"]  # and the student writes them
    method = study / "train/mixed.yaml"
    method.write_text("dataset: mixd\n", encoding="utf-8")
    script = runpy.run_path(str(ROOT / "scripts/plan.py"), run_name="plan")
    with pytest.raises(
        UserError, match=r"mixed.yaml:1: `dataset: mixd`: .*filter.yaml declares no such set; did you mean 'mixed'"
    ):
        script["main"]([str(study), "--methods", "mixed"])
    sets = (study / "filter.yaml").read_text(encoding="utf-8")
    (study / "filter.yaml").write_text(sets.replace("- gold\n", "- golld\n"), encoding="utf-8")
    with pytest.raises(UserError, match=r"filter.yaml:\d+: sets: 'golld' does not fit"):
        script["main"]([str(study)])


def test_what_a_yaml_leaves_out_is_what_the_script_takes():
    known = runpy.run_path(str(ROOT / "scripts/plan.py"), run_name="plan")["NEW_TOKENS"]
    scripts = {"teacher": teacher_cot, "infer": infer_parallel, "critic": import_module("scripts.critic")}
    assert known == {stage: script.build_parser().get_default("max_new_tokens") for stage, script in scripts.items()}


def test_what_does_not_fit_into_the_device_is_marked(preset: Path, capsys: Any):
    qwen = ROOT / "configs/qwen2_1.5b_tuned"
    for dataset in ("gsm8k", "math500", "aime", "amc23"):
        for split in ("train", "test"):
            write_rows(Path(f"data/{dataset}/{split}.jsonl"), [problem(number) for number in range(20)])
    assert "(too much)" not in plan(capsys, qwen, "--device", "a100")
    teacher = plan(capsys, qwen, "--device", "t4").split("| teacher |")[1].splitlines()[0]
    assert "(too much)" in teacher  # 8 billion weights of two bytes


def test_problems_that_are_not_prepared_are_named(preset: Path):
    Path("data/gsm_symbolic/train.jsonl").unlink()
    script = runpy.run_path(str(ROOT / "scripts/plan.py"), run_name="plan")
    with pytest.raises(UserError, match=r"gsm_symbolic/train.jsonl: does not exist yet; scripts/prepare_data.py"):
        script["main"]([str(preset)])
