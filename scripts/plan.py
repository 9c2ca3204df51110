"""What a preset's run will take, before anything runs: rows, tokens, steps, time, memory and disk of every stage.

Reads   the preset's YAMLs, the prepared problems and what <run> holds already; writes nothing

    python scripts/plan.py configs/smollm2_cpu
    python scripts/plan.py configs/qwen2_1.5b_tuned --device a100 --devices 4 --methods all

Rows are counted where the files are there, and else follow from the sets that filter.yaml declares (SHARES below). Times
are estimates from model and token sizes (cotkit/training/cost_model.py), good to a factor of two.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from cotkit.core import cli
from cotkit.core.errors import UserError
from cotkit.core.jsonl import Row, read, read_json
from cotkit.core.manifest import path_for
from cotkit.filtering import options
from cotkit.filtering.training_sets import SetPart, parse_sets
from cotkit.generation import prompts
from cotkit.training import budget, cost_model
from cotkit.training.config import TrainConfig, methods_of, read_config
from cotkit.training.cost_model import Device, Shape

# Rows of a source for each problem and for each further sample of it, where the set is not there yet: guesses that fit a
# strong teacher, of which nearly every solution is kept.
SHARES = {"gold": (1, 0), "teacher": (1, 0), "kept": (0.9, 0.5), "complete": (0.9, 0.5), "pairs": (0.1, 0.1)}
RUBRIC = 300  # tokens that tell a critic what to rate
MARKS = 15  # tokens that a chat template writes itself
# Share of the problems of which the filter keeps none of k samples is OPEN ** sqrt(k): samples of one problem fail together.
# Measured with the CPU preset's teacher: 57 % of one sample, 31 % of 4, 4 % of 16 (here 50, 25 and 6).
OPEN = 0.5
NEW_TOKENS = {"teacher": 512, "infer": 512, "critic": 256}  # the defaults of the scripts' --max_new_tokens
SAMPLED_ROWS = 500  # of a file, for the mean length of its texts


@dataclass(frozen=True)
class CostLine:
    """One thing to do."""

    what: str
    rows: int
    tokens: float
    steps: int
    seconds: float
    memory: float
    state: str


@dataclass(frozen=True)
class Texts:
    """A file of problems: their number, and mean tokens of a question's prompt and of a solution."""

    rows: int
    prompt: float
    solution: float


def texts_of(path: Path, limit: int | None) -> Texts:
    """Raises UserError if the problems are not prepared."""
    if not path.is_file():
        raise UserError(f"{path}: not there yet; scripts/prepare_data.py makes it in a moment")
    sample = list(islice(read(path), SAMPLED_ROWS))
    means = {
        field: sum(len(row[field]) for row in sample) / len(sample) / characters
        for field, characters in cost_model.CHARACTERS_A_TOKEN.items()
    }
    fixed = sum(len(message["content"]) for message in prompts.student_messages(""))
    rows = sum(1 for _ in read(path))
    wording = MARKS + fixed / cost_model.CHARACTERS_A_TOKEN["question"]
    return Texts(min(rows, limit or rows), means["question"] + wording, means["solution"])


def state_of(output: Path) -> str:
    """What the manifest beside an output says: a finished one is skipped while its settings and inputs are the same."""
    manifest = path_for(output)
    if not manifest.is_file():
        return ""
    return "done" if read_json(manifest).get("status") == "done" else "begun"


class CostPlan:
    """A preset, its run folder and the device, and from them the lines of the table."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.preset, self.run = args.preset, args.run or Path("outputs") / args.preset.name
        self.device: Device = cost_model.DEVICES[args.device]
        self.devices, self.limit, self.half = args.devices, args.limit, args.device != "cpu"
        self.seeds: list[int | None] = args.seeds or [None]
        self.teacher, self.infer = self._keys("teacher"), self._keys("infer")
        words = ["--config", str(args.preset / "filter.yaml"), "--input_path", "none", "--output_path", "none"]
        self.filter = options.build_parser(None).parse(words)
        self.sets = parse_sets(self.filter.sets)
        self.methods = methods_of(args.preset, args.methods)
        limit = args.limit or self.teacher.get("limit")
        self.problems = texts_of(Path(self.teacher["input_path"]), limit)
        self.student = cost_model.shape_of(self.infer["base_model"])
        self.disk: dict[str, float] = {}

    def _keys(self, stage: str, dataset: str | None = None) -> dict[str, Any]:
        """The stage's YAML; of a value that differs between test sets this one's, or the script's default."""
        values = {key: value for key, (value, _) in cli.read_yaml(self.preset / f"{stage}.yaml").items()}
        if dataset is not None:
            own = {key: value.get(dataset) if isinstance(value, dict) else value for key, value in values.items()}
            values = {key: value for key, value in own.items() if value is not None}
        return {"max_new_tokens": NEW_TOKENS[stage], **values} if stage in NEW_TOKENS else values

    def lines(self) -> Iterator[CostLine]:
        yield self._teacher()
        yield CostLine("filter", self._teacher_rows(), 0, 0, 5, 0, state_of(self.run / "kept.jsonl"))
        variants: list[tuple[str, TrainConfig | None]] = [("baseline", None)]
        for path in self.methods:
            for seed in self.seeds:
                config = read_config(path, [], self.run, seed)
                variants.append((config.output_dir.name, config))
                yield self._train(config)
        for dataset in self._keys("data")["dataset"]:
            yield from self._evaluation(dataset, variants)

    def _evaluation(self, dataset: str, variants: list[tuple[str, TrainConfig | None]]) -> Iterator[CostLine]:
        keys = self._keys("infer", dataset)
        texts = texts_of(Path("data") / dataset / "test.jsonl", self.limit or keys.get("limit"))
        most = keys["max_new_tokens"]
        for name, config in variants:
            yield self._generation(
                f"infer {name} on {dataset}",
                self.student,
                keys,
                texts.rows,
                texts.prompt,
                # Untrained, most texts run on; trained, they are like solutions.
                min(most, max(texts.solution, self.problems.solution)) if config else 0.9 * most,
                self.run / f"predictions/{dataset}/{name}.jsonl",
            )
        if (self.preset / "critic.yaml").is_file():
            keys = self._keys("critic", dataset)
            rows = min(keys.get("critic_limit", texts.rows), texts.rows) * len(variants) + keys.get("controls", 0)
            prompt = texts.prompt + 2 * texts.solution + RUBRIC
            yield self._generation(
                f"critic on {dataset}",
                cost_model.shape_of(keys["model_name"]),
                keys,
                rows,
                prompt,
                keys["max_new_tokens"] / 2,
                self.run / f"predictions/{dataset}/none",
            )

    def _teacher_rows(self) -> int:
        """Samples of all rounds; each later one asks for the problems that the one before left open."""
        usual = self.teacher.get("num_samples", 1)
        rows, problems = 0.0, float(self.problems.rows)
        for entry in cli.rounds_of(self.preset / "teacher.yaml"):
            samples = int(entry.get("num_samples", (usual, 1))[0])
            rows += problems * samples
            problems *= OPEN**samples**0.5
        return round(rows)

    def _teacher(self) -> CostLine:
        shape = cost_model.shape_of(self.teacher["model_name"])
        texts = self.problems
        rewriting = self.teacher.get("mode") == "rewrite"
        prompt = texts.prompt + (texts.solution if rewriting else 0)  # the worked example is computed once
        self.disk["models from the hub"] = sum(
            2.0 * cost_model.shape_of(name).weights
            for name in {self.teacher["model_name"], self.infer["base_model"]}
            if not Path(name).is_dir()
        )
        return self._generation(
            "teacher", shape, self.teacher, self._teacher_rows(), prompt, texts.solution, self.run / "teacher.jsonl"
        )

    def _generation(
        self, what: str, shape: Shape, keys: Row, rows: int, prompt: float, written: float, output: Path
    ) -> CostLine:
        batch = min(int(keys.get("batch_size", 64)), rows)
        seconds = cost_model.generate_seconds(self.device, shape, -(-rows // self.devices), prompt, written, batch)
        memory = cost_model.generate_bytes(shape, batch, prompt + keys["max_new_tokens"], self.half)
        return CostLine(what, rows, rows * (prompt + written), 0, seconds, memory, state_of(output))

    def _train(self, config: TrainConfig) -> CostLine:
        name, values = str(config.values["dataset"]), config.values
        rows, tokens_a_row = self._set(config, name)
        if "max_steps" in values or (config.budget != "epochs" and self._is_there(config)):
            steps = budget.steps(config)
        else:
            reference = name if config.budget == "epochs" else config.budget.split()[-1]
            steps = budget.steps_of(config, self._set(config, reference)[0])
        sequences = steps * budget.rows_a_step(config) * (2 if values["stage"] == "dpo" else 1)
        tokens = sequences * tokens_a_row * (1.5 if values.get("ref_model_adapters") else 1)  # forward only, once more
        seconds = cost_model.train_seconds(
            self.device, self.student, tokens, not values.get("disable_gradient_checkpointing")
        )
        saved = cost_model.adapter_bytes(self.student, values)
        kept = int(values.get("save_total_limit") or max(1, steps // int(values.get("save_steps", 500))))
        self.disk["adapters and checkpoints"] = self.disk.get("adapters and checkpoints", 0) + saved * (1 + 3 * kept)
        return CostLine(
            f"train {config.output_dir.name}",
            rows,
            sequences * tokens_a_row,
            steps,
            seconds / self.devices,
            cost_model.train_bytes(self.student, values, tokens_a_row),
            state_of(config.output_dir),
        )

    def _is_there(self, config: TrainConfig) -> bool:
        return (Path(config.values["dataset_dir"]) / "dataset_info.json").is_file()

    def _set(self, config: TrainConfig, name: str) -> tuple[int, float]:
        """Rows of a training set and tokens of each: counted, or expected of the problems."""
        path = Path(config.values["dataset_dir"]) / f"{name}.jsonl"
        if path.is_file():
            rows = list(read(path))
            answers = sum(len(row[field]) for row in rows for field in budget.ANSWERS if field in row)
            answer = answers / len(rows) / (2 if "chosen" in rows[0] else 1) / cost_model.CHARACTERS_A_TOKEN["solution"]
            return len(rows), self.problems.prompt + answer
        if name not in self.sets:
            place = f"{config.where('dataset')}: {self.preset}/filter.yaml"
            raise UserError(f"{place} declares no such set{cli.nearest(name, self.sets)}")
        rows_expected = self.problems.rows * sum(map(self._rows_a_problem, self.sets[name].parts))
        return max(1, round(rows_expected)), self.problems.prompt + self.problems.solution

    def _rows_a_problem(self, part: SetPart) -> float:
        """Rows that a problem gives a part of a set, expected of `SHARES`."""
        first, more = SHARES[part.source]
        samples, select = int(self.teacher.get("num_samples", 1)), part.select or self.filter.select
        one = 1 if part.source == "pairs" or select in ("first", "shortest") else samples
        return min(first + more * (samples - 1), part.cap or (not part.select and self.filter.max_per_question) or one)


def table(plan: CostPlan, args: argparse.Namespace) -> Iterator[str]:
    lines = list(plan.lines())
    yield f"{args.preset} on {args.devices} x {args.device}, in {plan.run}\n"
    yield "| what | rows | tokens | steps | time | memory | state |\n|---|---|---|---|---|---|---|"
    for line in lines:
        memory = cost_model.gigabytes(line.memory) if line.memory else ""
        over = " (too much)" if line.memory > plan.device.memory else ""
        state = "done, is skipped" if line.state == "done" else "begun, goes on" if line.state else ""
        yield (
            f"| {line.what} | {line.rows:,} | {line.tokens:,.0f} | {line.steps or ''} | {cost_model.clock(line.seconds)} | "
            f"{memory}{over} | {state} |"
        )
    left = sum(line.seconds for line in lines if line.state != "done")
    yield f"\nTime: {cost_model.clock(sum(line.seconds for line in lines))}, of which {cost_model.clock(left)} are left."
    yield "Disk: " + ", ".join(f"{cost_model.gigabytes(size)} {what}" for what, size in plan.disk.items() if size) + "."


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("preset", type=Path, metavar="PRESET", help="a folder below configs/")
    parser.add_argument("--run", type=Path, metavar="DIR", help="the run's folder (default outputs/<preset>)")
    parser.add_argument("--device", choices=sorted(cost_model.DEVICES), default="cpu", help="default cpu")
    parser.add_argument("--devices", type=cli.positive_int, default=1, metavar="N", help="how many of them (default 1)")
    parser.add_argument("--methods", metavar="LIST", help="a,b,c or all (default: those of train.yaml)")
    parser.add_argument("--seeds", type=int, nargs="*", metavar="N", help="as for scripts/pipeline.sh")
    parser.add_argument("--limit", type=cli.positive_int, metavar="N", help="only the first N problems of each file")
    args = parser.parse_args(argv)
    print("\n".join(table(CostPlan(args), args)))
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
