"""Reads a preset folder for scripts/pipeline.sh.

Checks that every stage has its YAML and that they name one student. Prints the data sets, the prepared ones that have a
test split, the test files that training problems must not repeat, the methods to train in order, or the number of rounds:

    python scripts/internal/preset.py configs/smollm2_cpu datasets
    python scripts/internal/preset.py configs/smollm2_cpu test_sets
    python scripts/internal/preset.py configs/smollm2_cpu test_paths
    python scripts/internal/preset.py configs/smollm2_cpu methods --methods all
    python scripts/internal/preset.py configs/smollm2_cpu rounds
"""

from __future__ import annotations

import sys
from pathlib import Path

from cotkit.core import cli, description
from cotkit.core.errors import UserError
from cotkit.core.model_identity import is_same
from cotkit.core.problems import problem_path
from cotkit.generation import engines
from cotkit.generation.options import BACKENDS, EngineOptions
from cotkit.training.config import BASE, methods_of

STAGE_FILES = ("data.yaml", "teacher.yaml", "filter.yaml", "infer.yaml", "score.yaml")
OPTIONAL_FILE = "critic.yaml"


def datasets_of(preset: Path) -> list[str]:
    """The data sets of a preset. Raises UserError for a stage's file that is missing, not YAML, or names a second student."""
    critic = [preset / OPTIONAL_FILE] if (preset / OPTIONAL_FILE).exists() else []
    for path in [*(preset / name for name in STAGE_FILES), *critic, *methods_of(preset)]:
        cli.read_yaml(path)
    check_student(preset)
    return description.datasets_of(preset / "data.yaml")


def check_student(preset: Path) -> None:
    """Raises UserError if training, filter and inference do not name the same model: an adapter fits only its own base."""
    files = [preset / BASE] if (preset / BASE).is_file() else []
    keys = [(path, "model_name_or_path") for path in [*files, *methods_of(preset, "all")]]
    keys.append((preset / "filter.yaml", "student_model"))
    backend = cli.read_yaml(preset / "infer.yaml").get("backend", ("transformers", 1))[0]
    if backend in BACKENDS and engines.model_with_files(EngineOptions(backend, "any")):
        keys.append((preset / "infer.yaml", "base_model"))  # a served model may have any name
    first = None
    for path, key in keys:
        value, line = cli.read_yaml(path).get(key, (None, 1))
        for name in value.values() if isinstance(value, dict) else [value]:  # by data set
            place = f"{path}:{line}: {key}: {name}"
            if first and name and not is_same(str(name), first[0]):
                raise UserError(f"{place} is another student than {first[1]}; write the same model in both lines")
            first = first or (name and (str(name), place))


def test_paths_of(preset: Path) -> list[Path]:
    """The test files of the preset's data sets; none if filter.yaml names its own, with `test_paths`."""
    if "test_paths" in cli.read_yaml(preset / "filter.yaml"):
        return []
    config = preset / "data.yaml"
    return [problem_path(description.data_root_of(config), name) for name in description.test_sets_of(config)]


def main(argv: list[str] | None = None) -> int:
    parser = cli.StageParser(__doc__)
    parser.add_argument("preset", type=Path, help="folder such as configs/smollm2_cpu")
    parser.add_argument("what", choices=("datasets", "test_sets", "test_paths", "methods", "rounds"))
    parser.add_argument("--methods", metavar="LIST", help="a,b,c or all (default: the key `methods` of train.yaml)")
    args = parser.parse(argv)
    if args.what == "rounds":
        print(len(cli.rounds_of(args.preset / "teacher.yaml")))
    elif args.what == "datasets":
        print("\n".join(datasets_of(args.preset)))
    elif args.what == "test_sets":
        print("\n".join(description.test_sets_of(args.preset / "data.yaml")))
    elif args.what == "test_paths":
        print("\n".join(map(str, test_paths_of(args.preset))))
    else:
        print("\n".join(path.stem for path in methods_of(args.preset, args.methods)))
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
