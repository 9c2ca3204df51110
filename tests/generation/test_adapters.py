"""Adapters that would leave the base model as it is, or change only a part of it, are refused before anything runs."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
from conftest import run_script
from safetensors.numpy import load_file, save_file

import infer_parallel
from cotkit.core.errors import UserError
from cotkit.generation import adapters

Tensors = dict[str, Any]

Q0 = "base_model.model.model.layers.0.self_attn.q_proj"
ZEROS = numpy.zeros((4, 32), dtype=numpy.float32)

# A user would make each of these by a slip: saving model.state_dict(), mixing two trainings, an unfinished copy.
MISFITS: dict[str, tuple[Callable[[Tensors], Tensors], dict[str, Any], str]] = {
    "the adapter's name in names": (
        lambda old: {name.replace(".weight", ".default.weight"): tensor for name, tensor in old.items()},
        {},
        r"lora_A\.default\.weight does not end in lora_A\.weight, so peft would not use it; save the adapter with",
    ),
    "another adapter's name in names": (
        lambda old: {name.replace(".weight", ".student.weight"): tensor for name, tensor in old.items()},
        {},
        "does not end in lora_A.weight",
    ),
    "no prefix": (
        lambda old: {name.removeprefix("base_model.model."): tensor for name, tensor in old.items()},
        {},
        r"tensor model\.layers\.0\.self_attn\.q_proj\.lora_A\.weight lacks the prefix base_model\.model\.",
    ),
    "half a prefix": (
        lambda old: {name.removeprefix("base_model."): tensor for name, tensor in old.items()},
        {},
        "lacks the prefix",
    ),
    "half the layers": (
        lambda old: {name: tensor for name, tensor in old.items() if ".layers.0." in name},
        {},
        r"2 of the 4 layers that target_modules names have no tensors, such as model\.layers\.1\.self_attn\.q_proj",
    ),
    "no lora_B": (
        lambda old: {name: tensor for name, tensor in old.items() if "lora_B" not in name},
        {},
        r"model\.layers\.0\.self_attn\.q_proj has lora_A\.weight but no lora_B\.weight",
    ),
    "one lora_A missing": (
        lambda old: {name: tensor for name, tensor in old.items() if name != f"{Q0}.lora_A.weight"},
        {},
        r"model\.layers\.0\.self_attn\.q_proj has lora_B\.weight but no lora_A\.weight",
    ),
    "no tensor": (lambda old: {}, {}, "holds no tensor; train the adapter again"),
    "another r": (
        lambda old: old,
        {"r": 8},
        r"lora_A\.weight \[4, 32\] and .*, but its rank in adapter_config.json is 8",
    ),
    "a rank_pattern for nothing trained": (
        lambda old: old,
        {"rank_pattern": {"layers.1.self_attn.v_proj": 2}},
        r"model\.layers\.1\.self_attn\.v_proj has .*, but its rank in adapter_config.json is 2",
    ),
    "a target without tensors": (
        lambda old: old,
        {"target_modules": ["q_proj", "v_proj", "up_proj"]},
        r"2 of the 6 layers .* such as model\.layers\.0\.mlp\.up_proj",
    ),
    "tensors of no target": (lambda old: old, {"target_modules": ["q_proj"]}, r"v_proj\.lora_A\.weight is of no layer"),
    "a layer that the model lacks": (
        lambda old: {**old, **{name.replace(".1.", ".7."): tensor for name, tensor in old.items()}},
        {},
        r"does not fit .*layers\.7\.self_attn\.q_proj\.lora_A\.weight has no place in the model",
    ),
    "a tensor of no kind": (lambda old: {**old, "base_model.model.score.weight": ZEROS}, {}, "score.weight is nothing"),
    "modules_to_save without tensors": (
        lambda old: old,
        {"modules_to_save": ["embed_tokens"]},
        r"model\.embed_tokens\.weight, of modules_to_save, is missing",
    ),
    "modules_to_save by its name in memory": (
        lambda old: {**old, "base_model.model.lm_head.modules_to_save.default.weight": ZEROS},
        {"modules_to_save": ["lm_head"]},
        "has a name that peft gives in memory and not in files",
    ),
    "embeddings of another vocabulary": (
        lambda old: {**old, "base_model.model.model.embed_tokens.weight": ZEROS},
        {"modules_to_save": ["embed_tokens"]},
        r"has shape \[4, 32\]; the model's has \[\d+, 32\]",
    ),
    "other outputs": (
        lambda old: {**old, f"{Q0}.lora_B.weight": numpy.zeros((48, 4), dtype=numpy.float32)},
        {},
        "takes 48 outputs, the model has 32 outputs there",
    ),
    "no configuration of an adapter": (lambda old: old, {"peft_type": None}, "has no peft_type"),
    "a rank that is text": (lambda old: old, {"r": "4"}, "r has the value '4'"),
    "a pattern that is none": (lambda old: old, {"rank_pattern": {"(": 4}}, "is no regular expression"),
    "a layer left out by layers_to_transform": (
        lambda old: old,
        {"layers_to_transform": [0]},
        r"layers\.1\.self_attn\.q_proj\.lora_A\.weight has no place",
    ),
}


def changed(adapter: Path, to: Path, change: Callable[[Tensors], Tensors], keys: dict[str, Any]) -> Path:
    """A copy of an adapter with other tensors, and other keys in its configuration."""
    shutil.copytree(adapter, to)
    save_file(change(load_file(adapter / adapters.WEIGHTS)), to / adapters.WEIGHTS)
    config = json.loads((to / adapters.CONFIG).read_text(encoding="utf-8"))
    (to / adapters.CONFIG).write_text(json.dumps({**config, **keys}), encoding="utf-8")
    return to


def words(data_root: Path, model: Path | str, adapter: Path, output: Path) -> list[str]:
    flags = ["--dataset", "gsm8k", "--data_root", data_root, "--base_model", model, "--lora_path", adapter]
    return [str(word) for word in [*flags, "--output_path", output, "--max_new_tokens", 4, "--limit", 2]]


@pytest.mark.parametrize("name", MISFITS)
def test_a_misfit_is_refused_before_anything_runs(
    data_root: Path, tiny_model: Path, tiny_adapter: Path, tmp_path: Path, name: str
):
    change, keys, says = MISFITS[name]
    folder = changed(tiny_adapter, tmp_path / "bad", change, keys)
    with pytest.raises(UserError, match=says) as refusal:
        infer_parallel.main(words(data_root, tiny_model, folder, tmp_path / "out.jsonl"))
    assert str(refusal.value).startswith(str(folder))
    assert "\n" not in str(refusal.value)
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize("size", [0, 7, 100, -1])
def test_a_file_that_is_cut_is_refused(tiny_model: Path, tiny_adapter: Path, tmp_path: Path, size: int):
    folder = tmp_path / "cut"
    shutil.copytree(tiny_adapter, folder)
    weights = folder / adapters.WEIGHTS
    weights.write_bytes(weights.read_bytes()[:size])
    with pytest.raises(UserError, match="not a complete safetensors file"):
        adapters.check(str(tiny_model), folder)


def test_what_the_headers_show_is_found_without_torch(tiny_model: Path, tiny_adapter: Path, tmp_path: Path):
    folders = [tiny_adapter]
    for number, name in enumerate(["half the layers", "no lora_B", "another r", "a target without tensors"]):
        change, keys, _ = MISFITS[name]
        folders.append(changed(tiny_adapter, tmp_path / str(number), change, keys))
    script = (
        "import sys, pathlib\nfrom cotkit.generation import adapters\n"
        "for folder in sys.argv[2:]:\n"
        "    try:\n        adapters.check(sys.argv[1], pathlib.Path(folder))\n        print('fits')\n"
        "    except adapters.UserError:\n        print('refused')\n"
        "assert 'torch' not in sys.modules"
    )
    done = run_script("-c", script, tiny_model, *folders)
    assert done.stdout.split() == ["fits", *["refused"] * 4]


@pytest.mark.parametrize(
    "how",
    [
        {"target_modules": "all-linear"},
        {
            "target_modules": ["q_proj"],
            "modules_to_save": ["embed_tokens", "lm_head"],
        },  # LLaMA-Factory's additional_target
        {"target_modules": ["q_proj", "v_proj"], "rank_pattern": {"layers.1.self_attn.q_proj": 2}},
        {"target_modules": ["q_proj"], "rank_pattern": {r"model\.layers\.[01]\.self_attn\.q_proj": 3}},
        {"target_modules": ["q_proj"], "use_dora": True},
        {"target_modules": ["q_proj"], "bias": "all"},
        {"target_modules": ["q_proj"], "bias": "lora_only"},
        {"target_modules": ["q_proj"], "lora_bias": True},
        {"target_modules": ["q_proj", "embed_tokens"]},
        {"target_modules": ["q_proj"], "layers_to_transform": [1]},
        {"target_modules": ["q_proj", "up_proj"], "exclude_modules": ["model.layers.0.mlp.up_proj"]},
        {"target_modules": r".*\.1\.self_attn\.[qv]_proj"},
        {"target_modules": ["q_proj"], "trainable_token_indices": [3, 4]},
        {"target_modules": ["q_proj", "not_there"]},
        {"target_modules": ["q_proj"], "use_rslora": True},
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore")
def test_whatever_peft_saves_is_accepted(tiny_model: Path, tmp_path: Path, how: dict[str, Any]):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(tiny_model), LoraConfig(r=4, task_type="CAUSAL_LM", **how)
    )
    model.save_pretrained(tmp_path)
    adapters.check(str(tiny_model), tmp_path)
    adapters.check_on_model(str(tiny_model), tmp_path)


@pytest.mark.parametrize("name", ["no lora_B", "half the layers", "a target without tensors", "other outputs"])
def test_peft_itself_finds_the_same(tiny_model: Path, tiny_adapter: Path, tmp_path: Path, name: str, monkeypatch: Any):
    """Where headers cannot tell, as with a model that renames its tensors, what peft would save decides."""
    change, keys, _ = MISFITS[name]
    folder = changed(tiny_adapter, tmp_path / "bad", change, keys)
    monkeypatch.setattr(adapters, "_headers_can_tell", lambda *_: False)
    for check in ("_check_layers", "_check_shapes"):
        monkeypatch.setattr(adapters, check, lambda *_: None)
    with pytest.raises(UserError, match="tensors are missing, such as|has shape"):
        adapters.check(str(tiny_model), folder)


def test_another_kind_of_adapter_is_checked_by_peft(tiny_model: Path, tmp_path: Path):
    from peft import LoHaConfig, PromptTuningConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    def save(config: Any, folder: Path) -> Path:
        get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), config).save_pretrained(folder)
        return folder

    loha = save(LoHaConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"), tmp_path / "loha")
    adapters.check(str(tiny_model), loha)
    half = changed(loha, tmp_path / "half", lambda old: {k: v for k, v in old.items() if ".0." in k}, {})
    with pytest.raises(UserError, match="tensors are missing"):
        adapters.check(str(tiny_model), half)
    prompt = save(PromptTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM"), tmp_path / "prompt")
    with pytest.raises(UserError, match="is a PROMPT_TUNING adapter, which cannot be merged"):
        adapters.check(str(tiny_model), prompt)


def test_another_base_model_is_refused_and_one_that_is_not_here_is_named_in_a_warning(
    tiny_model: Path, tiny_adapter: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: Any
):
    caplog.set_level(logging.WARNING)
    copy, other = tmp_path / "copy", tmp_path / "other"
    for folder in (copy, other):
        shutil.copytree(tiny_model, folder)
    weights = load_file(other / "model.safetensors")
    save_file({**weights, "model.norm.weight": weights["model.norm.weight"] + 1}, other / "model.safetensors")
    monkeypatch.chdir(tmp_path)
    for same in (str(tiny_model), str(copy), "copy", "./copy", f"{copy}/"):
        adapters.check(same, tiny_adapter)
    assert not caplog.text
    with pytest.raises(UserError, match="is another model than") as refusal:
        adapters.check(str(other), tiny_adapter)
    fact = f"{tiny_adapter}: was trained on {tiny_model}, which is another model than {other}"
    assert str(refusal.value) == f"{fact}; give --base_model {tiny_model}"
    elsewhere = changed(tiny_adapter, tmp_path / "away", dict, {"base_model_name_or_path": "owner/name"})
    adapters.check(str(other), elsewhere)
    assert (
        f"was trained on owner/name, which is not on this machine and so cannot be compared with {other}" in caplog.text
    )


def test_the_manifest_of_predictions_names_the_adapters_base(
    data_root: Path, tiny_model: Path, tiny_adapter: Path, tmp_path: Path
):
    output = tmp_path / "out.jsonl"
    assert infer_parallel.main(words(data_root, tiny_model, tiny_adapter, output)) == 0
    path = tmp_path / "out.jsonl.manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    assert manifest["adapter_base"] == str(tiny_model)
    assert manifest["adapter_training"] is None  # it is not from a training of this toolkit
    del manifest["adapter_base"], manifest["adapter_training"]  # a finished run of before this key is still finished
    path.write_text(json.dumps(manifest), encoding="utf-8")
    assert infer_parallel.main([*words(data_root, tiny_model, tiny_adapter, output), "--is_done"]) == 0
