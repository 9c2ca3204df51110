"""Reads a preset folder for scripts/pipeline.sh: checks that every stage has its YAML, prints what the shell needs.

python scripts/internal/preset.py configs/smollm2_cpu datasets                 one data set a line
python scripts/internal/preset.py configs/smollm2_cpu methods [--methods all]  the methods to train, in order
python scripts/internal/preset.py configs/smollm2_cpu rounds                   how often the teacher may be asked
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from cotkit.core import cli
from cotkit.core.datasets import PREPARABLE
from cotkit.core.errors import UserError
from cotkit.training.config import methods_of

CRITIC_FILE = "critic.yaml"  # the one stage that a preset may do without
STAGE_FILES = ("data.yaml", "teacher.yaml", "filter.yaml", "infer.yaml", "score.yaml")


def datasets_of(preset: Path) -> list[str]:
    """The data sets of a preset. Raises UserError where a stage's file is missing or cannot be parsed."""
    for name in STAGE_FILES:
        cli.read_yaml(preset / name)
    if (preset / CRITIC_FILE).exists():
        cli.read_yaml(preset / CRITIC_FILE)
    for method in methods_of(preset):
        cli.read_yaml(method)
    names, line = cli.read_yaml(preset / "data.yaml").get("dataset", ([], 1))
    for name in names:
        if name not in PREPARABLE:
            raise UserError(f"{preset}/data.yaml:{line}: no data set {name!r}{cli.nearest(name, PREPARABLE)}")
    return list(names)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("preset", type=Path)
    parser.add_argument("what", choices=("datasets", "methods", "rounds"))
    parser.add_argument("--methods", metavar="LIST", help="a,b,c or all (default: the key `methods` of train.yaml)")
    args = parser.parse_args(argv)
    if args.what == "rounds":
        print(len(cli.rounds_of(args.preset / "teacher.yaml")))
        return 0
    methods = [path.stem for path in methods_of(args.preset, args.methods)]
    print("\n".join(datasets_of(args.preset) if args.what == "datasets" else methods))
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
