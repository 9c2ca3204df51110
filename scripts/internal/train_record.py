"""Prepares and records one training for scripts/train.sh. LLaMA-Factory or scripts/distill.py does the training itself.

    python scripts/internal/train_record.py begin configs/smollm2_cpu/train/distilled.yaml [--run DIR] [key=value ...]
    python scripts/internal/train_record.py finish configs/smollm2_cpu/train/distilled.yaml [--run DIR] [key=value ...]

`begin` checks the configuration, renames damaged checkpoints, writes the merged YAML to <output_dir>.yaml and prints
that path on the last line. It exits with 4 if there is something to train, and with 0 if the training is done already.
`join` does the same on the other machines of a training, but writes only the YAML. `finish` writes
<output_dir>.manifest.json with counts, trained tokens and the loss curve.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import shutil
import sys
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from statistics import fmean

import yaml

from cotkit.core import cli
from cotkit.core.errors import UserError
from cotkit.core.files import write_if_changed
from cotkit.core.jsonl import Row, read_json
from cotkit.core.lineage import WEIGHTS
from cotkit.core.manifest import Manifest
from cotkit.core.quantities import clock
from cotkit.generation import prompts
from cotkit.training import budget, preflight
from cotkit.training.config import ACCURACIES, DISTILL_KEYS, PROGRESS, TrainConfig, read_config

# LLaMA-Factory writes str(timedelta): 0:05:19, or 1 day, 2:00:00.
ELAPSED = re.compile(r'"elapsed_time": "(?:(\d+) days?, )?(\d+):(\d+):(\d+)"')


def trainer_state(folder: Path) -> Row:
    """The Trainer's state. Its log may hold Infinity: the gradient of a step that float16's loss scaling skipped.

    Raises OSError or ValueError if it cannot be read.
    """
    return json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))


def can_resume(checkpoint: Path) -> bool:
    """Whether a checkpoint is undamaged: its state is JSON, its weights are readable, and it has an optimizer."""
    from safetensors import SafetensorError, safe_open

    weights = list(checkpoint.glob("*.safetensors"))
    try:
        trainer_state(checkpoint)
        for file in weights:
            with safe_open(file, framework="np"):
                pass
    except (ValueError, OSError, SafetensorError):
        return False
    # optimizer.pt is the Trainer's, the others are DeepSpeed's and FSDP's.
    return bool(weights) and any(any(checkpoint.glob(name)) for name in ("optimizer.pt", "global_step*", "optimizer_*"))


def newest_checkpoint(output_dir: Path) -> Path | None:
    """The newest checkpoint that can be resumed from. Renames every newer one to ``damaged-*``."""
    for checkpoint in sorted(output_dir.glob("checkpoint-*"), key=lambda path: -int(path.name.partition("-")[2])):
        if can_resume(checkpoint):
            return checkpoint
        checkpoint.rename(checkpoint.with_name(f"damaged-{checkpoint.name}"))
        print(f"{checkpoint}: is damaged (killed while it was written?); set aside as damaged-{checkpoint.name}")
    return None


def nothing_made(config: TrainConfig, manifest: Manifest) -> bool:
    """Whether an earlier training began and left nothing to go on from, as when memory ran out. Its settings then bind nobody."""
    if not manifest.path.exists() or manifest.read().get("status") != "running":
        return False
    has_weights = (config.output_dir / WEIGHTS).is_file()
    return not has_weights and not any(map(can_resume, config.output_dir.glob("checkpoint-*")))


def begin(args: argparse.Namespace, config: TrainConfig) -> int:
    manifest = config.manifest(args.overwrite)
    state = "new" if nothing_made(config, manifest) else manifest.check()
    output_dir = config.output_dir
    if state == "done":
        print(f"{output_dir}: trained already, nothing to do")
        return 0
    preflight.check(config)
    merged = write_merged(config, args.processes)
    if args.step == "begin":
        if output_dir.exists():
            checkpoint = newest_checkpoint(output_dir) if state == "resume" else None
            if checkpoint:
                print(f"{output_dir}: resuming from {checkpoint.name}")
            else:
                shutil.rmtree(output_dir)
        manifest.begin()
    print(merged)
    return cli.NOT_DONE


def write_merged(config: TrainConfig, processes: int) -> Path:
    """Writes the YAML that the training gets, for so many processes; returns its path."""
    own = {key: config.values[key] for key in ("stage", *DISTILL_KEYS) if config.distills and key in config.values}
    values = {**config.llamafactory(), **own, **budget.divide_batch(config, processes)}
    if config.budget != "epochs":
        values["max_steps"] = budget.steps(config)
    path = config.output_dir.with_name(config.output_dir.name + ".yaml")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_if_changed(path, yaml.safe_dump(values, sort_keys=False, allow_unicode=True).encode("utf-8"))
    return path


def loss_curve(log: list[Row]) -> list[Row]:
    """Training and evaluation loss by step, where one was logged. A resumed training keeps its earlier log."""
    points: dict[int, Row] = {}
    for entry in log:
        found = {key: entry[key] for key in ("loss", "eval_loss") if key in entry}
        if found:
            points.setdefault(entry["step"], {"step": entry["step"]}).update(found)
    return [points[step] for step in sorted(points)]


def seconds_of_earlier_launches(log: Path) -> float:
    """Seconds that a resumed training took before its last launch.

    LLaMA-Factory's log starts again at 0 in each launch. A kill may leave a torn line, so the log is not read as JSON.
    """
    text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    elapsed = []
    for shown in ELAPSED.findall(text):
        days, hours, minutes, seconds = (int(part or 0) for part in shown)
        elapsed.append(timedelta(days, seconds, hours=hours, minutes=minutes).total_seconds())
    return sum(before for before, after in pairwise(elapsed) if after < before)


def distill_counts(output_dir: Path, state: Row) -> Row:
    """What only a distillation counts: tokens trained on and sampled, and the accuracies measured at its start."""
    progress = state["stateful_callbacks"][PROGRESS]
    tokens = {key: progress[key] for key in ("trained_tokens", "generated_tokens")}
    return {**tokens, **read_json(output_dir / ACCURACIES)}


def finish(args: argparse.Namespace, config: TrainConfig) -> int:
    output_dir, dataset = config.output_dir, str(config.values["dataset"])
    weights = output_dir / WEIGHTS
    if not weights.is_file():
        raise UserError(f"{output_dir}: holds no {WEIGHTS}; the training did not finish")
    state = trainer_state(output_dir)
    manifest = config.manifest(args.overwrite)
    if manifest.read().get("status") != "running":
        raise UserError(f"{manifest.path}: begin was not run")
    counts = {
        "steps": state["global_step"],
        "rows": budget.count_rows(config, dataset),
        "trained_tokens": round(state["epoch"] * budget.count_answer_tokens(config, dataset)),
        **dict(sorted(read_json(output_dir / "all_results.json").items())),
    }
    if config.distills:
        counts |= distill_counts(output_dir, state)
    losses = loss_curve(state["log_history"])
    if logged := [point["loss"] for point in losses if "loss" in point]:
        counts["train_loss"] = fmean(logged)  # the Trainer's own value leaves out the steps before a resume
    # The Trainer's own value leaves out the launches before a resume.
    counts["train_runtime"] += seconds_of_earlier_launches(output_dir / "trainer_log.jsonl")
    run = ["--run", str(args.run)] if args.run else []
    seed = [] if args.seed is None else ["--seed", str(args.seed)]
    manifest.finish(
        [weights, output_dir / "adapter_config.json"],
        counts,
        command=shlex.join(["bash", "scripts/train.sh", str(args.config_path), *run, *seed, *args.overrides]),
        prompt=prompts.wording_hash(prompts.student_messages(prompts.PROBE["question"])),
        processes=args.processes,
        losses=losses,
    )
    print(f"{output_dir}: {described(counts)}")
    return 0


def described(counts: Row) -> str:
    """The counts of a finished training for the screen; the manifest holds all of them."""
    held_out = f", held-out loss {counts['eval_loss']:.4g}" if "eval_loss" in counts else ""
    done = f"{counts['steps']} steps, {counts['rows']} rows, {counts['trained_tokens']} trained tokens{held_out}"
    return f"trained in {clock(counts['train_runtime'])}: {done}"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("begin", "join", "finish"))
    parser.add_argument("config_path", type=Path, metavar="YAML")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--run", type=Path, metavar="DIR", help="the run's folder (default outputs/<preset>)")
    parser.add_argument("--seed", type=int, metavar="N", help="one of several: the adapter is <method>.seed<N>")
    parser.add_argument("--processes", type=cli.positive_int, default=1, metavar="N", help="in all (default 1)")
    parser.add_argument("--overwrite", action="store_true", help="train again where an adapter exists")
    args = parser.parse_intermixed_args(argv)
    config = read_config(args.config_path, args.overrides, args.run, args.seed)
    return finish(args, config) if args.step == "finish" else begin(args, config)


if __name__ == "__main__":
    sys.exit(cli.run(main))
