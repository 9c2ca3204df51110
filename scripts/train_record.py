"""The record beside a trained adapter, for scripts/train.sh; the training itself is LLaMA-Factory's.

    python scripts/train_record.py begin configs/smollm2_cpu/train/distilled.yaml [key=value ...]
    python scripts/train_record.py finish configs/smollm2_cpu/train/distilled.yaml [key=value ...]

`begin` checks what LLaMA-Factory would only find after loading the model, sets a damaged newest checkpoint aside, and
exits with 4 if there is something to train, 0 if it is done already. `finish` writes <output_dir>.manifest.json.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cotkit import cli, generate
from cotkit.files import DataError
from cotkit.jsonl import Row, read_json
from cotkit.manifest import Input, Manifest
from cotkit.model_files import fingerprint

# Keys that change nothing in the trained weights.
NOT_IDENTITY = ("output_dir", "report_to", "run_name", "logging_steps", "plot_loss", "overwrite_cache", "dataset_dir",
                "preprocessing_num_workers", "dataloader_num_workers", "save_steps", "save_strategy",
                "save_total_limit", "disable_tqdm")  # fmt: skip
TRAINER_SEED = 42  # the Trainer's own where the YAML names none
NEEDED = ("model_name_or_path", "dataset", "dataset_dir", "template", "output_dir", "stage")


def read_config(path: Path, overrides: list[str]) -> Row:
    """The YAML file with its overrides, merged as LLaMA-Factory merges them; references are left unresolved, so that
    what they draw from the environment is never written down."""
    from omegaconf import OmegaConf

    known = cli.read_yaml(path)
    for override in overrides:
        if "=" not in override:
            raise DataError(f"{override!r}: an override is written key=value")
    merged = OmegaConf.merge(OmegaConf.load(path), OmegaConf.from_cli(overrides))
    config: Row = OmegaConf.to_container(merged, resolve=False)  # type: ignore[assignment]
    for key in NEEDED:
        if not config.get(key):
            raise DataError(f"{path}: key {key!r} is missing; it has {', '.join(known)}")
    return config


def dataset_files(config: Row, path: Path) -> dict[str, Input]:
    """The training and evaluation files that the config names. Raises DataError for one that is not there."""
    folder = Path(config["dataset_dir"])
    index_path = folder / "dataset_info.json"
    if not index_path.is_file():
        raise DataError(f"{index_path}: not found; filter_teacher_cot.py writes it")
    index = read_json(index_path)
    found = {}
    for key in ("dataset", "eval_dataset"):
        for name in str(config.get(key) or "").split(","):
            if name and name.strip() not in index:
                raise DataError(f"{path}: {key} {name!r} is not in {index_path}{cli.nearest(name, index)}")
            if name:
                found[name.strip()] = Input(folder / index[name.strip()]["file_name"])
    return found


def manifest_of(args: argparse.Namespace, config: Row) -> Manifest:
    settings = {key: value for key, value in config.items() if key not in NOT_IDENTITY}
    settings["model_files"] = fingerprint(config["model_name_or_path"])
    inputs = dataset_files(config, args.config_path)
    model, seed = config["model_name_or_path"], config.get("seed", TRAINER_SEED)
    return Manifest("train", Path(config["output_dir"]), settings, inputs, model, seed, overwrite=args.overwrite)


def whole(checkpoint: Path) -> bool:
    """Whether a checkpoint can be resumed from: its state is JSON and its weights are readable."""
    from safetensors import SafetensorError, safe_open

    try:
        read_json(checkpoint / "trainer_state.json")
        for weights in checkpoint.glob("*.safetensors"):
            with safe_open(weights, framework="np") as file:
                list(file.keys())
    except (DataError, OSError, SafetensorError):
        return False
    return any(checkpoint.glob("*.safetensors")) and (checkpoint / "optimizer.pt").is_file()


def set_damaged_aside(output_dir: Path) -> list[Path]:
    """Renames every newest checkpoint that cannot be resumed from; returns the whole ones, oldest first."""
    numbered = sorted(output_dir.glob("checkpoint-*"), key=lambda path: int(path.name.partition("-")[2]))
    while numbered and not whole(numbered[-1]):
        damaged = numbered.pop()
        damaged.rename(damaged.with_name(f"damaged-{damaged.name}"))
        print(f"{damaged}: is damaged (killed while it was written?); set aside as damaged-{damaged.name}")
    return numbered


def begin(args: argparse.Namespace, config: Row) -> int:
    generate.check_model(config["model_name_or_path"])
    manifest = manifest_of(args, config)
    state = manifest.check()
    if state == "done":
        print(f"{manifest.output}: trained already, nothing to do")
        return 0
    output_dir = Path(config["output_dir"])
    if output_dir.exists():
        checkpoints = set_damaged_aside(output_dir) if state == "resume" else []
        if checkpoints:
            print(f"{output_dir}: resuming from {checkpoints[-1].name}")
        else:
            shutil.rmtree(output_dir)
    manifest.begin()
    return cli.NOT_DONE


def finish(args: argparse.Namespace, config: Row) -> int:
    output_dir = Path(config["output_dir"])
    weights = output_dir / "adapter_model.safetensors"
    if not weights.is_file():
        raise DataError(f"{output_dir}: holds no adapter_model.safetensors; the training did not finish")
    state = read_json(output_dir / "trainer_state.json")
    results = read_json(output_dir / "all_results.json")
    manifest = manifest_of(args, config)
    if manifest.read().get("status") != "running":
        raise DataError(f"{manifest.path}: begin was not run")
    counts: dict[str, Any] = {"steps": state["global_step"], **{key: results[key] for key in sorted(results)}}
    command = shlex.join(["bash", "scripts/train.sh", str(args.config_path), *args.overrides])
    manifest.finish([weights, output_dir / "adapter_config.json"], counts, command=command)
    print(f"{output_dir}: {json.dumps(counts)}")
    return 0


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("begin", "finish"))
    parser.add_argument("config_path", type=Path, metavar="YAML")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--overwrite", action="store_true", help="train anew where an adapter exists")
    args = parser.parse_args(argv)
    config = read_config(args.config_path, args.overrides)
    return begin(args, config) if args.step == "begin" else finish(args, config)


if __name__ == "__main__":
    sys.exit(cli.run(main))
