"""Reads a preset folder for scripts/pipeline.sh.

Prints the data sets to test on, the test files that training problems must not repeat, the methods to train in order, the
one of them that is the teacher, what is asked for the methods that have questions of their own (a line each: the method,
its training set, the file, how many questions, and samples of each; `-` for the usual), or the number of rounds:

    python scripts/internal/preset.py configs/smollm2_cpu test_sets
    python scripts/internal/preset.py configs/smollm2_cpu test_paths
    python scripts/internal/preset.py configs/smollm2_cpu methods --methods all
    python scripts/internal/preset.py configs/smollm2_study teacher
    python scripts/internal/preset.py configs/smollm2_study questions --methods more_questions
    python scripts/internal/preset.py configs/smollm2_cpu rounds
"""

from __future__ import annotations

import sys
from pathlib import Path

from cotkit.core import cli, yaml_file
from cotkit.core.problems import problem_path
from cotkit.filtering.options import empty_sets, unfillable_sets
from cotkit.preparation import description
from cotkit.training.config import methods_of, teacher_method, without_rows


def test_paths_of(preset: Path) -> list[Path]:
    """The test files of the preset's data sets; none if filter.yaml names its own, with `test_paths`."""
    if "test_paths" in yaml_file.read_yaml(preset / "filter.yaml"):
        return []
    config = preset / "data.yaml"
    return [problem_path(description.data_root_of(config), name) for name in description.test_sets_of(config)]


def own_questions(path: Path) -> list[str]:
    """What the teacher is asked for a method with questions of its own; nothing for other methods."""
    values = {key: value for key, (value, _) in yaml_file.read_yaml(path).items()}
    if "questions_path" not in values:
        return []
    words = (values.get(key, "-") for key in ("dataset", "questions_path", "questions", "votes"))
    return [path.stem, *map(str, words)]


def main(argv: list[str] | None = None) -> int:
    parser = cli.StageParser(__doc__)
    parser.add_argument("preset", type=Path, help="folder such as configs/smollm2_cpu")
    parser.add_argument("what", choices=("test_sets", "test_paths", "methods", "teacher", "questions", "rounds"))
    parser.add_argument("--methods", metavar="LIST", help="a,b,c or all (default: the key `methods` of train.yaml)")
    parser.add_argument(
        "--run", type=Path, metavar="DIR", help="a run that is filtered: methods without rows are left out"
    )
    args = parser.parse(argv)
    if args.what == "rounds":
        print(len(yaml_file.rounds_of(args.preset / "teacher.yaml")))
    elif args.what == "test_sets":
        print("\n".join(description.test_sets_of(args.preset / "data.yaml")))
    elif args.what == "teacher":
        print(teacher_method(args.preset) or "")
    elif args.what == "test_paths":
        print("\n".join(map(str, test_paths_of(args.preset))))
    elif args.what == "questions":
        methods = methods_of(args.preset, args.methods, unfillable_sets(args.preset))
        print("\n".join("\t".join(words) for path in methods if (words := own_questions(path))))
    else:
        known, found = unfillable_sets(args.preset), empty_sets(args.run) if args.run else {}
        if args.methods == "all":  # with a run, only what was not known before
            news = {name: found[name] for name in found if name not in known} if args.run else known
            for name, reason in without_rows(args.preset, news).items():
                print(f"method {name} is left out: {reason}", file=sys.stderr)
        print("\n".join(path.stem for path in methods_of(args.preset, args.methods, known | found)))
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
