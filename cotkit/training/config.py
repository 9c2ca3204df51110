"""What LLaMA-Factory is given for one method: `train.yaml` of the preset, then the method's own YAML, then overrides.

``configs/<preset>/train.yaml`` holds the hyperparameters of all methods and ``train/<method>.yaml`` what one of them does
otherwise, so that a comparison of methods compares data. Keys are LLaMA-Factory's, but for two in train.yaml: `methods`
(those that the pipeline trains) and `budget` (see cotkit/training/budget.py). `dataset_dir` and `output_dir` follow from
the run's folder; `adapter_name_or_path: distilled` starts from that method's adapter of the same run.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cotkit.core import cli
from cotkit.core.errors import UserError
from cotkit.core.jsonl import Row, read_json
from cotkit.core.manifest import Input, Manifest
from cotkit.core.model_identity import fingerprint

BASE = "train.yaml"
OWN_KEYS = ("budget", "methods")
TRAINER_SEED = 42  # the Trainer's own where the YAML names none
NEEDED = ("model_name_or_path", "dataset", "dataset_dir", "template", "output_dir", "stage")
# Keys that hold an adapter: a folder, or the name of a method of the same run.
ADAPTERS = ("adapter_name_or_path", "ref_model_adapters")
# Keys that change nothing in the trained weights; an adapter's path is replaced by its content.
NOT_IDENTITY = (
    "output_dir",
    "report_to",
    "run_name",
    "logging_steps",
    "plot_loss",
    "overwrite_cache",
    "dataset_dir",
    "preprocessing_num_workers",
    "dataloader_num_workers",
    "save_steps",
    "save_strategy",
    "save_total_limit",
    "disable_tqdm",
    "eval_on_start",
    "methods",
    "deepspeed",
    "fsdp",
    "fsdp_config",
    "ref_model",
    *ADAPTERS,
)


@dataclass(frozen=True)
class TrainConfig:
    """The merged keys of one method. References to the environment are left as they stand, so that what they draw from
    there is never written down; `lines` says where each key is set, as ``file:line``."""

    path: Path
    values: Row
    lines: dict[str, str]

    def where(self, key: str) -> str:
        """``file:line: key: value`` of the line to change, or where to add it."""
        if key in self.lines:
            return f"{self.lines[key]}: `{key}: {self.values.get(key)}`"
        return f"{self.path}: `{key}` (not set there)"

    @property
    def output_dir(self) -> Path:
        return Path(self.values["output_dir"])

    @property
    def budget(self) -> str:
        return str(self.values.get("budget", "epochs"))

    def llamafactory(self) -> Row:
        """The keys that are LLaMA-Factory's own; a key set to nothing is left to its default."""
        return {key: value for key, value in self.values.items() if key not in OWN_KEYS and value is not None}

    def datasets(self) -> dict[str, Path]:
        """Name -> file of the training and evaluation sets. Raises UserError for one that is not there."""
        folder = Path(self.values["dataset_dir"])
        index_path = folder / "dataset_info.json"
        if not index_path.is_file():
            raise UserError(f"{index_path}: not found; filter_teacher_cot.py writes it")
        index = read_json(index_path)
        found = {}
        for key in ("dataset", "eval_dataset"):
            for name in filter(None, str(self.values.get(key) or "").replace(" ", "").split(",")):
                if name not in index:
                    raise UserError(
                        f"{self.where(key)}: {key} {name!r} is not in {index_path}{cli.nearest(name, index)}"
                    )
                found[name] = folder / index[name]["file_name"]
        return found

    def manifest(self, overwrite: bool = False) -> Manifest:
        """The identity of the training, which lies beside its adapter."""
        settings = {key: value for key, value in self.values.items() if key not in NOT_IDENTITY and value is not None}
        if self.budget == "epochs":
            settings.pop("budget", None)
        model, seed = self.values["model_name_or_path"], self.values.get("seed", TRAINER_SEED)
        settings["model_files"] = fingerprint(model)
        for key in filter(self.values.get, ADAPTERS):
            settings[f"{key}_files"] = fingerprint(self.values[key])
        inputs = {name: Input(path) for name, path in self.datasets().items()}
        return Manifest("train", self.output_dir, settings, inputs, model, seed, overwrite=overwrite)


def read_config(path: Path, overrides: list[str], run: Path | None = None, seed: int | None = None) -> TrainConfig:
    """Reads a method's YAML with its preset's base and ``key=value`` overrides, merged as LLaMA-Factory merges them.

    Args:
        run: the folder of the run, by default outputs/<preset>; for a YAML outside of a preset there is none.
        seed: one of several; the method is then called ``<method>.seed<N>``.

    Raises UserError for a file that cannot be read, an override that is none, and a needed key that is missing.
    """
    from omegaconf import OmegaConf

    base, in_preset = path.parent.with_name(BASE), path.parent.name == "train"
    files = [base, path] if in_preset and base.is_file() else [path]
    lines = {key: f"{file}:{line}" for file in files for key, (_, line) in cli.read_yaml(file).items()}
    for override in overrides:
        if "=" not in override:
            raise UserError(f"{override!r}: an override is written key=value")
    extra = overrides if seed is None else [*overrides, f"seed={seed}"]
    given = OmegaConf.from_cli(extra)
    run = run or (Path("outputs") / path.parents[1].name if in_preset else None)
    suffix = "" if seed is None else f".seed{seed}"
    derived = _derived(run, path.stem + suffix) if run else {}
    merged = OmegaConf.merge(OmegaConf.create(derived), *map(OmegaConf.load, files), given)
    values: Row = OmegaConf.to_container(merged, resolve=False)  # type: ignore[assignment]
    lines |= dict.fromkeys(map(str, given), "command line")
    for key in ADAPTERS:
        if run and (name := str(values.get(key) or "")) and "/" not in name:
            values[key] = str(run / "train" / (name + suffix))
    if values.get("ref_model_adapters"):
        values.setdefault("ref_model", values["model_name_or_path"])
    for key in NEEDED:
        if not values.get(key):
            raise UserError(f"{path}: key {key!r} is missing; it has {', '.join(lines)}")
    return TrainConfig(path, values, lines)


def _derived(run: Path, method: str) -> Row:
    return {
        "dataset_dir": str(run / "datasets"),
        "output_dir": str(run / "train" / method),
        "run_name": f"{run.name}-{method}",
    }


def methods_of(preset: Path, wanted: str | None = None) -> list[Path]:
    """The methods that a preset trains, as YAML files in the order of training: one that starts from another's adapter
    comes after it. `wanted` is a comma list or ``all``, by default the key `methods` of train.yaml (without it, all).

    Raises UserError for a method that is not there and for one whose start is not trained before it.
    """
    files = {path.stem: path for path in sorted((preset / "train").glob("*.yaml"))}
    if not files:
        raise UserError(f"{preset}/train: holds no <method>.yaml")
    base = cli.read_yaml(preset / BASE) if (preset / BASE).is_file() else {}
    listed = list(base.get("methods", (list(files), 1))[0])
    everything = [*listed, *(name for name in files if name not in listed)]
    names = everything if wanted == "all" else wanted.split(",") if wanted else listed
    for name in names:
        if name not in files:
            raise UserError(f"{preset}/train: no method {name!r}{cli.nearest(str(name), files)}")
    starts = {name: str(cli.read_yaml(files[name]).get("adapter_name_or_path", ("", 1))[0] or "") for name in names}
    for name, start in starts.items():
        if start in files and start not in names:
            raise UserError(f"{files[name]}: starts from {start!r}, which is not among the methods {', '.join(names)}")
    return [files[name] for name in sorted(names, key=lambda name: (starts[name] in names, names.index(name)))]
