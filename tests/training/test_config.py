"""A method's YAML: every shipped one, its keys and templates, its place in a run."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from training.test_train import CONFIG

from cotkit.core.errors import UserError
from cotkit.generation import prompts
from cotkit.training import preflight
from cotkit.training.config import methods_of, read_config

CONFIGS = sorted(ROOT.glob("configs/*/train/*.yaml"))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: f"{path.parts[-3]}/{path.stem}")
def test_llamafactory_accepts_every_training_yaml(config: Path):
    """Parsed by LLaMA-Factory's own parser; what only a GPU or an account allows is switched off here."""
    from llamafactory.data.template import TEMPLATES
    from llamafactory.hparams import get_train_args

    read = read_config(config, [])
    preflight.check_keys(read)
    values = read.llamafactory()
    assert values["template"] in TEMPLATES
    assert values["output_dir"].endswith(f"train/{config.stem}")
    assert not values.get("trust_remote_code")
    values.update(fp16=False, bf16=False, report_to="none", overwrite_output_dir=True)
    _, data_args, training_args, finetuning_args, _ = get_train_args(values)
    assert finetuning_args.finetuning_type == "lora"
    assert data_args.cutoff_len == yaml.safe_load((config.parents[1] / "filter.yaml").read_text())["max_tokens"]
    if config.stem == "dpo":
        assert (finetuning_args.stage, finetuning_args.pref_ftx > 0, data_args.eval_dataset) == ("dpo", True, None)
        assert training_args.learning_rate < read_config(config.with_stem("distilled"), []).values["learning_rate"]


def test_the_keys_that_are_known_are_those_that_llamafactory_takes():
    from llamafactory.hparams.parser import _TRAIN_ARGS
    from transformers import HfArgumentParser

    takes = {action.dest for action in HfArgumentParser(_TRAIN_ARGS)._actions} - {"help"}
    takes = {key for key in takes if not key.startswith("no_") or key in preflight.known_keys()}
    assert takes <= preflight.known_keys()
    assert len(preflight.known_keys() - takes) < 10, preflight.known_keys() - takes


def test_the_templates_that_are_known_are_llamafactorys():
    """Their prompts, as read from the package's source, are those that its own objects make."""
    from llamafactory.data.template import TEMPLATES, ReasoningTemplate, Template

    messages = prompts.student_messages("Q")
    system, user = (message["content"] for message in messages)
    compared = 0
    for name, template in TEMPLATES.items():
        text = preflight.prompt_by(preflight.templates()[name], {"bos_token": "<bos>"}, messages)
        if type(template) not in (Template, ReasoningTemplate):
            assert text is None
            continue
        slots = [
            *template.format_prefix.apply(),
            *template.format_system.apply(content=system),
            *template.format_user.apply(content=user, idx="0"),
        ]
        if any(isinstance(slot, set) and slot != {"bos_token"} for slot in slots):
            continue
        texts = [
            slot["token"] if isinstance(slot, dict) else "<bos>" if slot == {"bos_token"} else slot for slot in slots
        ]
        assert text == "".join(texts), name
        compared += 1
    assert compared > 90


def test_methods_of_a_preset_differ_in_their_data_only():
    """But for preference learning, which is another kind of training."""
    for config in CONFIGS:
        own = yaml.safe_load(config.read_text(encoding="utf-8"))
        assert set(own) == {"dataset"} or own["stage"] == "dpo", config


def test_a_seed_and_an_adapter_of_the_same_run_have_their_place():
    config = read_config(CONFIG.with_stem("dpo"), [], Path("some/run"), seed=7)
    assert config.values["output_dir"] == "some/run/train/dpo.seed7"
    assert config.values["adapter_name_or_path"] == "some/run/train/distilled.seed7"
    assert config.values["seed"] == 7
    assert config.where("cutoff_len").startswith(f"{CONFIG.parents[1] / 'train.yaml'}:")
    assert "eval_dataset" not in config.llamafactory()


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
