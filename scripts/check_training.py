"""Checks, before anything is trained, that a preset's methods train exactly what inference serves.

Reads   <preset>/train.yaml, train/*.yaml, infer.yaml and <run>/datasets; writes nothing

    python scripts/check_training.py configs/smollm2_cpu                       every method, on outputs/smollm2_cpu
    python scripts/check_training.py configs/smollm2_cpu --methods distilled --run outputs/try
    python scripts/check_training.py configs/smollm2_cpu --adapter             also: trained adapters, attached and merged

It sends every row through LLaMA-Factory's own loader and template and checks that the prompt's token ids are those that
inference writes, that no row is dropped or truncated, that only the answer is trained, that think blocks are neither
added nor deleted, and that the last trained token ends the turn at which inference stops. A failure names the row, both
token sequences where they first differ, and the line to change. The exit code is then 1.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from cotkit.core import cli, yaml_file
from cotkit.core.errors import UserError
from cotkit.filtering.options import empty_sets, unfillable_sets
from cotkit.training import preflight
from cotkit.training.config import TrainConfig, methods_of, read_config, teacher_method


def is_trained(config: TrainConfig) -> bool:
    manifest = config.manifest()
    if not manifest.path.exists() or manifest.read().get("status") != "done":
        return False  # train.sh decides whether it goes on or starts anew
    return manifest.check() == "done"


def configs_of(args: argparse.Namespace) -> list[TrainConfig]:
    """The methods to check. One seed stands for all seeds of a method, because they train on the same rows."""
    chosen, tutor = [], teacher_method(args.preset)
    run = args.run or Path("outputs") / args.preset.name
    unfillable = unfillable_sets(args.preset) | empty_sets(run)
    for path in methods_of(args.preset, args.methods, unfillable):
        seeds = [None] if path.stem == tutor else args.seeds or [None]
        variants = [read_config(path, args.overrides, args.run, seed) for seed in seeds]
        if not args.untrained or args.overwrite or not all(map(is_trained, variants)):
            chosen.append(variants[0])
    return chosen


def check_rows(config: TrainConfig, thinking: bool) -> bool:
    """Prints what was compared and found; returns whether nothing was wrong."""
    from cotkit.training.distill_data import teacher_findings
    from cotkit.training.prompt_parity import check_method

    report = check_method(config, thinking)
    if config.distills:
        report.findings += teacher_findings(config, thinking)
    verdict = "NOT as served" if report.findings else "prompts, answers and ends are what inference serves"
    print(
        f"{config.path.stem}: {report.rows} rows load, the longest has {report.longest} tokens, "
        f"{report.trained_tokens} trained tokens per epoch: {verdict}"
    )
    for finding in report.findings:
        print(f"  {finding}")
    return not report.findings


def check_adapter(config: TrainConfig) -> bool:
    """Prints whether a trained adapter is served as it was trained; returns True also where there is no adapter yet."""
    from cotkit.training.adapter_parity import adapter_problem

    if not (config.output_dir / "adapter_model.safetensors").is_file():
        print(f"{config.path.stem}: no adapter in {config.output_dir} yet")
        return True
    problem = adapter_problem(str(config.values["model_name_or_path"]), config.output_dir)
    fine = "attached and merged it writes the same text; its tokenizer and end of turn are those of inference"
    print(f"{config.path.stem}: adapter: {problem or fine}")
    return problem is None


def main(argv: list[str] | None = None) -> int:
    parser = cli.StageParser(__doc__)
    parser.add_argument("preset", type=Path, metavar="PRESET", help="a folder below configs/")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="as for scripts/train.sh")
    parser.add_argument("--run", type=Path, metavar="DIR", help="the run's folder (default outputs/<preset>)")
    parser.add_argument("--methods", metavar="LIST", default="all", help="a,b,c or all (default)")
    parser.add_argument("--adapter", action="store_true", help="also compare adapters, attached and merged")
    parser.add_argument("--untrained", action="store_true", help="only methods that are not trained yet")
    parser.add_argument("--seeds", type=int, nargs="*", metavar="N", help="seeds that --untrained looks for")
    parser.add_argument("--overwrite", action="store_true", help="with --untrained: all will be trained again")
    args = parser.parse(argv)
    thinking = yaml_file.read_yaml(args.preset / "infer.yaml").get("thinking", (False, 1))[0]
    configs = configs_of(args)
    for config in configs:
        preflight.check(config, this_machine=False)
    fine = [check_rows(config, thinking) for config in configs]
    if args.adapter:
        fine += [check_adapter(config) for config in configs]
    if not all(fine):
        raise UserError(f"{fine.count(False)} of {len(fine)} checks failed: inference would not serve what is trained")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
