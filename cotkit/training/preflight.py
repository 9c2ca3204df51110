"""Refuses a method's configuration, in one line, before a model is loaded.

LLaMA-Factory's own parser and chat templates decide. This module asks them, adds what they would find only later, and
names the line to change. Importing LLaMA-Factory takes some seconds, so this module imports it inside its functions.
"""

from __future__ import annotations

import json
import os
import re
from argparse import ArgumentError
from dataclasses import fields
from difflib import SequenceMatcher
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from cotkit.core import cli, machine
from cotkit.core.errors import UserError
from cotkit.core.jsonl import read_json
from cotkit.core.model_identity import folder_of
from cotkit.generation import adapters, prompts
from cotkit.generation.chat_model import check_model, encode, load_tokenizer
from cotkit.training.config import ADAPTERS, DISTILL_KEYS, OWN_KEYS, START, DistillOptions, TrainConfig

DATES = rf"[^\n]*({prompts.DATE:%d %b}|{prompts.DATE:%B %d}|{prompts.DATE:%Y-%m-%d})[^\n]*"  # as templates write them
PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")  # of a model that reads more than text
HALF_PRECISION = ("bf16", "fp16", "pure_bf16", "fp8")
# What the configuration is parsed without: it needs several processes, an account, or packages for other machines.
LATER = ("deepspeed", "fsdp", "fsdp_config", "report_to", "preprocessing_num_workers", *HALF_PRECISION)


def check(config: TrainConfig, this_machine: bool = True) -> None:
    """Raises UserError, naming the line to change, for a configuration that cannot be trained.

    Args:
        this_machine: also check that it can be trained here and now: the precision, and the adapter that it starts from.
    """
    check_model(str(config.values["model_name_or_path"]))
    check_keys(config)
    if config.distills:
        distill_options(config)
    check_evaluation(config)
    parse_arguments(config)
    check_template(config)
    config.all_files()
    if this_machine:
        check_precision(config)
        check_start(config)


def check_keys(config: TrainConfig) -> None:
    """Every key is a field of LLaMA-Factory's dataclasses, and its value has the field's type and is a valid choice."""
    _quiet()
    from llamafactory.hparams.parser import _TRAIN_ARGS
    from transformers import HfArgumentParser

    known = {field.name for kind in _TRAIN_ARGS for field in fields(kind) if field.init}.union(OWN_KEYS)
    known |= set(DISTILL_KEYS) if config.distills else set()
    parser = HfArgumentParser(_TRAIN_ARGS, allow_abbrev=False, exit_on_error=False)
    for key in config.values:
        if key not in known:
            hint = cli.nearest(key, known)
            hint = hint if "did you mean" in hint else "; LLaMA-Factory's documentation lists its keys"
            hint = "; it belongs to `stage: distill`" if key in DISTILL_KEYS else hint
            raise UserError(f"{config.lines[key]}: unknown key {key!r}{hint}")
    if (value := config.values.get("split_steps")) is not None:
        if not config.values.get("gold_path"):
            raise UserError(f"{config.where('split_steps')}: belongs to `gold_path`, which is missing")
        if not isinstance(value, bool):
            raise UserError(f"{config.where('split_steps')}: must be true or false")
    for key, value in config.llamafactory().items():
        for item in value if isinstance(value, list) else [value]:
            # The parser converts texts only; a dictionary from a YAML would pass it unchecked.
            text = json.dumps(item) if isinstance(item, dict) else str(item)
            try:
                converted = getattr(parser.parse_known_args([f"--{key}={text}"])[0], key)
            except ArgumentError as error:
                raise UserError(f"{config.where(key)}: {error.message}") from None
            if isinstance(item, str) and isinstance(converted, int | float):
                raise UserError(f"{config.where(key)}: is a text; write the value without quotes")


# Key of the distillation stage -> (least, most), both of them allowed.
BOUNDS = {
    "on_policy": (0, 1),
    "jsd_beta": (0.001, 0.999),  # at 0 and 1 the divergence is 0: those limits are `kl: forward` and `kl: reverse`
    "kl_clip": (1e-6, 1e6),
    "temperature": (0.01, 100),
    "kd_weight": (0, 1),
    "max_new_tokens": (1, 1e6),
    "sample_temperature": (0.01, 100),
    "max_truncated": (0, 1),
}
# Keys of LLaMA-Factory whose effect the distillation stage does not have.
NOT_DISTILLED = ("deepspeed", "fsdp", "packing", "neat_packing", "train_on_prompt", "use_asft_loss", "ref_model")


def distill_options(config: TrainConfig) -> DistillOptions:
    """The keys of `stage: distill`. Raises UserError, naming the line, for one that is missing or cannot be."""
    found = {key: config.values[key] for key in DISTILL_KEYS if config.values.get(key) is not None}
    if "teacher" not in found:
        raise UserError(f"{config.path}: key 'teacher' is missing: start, a method, an adapter or a model")
    kinds = get_type_hints(DistillOptions)
    for key, value in found.items():
        if (choices := get_args(kinds[key])) and get_origin(kinds[key]) is Literal and value not in choices:
            hint = cli.nearest(str(value), choices)
            raise UserError(f"{config.where(key)}: must be one of {', '.join(choices)}{hint}")
        if key in BOUNDS:
            low, high = BOUNDS[key]
            number = int if key == "max_new_tokens" else int | float
            if isinstance(value, bool) or not isinstance(value, number) or not low <= value <= high:
                kind = "a whole number" if number is int else "a number"
                raise UserError(f"{config.where(key)}: must be {kind} from {low:g} to {high:g}")
    options = DistillOptions(**found)
    if options.on_policy and options.kd_weight < 1:
        raise UserError(
            f"{config.where('kd_weight')}: cross entropy on the student's own samples teaches nothing; "
            "set kd_weight: 1 or on_policy: 0"
        )
    if config.values.get("finetuning_type") != "lora":
        raise UserError(
            f"{config.where('finetuning_type')}: `stage: distill` trains adapters; set finetuning_type: lora"
        )
    for key in NOT_DISTILLED:
        if config.values.get(key):
            raise UserError(f"{config.where(key)}: `stage: distill` does not support it; remove it")
    return options


def parse_arguments(config: TrainConfig) -> tuple[Any, ...]:
    """LLaMA-Factory's model, data, training, finetuning and generating arguments, parsed as if for one CPU process.

    Raises UserError where LLaMA-Factory refuses the configuration.
    """
    _quiet()
    from llamafactory.hparams import get_train_args

    values = {key: value for key, value in config.llamafactory().items() if key not in LATER}
    try:
        return get_train_args({**values, "report_to": "none", "overwrite_output_dir": True, "use_cpu": True})
    except (ValueError, TypeError, AssertionError, ImportError, OSError) as error:
        message = " ".join(str(error).split())
        named = next((config.where(word) for word in re.findall(r"\w+", message) if word in values), config.path)
        raise UserError(f"{named}: LLaMA-Factory refuses it: {message}") from None


def _quiet() -> None:
    """Keeps LLaMA-Factory and transformers from printing; LLaMA-Factory reads its level when it is imported."""
    os.environ.setdefault("LLAMAFACTORY_VERBOSITY", "ERROR")
    from transformers.utils import logging

    logging.set_verbosity_error()


def check_evaluation(config: TrainConfig) -> None:
    """An evaluation needs a set. The Trainer would notice only when it evaluates for the first time."""
    values = config.values
    for key, off in (("eval_strategy", "no"), ("eval_on_start", False), ("load_best_model_at_end", False)):
        if values.get(key, off) not in (off, None) and not (values.get("eval_dataset") or values.get("val_size")):
            raise UserError(
                f"{config.where(key)}: there is no eval_dataset to evaluate on; name one, or set {key}: {str(off).lower()}"
            )
    if values.get("load_best_model_at_end") and values.get("save_strategy", "steps") == "steps":
        evaluated, saved = (values.get(key, default) for key, default in (("eval_steps", 500), ("save_steps", 500)))
        if evaluated != saved:
            raise UserError(
                f"{config.where('save_steps')}: load_best_model_at_end chooses only among saved states, and eval_steps is "
                f"{evaluated}; set both to the same number"
            )


def check_template(config: TrainConfig) -> None:
    """`template` writes the prompt that the model's own chat template writes. A hub model is not downloaded for this.

    scripts/check_training.py compares every row of the training sets token by token.
    """
    from llamafactory.data.template import TEMPLATES

    name, model = str(config.values["template"]), str(config.values["model_name_or_path"])
    if name not in TEMPLATES:
        raise UserError(f"{config.where('template')}: LLaMA-Factory has no such template{cli.nearest(name, TEMPLATES)}")
    folder = folder_of(model)
    is_here = folder and (Path(model).is_dir() or (folder / "tokenizer_config.json").is_file())
    if is_here and (fault := _template_fault(name, str(folder))):
        raise UserError(f"{config.where('template')}: does not fit {model}: {fault}")


@lru_cache
def _template_fault(name: str, folder: str) -> str | None:
    """Why a template of LLaMA-Factory does not fit the model of a folder, with those that fit; None if it fits."""
    from llamafactory.data.template import TEMPLATES

    tokenizer = load_tokenizer(folder)
    messages = prompts.student_messages(prompts.PROBE["question"])
    served = encode(tokenizer, messages, thinking=False)
    trained = _prompt_by(TEMPLATES[name], tokenizer, messages)
    # The served prompt may continue with an empty think block; only enable_thinking decides whether it is trained.
    if served[: len(trained)] != trained:
        texts = [tokenizer.decode([token for token in ids if token is not None]) for ids in (trained, served)]
        if dated := _date_fault(texts[1]):
            return dated
        begins = [text[:40] for text in texts]
        fault = f"it begins a prompt with {begins[0]!r}, the model's own template with {begins[1]!r}"
    elif name not in _usable_templates(folder):
        fault = "it wants an image processor, which the model does not have"
    else:
        return None
    return f"{fault}; fitting are {', '.join(_fitting_templates(folder)[:5]) or 'none'}"


def _date_fault(prompt: str) -> str | None:
    """Why no template of LLaMA-Factory writes this prompt, if it has a date; else None."""
    if date := re.search(DATES, prompt):
        return (
            f"the model's own template writes a date into every prompt ({date[0]!r}), and no template of LLaMA-Factory "
            "does; copy the model's folder and remove the date from its chat_template.jinja"
        )
    return None


def choose_template(model: str) -> str:
    """The template of LLaMA-Factory that writes the prompts of a model on this machine, and is named most like its type.

    Raises UserError, with what can be done, if there is none.
    """
    folder = str(folder_of(model))
    if fitting := _fitting_templates(folder):
        return fitting[0]
    tokenizer = load_tokenizer(folder)
    served = tokenizer.decode(encode(tokenizer, prompts.student_messages(prompts.PROBE["question"]), thinking=False))
    other = (
        f"no template of LLaMA-Factory writes the prompt of its own template, which begins with {served[:40]!r}; copy the "
        "model's folder and write ChatML into its chat_template.jinja, or take another student"
    )
    raise UserError(f"{model}: {_date_fault(served) or other}")


def _fitting_templates(folder: str) -> list[str]:
    """The templates that write the model's own prompt without thinking, those named most like its type first."""
    from llamafactory.data.template import TEMPLATES

    tokenizer = load_tokenizer(folder)
    messages = prompts.student_messages(prompts.PROBE["question"])
    served = encode(tokenizer, messages, thinking=False)
    fitting = [
        one
        for one in _usable_templates(folder)
        if _prompt_by(TEMPLATES[one], tokenizer, messages) + _no_thought(TEMPLATES[one], tokenizer) == served
    ]
    kind = str(read_json(Path(folder) / "config.json").get("model_type"))
    return sorted(fitting, key=lambda one: -SequenceMatcher(None, one, kind).ratio())


def _usable_templates(folder: str) -> list[str]:
    """The templates that do not want a processor which the model does not have."""
    from llamafactory.data.template import TEMPLATES

    has_processor = any((Path(folder) / file).is_file() for file in PROCESSOR_FILES)
    return [one for one in TEMPLATES if has_processor or not _wants_processor(TEMPLATES[one])]


def _wants_processor(template: Any) -> bool:
    """Whether LLaMA-Factory asks for an image or sound processor even where rows are texts only."""
    from llamafactory.data.mm_plugin import BasePlugin

    return type(template.mm_plugin) is not BasePlugin


def _prompt_by(template: Any, tokenizer: Any, messages: list[prompts.Message]) -> list[int]:
    """The ids of a prompt as a template of LLaMA-Factory writes it for training, without a think block."""
    system, user = messages
    turns = [user, {"role": "assistant", "content": "".join(template.thought_words)}]
    return template.encode_oneturn(tokenizer, turns, system=system["content"])[0]


def _no_thought(template: Any, tokenizer: Any) -> list[int]:
    """The ids of the empty think block that a template with `enable_thinking: false` ends every prompt with."""
    from llamafactory.data.template import ReasoningTemplate

    return template.get_thought_word_ids(tokenizer) if isinstance(template, ReasoningTemplate) else []


def check_precision(config: TrainConfig) -> None:
    """Half precision needs a GPU that has it, or for `bf16` with `use_cpu: true` a CPU that multiplies bfloat16."""
    from llamafactory.extras.misc import get_current_device
    from transformers.utils import is_torch_bf16_gpu_available

    for key in HALF_PRECISION:
        if config.values.get(key) is True:
            if get_current_device().type == "cpu":
                _check_cpu_precision(config, key)
                continue
            if "bf16" in key and not is_torch_bf16_gpu_available():
                raise UserError(f"{config.where(key)}: this GPU has no bfloat16; set fp16: true and {key}: false")


def _check_cpu_precision(config: TrainConfig, key: str) -> None:
    """On a CPU, LLaMA-Factory trains in half precision only with `bf16` and `use_cpu` together."""
    if key == "bf16" and not machine.multiplies_bfloat16():
        raise UserError(
            f"{config.where(key)}: this machine has no GPU, and its CPU no units for bfloat16; set {key}: false"
        )
    if key == "bf16" and config.values.get("use_cpu") is True:
        return
    also = ", or add use_cpu: true to train in bfloat16 on this CPU" if key == "bf16" else ""
    raise UserError(
        f"{config.where(key)}: this machine has no GPU, where training is in float32; set {key}: false{also}"
    )


def check_start(config: TrainConfig) -> None:
    """The adapters that the training starts from are there, and fit the model."""
    for key in filter(config.values.get, ADAPTERS):
        if not (Path(config.values[key]) / adapters.WEIGHTS).is_file():
            raise UserError(f"{config.where(key)}: {config.values[key]} holds no adapter; train that method first")
        _check_fit(config, key, "teacher" if key == "teacher_adapter" else "model_name_or_path")
    if config.distills:
        check_teacher(config)


def _check_fit(config: TrainConfig, key: str, base: str) -> None:
    """The adapter that a key names fits the model that the key `base` names."""
    try:
        adapters.check(str(config.values[base]), Path(config.values[key]))
    except UserError as error:
        raise UserError(f"{config.where(key)}: {error}") from None


def teacher_adapter(config: TrainConfig) -> str | None:
    """The folder of the teacher's adapter, which a method of this run may still have to train; None without one."""
    teacher = str(config.values["teacher"])
    of_this_run = Path(teacher).parent == config.output_dir.parent
    if teacher != START and (of_this_run or (Path(teacher) / adapters.WEIGHTS).is_file()):
        return teacher
    return config.values.get("teacher_adapter")


def check_teacher(config: TrainConfig) -> None:
    """The teacher is there: the start of the student, an adapter for the student's model, or a model."""
    teacher, adapter = str(config.values["teacher"]), teacher_adapter(config)
    if config.values.get("teacher_adapter") and teacher in (START, adapter):
        raise UserError(f"{config.where('teacher_adapter')}: needs a model as `teacher`, found {teacher!r}")
    if teacher == adapter:
        if not (Path(adapter) / adapters.WEIGHTS).is_file():
            raise UserError(f"{config.where('teacher')}: {teacher} holds no adapter; train that method first")
        _check_fit(config, "teacher", "model_name_or_path")
    elif teacher != START:
        try:
            check_model(teacher)
        except UserError as error:
            raise UserError(f"{config.where('teacher')}: {error}") from None
