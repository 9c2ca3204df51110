"""The record beside a trained adapter, for scripts/train.sh; the training itself is LLaMA-Factory's.

    python scripts/internal/train_record.py begin configs/smollm2_cpu/train/distilled.yaml [--run DIR] [key=value ...]
    python scripts/internal/train_record.py finish configs/smollm2_cpu/train/distilled.yaml [--run DIR] [key=value ...]

`begin` checks what LLaMA-Factory would only find after loading the model, sets a damaged newest checkpoint aside, writes
the merged YAML as <output_dir>.yaml, prints that path last, and exits with 4 if there is something to train, 0 if it is
done already. `join` is for the other machines of a training: it changes nothing. `finish` writes
<output_dir>.manifest.json with counts, trained tokens and the loss curve.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import shutil
import sys
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

from cotkit.core import cli
from cotkit.core.errors import UserError
from cotkit.core.files import write_if_changed
from cotkit.core.jsonl import Row, read_json
from cotkit.generation import prompts
from cotkit.generation.chat_model import check_model
from cotkit.training import budget, preflight
from cotkit.training.config import TrainConfig, read_config

ELAPSED = re.compile(r'"elapsed_time": "((?:\d+ days?, )?\d+:\d+:\d+)"')


def whole(checkpoint: Path) -> bool:
    """Whether a checkpoint can be resumed from: its state is JSON and its weights are readable."""
    from safetensors import SafetensorError, safe_open

    try:
        read_json(checkpoint / "trainer_state.json")
        for weights in checkpoint.glob("*.safetensors"):
            with safe_open(weights, framework="np") as file:
                list(file.keys())
    except (UserError, OSError, SafetensorError):
        return False
    sharded = any(checkpoint.glob("global_step*")) or any(checkpoint.glob("optimizer_*"))  # DeepSpeed's and FSDP's
    return any(checkpoint.glob("*.safetensors")) and (sharded or (checkpoint / "optimizer.pt").is_file())


def set_damaged_aside(output_dir: Path) -> list[Path]:
    """Renames every newest checkpoint that cannot be resumed from; returns the whole ones, oldest first."""
    numbered = sorted(output_dir.glob("checkpoint-*"), key=lambda path: int(path.name.partition("-")[2]))
    while numbered and not whole(numbered[-1]):
        damaged = numbered.pop()
        damaged.rename(damaged.with_name(f"damaged-{damaged.name}"))
        print(f"{damaged}: is damaged (killed while it was written?); set aside as damaged-{damaged.name}")
    return numbered


def begin(args: argparse.Namespace, config: TrainConfig) -> int:
    check_model(config.values["model_name_or_path"])
    preflight.check(config)
    manifest = config.manifest(args.overwrite)
    state = manifest.check()
    output_dir = config.output_dir
    if state == "done":
        print(f"{output_dir}: trained already, nothing to do")
        return 0
    resolved = resolve(config, args.processes)
    if args.step == "join":
        print(resolved)
        return cli.NOT_DONE
    if output_dir.exists():
        checkpoints = set_damaged_aside(output_dir) if state == "resume" else []
        if checkpoints:
            print(f"{output_dir}: resuming from {checkpoints[-1].name}")
        else:
            shutil.rmtree(output_dir)
    manifest.begin()
    print(resolved)
    return cli.NOT_DONE


def resolve(config: TrainConfig, processes: int) -> Path:
    """Writes the plain LLaMA-Factory YAML of a method for so many processes; returns its path."""
    import yaml

    values = {**config.llamafactory(), **budget.divide_batch(config, processes)}
    if config.budget != "epochs":
        values["max_steps"] = budget.steps(config)
    path = config.output_dir.with_name(config.output_dir.name + ".yaml")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_if_changed(path, yaml.safe_dump(values, sort_keys=False, allow_unicode=True).encode("utf-8"))
    return path


def loss_curve(log: list[Row]) -> list[Row]:
    """Step, training loss and evaluation loss wherever one was logged; the log of a resumed training holds all of it."""
    points: dict[int, Row] = {}
    for entry in log:
        found = {key: entry[key] for key in ("loss", "eval_loss") if key in entry}
        if found:
            points.setdefault(entry["step"], {"step": entry["step"]}).update(found)
    return [points[step] for step in sorted(points)]


def seconds_of_earlier_launches(log: Path) -> float:
    """What a resumed training took before: LLaMA-Factory's log counts from 0 in each launch, up to its last entry.

    A kill may have torn a line, so the log is not read as JSON.
    """
    text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    elapsed = [seconds(clock) for clock in ELAPSED.findall(text)]
    return sum(before for before, after in pairwise(elapsed) if after < before)


def seconds(clock: str) -> float:
    """Of a `str(timedelta)`, as in 0:05:19 and 1 day, 2:00:00."""
    days, _, rest = clock.rpartition(" day")
    hours, minutes, rest = rest.split(" ")[-1].split(":")
    return 86400 * int(days or 0) + 3600 * int(hours) + 60 * int(minutes) + float(rest)


def finish(args: argparse.Namespace, config: TrainConfig) -> int:
    output_dir = config.output_dir
    weights = output_dir / "adapter_model.safetensors"
    if not weights.is_file():
        raise UserError(f"{output_dir}: holds no adapter_model.safetensors; the training did not finish")
    state = read_json(output_dir / "trainer_state.json")
    results = read_json(output_dir / "all_results.json")
    manifest = config.manifest(args.overwrite)
    if manifest.read().get("status") != "running":
        raise UserError(f"{manifest.path}: begin was not run")
    dataset = str(config.values["dataset"])
    counts: dict[str, Any] = {
        "steps": state["global_step"],
        "rows": budget.count_rows(config, dataset),
        "trained_tokens": round(state["epoch"] * budget.count_answer_tokens(config, dataset)),
        **{key: results[key] for key in sorted(results)},
    }
    losses = loss_curve(state["log_history"])
    if logged := [point["loss"] for point in losses if "loss" in point]:
        counts["train_loss"] = fmean(
            logged
        )  # the Trainer's own leaves out what came before a resume, as the next one does
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
    print(f"{output_dir}: {json.dumps(counts)}")
    return 0


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("begin", "join", "finish"))
    parser.add_argument("config_path", type=Path, metavar="YAML")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--run", type=Path, metavar="DIR", help="the run's folder (default outputs/<preset>)")
    parser.add_argument("--seed", type=int, metavar="N", help="one of several: the adapter is <method>.seed<N>")
    parser.add_argument(
        "--processes", type=cli.positive_int, default=1, metavar="N", help="of the training (default 1)"
    )
    parser.add_argument("--overwrite", action="store_true", help="train anew where an adapter exists")
    args = parser.parse_intermixed_args(argv)
    config = read_config(args.config_path, args.overrides, args.run, args.seed)
    return finish(args, config) if args.step == "finish" else begin(args, config)


if __name__ == "__main__":
    sys.exit(cli.run(main))
