"""Writes a preset for another student, teacher or data: LLaMA-Factory's template, lengths and a LoRA recipe by size.

Reads   the configuration and tokenizer of both models, if they are on this machine; data/<set>/train.jsonl, if prepared
Writes  configs/<name>/*.yaml and train/*.yaml, with the keys and comments of configs/qwen2_1.5b_tuned, such as
        template: llama3                      # writes the prompts of the student's own chat template

    python scripts/new_preset.py llama_1b --student models/Llama-3.2-1B --teacher Qwen/Qwen3-8B --data gsm8k math500
    python scripts/check_preset.py configs/llama_1b

The data sets with a train split are trained on, those with a test split tested on. What the files could not say is
printed as a list to decide by hand: docs/NEW_MODEL.md. A folder that exists is refused.
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

from cotkit.core import cli
from cotkit.core.datasets import DATASETS
from cotkit.core.errors import UserError
from cotkit.core.files import require_folder
from cotkit.core.jsonl import read
from cotkit.filtering.token_count import token_counter
from cotkit.generation import prompts
from cotkit.training import model_facts
from cotkit.training.model_facts import StudentFacts
from cotkit.training.preset_texts import Data, Plan, number, splits_of, texts_of

CUTOFF, LONG_CUTOFF = 1024, 2048  # tokens of a row: word problems, and competition problems with LaTeX
STEP = 512  # longer training rows raise the cutoff to a multiple of it
MEASURED_ROWS = 2000


def read_data(names: list[str], student: StudentFacts) -> Data:
    """Raises UserError for an unknown set, or where there is nothing to train or to test on."""
    names = list(dict.fromkeys(names))
    for name in names:
        if name not in DATASETS:
            hint = cli.nearest(name, DATASETS)
            raise UserError(f"--data {name}: no such data set{hint}; docs/NEW_MODEL.md: problems of your own")
    for split in ("train", "test"):
        if not any(split in splits_of(name) for name in names):
            able = ", ".join(name for name in DATASETS if split in splits_of(name))
            raise UserError(f"--data {' '.join(names)}: no set has a {split} split; add one of {able}")
    training = [name for name in names if "train" in splits_of(name)]
    cutoff = LONG_CUTOFF if any(DATASETS[name].kind == "latex" for name in training) else CUTOFF
    longest = longest_row([Path(f"data/{name}/train.jsonl") for name in training], student.name)
    cutoff = max(cutoff, -(-(longest or 0) // STEP) * STEP)
    return Data(names, min(cutoff, student.context or cutoff), longest)


def longest_row(paths: list[Path], student: str) -> int | None:
    """The tokens of the longest of the first gold rows of prepared sets."""
    rows = [row for path in paths if path.is_file() for row, _ in zip(read(path), range(MEASURED_ROWS), strict=False)]
    count = token_counter(student)
    return max((count(row, prompts.target(row["solution"], row["answer"])) for row in rows), default=None)


def unknown(plan: Plan, preset: Path) -> list[str]:
    """What the files could not say, and what to do about it."""
    student, teacher, data = plan.student, plan.teacher, plan.data
    found = [
        f"the best learning rate: train.yaml has one for the model's size; to compare: bash scripts/sweep.sh {preset}",
        "the memory: if a GPU has too little, halve per_device_train_batch_size and double gradient_accumulation_steps",
    ]
    if data.longest is None:
        found.append(f"how long rows are: no training set is prepared, and cutoff_len is {data.cutoff}")
    if not student.ends_turns:
        found.append(
            f"whether {student.name} writes {student.turn_end}: if it is a chat model, remove additional_target"
        )
    if plan.teacher_facts is None:
        found.append(f"all of {teacher}, which is not on this machine; behind a server it needs backend and base_url")
    if not (plan.keeps_sampling or plan.sampling):
        found.append("how to sample from the teacher: teacher.yaml has usual values; its model card may name others")
    if plan.same_ids is None:
        found.append(
            "whether student and teacher have the same tokens: logit_kd and on_policy, which need that, are left out"
        )
    return found


def write_folder(folder: Path, texts: dict[str, str]) -> None:
    """All files or none."""
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".preset-") as temporary:
        new = Path(temporary) / "new"
        for file, text in texts.items():
            (new / file).parent.mkdir(parents=True, exist_ok=True)
            (new / file).write_text(text, encoding="utf-8")
        new.rename(folder)


def main(argv: list[str] | None = None) -> int:
    parser = cli.StageParser(__doc__, "dry_run")
    parser.add_argument("name", metavar="NAME", help="of the new folder below configs/")
    parser.add_argument("--student", metavar="MODEL", required=True, help="a folder, or a model of the hub's cache")
    parser.add_argument("--teacher", metavar="MODEL", required=True, help="a folder or a model of the hub")
    parser.add_argument("--data", metavar="SET", required=True, nargs="+", help=f"of {', '.join(DATASETS)}")
    parser.add_argument("--configs", metavar="DIR", type=Path, default=Path("configs"), help="where (default configs)")
    args = parser.parse(argv)
    folder = args.configs / args.name
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", args.name):
        parser.error(f"NAME {args.name!r} must begin with a letter or digit and have only those, '.', '_', '-'")
    if folder.exists():
        raise UserError(f"{folder}: exists; choose another name, or remove it first")
    require_folder(args.configs, "run this in the project's folder")
    student = model_facts.read_student(args.student)
    facts = model_facts.read_teacher(args.teacher)
    same_ids = facts and model_facts.same_ids(args.student, args.teacher)
    plan = Plan(student, args.teacher, facts, same_ids, read_data(args.data, student))
    texts = texts_of(plan)
    print(
        f"{args.student}: {number(student.weights)} weights, template {student.template}, "
        f"{'a chat model' if student.ends_turns else 'probably a base model'}; turns end with {student.turn_end}"
    )
    if args.dry_run:
        print(f"{texts['train.yaml']}\ndry run: {folder} would be written, train.yaml as above")
        return 0
    write_folder(folder, texts)
    print(f"{folder}: {len(texts)} files\nnot known, for you to decide:")
    for item in unknown(plan, folder):
        print(f"  - {item}")
    if same_ids is False:
        print(f"left out, since {args.teacher} has other tokens: logit_kd and on_policy")
    print(f"next: python scripts/check_preset.py {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
