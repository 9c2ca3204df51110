"""The configuration of one method: the preset's `train.yaml`, then the method's own YAML, then overrides.

``configs/<preset>/train.yaml`` holds the hyperparameters of all methods. ``train/<method>.yaml`` holds only what one
method does differently, so that a comparison of methods compares data. All keys are LLaMA-Factory's except `methods`
(those that the pipeline trains), `budget` (see cotkit/training/budget.py), `start_from`, those of `OWN_SETS`, and those of
`DistillOptions`, which belong to `stage: distill`. `dataset_dir` and `output_dir` follow from the run's folder.
`start_from: distilled` trains the adapter of that method in the same run further.

A method may have a training set of its own, in <run>/datasets/<method>. `gold_path: FILE` trains on the solutions of these
problems, which scripts/gold_set.py makes into a set, without any teacher; with `split_steps: true` they are first
rewritten to one operation at a time (cotkit/equations/split_steps.py). `questions_path: FILE` trains on the teacher's
solutions of these questions, whose answers scripts/vote.py finds by vote: the teacher writes `votes` samples of each of the
first `questions` of them (by default as many as teacher.yaml says, and all). `sets_of: METHOD` takes the set of that method.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from cotkit.core import cli, yaml_file
from cotkit.core.errors import UserError
from cotkit.core.files import elsewhere
from cotkit.core.jsonl import Row, read_json
from cotkit.core.manifest import Input, Manifest
from cotkit.core.model_identity import fingerprint

BASE = "train.yaml"
NOTHING: Mapping[str, str] = MappingProxyType({})
DISTILL = "distill"  # the value of `stage` for scripts/distill.py; all others are LLaMA-Factory's
OWN_SETS = ("gold_path", "questions_path")  # keys of a method with a training set of its own
QUESTION_KEYS = ("questions", "votes")  # of a method with questions_path
GOLD_KEYS = ("split_steps",)  # of a method with gold_path
SET_KEYS = (*OWN_SETS, *QUESTION_KEYS, *GOLD_KEYS, "sets_of")
OWN_KEYS = ("budget", "methods", "start_from", *SET_KEYS)
DEFAULT_SEED = 42  # of transformers' TrainingArguments
REQUIRED = ("model_name_or_path", "dataset", "dataset_dir", "template", "output_dir", "stage")
# Keys that hold an adapter: a folder, or the name of a method of the same run.
ADAPTERS = ("adapter_name_or_path", "ref_model_adapters", "teacher_adapter")
PROGRESS = "distill"  # where the Trainer's state, and so every checkpoint, holds counts and lengths of samples
ACCURACIES = "accuracies.json"  # in the adapter's folder: what student and teacher solve before the training
START = "start"  # the value of `teacher` for the student as it is before the training
# Keys that do not change the trained weights. An adapter's path is replaced by a hash of its content.
NOT_IDENTITY = {
    *[
        "output_dir",
        "report_to",
        "run_name",
        "logging_steps",
        "plot_loss",
        "overwrite_cache",
        "dataset_dir",
        "methods",
        "ref_model",
    ],
    *["preprocessing_num_workers", "dataloader_num_workers", "disable_tqdm", "eval_on_start"],
    *["save_steps", "save_strategy", "save_total_limit", "deepspeed", "fsdp", "fsdp_config"],
    *["start_from", *SET_KEYS, "teacher", *ADAPTERS],
}


@dataclass(frozen=True)
class DistillOptions:
    """The keys of `stage: distill`; docs/DISTILLATION.md explains each.

    Attributes:
        teacher: ``start``, a method of this run, an adapter's folder, or a model's folder or hub name.
        teacher_adapter: an adapter of the teacher, where `teacher` is a model.
        on_policy: the share of rows whose answer the student writes anew, 0 to 1.
        kl, jsd_beta, kl_clip, temperature, kd_weight: see cotkit/training/distill_loss.py.
        max_new_tokens, sample_temperature: of the student's samples. The former also holds for measuring accuracy.
        max_truncated: the share of truncated samples above which the training stops.
    """

    teacher: str
    teacher_adapter: str | None = None
    teacher_reads: Literal["student_prompt", "reference", "other_reference"] = "student_prompt"
    on_policy: float = 0.0
    kl: Literal["forward", "reverse", "jsd"] = "forward"
    jsd_beta: float = 0.5
    kl_clip: float | None = None
    temperature: float = 1.0
    kd_weight: float = 1.0
    max_new_tokens: int = 256
    sample_temperature: float = 1.0
    max_truncated: float = 0.5


DISTILL_KEYS = tuple(field.name for field in fields(DistillOptions))


@dataclass(frozen=True)
class TrainConfig:
    """The merged keys of one method.

    Attributes:
        values: references such as ``${oc.env:NAME}`` are kept as written, so that no secret gets into a file.
        lines: the place where each key is set, as ``file:line``.
    """

    path: Path
    values: Row
    lines: dict[str, str]

    def where(self, key: str) -> str:
        """``file:line: `key: value` ``: the line to change. For a key that is not set, the file to add it to."""
        if key in self.lines:
            return f"{self.lines[key]}: `{key}: {self.values.get(key)}`"
        return f"{self.path}: `{key}` (not set there)"

    @property
    def output_dir(self) -> Path:
        return Path(self.values["output_dir"])

    @property
    def budget(self) -> str:
        return str(self.values.get("budget", "epochs"))

    @property
    def distills(self) -> bool:
        return self.values["stage"] == DISTILL

    def llamafactory(self) -> Row:
        """The keys for LLaMA-Factory. A key that is set to null is left out and gets LLaMA-Factory's default.

        To LLaMA-Factory, which prepares model, rows and arguments of the distillation stage too, that stage is SFT.
        """
        own = (*OWN_KEYS, *DISTILL_KEYS) if self.distills else OWN_KEYS
        values = {key: value for key, value in self.values.items() if key not in own and value is not None}
        return {**values, "stage": "sft"} if self.distills else values

    def files_of(self, names: str | None, key: str) -> dict[str, Path]:
        """Name -> file for a comma list of training sets, which `key` names. Raises UserError for an unknown set."""
        index_path = self._index(names if key == "budget" else None)
        if not index_path.is_file():
            raise UserError(f"{index_path}: not found; {self._writer_of_sets()}")
        index, found = read_json(index_path), {}
        for name in filter(None, str(names or "").replace(" ", "").split(",")):
            if name not in index:
                raise UserError(f"{self.where(key)}: no set {name!r} in {index_path}{_remedy(key, name, index)}")
            found[name] = index_path.with_name(index[name]["file_name"])
        return found

    def _index(self, of_budget: str | None) -> Path:
        """The index of the method's sets; of the run's sets for a budget that names one that is none of the method's own."""
        folder = Path(self.values["dataset_dir"])
        own = folder / "dataset_info.json"
        is_own = of_budget in (None, self.values["dataset"]) or not has_own_sets(self.values)
        return own if is_own else folder.with_name("dataset_info.json")

    def _writer_of_sets(self) -> str:
        if "gold_path" not in self.values:
            return "filter_teacher_cot.py writes it"
        run = str(self.output_dir.parents[1])
        return "make it with: " + shlex.join(["python", "scripts/gold_set.py", str(self.path), "--run", run])

    def training_files(self) -> dict[str, Path]:
        """Name -> file of the sets that are trained on. Raises UserError for an unknown set."""
        return self.files_of(self.values["dataset"], "dataset")

    def all_files(self) -> dict[str, Path]:
        """Name -> file of the training and evaluation sets. Raises UserError for an unknown set."""
        return self.training_files() | self.files_of(self.values.get("eval_dataset"), "eval_dataset")

    def manifest(self, overwrite: bool = False) -> Manifest:
        """The manifest beside the adapter, which identifies this training."""
        settings = {key: value for key, value in self.values.items() if key not in NOT_IDENTITY and value is not None}
        if self.budget == "epochs":
            settings.pop("budget", None)
        model, seed = self.values["model_name_or_path"], self.values.get("seed", DEFAULT_SEED)
        settings["model_files"] = fingerprint(model)
        for key in filter(self.values.get, (*ADAPTERS, "teacher")):
            settings[f"{key}_files"] = fingerprint(self.values[key])
        inputs = {name: Input(path) for name, path in self.all_files().items()}
        return Manifest(
            "train",
            self.output_dir,
            settings,
            inputs,
            model,
            seed,
            overwrite=overwrite,
            again=self.command_to_train_anew(),
        )

    def command_to_train_anew(self) -> str:
        """The command that trains this method alone, from the start, in its run."""
        seed = self.output_dir.name.removeprefix(self.path.stem).removeprefix(".seed")
        words = ["--run", str(self.output_dir.parents[1]), *(["--seed", seed] if seed else []), "--overwrite"]
        return shlex.join(["bash", "scripts/train.sh", str(self.path), *words])


def _remedy(key: str, name: str, index: Row) -> str:
    """What to do about a set that is missing. No training set is suggested for an evaluation."""
    if key == "eval_dataset":
        how = "filter_teacher_cot.py writes gold_dev with --dev_path PROBLEMS; or evaluate nothing with"
        return f"; {how} eval_dataset: null, eval_strategy: 'no' and eval_on_start: false"
    return cli.nearest(name, index)


def read_config(path: Path, overrides: list[str], run: Path | None = None, seed: int | None = None) -> TrainConfig:
    """Reads a method's YAML with its preset's `train.yaml` and ``key=value`` overrides.

    Args:
        run: the folder of the run, by default outputs/<preset>. A YAML outside of a preset has no default.
        seed: one of several seeds. The method is then called ``<method>.seed<N>``.

    Raises UserError for an unreadable file, an override that is not ``key=value``, and a missing required key.
    """
    from omegaconf import OmegaConf

    if not path.is_file():
        raise UserError(f"{path}: no such file; {elsewhere(path) or 'the YAML of a method is expected'}")
    base, in_preset = path.parent.with_name(BASE), path.parent.name == "train"
    files = [base, path] if in_preset and base.is_file() else [path]
    lines = {key: f"{file}:{line}" for file in files for key, (_, line) in yaml_file.read_yaml(file).items()}
    for override in overrides:
        if "=" not in override:
            raise UserError(f"{override!r}: an override is written key=value")
    given = OmegaConf.from_cli(overrides if seed is None else [*overrides, f"seed={seed}"])
    run = run or (Path("outputs") / path.parents[1].name if in_preset else None)
    suffix = "" if seed is None else f".seed{seed}"
    method, derived = path.stem + suffix, {}
    if run:
        derived = {"dataset_dir": f"{run / 'datasets' / set_folder(path)}", "output_dir": f"{run / 'train' / method}"}
        derived["run_name"] = f"{run.name}-{method}"
    merged = OmegaConf.merge(OmegaConf.create(derived), *map(OmegaConf.load, files), given)
    values: Row = OmegaConf.to_container(merged, resolve=False)  # type: ignore[assignment]
    lines |= dict.fromkeys(map(str, given), "command line")
    values = {key: yaml_file.home_expanded(value) for key, value in values.items()}
    if values.get("start_from"):
        if values.get("adapter_name_or_path") not in (None, values["start_from"]):
            raise UserError(
                f"{lines['start_from']}: start_from and adapter_name_or_path are the same; remove one of them"
            )
        values["adapter_name_or_path"] = values["start_from"]
    tutor = teacher_method(path.parents[1]) if in_preset else None  # one for all seeds
    for key in (*ADAPTERS, "teacher"):
        name = str(values.get(key) or "")
        if run and name and "/" not in name and (key, name) != ("teacher", START):
            known = [file.stem for file in path.parent.glob("*.yaml")]
            if in_preset and name not in known:
                raise UserError(f"{lines.get(key, path)}: {key}: no method {name!r}{cli.nearest(name, known)}")
            values[key] = str(run / "train" / (name if name == tutor else name + suffix))
    if values.get("ref_model_adapters"):
        values.setdefault("ref_model", values["model_name_or_path"])
    for key in REQUIRED:
        if not values.get(key):
            raise UserError(f"{path}: key {key!r} is missing; it has {', '.join(lines)}")
    return TrainConfig(path, values, lines)


def has_own_sets(keys: Collection[str]) -> bool:
    """Whether a method with these keys trains on sets that are not those of the run's filter."""
    return not set(keys).isdisjoint((*OWN_SETS, "sets_of"))


def set_folder(path: Path) -> str:
    """The folder of a method's training sets below <run>/datasets; "" for those of the run's filter.

    Raises UserError if `sets_of` names no method of the preset that has sets of its own.
    """
    values = yaml_file.read_yaml(path)
    if "sets_of" not in values:
        return path.stem if has_own_sets(values) else ""
    name, line = values["sets_of"]
    known = [
        file.stem for file in path.parent.glob("*.yaml") if not yaml_file.read_yaml(file).keys().isdisjoint(OWN_SETS)
    ]
    if name not in known:
        raise UserError(
            f"{path}:{line}: sets_of: no method {name!r} with a set of its own{cli.nearest(str(name), known)}"
        )
    return str(name)


def teacher_method(preset: Path) -> str | None:
    """The method that is the preset's teacher: `lora_path` of its teacher.yaml, where that is a name without a slash.

    It is trained before the teacher is asked, once for all seeds. Raises UserError if there is no such method, or if it
    needs rows of a teacher itself.
    """
    file = preset / "teacher.yaml"
    value, line = (yaml_file.read_yaml(file) if file.is_file() else {}).get("lora_path", (None, 1))
    name = str(value or "")
    if not name or "/" in name:
        return None
    files = {path.stem: path for path in (preset / "train").glob("*.yaml")}
    place = f"{file}:{line}: lora_path: {name}"
    if name not in files:
        raise UserError(f"{place}: no such method{cli.nearest(name, files)}; write ./{name} for a folder")
    if "gold_path" not in yaml_file.read_yaml(files[name]) or _starts(files[name]):
        raise UserError(
            f"{place}: this method is trained before all others; {files[name]} needs `gold_path: PROBLEMS` and no other adapter"
        )
    return name


def without_rows(preset: Path, unfillable: Mapping[str, str]) -> dict[str, str]:
    """Method -> reason, for the methods whose training set the filter cannot fill, and those that start from such a one.

    Args:
        unfillable: set -> reason, from `unfillable_sets` in cotkit/filtering/options.py.
    """
    base = yaml_file.read_yaml(preset / BASE) if (preset / BASE).is_file() else {}
    found, files = {}, sorted((preset / "train").glob("*.yaml"))
    for path in files:
        names, line = {**base, **yaml_file.read_yaml(path)}.get("dataset", ("", 1))
        for name in str(names).replace(" ", "").split(","):
            if name in unfillable:
                found[path.stem] = f"{path}:{line}: dataset: {name}: {unfillable[name]}"
    starts = {path: _starts(path) for path in files}
    while more := {
        path.stem: f"{path}: starts from {start}, which has no rows"
        for path in files
        for start in starts[path]
        if start in found and path.stem not in found
    }:
        found |= more
    return found


def methods_of(preset: Path, wanted: str | None = None, unfillable: Mapping[str, str] = NOTHING) -> list[Path]:
    """The YAML files of the methods to train, in order: a method comes after those whose adapters it needs.

    The method that is the preset's teacher (`teacher_method`) comes first, whether it is wanted or not.

    Args:
        wanted: a comma list or ``all``. The default is the key `methods` of train.yaml, or all if there is no such key.
        unfillable: see `without_rows`, whose methods ``all`` leaves out.

    Raises UserError for an unknown method, one that is named and can have no rows, and one that starts from a method that
    is not among those to train.
    """
    files = {path.stem: path for path in sorted((preset / "train").glob("*.yaml"))}
    if not files:
        raise UserError(f"{preset}/train: holds no <method>.yaml")
    base = yaml_file.read_yaml(preset / BASE) if (preset / BASE).is_file() else {}
    listed = list(base.get("methods", (list(files), 1))[0])
    everything = [*listed, *(name for name in files if name not in listed)]
    names = everything if wanted == "all" else wanted.split(",") if wanted else listed
    for name in names:
        if name not in files:
            raise UserError(f"{preset}/train: no method {name!r}{cli.nearest(str(name), files)}")
    empty = without_rows(preset, unfillable)
    if wanted == "all":
        names = [name for name in names if name not in empty]
    if tutor := teacher_method(preset):
        names = [tutor, *(name for name in names if name != tutor)]
    for name in names:
        if name in empty:
            raise UserError(empty[name])
    starts = {name: [start for start in _starts(files[name]) if start in files] for name in names}
    for name in names:
        if missing := [start for start in starts[name] if start not in names]:
            raise UserError(
                f"{files[name]}: starts from {missing[0]!r}, which is not among the methods {', '.join(names)}"
            )
    ordered: list[str] = []
    while left := [name for name in names if name not in ordered]:
        ready = [name for name in left if set(starts[name]) <= set(ordered)]
        if not ready:
            raise UserError(f"{preset}/train: {', '.join(left)} start from one another; change one of them")
        ordered += ready
    return [files[name] for name in ordered]


def _starts(path: Path) -> list[str]:
    """The values with which a method's YAML may name methods that come before it."""
    values = yaml_file.read_yaml(path)
    return [str(values[key][0]) for key in ("start_from", "sets_of", "teacher", *ADAPTERS) if key in values]
