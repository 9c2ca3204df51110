"""Estimates what a preset's run will take before it starts: rows, tokens, steps, time, memory and disk of every stage.

Reads   the preset's YAMLs, the prepared problems and the finished parts of <run>; writes nothing

    python scripts/plan.py configs/smollm2_cpu
    python scripts/plan.py configs/qwen2_1.5b_tuned --device a100 --devices 4 --methods all

Rows are counted where the files exist. Elsewhere they follow from the sets that filter.yaml declares (SHARES below).
Times follow from model and token sizes (cotkit/training/cost_model.py) and are good to a factor of two.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from cotkit.core import cli
from cotkit.core.errors import UserError
from cotkit.core.jsonl import Row, read, read_json
from cotkit.core.manifest import path_for
from cotkit.core.quantities import clock, gigabytes
from cotkit.filtering.options import read_options
from cotkit.filtering.training_sets import ALIGNED, SetPart
from cotkit.generation import prompts
from cotkit.preparation.description import test_sets_of
from cotkit.training import budget, cost_model, preflight
from cotkit.training.config import START, TrainConfig, methods_of, read_config
from cotkit.training.cost_model import CHARACTERS_PER_TOKEN, Shape

# Rows that a source gives for each problem, and for each further sample of it, where the set does not exist yet. They are
# guesses that fit a strong teacher: the filter keeps nearly all of its solutions.
SHARES = {"gold": (1, 0), "teacher": (1, 0), "kept": (0.9, 0.5), "complete": (0.9, 0.5), "pairs": (0.1, 0.1)}
RUBRIC = 300  # tokens of the LLM judge's instructions
MARKS = 15  # tokens that a chat template adds to a prompt
# The filter keeps none of k samples for a share OPEN ** sqrt(k) of the problems: samples of one problem fail together.
# Measured with the CPU preset's teacher: 57 % for 1 sample, 31 % for 4, 4 % for 16 (the formula gives 50, 25 and 6).
OPEN = 0.5
NEW_TOKENS = {"teacher": 512, "infer": 512, "critic": 256}  # the defaults of the scripts' --max_new_tokens
SAMPLED_ROWS = 500  # rows of a file that the mean length of its texts is taken from


@dataclass(frozen=True)
class PlanOptions:
    """The flags, with the default of `run` filled in."""

    preset: Path
    run: Path
    device: str
    devices: int
    methods: str | None
    seeds: list[int | None]
    limit: int | None


@dataclass(frozen=True)
class CostLine:
    """The cost of one step: `memory` in bytes, `state` is "done", "begun" or empty."""

    what: str
    rows: int
    tokens: float
    steps: int
    seconds: float
    memory: float
    state: str


@dataclass(frozen=True)
class ProblemTexts:
    """A file of problems: the number of rows, and the mean tokens of a prompt and of a solution."""

    rows: int
    prompt: float
    solution: float


def measure_texts(paths: list[Path], limit: int | None) -> ProblemTexts:
    """The problems of all files, of each the first `limit`. Raises UserError if they are not prepared."""
    for path in paths:
        if not path.is_file():
            raise UserError(f"{path}: does not exist yet; scripts/prepare_data.py makes it in a moment")
    sample = [row for path in paths for row in islice(read(path), SAMPLED_ROWS)]
    means = {
        field: sum(len(row[field]) for row in sample) / len(sample) / characters
        for field, characters in CHARACTERS_PER_TOKEN.items()
    }
    fixed = sum(len(message["content"]) for message in prompts.student_messages(""))
    rows = sum(1 for path in paths for _ in islice(read(path), limit))
    wording = MARKS + fixed / CHARACTERS_PER_TOKEN["question"]
    return ProblemTexts(rows, means["question"] + wording, means["solution"])


def state_of(output: Path) -> str:
    """The state by the manifest beside an output. A done one is skipped unless its settings or inputs have changed."""
    manifest = path_for(output)
    if not manifest.is_file():
        return ""
    return "done" if read_json(manifest).get("status") == "done" else "begun"


class CostPlan:
    """The lines of the table, from a preset, its run folder and the device."""

    def __init__(self, options: PlanOptions) -> None:
        self.preset, self.run, self.options = options.preset, options.run, options
        self.device = cost_model.DEVICES[options.device]
        self.teacher, self.infer = self._keys("teacher"), self._keys("infer")
        words = ["--config", str(self.preset / "filter.yaml"), "--input_path", "none", "--output_path", "none"]
        self.filter = read_options(None, words)
        files = (
            self.teacher["input_path"] if isinstance(self.teacher["input_path"], list) else [self.teacher["input_path"]]
        )
        self.problems = measure_texts(list(map(Path, files)), options.limit or self.teacher.get("limit"))
        self.student = cost_model.shape_of(self.infer["base_model"])
        self.disk = {"models from the hub": 0.0, "adapters and checkpoints": 0.0}  # bytes

    def _keys(self, stage: str, dataset: str | None = None) -> dict[str, Any]:
        """A stage's YAML and the script's default length; of a value per test set only the entry of `dataset`."""
        values = {key: value for key, (value, _) in cli.read_yaml(self.preset / f"{stage}.yaml").items()}
        if dataset is not None:
            own = {key: value.get(dataset) if isinstance(value, dict) else value for key, value in values.items()}
            values = {key: value for key, value in own.items() if value is not None}
        return {"max_new_tokens": NEW_TOKENS[stage], **values} if stage in NEW_TOKENS else values

    def lines(self) -> Iterator[CostLine]:
        yield self._teacher()
        yield CostLine("filter", self._teacher_rows(), 0, 0, 5, 0, state_of(self.run / "kept.jsonl"))
        trained = []
        for path in methods_of(self.preset, self.options.methods):
            for seed in self.options.seeds:
                config = read_config(path, [], self.run, seed)
                trained.append(config.output_dir.name)
                yield self._train(config)
        for dataset in test_sets_of(self.preset / "data.yaml"):
            yield from self._evaluation(dataset, trained)

    def _teacher(self) -> CostLine:
        texts, model = self.problems, self.teacher["model_name"]
        rewriting = self.teacher.get("mode") == "rewrite"
        prompt = texts.prompt + (texts.solution if rewriting else 0)  # the worked example is computed once
        hub_models = [name for name in {model, self.infer["base_model"]} if not Path(name).is_dir()]
        self.disk["models from the hub"] = sum(2.0 * cost_model.shape_of(name).weights for name in hub_models)
        shape, output = cost_model.shape_of(model), self.run / "teacher.jsonl"
        return self._generation("teacher", shape, self.teacher, self._teacher_rows(), prompt, texts.solution, output)

    def _teacher_rows(self) -> int:
        """Samples of all rounds. Each later round asks for the problems that the earlier ones left open."""
        usual = self.teacher.get("num_samples", 1)
        rows, problems = 0.0, float(self.problems.rows)
        for entry in cli.rounds_of(self.preset / "teacher.yaml"):
            samples = int(entry.get("num_samples", (usual, 1))[0])
            rows += problems * samples
            problems *= OPEN**samples**0.5
        return round(rows)

    def _evaluation(self, dataset: str, trained: list[str]) -> Iterator[CostLine]:
        keys, predictions = self._keys("infer", dataset), self.run / "predictions" / dataset
        limit = self.options.limit or keys.get("limit")
        texts = measure_texts([Path("data") / dataset / "test.jsonl"], limit)
        most = keys["max_new_tokens"]
        # Most texts of the untrained model run to the limit; those of a trained one are as long as solutions.
        written = {"baseline": 0.9 * most}
        written |= dict.fromkeys(trained, min(most, max(texts.solution, self.problems.solution)))
        for name, tokens in written.items():
            what, output = f"infer {name} on {dataset}", predictions / f"{name}.jsonl"
            yield self._generation(what, self.student, keys, texts.rows, texts.prompt, tokens, output)
        if (self.preset / "critic.yaml").is_file():
            keys = self._keys("critic", dataset)
            rows = min(keys.get("critic_limit", texts.rows), texts.rows) * len(written) + keys.get("controls", 0)
            prompt = texts.prompt + 2 * texts.solution + RUBRIC
            shape, tokens = cost_model.shape_of(keys["model_name"]), keys["max_new_tokens"] / 2
            yield self._generation(f"critic on {dataset}", shape, keys, rows, prompt, tokens, predictions / "none")

    def _generation(
        self, what: str, shape: Shape, keys: Row, rows: int, prompt: float, written: float, output: Path
    ) -> CostLine:
        batch, rows_per_device = min(int(keys.get("batch_size", 64)), rows), -(-rows // self.options.devices)
        seconds = cost_model.generate_seconds(self.device, shape, rows_per_device, prompt, written, batch)
        half = self.options.device != "cpu"
        memory = cost_model.generate_bytes(shape, batch, prompt + keys["max_new_tokens"], half)
        return CostLine(what, rows, rows * (prompt + written), 0, seconds, memory, state_of(output))

    def _train(self, config: TrainConfig) -> CostLine:
        name, values = str(config.values["dataset"]), config.values
        rows, tokens_per_row = self._training_set(config, name)
        sets_exist = (Path(values["dataset_dir"]) / "dataset_info.json").is_file()
        if "max_steps" in values or (config.budget != "epochs" and sets_exist):
            steps = budget.steps(config)
        else:
            reference = name if config.budget == "epochs" else config.budget.split()[-1]
            steps = budget.steps_for(config, self._training_set(config, reference)[0])
        sequences = steps * budget.rows_per_step(config) * (2 if values["stage"] == "dpo" else 1)
        # A reference model adds one forward pass.
        computed = sequences * tokens_per_row * (1.5 if values.get("ref_model_adapters") else 1)
        checkpointing = not values.get("disable_gradient_checkpointing")
        seconds = cost_model.train_seconds(self.device, self.student, computed, checkpointing) / self.options.devices
        kept = int(values.get("save_total_limit") or max(1, steps // int(values.get("save_steps", 500))))
        # A checkpoint holds the adapter and its two moments.
        self.disk["adapters and checkpoints"] += cost_model.adapter_bytes(self.student, values) * (1 + 3 * kept)
        memory = cost_model.train_bytes(self.student, values, tokens_per_row)
        if config.distills:
            more_seconds, more_memory = self._distillation(config, sequences, tokens_per_row)
            seconds, memory = seconds + more_seconds, memory + more_memory
        what, tokens = f"train {config.output_dir.name}", sequences * tokens_per_row
        return CostLine(what, rows, tokens, steps, seconds, memory, state_of(config.output_dir))

    def _distillation(self, config: TrainConfig, sequences: int, tokens_per_row: float) -> tuple[float, float]:
        """Seconds and bytes of what only distillation does: the teacher reads every row, the student writes its samples."""
        options = preflight.distill_options(config)
        is_model = options.teacher not in (START, preflight.teacher_adapter(config))
        shape = cost_model.shape_of(options.teacher) if is_model else self.student
        seconds = sequences * tokens_per_row * 2 * shape.weights / self.device.prefill
        if samples := round(sequences * options.on_policy):
            texts, batch = self.problems, budget.rows_per_step(config)
            prompt, written = texts.prompt, min(texts.solution, options.max_new_tokens)
            seconds += cost_model.generate_seconds(self.device, self.student, samples, prompt, written, batch)
        half = self.options.device != "cpu"
        return seconds / self.options.devices, (2 if half else 4) * shape.weights if is_model else 0

    def _training_set(self, config: TrainConfig, name: str) -> tuple[int, float]:
        """Rows of a training set and tokens per row: counted if the set exists, else expected from the problems."""
        path = Path(config.values["dataset_dir"]) / f"{name}.jsonl"
        if path.is_file():
            rows = list(read(path))
            answers = sum(len(row[field]) for row in rows for field in budget.ANSWERS if field in row)
            answer = answers / len(rows) / (2 if "chosen" in rows[0] else 1) / CHARACTERS_PER_TOKEN["solution"]
            return len(rows), self.problems.prompt + answer
        if name not in self.filter.sets:
            place = f"{config.where('dataset')}: {self.preset}/filter.yaml"
            raise UserError(f"{place} declares no such set{cli.nearest(name, self.filter.sets)}")
        expected = self.problems.rows * sum(map(self._rows_per_problem, self.filter.sets[name].parts))
        return max(1, round(expected)), self.problems.prompt + self.problems.solution

    def _rows_per_problem(self, part: SetPart) -> float:
        """Expected rows that a problem gives a part of a set, by `SHARES`."""
        first, more = SHARES[part.source]
        samples, select = int(self.teacher.get("num_samples", 1)), part.select or self.filter.select
        one = 1 if part.source == "pairs" or select in ("first", "shortest", ALIGNED) else samples
        return min(first + more * (samples - 1), part.cap or (not part.select and self.filter.max_per_question) or one)


def table(options: PlanOptions) -> Iterator[str]:
    """The lines of the report."""
    plan = CostPlan(options)
    lines = list(plan.lines())
    yield f"{options.preset} on {options.devices} x {options.device}, in {options.run}\n"
    yield "| what | rows | tokens | steps | time | memory | state |\n|---|---|---|---|---|---|---|"
    states = {"done": "done, is skipped", "begun": "begun, will continue", "": ""}
    for line in lines:
        memory = gigabytes(line.memory) if line.memory else ""
        over = " (too much)" if line.memory > plan.device.memory else ""
        yield (
            f"| {line.what} | {line.rows:,} | {line.tokens:,.0f} | {line.steps or ''} | {clock(line.seconds)} | "
            f"{memory}{over} | {states[line.state]} |"
        )
    left = sum(line.seconds for line in lines if line.state != "done")
    yield f"\nTime: {clock(sum(line.seconds for line in lines))}, of which {clock(left)} are left."
    yield "Disk: " + ", ".join(f"{gigabytes(size)} {what}" for what, size in plan.disk.items() if size) + "."


def stage_times(options: PlanOptions) -> Iterator[str]:
    """`stage time` for every stage that has something left to do and takes longer than a few seconds."""
    left: Counter[str] = Counter()
    for line in CostPlan(options).lines():
        if line.state != "done":
            left[line.what.split()[0]] += round(line.seconds)
    yield from (f"{stage} {clock(seconds)}" for stage, seconds in left.items())


def main(argv: list[str] | None = None) -> int:
    parser = cli.StageParser(__doc__)
    parser.add_argument("preset", type=Path, metavar="PRESET", help="a folder below configs/")
    parser.add_argument("--run", type=Path, metavar="DIR", help="the run's folder (default outputs/<preset>)")
    parser.add_argument("--device", choices=sorted(cost_model.DEVICES), default="cpu", help="default cpu")
    parser.add_argument(
        "--devices", type=cli.positive_int, default=1, metavar="N", help="number of devices (default 1)"
    )
    parser.add_argument("--methods", metavar="LIST", help="a,b,c or all (default: those of train.yaml)")
    parser.add_argument("--seeds", type=int, nargs="*", metavar="N", help="as for scripts/pipeline.sh")
    parser.add_argument("--limit", type=cli.positive_int, metavar="N", help="only the first N problems of each file")
    parser.add_argument("--stage_times", action="store_true", help="print only the time that each stage still takes")
    flags = vars(parser.parse(argv))
    del flags["config"], flags["debug"]
    lines = stage_times if flags.pop("stage_times") else table
    flags["run"] = flags["run"] or Path("outputs") / flags["preset"].name
    flags["seeds"] = flags["seeds"] or [None]
    print("\n".join(lines(PlanOptions(**flags))))
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
