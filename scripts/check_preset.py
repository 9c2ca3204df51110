"""Checks a preset as a whole before anything runs: every YAML with the parser of what will read it, and all together.

Reads   <preset>/*.yaml, <preset>/train/*.yaml and, where they exist, the models, problem files and training sets that
        they name; writes nothing

    python scripts/check_preset.py configs/smollm2_cpu
    python scripts/check_preset.py configs/smollm2_study --methods all --run outputs/smollm2_study

scripts/pipeline.sh runs it first. All faults are printed, one line each with the place to change; the exit code is then 1.
Training YAMLs go through LLaMA-Factory's own parser, which takes some seconds.
"""

from __future__ import annotations

import argparse
import os
import runpy
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from cotkit.core import cli, yaml_file
from cotkit.core.errors import UserError
from cotkit.core.files import require_folder
from cotkit.core.lineage import BASELINE
from cotkit.core.model_identity import is_same
from cotkit.filtering import options
from cotkit.filtering.training_sets import GOLD_DEV
from cotkit.generation import engines
from cotkit.generation.chat_model import check_model
from cotkit.generation.options import BACKENDS, EngineOptions
from cotkit.preparation.description import datasets_of, test_sets_of
from cotkit.training import preflight
from cotkit.training.config import BASE, OWN_SETS, has_own_sets, methods_of, read_config, teacher_method

ROOT = Path(__file__).resolve().parents[1]
STAGES = {  # YAML -> script, and the flags that scripts/pipeline.sh gives it
    "data": ("scripts/prepare_data.py", ()),
    "teacher": ("teacher_cot.py", ("--output_path", "none")),
    "infer": ("infer_parallel.py", ("--output_path", "none")),
    "score": ("score.py", ("--pred_path", "none")),
    "critic": ("scripts/critic.py", ("--pred_path", "none")),
    "compare": ("scripts/compare.py", ("none",)),
}
BY_TEST_SET = ("infer", "score", "critic")
OPTIONAL = ("critic", "compare")
CHECKS = (preflight.check_keys, preflight.check_evaluation, preflight.parse_arguments, preflight.check_template)
LEAST_FREE_BYTES = 2 * 2**30  # adapters, checkpoints and texts of a small run


class Preset:
    """A preset's files, parsed. `faults` collects what is wrong; what depends on a faulty file is not checked."""

    def __init__(self, folder: Path, methods: str | None, run: Path) -> None:
        self.folder, self.run, self.faults = folder, run, list[str]()
        self.test_sets: list[str] = self.tried(test_sets_of, self.file("data")) or []
        self.teacher = [self.stage("teacher", "--round", str(number)) for number in self._rounds()]
        self.filter: options.FilterOptions | None = self.tried(self._filter)
        self.data = self.stage("data")
        self.by_test_set = {
            (stage, name): self.stage(stage, "--dataset", name)
            for stage in BY_TEST_SET
            if stage not in OPTIONAL or self.file(stage).exists()
            for name in self.test_sets
        }
        self.compare = self.stage("compare") if self.file("compare").exists() else None
        unfillable = self.tried(options.unfillable_sets, folder) or {}
        self.tutor: str | None = self.tried(teacher_method, folder)
        paths = self.tried(methods_of, folder, methods, unfillable) or []
        self.trainings = [config for path in paths if (config := self.tried(read_config, path, [], run))]

    def file(self, stage: str) -> Path:
        return self.folder / f"{stage}.yaml"

    def tried(self, action: Callable[..., Any], *words: Any) -> Any:
        """The result of an action; None if it raises UserError, whose text becomes a fault."""
        try:
            return action(*words)
        except UserError as error:
            if str(error) not in self.faults:
                self.faults.append(str(error))
            return None

    def stage(self, name: str, *flags: str) -> argparse.Namespace | None:
        """A stage's flags as its own parser reads them from its YAML."""
        script, usual = STAGES[name]
        return self.tried(parsed, script, "--config", str(self.file(name)), *usual, *flags)

    def _rounds(self) -> range:
        rounds = self.tried(yaml_file.rounds_of, self.file("teacher")) or [{}]
        return range(1, len(rounds) + 1)

    def _filter(self) -> options.FilterOptions:
        found = options.preset_options(self.folder, refusing(str(self.file("filter"))))
        options.check_examples(found)
        return found

    def check(self) -> list[str]:
        """All faults."""
        for config in self.trainings:
            for find in CHECKS:
                self.tried(find, config)
        self.tried(lambda: self.faults.extend(students(self.folder)))  # an unreadable file is a fault already
        for find in (models, teachers, voters, problem_files, training_sets, lengths, asked_pairs, output_folder):
            self.faults += (fault for fault in find(self) if fault not in self.faults)
        return self.faults


def parsed(script: str, *words: str) -> argparse.Namespace:
    """The flags of a stage. Raises UserError also where argparse would print its usage."""
    parser = runpy.run_path(str(ROOT / script), run_name="stage")["build_parser"]()
    parser.error = refusing(words[1])
    return parser.parse(list(words))


def refusing(file: str) -> Callable[[str], NoReturn]:
    """What replaces a parser's `error`: the message names the file."""

    def refuse(message: str) -> NoReturn:
        raise UserError(f"{file}: {message}")

    return refuse


def students(folder: Path) -> Iterator[str]:
    """Train, filter and infer name one student: an adapter fits only its own base."""
    trainings = [path for path in (folder / BASE, *sorted((folder / "train").glob("*.yaml"))) if path.is_file()]
    keys = [*((path, "model_name_or_path") for path in trainings), (folder / "filter.yaml", "student_model")]
    backend = yaml_file.read_yaml(folder / "infer.yaml").get("backend", ("transformers", 1))[0]
    if backend in BACKENDS and engines.model_with_files(EngineOptions(backend, "any")):
        keys.append((folder / "infer.yaml", "base_model"))  # a served model may have any name
    first = None
    for path, key in keys:
        value, line = yaml_file.read_yaml(path).get(key, (None, 1))
        for name in value.values() if isinstance(value, dict) else [value]:  # by data set
            place = f"{path}:{line}: {key}: {name}"
            if first and name and not is_same(str(name), first[0]):
                yield f"{place} is another student than {first[1]}; write the same model in both lines"
            first = first or (name and (str(name), place))


def models(preset: Preset) -> Iterator[str]:
    """The folders of models exist; names on the hub are not looked up."""
    named = [(flags.model_name, flags.backend) for flags in preset.teacher if flags]
    named += [
        (flags.base_model, flags.backend)
        for (stage, _), flags in preset.by_test_set.items()
        if flags and stage == "infer"
    ]
    for name in dict.fromkeys(name for name, backend in named if backend in ("transformers", "vllm")):
        try:
            check_model(name)
        except UserError as error:
            yield str(error)


def teachers(preset: Preset) -> Iterator[str]:
    """A method that is the teacher is trained on the teacher's own model, and is the teacher of all rounds."""
    for config in preset.trainings:
        if config.path.stem == preset.tutor:
            base = str(config.values["model_name_or_path"])
            for flags in filter(None, preset.teacher):
                if flags.lora_path != preset.tutor:
                    yield f"{preset.file('teacher')}: a round has another lora_path than {preset.tutor}; set it once, above `rounds`"
                elif not is_same(flags.model_name, base):
                    yield f"{preset.file('teacher')}: model_name: {flags.model_name} is not {base}, on which {preset.tutor} is trained"


def voters(preset: Preset) -> Iterator[str]:
    """A teacher whose samples vote writes several of each question, and they differ."""
    teacher = preset.teacher[0] if preset.teacher else None
    for config in preset.trainings if teacher else ():
        if "questions_path" in config.values:
            asked = config.values.get("questions", 1)
            if not isinstance(asked, int) or asked < 1:
                yield f"{config.where('questions')}: a whole number of at least 1 is expected"
            samples = config.values.get("votes", teacher.num_samples)
            if not isinstance(samples, int) or samples < 2:
                yield f"{config.where('votes')}: a vote needs at least two samples of a question"
            elif not teacher.temperature:
                yield f"{preset.file('teacher')}: temperature: 0, but the samples of {config.path.stem} vote, and greedy samples are all the same; set temperature: 0.7"


def problem_files(preset: Preset) -> Iterator[str]:
    """Every problem file exists, or is a split of a data set that data.yaml prepares."""
    try:
        made = set(datasets_of(preset.file("data")))
    except UserError:
        return  # a fault already
    root = preset.data.data_root if preset.data else Path("data")
    first = preset.teacher[0] if preset.teacher else None
    wanted = [(preset.file("teacher"), path) for path in (first.input_path if first else ())]
    wanted += [
        (config.path, Path(path)) for config in preset.trainings for key in OWN_SETS if (path := config.values.get(key))
    ]
    if preset.filter:
        wanted += [
            (preset.file("filter"), path)
            for path in (*preset.filter.problems_path, *preset.filter.dev_path, *preset.filter.test_paths)
        ]
    for file, path in wanted:
        prepared = path.parent.name in made and path.parent.parent.resolve() == root.resolve()
        if not path.is_file() and not prepared:
            yield f"{file}: {path} does not exist, and data.yaml prepares no such data set"


def training_sets(preset: Preset) -> Iterator[str]:
    """Every set that a method trains or is evaluated on is declared in filter.yaml."""
    if preset.filter is None:
        return
    dev = [GOLD_DEV] if preset.filter.dev_path else []
    for config in preset.trainings:
        own = [str(config.values["dataset"])] if has_own_sets(config.values) else preset.filter.sets
        declared = [*own, *dev]
        for key in ("dataset", "eval_dataset"):
            for name in filter(None, str(config.values.get(key) or "").replace(" ", "").split(",")):
                if name not in declared:
                    nearest = cli.nearest(name, declared) if key == "dataset" else ""
                    where = "needs dev_path" if name == GOLD_DEV else f"does not declare it in `sets`{nearest}"
                    yield f"{config.where(key)}: {preset.file('filter')} {where}"


def lengths(preset: Preset) -> Iterator[str]:
    """The filter's longest row fits into the training, and training truncates nothing."""
    longest = preset.filter.parameters.max_tokens if preset.filter else None
    for config in preset.trainings:
        cutoff = config.values.get("cutoff_len")
        if longest and isinstance(cutoff, int) and longest > cutoff:
            yield f"{config.where('cutoff_len')}: filter.yaml keeps rows of up to {longest} tokens (max_tokens), which would be truncated"


def asked_pairs(preset: Preset) -> Iterator[str]:
    """The pairs of compare.yaml are methods of the preset, and their data sets are tested."""
    methods = [BASELINE, *sorted(path.stem for path in preset.folder.glob("train/*.yaml"))]
    for pair in preset.compare.pairs if preset.compare else ():
        for name in (pair.method, pair.other):
            if name not in methods:
                yield f"{preset.file('compare')}: pairs: {pair}: no method {name!r}{cli.nearest(name, methods)}"
        if pair.dataset and preset.test_sets and pair.dataset not in preset.test_sets:
            nearest = cli.nearest(pair.dataset, preset.test_sets)
            yield f"{preset.file('compare')}: pairs: {pair}: no test set {pair.dataset!r}{nearest}"


def output_folder(preset: Preset) -> Iterator[str]:
    """The run's folder can be written, and the disk has room."""
    folder = next(path for path in (preset.run, *preset.run.absolute().parents) if path.exists())
    if not os.access(folder, os.W_OK | os.X_OK):
        yield f"{folder}: cannot be written; choose another folder with --run DIR (in pipeline.sh: --output_root DIR)"
    elif (free := shutil.disk_usage(folder).free) < LEAST_FREE_BYTES:
        yield f"{folder}: the disk has {free / 2**30:.1f} GiB left, and a run needs at least {LEAST_FREE_BYTES / 2**30:.0f}"


def main(argv: list[str] | None = None) -> int:
    parser = cli.StageParser(__doc__)
    parser.add_argument("preset", type=Path, metavar="PRESET", help="a folder below configs/")
    parser.add_argument("--run", type=Path, metavar="DIR", help="the run's folder (default outputs/<preset>)")
    parser.add_argument("--methods", metavar="LIST", help="a,b,c or all (default: the key `methods` of train.yaml)")
    args = parser.parse(argv)
    require_folder(args.preset, "presets are the folders below configs/")
    preset = Preset(args.preset, args.methods, args.run or Path("outputs") / args.preset.resolve().name)
    faults = preset.check()
    for fault in faults:
        print(f"error: {fault}", file=sys.stderr)
    if not faults:
        print(
            f"{args.preset}: {len(preset.trainings)} trainings, test sets {', '.join(preset.test_sets)}: no fault found"
        )
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
