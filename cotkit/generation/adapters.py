"""Refuses an adapter that would not change the model as it was trained to.

peft passes over tensors whose names it does not expect, and layers without tensors stay as they are: the base model's texts
would then be recorded as the method's. So every tensor of the file must be used, and every layer that the configuration
names must have its own. `check` reads only adapter_config.json and the headers of safetensors files, unless these cannot
tell. `check_on_model` asks peft itself, on a model without weights.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from cotkit.core import lineage, model_identity
from cotkit.core.errors import UserError
from cotkit.core.jsonl import Row, read_json
from cotkit.core.lineage import WEIGHTS

log = logging.getLogger(__name__)

Shapes = dict[str, tuple[int, ...]]

CONFIG = "adapter_config.json"
PREFIX = "base_model.model."  # of every tensor that peft saves
UNUSED = "so peft would not use it; save the adapter with peft's save_pretrained"
DEFAULT_RANK = 8  # of peft's LoraConfig

# The tensors of a LoRA layer as peft saves them, such as `<layer>.lora_A.weight`, and what may follow the part's name.
LORA_TENSOR = re.compile(
    re.escape(PREFIX) + r"(?P<layer>.+)\.(?P<part>lora_(?:embedding_)?[AB]|lora_magnitude_vector)(?P<rest>(?:\..*)?)"
)
ENDINGS = {
    "lora_A": (".weight",),
    "lora_B": (".weight", ".bias"),
    "lora_embedding_A": ("",),
    "lora_embedding_B": ("",),
    "lora_magnitude_vector": ("", ".weight"),
}
PAIRS = (("lora_A.weight", "lora_B.weight"), ("lora_embedding_A", "lora_embedding_B"))
EMBEDDINGS = ("embed_tokens", "lm_head")  # saved whole where the vocabulary has grown (peft's EMBEDDING_LAYER_NAMES)

# The types of the keys of a configuration that are read here; null is a value of each.
KINDS = {
    "r": int,
    "rank_pattern": dict,
    "target_modules": list | str,
    "modules_to_save": list,
    "base_model_name_or_path": str,
}
# Keys with which the tensors of a configuration cannot be told from the names of the model's tensors alone.
NEEDS_THE_MODEL = ("exclude_modules", "layers_to_transform", "target_parameters", "trainable_token_indices")
NEEDS_THE_MODEL += ("use_dora", "lora_bias")


@dataclass(frozen=True)
class Adapter:
    """The configuration of an adapter, and the shape of each of its tensors by name."""

    folder: Path
    config: Row
    shapes: Shapes

    @property
    def base(self) -> str | None:
        """The model that it was trained on, as it was named there; None if the configuration does not say."""
        return self.config.get("base_model_name_or_path") or None

    def origin(self) -> Row:
        """What it was made from, for the manifest of its texts, so that scores can be refused to another adapter's texts."""
        return {"adapter_base": self.base, "adapter_training": lineage.training_of(self.folder)}

    @property
    def is_lora(self) -> bool:
        return self.config["peft_type"] == "LORA"

    def layers(self) -> dict[str, Shapes]:
        """The LoRA layers by name, each with its tensors by their part, such as ``lora_A.weight``."""
        found: dict[str, Shapes] = defaultdict(dict)
        for name, shape in sorted(self.shapes.items()):
            if match := LORA_TENSOR.fullmatch(name):
                found[match["layer"]][match["part"] + match["rest"]] = shape
        return found

    def rank(self, layer: str) -> int:
        """The rank that the configuration gives a layer: that of the first matching `rank_pattern`, else `r`."""
        for pattern, rank in (self.config.get("rank_pattern") or {}).items():
            if re.match(rf"(.*\.)?({pattern})$", layer):
                return rank
        return self.config.get("r") or DEFAULT_RANK

    def targets(self, layer: str) -> bool:
        """Whether `target_modules` names a layer; True where only the model can tell."""
        targets = self.config.get("target_modules")
        if not isinstance(targets, list) or self.config.get("target_parameters"):
            return True
        return any(layer == target or layer.endswith(f".{target}") for target in targets)

    def error(self, fact: str) -> UserError:
        return UserError(f"{self.folder}: {fact}")

    def misfit(self, model: str, fact: str) -> UserError:
        return self.error(f"does not fit {model}: {fact}")


def read(folder: Path) -> Adapter:
    """Reads an adapter's configuration and the header of its weights.

    Raises:
        UserError: a file is missing or damaged, or the tensors and the configuration contradict each other.
    """
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise UserError(f"{folder}: holds no {name}; give --lora_path the output_dir of a finished training")
    adapter = Adapter(folder, read_json(folder / CONFIG), shapes_of(folder / WEIGHTS))
    _check_config(adapter)
    if not adapter.shapes:
        raise adapter.error(f"{WEIGHTS} holds no tensor; train the adapter again")
    if adapter.is_lora:
        _check_names(adapter)
        _check_layers(adapter)
    return adapter


def _check_config(adapter: Adapter) -> None:
    config = adapter.config
    if not isinstance(config.get("peft_type"), str):
        raise adapter.error(f"{CONFIG} has no peft_type, so it is not an adapter's; give --lora_path another folder")
    for key, kind in KINDS.items():
        if config.get(key) is not None and not isinstance(config[key], kind):
            raise adapter.error(f"{CONFIG}: {key} has the value {config[key]!r}; train the adapter again")
    for pattern in [*(config.get("rank_pattern") or {}), *(config.get("modules_to_save") or [])]:
        try:
            re.compile(pattern)
        except re.error as error:
            raise adapter.error(f"{CONFIG}: {pattern!r} is no regular expression ({error})") from None


def shapes_of(path: Path) -> Shapes:
    """The shape of every tensor in a safetensors file, from its header. Raises UserError if the file is damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118  not a dict
    except (SafetensorError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: not a complete safetensors file ({reason}); copy or train it again") from None


def _check_names(adapter: Adapter) -> None:
    """Every tensor is one that peft saves for this configuration. Raises UserError naming the first other one."""
    config = adapter.config
    whole = [*(config.get("modules_to_save") or []), *EMBEDDINGS]
    for name in adapter.shapes:
        if not name.startswith(PREFIX):
            raise adapter.error(f"tensor {name} lacks the prefix {PREFIX}, {UNUSED}")
        if match := LORA_TENSOR.fullmatch(name):
            endings = ENDINGS[match["part"]]
            if match["rest"] not in endings:
                raise adapter.error(f"tensor {name} does not end in {match['part']}{endings[0]}, {UNUSED}")
            if not adapter.targets(match["layer"]):
                raise adapter.error(f"tensor {name} is of no layer that target_modules in {CONFIG} names, {UNUSED}")
        elif ".modules_to_save." in name or ".original_module." in name:
            raise adapter.error(f"tensor {name} has a name that peft gives in memory and not in files, {UNUSED}")
        elif not (
            any(re.match(rf".*\.{module}($|\..*)", name) for module in whole)
            or (config.get("bias", "none") != "none" and name.endswith(".bias"))
            or (config.get("trainable_token_indices") and name.endswith(".trainable_tokens_delta"))
        ):
            raise adapter.error(f"tensor {name} is nothing that {CONFIG} names, {UNUSED}")


def _check_layers(adapter: Adapter) -> None:
    """Every LoRA layer has both its tensors, of its rank. Raises UserError naming the first that has not."""
    if adapter.config.get("target_parameters"):
        return  # the ranks of these are multiplied by the number of experts
    for layer, parts in adapter.layers().items():
        pair = PAIRS["lora_embedding_A" in parts or "lora_embedding_B" in parts]
        for part in pair:
            if part not in parts:
                raise adapter.error(f"{layer} has {', '.join(parts)} but no {part}; train the adapter again")
        found, said = (parts[pair[0]][0], parts[pair[1]][1]), adapter.rank(layer)
        if found != (said, said):
            shapes = " and ".join(f"{part} {list(parts[part])}" for part in pair)
            raise adapter.error(f"{layer} has {shapes}, but its rank in {CONFIG} is {said}; train the adapter again")


def check(model: str, folder: Path) -> None:
    """Raises UserError, in one line, if an adapter is damaged, does not fit a model or was trained on another one.

    A hub model that is not on this machine yet is left to `check_on_model`.
    """
    adapter = read(folder)
    files = model_identity.folder_of(model)
    if files is not None:
        weights = _weights_of(files)
        _check_shapes(adapter, model, weights)
        if _headers_can_tell(adapter, weights):
            _check_complete(adapter, model, weights)
        else:
            check_on_model(model, folder)
    check_base(adapter, model)


def _weights_of(files: Path) -> Shapes:
    """The shapes of a model's tensors. Those of further layers, which only predict later tokens, are left out."""
    config = read_json(files / "config.json")
    layers = {**config, **(config.get("text_config") or {})}.get("num_hidden_layers")
    shapes: Shapes = {}
    for path in sorted(files.glob("model*.safetensors")):
        shapes |= shapes_of(path)
    further = re.compile(rf"model\.layers\.{layers}\.")  # DeepSeek V3 has such a layer (multi-token prediction)
    return {name: shape for name, shape in shapes.items() if not further.match(name)}


def _headers_can_tell(adapter: Adapter, weights: Shapes) -> bool:
    """Whether the layers that the adapter means can be found by name among the tensors of the model's files.

    Some models rename tensors while they are loaded; then the adapter's names are not those of the files.
    """
    config = adapter.config
    plain = adapter.is_lora and isinstance(config.get("target_modules"), list) and config.get("bias", "none") == "none"
    if not plain or any(map(config.get, NEEDS_THE_MODEL)):
        return False
    return all(len(weights.get(f"{layer}.weight", ())) == 2 for layer in adapter.layers())


def _check_shapes(adapter: Adapter, model: str, weights: Shapes) -> None:
    """LoRA layers have the inputs and outputs of the model's layers of the same names."""
    for layer, parts in adapter.layers().items():
        is_embedding = "lora_embedding_A" in parts
        pair, shape = PAIRS[is_embedding], weights.get(f"{layer}.weight", ())
        if len(shape) != 2 or adapter.config.get("target_parameters"):
            continue
        inputs, outputs = shape if is_embedding or adapter.config.get("fan_in_fan_out") else shape[::-1]
        for found, has, what in ((parts[pair[0]][1], inputs, "inputs"), (parts[pair[1]][0], outputs, "outputs")):
            if found != has:
                raise adapter.misfit(model, f"{layer} takes {found} {what}, the model has {has} {what} there")


def _check_complete(adapter: Adapter, model: str, weights: Shapes) -> None:
    """Every layer of the model that the configuration names has tensors."""
    layers, meant = adapter.layers(), []
    for name, shape in weights.items():
        layer, found = name.removesuffix(".weight"), adapter.shapes.get(PREFIX + name)
        if any(re.match(rf"(^|.*\.){module}\.", name) for module in adapter.config.get("modules_to_save") or []):
            if found != shape:
                has = "is missing" if found is None else f"has shape {list(found)}"
                raise adapter.misfit(model, f"{name}, of modules_to_save, {has}; the model's has {list(shape)}")
        # Experts are one tensor for all of them once a model is loaded, which target_modules does not reach.
        elif layer != name and len(shape) == 2 and adapter.targets(layer) and ".experts." not in layer:
            meant.append(layer)
    if lacking := [layer for layer in meant if layer not in layers]:
        fact = f"{len(lacking)} of the {len(meant)} layers that target_modules names have no tensors"
        raise adapter.misfit(model, f"{fact}, such as {lacking[0]}; train the adapter again")


def check_on_model(model: str, folder: Path) -> None:
    """Compares an adapter with what peft would save for its configuration on this model, built without weights.

    Raises:
        UserError: the model cannot be built, or a tensor is missing, unused or of another shape.
    """
    adapter = read(folder)
    expected, taken = _tensors_on_model(adapter, model)
    for name, shape in adapter.shapes.items():
        if name not in taken:
            raise adapter.misfit(model, f"tensor {name} has no place in the model, {UNUSED}")
        if shape != taken[name]:
            raise adapter.misfit(model, f"tensor {name} has shape {list(shape)}, the model's {list(taken[name])}")
    if missing := [name for name in expected if name not in adapter.shapes]:
        fact = f"{len(missing)} of {len(expected)} tensors are missing, such as {missing[0]}"
        raise adapter.misfit(model, f"{fact}; train the adapter again")


def _tensors_on_model(adapter: Adapter, model: str) -> tuple[Shapes, Shapes]:
    """The tensors that peft would save, and those that it would take from a file: embeddings too."""
    import torch
    from peft import PeftConfig, PeftModel, get_peft_model_state_dict
    from transformers import AutoConfig, AutoModelForCausalLM

    def shapes(state: dict[str, torch.Tensor]) -> Shapes:
        return {name: tuple(tensor.shape) for name, tensor in state.items()}

    try:
        with torch.device("meta"):
            base = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model))
    except (OSError, ValueError) as error:
        raise not_loadable(model, error) from None
    try:
        config = PeftConfig.from_pretrained(adapter.folder)
        if config.is_prompt_learning:
            raise adapter.error(f"is a {adapter.config['peft_type']} adapter, which cannot be merged into weights")
        config.init_lora_weights = False  # some ways to initialise them need the model's weights
        with torch.device("meta"), warnings.catch_warnings(action="ignore"):
            wrapped = PeftModel(base, config)
            saved = shapes(get_peft_model_state_dict(wrapped, save_embedding_layers=False))
    except (ValueError, KeyError, TypeError, RuntimeError, NotImplementedError) as error:
        raise adapter.misfit(model, str(error).splitlines()[0]) from None
    whole = {name: shape for name, shape in shapes(wrapped.state_dict()).items() if {*name.split(".")} & {*EMBEDDINGS}}
    return saved, whole | saved


def not_loadable(model: str, error: Exception) -> UserError:
    return UserError(f"{model}: cannot be loaded as a model ({str(error).splitlines()[0]})")


def check_base(adapter: Adapter, model: str) -> None:
    """The model in hand is the one that the adapter was trained on.

    It warns where that one is not on this machine, so that nothing can be compared.

    Raises:
        UserError: it is another model, or its files have changed since.
    """
    lineage.check_weights(adapter.folder)
    trained = lineage.training_of(adapter.folder)
    base = trained["model"]["name"] if trained else adapter.base
    if base is None:
        return
    if trained:
        same = model_identity.is_same_record(trained["model"], model_identity.describe(model))
    else:
        same = model_identity.is_same(base, model)
    if same is None:
        text = "warning: %s: was trained on %s, which is not on this machine and so cannot be compared with %s"
        log.warning(text, adapter.folder, base, model)
    elif not same and base.rstrip("/") == model.rstrip("/"):
        raise adapter.error(f"was trained on {model} before that model's files were changed; train the adapter again")
    elif not same:
        raise adapter.error(f"was trained on {base}, which is another model than {model}; give --base_model {base}")
