"""A method's YAML: every shipped one, its keys and templates, its place in a run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, problem, refused, run_script, write_rows
from training.test_train import CONFIG

from cotkit.core.errors import UserError
from cotkit.filtering.options import unfillable_sets
from cotkit.training import budget, preflight
from cotkit.training.config import methods_of, read_config, without_rows

CONFIGS = sorted(ROOT.glob("configs/*/train/*.yaml"))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: f"{path.parts[-3]}/{path.stem}")
def test_llamafactory_accepts_every_training_yaml(config: Path):
    from llamafactory.data.template import TEMPLATES

    read = read_config(config, [])
    preflight.check_keys(read)
    values = read.llamafactory()
    assert values["template"] in TEMPLATES
    assert values["output_dir"].endswith(f"train/{config.stem}")
    assert not values.get("trust_remote_code")
    _, data_args, training_args, finetuning_args, _ = preflight.parse_arguments(read)
    assert finetuning_args.finetuning_type == "lora"
    assert data_args.cutoff_len == yaml.safe_load((config.parents[1] / "filter.yaml").read_text())["max_tokens"]
    if config.stem == "dpo":
        assert (finetuning_args.stage, finetuning_args.pref_ftx > 0, data_args.eval_dataset) == ("dpo", True, None)
        assert training_args.learning_rate < read_config(config.with_stem("distilled"), []).values["learning_rate"]


def test_a_refusal_of_llamafactory_is_one_line_that_names_the_key():
    """What only its parser knows: here that two keys contradict each other."""
    overrides = ["load_best_model_at_end=true", "save_strategy=steps", "eval_dataset=gold_dev"]
    with pytest.raises(UserError) as refusal:
        preflight.parse_arguments(read_config(CONFIG, overrides))
    message = str(refusal.value)
    assert message.startswith("command line: `load_best_model_at_end: True`: LLaMA-Factory refuses it: ")
    assert "\n" not in message


def test_a_configuration_for_a_gpu_can_be_checked_on_a_machine_without_one(tiny_model: Path):
    config = read_config(CONFIG, ["bf16=true", "pure_bf16=true", "fp8=true", f"model_name_or_path={tiny_model}"])
    preflight.parse_arguments(config)
    preflight.check_template(config)


def test_methods_of_a_preset_differ_in_their_data_only():
    """But for preference learning, distillation, further steps of a method, and a teacher on problems of its own."""
    for config in CONFIGS:
        own = yaml.safe_load(config.read_text(encoding="utf-8"))
        another = own.get("stage") in ("dpo", "distill") or not own.keys().isdisjoint(
            ("start_from", "gold_path", "questions_path")
        )
        assert another or set(own) == {"dataset"}, config


@pytest.mark.parametrize("preset", ["smollm2_study", "qwen2_1.5b_tuned"])
def test_the_control_of_samples_differs_from_them_in_the_loss_only(preset: str):
    """The same start, questions, steps and rate."""
    folder = ROOT / "configs" / preset / "train"
    control = read_config(folder / "sft_continued.yaml", []).llamafactory()
    for name in ("on_policy", "self_taught", "self_taught_placebo"):
        if not (folder / f"{name}.yaml").is_file():
            continue
        other = read_config(folder / f"{name}.yaml", []).llamafactory()
        assert {**other, "output_dir": "", "run_name": ""} == {**control, "output_dir": "", "run_name": ""}


def test_a_seed_and_an_adapter_of_the_same_run_have_their_place():
    config = read_config(CONFIG.with_stem("dpo"), [], Path("some/run"), seed=7)
    assert config.values["output_dir"] == "some/run/train/dpo.seed7"
    assert config.values["adapter_name_or_path"] == "some/run/train/distilled.seed7"
    assert config.values["seed"] == 7
    assert config.where("cutoff_len").startswith(f"{CONFIG.parents[1] / 'train.yaml'}:")
    assert "eval_dataset" not in config.llamafactory()


def test_sets_of_another_method_are_its_own_and_its_budget_is_of_the_run(tmp_path: Path):
    preset, run = ROOT / "configs/smollm2_study", tmp_path / "run"
    names = {"datasets": ["gold", "gold_dev"], "datasets/more_questions": ["more_questions", "gold_dev"]}
    for folder, sets in names.items():
        for name in sets:
            write_rows(run / folder / f"{name}.jsonl", [{"output": "#### 1"}] * (16 if name == "gold" else 3))
        index = {name: {"file_name": f"{name}.jsonl"} for name in sets}
        (run / folder / "dataset_info.json").write_text(json.dumps(index), encoding="utf-8")
    for name in ("more_questions", "more_logits"):
        config = read_config(preset / f"train/{name}.yaml", [], run, seed=2)
        assert config.training_files() == {"more_questions": run / "datasets/more_questions/more_questions.jsonl"}
        assert budget.count_rows(config, "more_questions") == 3
        assert budget.steps(config) == 2 * config.values["num_train_epochs"]  # 16 gold rows, in steps of 8
    assert [path.stem for path in methods_of(preset, "more_logits,more_questions")][1:] == [
        "more_questions",
        "more_logits",
    ]
    with pytest.raises(
        UserError, match="more_logits.yaml: starts from 'more_questions', which is not among the methods"
    ):
        methods_of(preset, "more_logits")


@pytest.mark.parametrize(
    ("named", "says"),
    [
        ("more_question", "sets_of: no method 'more_question' with a set of its own; did you mean 'more_questions'"),
        ("complete", "sets_of: no method 'complete' with a set of its own"),
    ],
)
def test_sets_of_a_method_without_any_are_refused(tmp_path: Path, named: str, says: str):
    preset = shutil.copytree(ROOT / "configs/smollm2_study", tmp_path / "mine")
    path = preset / "train/more_logits.yaml"
    text = path.read_text(encoding="utf-8").replace("sets_of: more_questions", f"sets_of: {named}")
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=rf"more_logits.yaml:2: {says}"):
        read_config(path, [], tmp_path / "run")


def test_a_method_is_trained_after_the_one_it_starts_from():
    preset = CONFIG.parents[1]
    assert [path.stem for path in methods_of(preset)] == ["strong_baseline", "distilled"]
    assert [path.stem for path in methods_of(preset, "dpo,distilled")] == ["distilled", "dpo"]
    assert methods_of(preset, "all")[-1].stem == "dpo"
    with pytest.raises(UserError, match="starts from 'distilled', which is not among the methods dpo"):
        methods_of(preset, "dpo")
    with pytest.raises(UserError, match="no method 'distiled'; did you mean 'distilled'"):
        methods_of(preset, "distiled")


@pytest.mark.parametrize(("name", "stage"), [("zero2", 2), ("zero3", 3)])
def test_the_deepspeed_files_leave_to_the_yaml_what_the_yaml_says(name: str, stage: int):
    from accelerate.utils.deepspeed import HfDeepSpeedConfig

    config = HfDeepSpeedConfig(str(ROOT / f"configs/deepspeed/{name}.json"))
    assert config.get_value("zero_optimization.stage") == stage
    for key in ("train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "train_batch_size", "bf16.enabled"):
        assert config.get_value(key) == "auto"


def copy_of(preset: str, folder: Path) -> Path:
    return shutil.copytree(ROOT / "configs" / preset, folder / preset)


def test_a_method_without_rows_is_left_out_of_all_and_refused_by_name(tmp_path: Path):
    """Pairs need two samples per problem."""
    preset = copy_of("qwen2_1.5b", tmp_path)
    unfillable = unfillable_sets(preset)
    assert list(unfillable) == ["preference"]
    assert "dpo" not in [path.stem for path in methods_of(preset, "all", unfillable)]
    with pytest.raises(UserError, match=r"dpo.yaml:3: dataset: preference: .* set num_samples: 2"):
        methods_of(preset, "distilled,dpo", unfillable)
    with open(preset / "teacher.yaml", "a", encoding="utf-8") as file:
        file.write("num_samples: 2\n")
    assert unfillable_sets(preset) == {}
    assert methods_of(preset, "all", {})[-1].stem == "dpo"


def test_a_method_that_starts_from_one_without_rows_names_it(tmp_path: Path):
    (tmp_path / "train").mkdir()
    for name, text in {
        "a": "dataset: a\n",
        "b": "dataset: x\nstart_from: a\n",
        "c": "dataset: x\nteacher: b\n",
    }.items():
        (tmp_path / "train" / f"{name}.yaml").write_text(text, encoding="utf-8")
    left_out = without_rows(tmp_path, {"a": "no row fits"})
    assert left_out["b"] == f"{tmp_path}/train/b.yaml: starts from a, which has no rows"
    assert methods_of(tmp_path, "all", {"x": "no row fits"}) == [tmp_path / "train/a.yaml"]
    assert left_out["c"] == f"{tmp_path}/train/c.yaml: starts from b, which has no rows"


@pytest.mark.parametrize("preset", ["qwen2_1.5b_tuned", "smollm2_cpu", "smollm2_study"])
def test_presets_whose_teachers_sample_more_fill_all_sets(preset: str):
    assert unfillable_sets(ROOT / "configs" / preset) == {}


def test_the_best_model_is_chosen_among_all_evaluated_states(tmp_path: Path):
    preset = copy_of("qwen2_1.5b", tmp_path)
    config = read_config(preset / "train/distilled.yaml", [])
    preflight.check_evaluation(config)
    for override in ("save_steps=500", "eval_steps=50"):
        with pytest.raises(
            UserError, match="load_best_model_at_end chooses only among saved states, and eval_steps is"
        ):
            preflight.check_evaluation(read_config(preset / "train/distilled.yaml", [override]))
    preflight.check_evaluation(
        read_config(preset / "train/distilled.yaml", ["save_steps=500", "load_best_model_at_end=false"])
    )


def test_a_method_whose_set_turns_out_empty_is_left_out_of_all_with_a_sentence_and_refused_by_name(tmp_path: Path):
    """The default preset asks a problem again, so pairs are possible; here every sample is kept, so there is none."""
    preset = ROOT / "configs/smollm2_cpu"
    script = ["scripts/internal/preset.py", preset, "methods", "--methods"]
    assert "dpo" in run_script(*script, "all", "--run", tmp_path).stdout.split()
    row = {**problem(4), "sample": 0, "thinking": "", "prompt_tokens": 9, "completion_tokens": 9, "model": "m"}
    row |= {"response": "Tom starts with 4 apples.\nThen he has 4+1=5 apples.\n#### 5", "finish_reason": "stop"}
    words = ["--input_path", write_rows(tmp_path / "teacher.jsonl", [row]), "--output_path", tmp_path / "kept.jsonl"]
    run_script("filter_teacher_cot.py", *words, "--sets", "gold", "distilled", "preference")
    done = run_script(*script, "all", "--run", tmp_path)
    assert "dpo" not in done.stdout.split() and "distilled" in done.stdout.split()
    assert done.stderr.startswith("method dpo is left out: ") and done.stderr.count("\n") == 1
    assert f"dataset: preference: no row of {tmp_path}/kept.jsonl fits it" in done.stderr
    refused(
        run_script(*script, "distilled,dpo", "--run", tmp_path, check=False), "dpo.yaml:", "dataset: preference: no row"
    )
