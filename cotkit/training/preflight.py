"""What LLaMA-Factory would refuse only after seconds of imports or after loading a model, said in well under a second.

Its keys and chat templates are read from the installed package's source, so they are those of the version at hand.
"""

from __future__ import annotations

import ast
import importlib.util
import json
from collections.abc import Iterator
from difflib import SequenceMatcher
from functools import cache
from pathlib import Path
from typing import Any

from cotkit.core import cli
from cotkit.core.errors import UserError
from cotkit.core.jsonl import Row, read_json
from cotkit.generation import prompts
from cotkit.training.config import ADAPTERS, OWN_KEYS, TrainConfig

# The dataclasses that LLaMA-Factory's parser of training files is made of.
ARGUMENT_FILES = {
    "llamafactory": (
        "hparams/model_args.py",
        "hparams/data_args.py",
        "hparams/finetuning_args.py",
        "hparams/generating_args.py",
        "hparams/training_args.py",
    ),
    "transformers": ("training_args.py", "training_args_seq2seq.py"),
}
ACCELERATORS = (
    "nvidia[0-9]*",
    "kfd",
    "dxg",
    "davinci[0-9]*",
    "xpu*",
)  # device files of NVIDIA, AMD, WSL, Ascend, Intel
HALF_PRECISION = ("bf16", "fp16", "pure_bf16", "fp8")


def check(config: TrainConfig, this_machine: bool = True) -> None:
    """Raises UserError, naming the line to change, for what cannot be trained as it is written.

    Args:
        this_machine: also that it can be trained here and now: the precision, and the adapter that it starts from.
    """
    check_keys(config)
    check_template(config)
    check_evaluation(config)
    config.datasets()
    if this_machine:
        check_precision(config)
        check_start(config)


def check_evaluation(config: TrainConfig) -> None:
    """What is evaluated needs a set: the Trainer says so only when it begins."""
    values = config.values
    for key, off in (("eval_strategy", "no"), ("eval_on_start", False), ("load_best_model_at_end", False)):
        if values.get(key, off) not in (off, None) and not (values.get("eval_dataset") or values.get("val_size")):
            raise UserError(
                f"{config.where(key)}: there is no eval_dataset to evaluate on; name one, or set {key}: {str(off).lower()}"
            )


def check_start(config: TrainConfig) -> None:
    """A method that starts from an adapter finds it."""
    for key in filter(config.values.get, ADAPTERS):
        if not (Path(config.values[key]) / "adapter_model.safetensors").is_file():
            raise UserError(f"{config.where(key)}: {config.values[key]} holds no adapter; train that method first")


@cache
def known_keys() -> frozenset[str]:
    """Every key of a training YAML that the installed LLaMA-Factory takes."""
    found: set[str] = set()
    for package, names in ARGUMENT_FILES.items():
        for name in names:
            for node in ast.parse((_folder(package) / name).read_text(encoding="utf-8")).body:
                if isinstance(node, ast.ClassDef):
                    found.update(_fields(node))
    return frozenset(found)


def _fields(node: ast.ClassDef) -> Iterator[str]:
    """The fields of a dataclass that its constructor takes."""
    for line in node.body:
        if not isinstance(line, ast.AnnAssign) or not isinstance(line.target, ast.Name):
            continue
        options = line.value.keywords if isinstance(line.value, ast.Call) else []
        if not any(option.arg == "init" and ast.unparse(option.value) == "False" for option in options):
            yield line.target.id


def _folder(package: str) -> Path:
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise UserError(f"{package} is not installed; run scripts/setup.sh")
    return Path(found.origin).parent


def check_keys(config: TrainConfig) -> None:
    for key in config.values:
        if key not in known_keys() and key not in OWN_KEYS:
            raise UserError(f"{config.where(key)}: LLaMA-Factory has no key {key!r}{_nearest(key)}")


def _nearest(key: str) -> str:
    hint = cli.nearest(key, [*known_keys(), *OWN_KEYS])
    return hint if "did you mean" in hint else "; its keys are in its documentation"


def check_precision(config: TrainConfig) -> None:
    """Half precision needs an accelerator: LLaMA-Factory refuses it on a CPU."""
    for key in HALF_PRECISION:
        if config.values.get(key) is True and not any(any(Path("/dev").glob(name)) for name in ACCELERATORS):
            raise UserError(
                f"{config.where(key)}: this machine has no GPU, where training is in float32; set {key}: false"
            )


@cache
def templates() -> dict[str, Row]:
    """Name -> literal arguments of every registered template: its slots, class and default system prompt."""
    tree = ast.parse((_folder("llamafactory") / "data/template.py").read_text(encoding="utf-8"))
    found = {}
    for node in tree.body:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            options = {word.arg: _literal(word.value) for word in node.value.keywords if word.arg}
            if isinstance(options.get("name"), str):
                found[str(options["name"])] = options
    return found


def _literal(node: ast.expr) -> Any:
    """A constant, the slots of a formatter, the name of a class; None for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Call):
        node = next((word.value for word in node.keywords if word.arg == "slots"), node)
    try:
        return ast.literal_eval(node)
    except ValueError:
        return None


def prompt_by(template: Row, tokenizer: Row, messages: list[prompts.Message]) -> str | None:
    """The training prompt of a template as text; None for a class of templates that arranges it in a way of its own."""
    if template.get("template_class") not in (None, "Template", "ReasoningTemplate"):
        return None
    system, user = (message["content"] for message in messages)
    parts = [
        *(template.get("format_prefix") or []),
        *_filled(template.get("format_system"), system),
        *_filled(template.get("format_user"), user),
    ]
    return "".join(part if isinstance(part, str) else _special(part, tokenizer) for part in parts)


def _filled(slots: list[Any] | None, content: str) -> list[Any]:
    return [
        slot.replace("{{content}}", content) if isinstance(slot, str) else slot for slot in slots or ["{{content}}"]
    ]


def _special(slot: Any, tokenizer: Row) -> str:
    """{"token": x} is x itself, {"bos_token"} and {"eos_token"} are the tokenizer's."""
    if isinstance(slot, dict):
        return str(slot.get("token", ""))
    token = tokenizer.get(next(iter(slot))) or ""
    return str(token["content"] if isinstance(token, dict) else token)


def served_prompt(folder: Path, messages: list[prompts.Message]) -> tuple[str, Row] | None:
    """The prompt by the chat template in a model's folder, and its tokenizer's settings; None where there is none."""
    from jinja2 import TemplateError
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    settings = folder / "tokenizer_config.json"
    if not settings.is_file():
        return None
    tokenizer = read_json(settings)
    file = folder / "chat_template.jinja"
    text = file.read_text(encoding="utf-8") if file.is_file() else tokenizer.get("chat_template")
    if not isinstance(text, str):
        return None
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    specials = {name: _special({name}, tokenizer) for name in ("bos_token", "eos_token")}
    try:
        rendered = environment.from_string(text).render(messages=messages, add_generation_prompt=True, **specials)
    except TemplateError:
        return None  # it needs more than this; scripts/check_training.py renders it with transformers
    return rendered, tokenizer


def check_template(config: TrainConfig) -> None:
    """The chat format of `template` is that of the model, where the model is a folder; the token by token comparison
    is that of scripts/check_training.py."""
    name = str(config.values["template"])
    if name not in templates():
        raise UserError(
            f"{config.where('template')}: LLaMA-Factory has no template {name!r}{cli.nearest(name, templates())}"
        )
    messages = prompts.student_messages(prompts.PROBE["question"])
    served = served_prompt(Path(config.values["model_name_or_path"]), messages)
    if served is None:
        return
    text, tokenizer = served
    trained = prompt_by(templates()[name], tokenizer, messages)
    # A chat template may go on with a think block; whether that fits is the token by token comparison's business.
    if trained is not None and not text.startswith(trained):
        fits = [other for other, template in templates().items() if text == prompt_by(template, tokenizer, messages)]
        kind = str(read_json(Path(config.values["model_name_or_path"]) / "config.json").get("model_type"))
        fits.sort(key=lambda other: -SequenceMatcher(None, other, kind).ratio())
        raise UserError(
            f"{config.where('template')}: does not belong to {config.values['model_name_or_path']}: it begins a prompt with "
            f"{trained[:40]!r}, the model's own template with {text[:40]!r}; fitting are {', '.join(fits[:5]) or 'none'}"
        )
