"""Writes a preset's YAMLs: those of configs/qwen2_1.5b_tuned with the values and comments of other models and other data.

A value that nothing here knows better keeps its line, so a change of that preset is a change of every preset written later.
"""

from __future__ import annotations

import json
import re
import textwrap
from dataclasses import dataclass

from cotkit.core.datasets import DATASETS
from cotkit.core.files import ROOT
from cotkit.training.model_facts import StudentFacts, TeacherFacts

BASE = ROOT / "configs/qwen2_1.5b_tuned"
BASE_TEACHER = "Qwen/Qwen3-8B"
# The comments before a file's first key; a key with the comments before it and the indented lines after it.
HEADER, BLOCK = re.compile(r"(?:#.*\n)*"), re.compile(r"(?m)^(?:#.*\n)*(\w+):.*\n(?:[ ].*\n)*")
WIDTH, COLUMN = 120, 38
Edits = dict[str, str | None]  # key -> its new lines; None removes it

LOGIT_KD = (
    "Method logit_kd: the same rows as `distilled`, but the student learns the teacher's whole distribution at every token, "
    "not only the token that is there."
)
SHORT = 1024  # tokens of a row that the other values of BASE suit
SAMPLING = {"temperature": 0.7, "top_p": 0.95}  # of a teacher whose files say nothing


@dataclass(frozen=True)
class Recipe:
    """How a student of up to so many weights is trained. Every recipe has 16 rows per step."""

    up_to: float
    rate: float
    rank: int
    rows: int  # that one GPU holds at once


# The first rate is the best of the sweep in docs/TRAINING.md, and BASE has 2e-4 for 1.5 billion weights. The others lie
# between and beyond them, because larger models want smaller rates.
RECIPES = (
    Recipe(3e8, 1e-3, 64, 8),
    Recipe(1e9, 5e-4, 64, 8),
    Recipe(2e9, 2e-4, 64, 8),
    Recipe(5e9, 2e-4, 64, 4),
    Recipe(1e15, 1e-4, 32, 2),
)


@dataclass(frozen=True)
class Data:
    """The sets of a preset, and the most tokens that a row of them has."""

    names: list[str]
    cutoff: int
    longest: int | None  # tokens of the longest gold row; None if no set is prepared

    def files(self, split: str) -> list[str]:
        return [f"data/{name}/{split}.jsonl" for name in self.names if split in splits_of(name)]

    @property
    def test_files(self) -> list[str]:
        """Without generated sets: problems of one template share most words, but not their numbers."""
        return [f"data/{name}/test.jsonl" for name in self.names if "test" in DATASETS[name].splits]


def splits_of(name: str) -> set[str]:
    """The splits that scripts/prepare_data.py makes of a set of the table."""
    dataset = DATASETS[name]
    return {"train", "dev", "test"} if dataset.generator else {*dataset.splits, *dataset.shares}


@dataclass(frozen=True)
class Plan:
    """What a preset is written for.

    Attributes:
        teacher_facts: None if the teacher is not on this machine.
        same_ids: the token ids of the two models mean the same; None if that is unknown.
    """

    student: StudentFacts
    teacher: str
    teacher_facts: TeacherFacts | None
    same_ids: bool | None
    data: Data

    @property
    def recipe(self) -> Recipe:
        return next(recipe for recipe in RECIPES if self.student.weights <= recipe.up_to)

    @property
    def keeps_sampling(self) -> bool:
        """BASE has the values of the model card of all Qwen3 models."""
        return "qwen3-" in self.teacher.lower()

    @property
    def sampling(self) -> dict[str, float] | None:
        """Of the teacher's generation config; None if it has none."""
        return (self.teacher_facts and self.teacher_facts.sampling) or None


def line(key: str, value: object, comment: str = "") -> str:
    """``key: value  # comment``, with the comment continued in the same column."""
    if re.search(" #|: ", str(value)):  # a folder's name that YAML would read as a comment or a mapping
        value = json.dumps(value, ensure_ascii=False)
    text = f"{key}: {value}"
    if not comment:
        return text + "\n"
    first, *rest = textwrap.wrap(comment, WIDTH - COLUMN - 2)
    return "".join([f"{text:<{COLUMN - 1}} # {first}\n", *(f"{'':<{COLUMN}}# {part}\n" for part in rest)])


def listed(values: list[str]) -> str:
    return values[0] if len(values) == 1 else f"[{', '.join(values)}]"


def rate(value: float) -> str:
    """1.0e-4, which YAML reads as a number; it reads 1e-4 as a text."""
    return f"{value:.1e}".replace("e-0", "e-")


def number(weights: int) -> str:
    """1.5 billion, 135 million or 27,968."""
    if weights < 1e6:
        return f"{weights:,}"
    return f"{weights / 1e9:.2g} billion" if weights >= 1e9 else f"{weights / 1e6:.0f} million"


def edited(file: str, edits: Edits, header: str = "") -> str:
    """A file of the base preset with other values and, if given, another comment at its top.

    Raises KeyError for an edit of a key that the file does not have.
    """
    text = (BASE / file).read_text(encoding="utf-8")
    top = HEADER.match(text)[0]
    missing = set(edits) - {block[1] for block in BLOCK.finditer(text, len(top))}
    if missing:
        raise KeyError(f"{file}: {missing}")

    def replaced(block: re.Match[str]) -> str:
        lines = edits.get(block[1], block[0])
        return lines or ""

    comment = "".join(f"# {part}\n" for part in textwrap.wrap(header, WIDTH - 2)) or top
    return comment + BLOCK.sub(replaced, text[len(top) :])


def train_edits(plan: Plan) -> Edits:
    """What train.yaml says otherwise."""
    student, data, recipe = plan.student, plan.data, plan.recipe
    template = "writes the prompts of the student's own chat template"
    thinking = line("enable_thinking", "false", "as in inference; true goes with thinking: true in infer.yaml")
    length = f"the longest gold row has {data.longest} tokens" if data.longest else "gold rows have not been measured"
    embeddings = (
        f"the model's configuration does not end texts at {student.turn_end}, so it may rarely have seen it, and LoRA alone "
        f"may not learn it [im_end]. This trains {number(student.embedding_weights)} more weights"
    )
    return {
        "model_name_or_path": line("model_name_or_path", student.name),
        "template": line("template", student.template, template) + (thinking if student.reasons else ""),
        "lora_rank": line("lora_rank", recipe.rank, "enough for a million answer tokens [regret]"),
        "lora_alpha": line("lora_alpha", recipe.rank, "scale 1, so that rank and rate can be changed separately"),
        "additional_target": None
        if student.ends_turns
        else line("additional_target", ",".join(student.embeddings), embeddings),
        "eval_dataset": line("eval_dataset", "gold_dev", "held-out training problems, never a test set"),
        "cutoff_len": line("cutoff_len", data.cutoff, f"the filter drops longer rows (max_tokens); {length}"),
        "per_device_train_batch_size": line("per_device_train_batch_size", recipe.rows),
        "gradient_accumulation_steps": line(
            "gradient_accumulation_steps",
            16 // recipe.rows,
            "16 rows per step, shared by all GPUs: large batches harm LoRA [regret]",
        ),
        "learning_rate": line(
            "learning_rate", rate(recipe.rate), "a start for this size; scripts/sweep.sh compares rates"
        ),
        "num_train_epochs": line(
            "num_train_epochs", 5, "as s1 [s1]; the best checkpoint on the held-out problems is kept, see below"
        ),
        "bf16": line("bf16", "true", "the range of float32; false on a GPU older than Ampere and on a CPU"),
        "per_device_eval_batch_size": line("per_device_eval_batch_size", 2 * recipe.rows),
        "save_total_limit": line("save_total_limit", 2, "the best and the last"),
    }


def method_edits(file: str, plan: Plan) -> Edits | None:
    """What a method's YAML says otherwise; None if the teacher cannot be used as the method needs."""
    text = (BASE / file).read_text(encoding="utf-8")
    edits: Edits = {}
    if f"\nteacher: {BASE_TEACHER}" in text:
        if not plan.same_ids:
            return None
        edits["teacher"] = line("teacher", plan.teacher)
    if "\nlearning_rate:" in text:
        edits["learning_rate"] = line("learning_rate", rate(plan.recipe.rate / 10), "a tenth of the SFT rate")
    if "\nmax_new_tokens:" in text:
        edits["max_new_tokens"] = line("max_new_tokens", plan.data.cutoff // 2)
    if "\nadditional_target:" in text and plan.student.ends_turns:
        edits["additional_target"] = None
    return edits


def sampling_edits(plan: Plan) -> Edits:
    """The lines of the teacher's temperature, top_p and top_k."""
    if plan.keeps_sampling:
        return {}
    source = "its generation config" if plan.sampling else "a usual value; the model card may name another"
    values = plan.sampling or SAMPLING
    return {key: line(key, values[key], source) if key in values else None for key in ("temperature", "top_p", "top_k")}


def teacher_edits(plan: Plan) -> Edits:
    """What teacher.yaml says otherwise."""
    cutoff = plan.data.cutoff
    rounds = f"  - {{}}\n  - {{temperature: 1.0, top_p: 0.95, max_new_tokens_if_truncated: {cutoff}}}\n"
    return {
        "input_path": line("input_path", listed(plan.data.files("train"))),
        "model_name": line("model_name", plan.teacher),
        "max_new_tokens": line("max_new_tokens", cutoff // 2),
        "rounds": line("rounds", "", "the second round asks only for problems without a kept sample") + rounds,
        **sampling_edits(plan),
    }


def filter_edits(plan: Plan) -> Edits:
    """What filter.yaml says otherwise."""
    data, tests = plan.data, "".join(f"  - {path}\n" for path in plan.data.test_files)
    asked = "training questions that one of these also asks are rejected"
    generated = "none: problems of one template share most of their words with a test problem, but not its numbers"
    return {
        "student_model": line("student_model", plan.student.name),
        "max_words": line("max_words", 300 * data.cutoff // SHORT),
        "max_tokens": line("max_tokens", data.cutoff, "equal to cutoff_len in train.yaml: training truncates nothing"),
        "problems_path": line("problems_path", listed(data.files("train")), "a row of another problem is refused"),
        "dev_path": line("dev_path", listed(data.files("dev"))),
        "test_paths": line("test_paths", "", asked) + tests if tests else line("test_paths", "[]", generated),
    }


def texts_of(plan: Plan) -> dict[str, str]:
    """The files of a preset: their paths in its folder, and their texts."""
    student, data = plan.student, plan.data
    end_source = "" if student.ends_turns else "[im_end] QwenLM/Qwen3 issue 1064; "
    train = (
        f"Stage 3: what all methods share: a LoRA recipe for a model of {number(student.weights)} weights. Sources: [regret] "
        f'Schulman et al. 2025, "LoRA Without Regret", thinkingmachines.ai; {end_source}[s1] Muennighoff et al. 2025, '
        "arXiv:2501.19393. It was written by scripts/new_preset.py and has not been run."
    )
    teacher = "Stage 1: four samples per problem: rejection_sampled and dpo choose among them."
    answer = "a text ends at its answer anyway"
    infer = {
        "base_model": line("base_model", student.name),
        "max_new_tokens": line("max_new_tokens", data.cutoff, answer),
    }
    texts = {
        "data.yaml": edited("data.yaml", {"dataset": line("dataset", f"[{', '.join(data.names)}]")}),
        "teacher.yaml": edited("teacher.yaml", teacher_edits(plan), teacher),
        "filter.yaml": edited("filter.yaml", filter_edits(plan)),
        "train.yaml": edited("train.yaml", train_edits(plan), train),
        "infer.yaml": edited("infer.yaml", infer),
        "score.yaml": edited("score.yaml", {}),
        "critic.yaml": edited("critic.yaml", {"model_name": line("model_name", plan.teacher), **sampling_edits(plan)}),
    }
    for path in sorted((BASE / "train").glob("*.yaml")):
        file = f"train/{path.name}"
        edits = method_edits(file, plan)
        if edits is not None:
            texts[file] = edited(file, edits, LOGIT_KD if path.stem == "logit_kd" else "")
    return texts
