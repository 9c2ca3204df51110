"""Makes the training set of a method that needs no teacher: the solutions of the problems that its `gold_path` names.

Reads   <preset>/train/<method>.yaml with its `gold_path`, which holds problems
            {"id", "dataset", "split", "question", "solution", "answer"}
        the problems that teacher, filter and tests of the preset use, none of which may be among them
Writes  <run>/datasets/<method>/     the set, under the name that the method's `dataset` gives, gold_dev as the filter
                                     writes it, and dataset_info.json for LLaMA-Factory
            {"system": "...", "instruction": "...", "input": "", "output": "...\\n#### 18"}

    python scripts/gold_set.py configs/smollm2_study/train/expert.yaml
    python scripts/gold_set.py configs/smollm2_study/train/expert.yaml --run outputs/try --limit 100

With `split_steps: true` in the YAML, solutions are rewritten to one operation at a time: 3 + 9 + 12 = 12 + 12 = 24.

So a teacher can be trained before any teacher row exists: scripts/pipeline.sh does that where teacher.yaml's `lora_path`
names the method. The other sets of the run lie in <run>/datasets, which the filter writes.
"""

from __future__ import annotations

import sys
from itertools import chain
from pathlib import Path

from cotkit.core import cli, yaml_file
from cotkit.core.errors import UserError
from cotkit.core.files import locked
from cotkit.core.jsonl import Row
from cotkit.core.manifest import Input, Manifest
from cotkit.core.problems import numbered_inputs, problem_path, read_problem_files
from cotkit.filtering.contamination import TestQuestions
from cotkit.filtering.options import NGRAM, FilterOptions, preset_options
from cotkit.filtering.training_sets import GOLD_DEV, gold_rows, write_dataset_info, write_training_set
from cotkit.generation import prompts
from cotkit.preparation.description import data_root_of, test_sets_of
from cotkit.training.config import TrainConfig, read_config


def problems_of_others(preset: Path, options: FilterOptions) -> list[Path]:
    """The problem files of a preset that its teacher, its students and its tests see."""
    taught = [Path(path) for path, _ in yaml_file.listed(preset / "teacher.yaml", "input_path")]
    data = preset / "data.yaml"
    tests = [problem_path(data_root_of(data), name) for name in test_sets_of(data)]
    return list(dict.fromkeys([*taught, *options.problems_path, *options.dev_path, *options.test_paths, *tests]))


def refuse_shared(path: Path, problems: list[Row], others: list[Path]) -> None:
    """Raises UserError for a problem whose question is also, or is also a part of, a question of another file."""
    questions = TestQuestions.read(others, NGRAM)
    for row in problems:
        found = questions.closest(row["question"])
        if found and found.share == 1:
            raise UserError(
                f"{path}: the question of {row['id']} is also that of {found.test_id}; remove it: what the expert was "
                "trained on must be new to the students and in no test"
            )


def write_sets(folder: Path, rows: dict[str, list[Row]], split: bool) -> list[Path]:
    """Writes name -> problems as training sets with their index; `split`: one operation at a time. Returns the files."""
    for name, problems in rows.items():
        write_training_set(folder, name, gold_rows(problems, split))
    write_dataset_info(folder, dict.fromkeys(rows, False))
    return [*(folder / f"{name}.jsonl" for name in rows), folder / "dataset_info.json"]


def gold_path_of(config: TrainConfig) -> Path:
    """Where the problems of a method are. Raises UserError for a method that trains on the filter's sets."""
    if not config.values.get("gold_path"):
        raise UserError(f"{config.path}: has no `gold_path`: its training set is one of filter_teacher_cot.py")
    return Path(config.values["gold_path"])


def main(argv: list[str] | None = None) -> int:
    parser = cli.StageParser(__doc__, "limit", "overwrite")
    parser.add_argument("config", type=Path, metavar="CONFIG", help="the YAML of the method")
    parser.add_argument("--run", type=Path, metavar="DIR", help="the run's folder (default outputs/<preset>)")
    args = parser.parse(argv)
    config = read_config(args.config, [], args.run)
    preset, path = args.config.parents[1], gold_path_of(config)
    options = preset_options(preset)
    others = problems_of_others(preset, options)
    problems = read_problem_files([path], args.limit)[path]
    if without := next((row for row in problems if not row["solution"].strip()), None):
        raise UserError(f"{path}: {without['id']} has no solution to train on; remove it")
    refuse_shared(path, problems, others)
    held_out = read_problem_files(options.dev_path, options.dev_limit)
    name, folder = str(config.values["dataset"]), Path(config.values["dataset_dir"])
    split = config.values.get("split_steps") is True  # the training refuses any other value
    inputs = {key: Input(file, held_out[file]) for key, file in numbered_inputs("dev", held_out).items()}
    manifest = Manifest(
        "gold_set",
        folder / f"{name}.jsonl",
        {
            "prompt": prompts.wording_hash(prompts.student_messages(prompts.PROBE["question"])),
            **({"split_steps": True} if split else {}),
        },
        {"problems": Input(path, problems), **inputs},
        derived=True,
        overwrite=args.overwrite,
    )
    if manifest.check() == "done":
        print(f"{manifest.output}: done already, nothing to do")
        return 0
    with locked(manifest.output):
        manifest.begin()
        rows = {name: problems, **({GOLD_DEV: list(chain.from_iterable(held_out.values()))} if held_out else {})}
        sizes = {set_name: len(found) for set_name, found in rows.items()}
        manifest.finish(write_sets(folder, rows, split), {"training_sets": sizes}, compared_with=list(map(str, others)))
    print(f"{manifest.output}: {len(problems)} rows; none of their questions is in {', '.join(map(str, others))}")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
