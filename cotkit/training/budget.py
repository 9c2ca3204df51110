"""How long a method trains: `budget` in a preset's train.yaml, so that methods with sets of unlike size are comparable.

budget: epochs            every method sees its own set num_train_epochs times (the default)
budget: steps of gold     every method makes as many optimizer steps as the set gold takes in num_train_epochs
budget: tokens of gold    every method is trained on as many answer tokens as gold has in num_train_epochs
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from cotkit.core.errors import UserError
from cotkit.core.jsonl import Row, read, read_json
from cotkit.training.config import TrainConfig

# The fields whose tokens are trained on; see cotkit/filtering/training_sets.py.
ANSWERS = ("output", "chosen", "rejected")


def spread(config: TrainConfig, processes: int) -> Row:
    """The batch keys for so many processes, so that rows a step stay those that the YAML asks of one process.

    Raises UserError where the rows a step cannot be divided.
    """
    batch = int(config.values.get("per_device_train_batch_size", 8))  # transformers' default
    accumulation = int(config.values.get("gradient_accumulation_steps", 1))
    if accumulation % processes == 0:
        accumulation //= processes
    elif batch % processes == 0:
        batch //= processes
    else:
        raise UserError(
            f"{config.where('gradient_accumulation_steps')}: {batch} x {accumulation} rows a step cannot be divided among "
            f"{processes} processes; make one of the two a multiple of {processes}"
        )
    return {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation}


def rows_a_step(config: TrainConfig) -> int:
    keys = spread(config, 1)
    return int(keys["per_device_train_batch_size"]) * int(keys["gradient_accumulation_steps"])


def steps(config: TrainConfig) -> int:
    """Optimizer steps of a method under its budget. Raises UserError for a budget that is none."""
    if limit := int(config.values.get("max_steps") or 0):
        return limit
    own = steps_of(config, rows_in(config, str(config.values["dataset"])))
    match config.budget.split():
        case ["epochs"]:
            return own
        case ["steps", "of", name]:
            return steps_of(config, rows_in(config, name))
        case ["tokens", "of", name]:
            theirs = steps_of(config, rows_in(config, name)) * mean_tokens(config, name)
            return max(1, round(theirs / mean_tokens(config, str(config.values["dataset"]))))
    raise UserError(f"{config.where('budget')}: epochs, `steps of SET` or `tokens of SET` is expected")


def steps_of(config: TrainConfig, rows: int) -> int:
    """Steps that a set of so many rows takes in num_train_epochs: transformers counts the last, smaller batch."""
    return math.ceil(math.ceil(rows / rows_a_step(config)) * float(config.values.get("num_train_epochs", 3)))


def set_path(config: TrainConfig, name: str) -> Path:
    """The file of a training set. Raises UserError if the run has none of that name."""
    folder = Path(config.values["dataset_dir"])
    index = read_json(folder / "dataset_info.json")
    if name not in index:
        raise UserError(f"{config.where('budget')}: no set {name!r} in {folder}; known are {', '.join(sorted(index))}")
    return folder / index[name]["file_name"]


def rows_in(config: TrainConfig, name: str) -> int:
    """Rows of one or several (comma) training sets."""
    return sum(1 for part in name.split(",") for _ in read(set_path(config, part.strip())))


def mean_tokens(config: TrainConfig, name: str) -> float:
    """Answer tokens a row, each answer with its end-of-turn token."""
    rows = rows_in(config, name)
    return answer_tokens(config, name) / rows


def answer_tokens(config: TrainConfig, name: str) -> int:
    """Tokens that are trained on in one pass over a set, as the student's tokenizer counts them."""
    tokenizer = load_tokenizer(str(config.values["model_name_or_path"]))
    total = 0
    for part in name.split(","):
        for row in read(set_path(config, part.strip())):
            answers = [row[field] for field in ANSWERS if field in row]
            total += sum(len(encoded.ids) + 1 for encoded in tokenizer.encode_batch(answers, add_special_tokens=False))
    return total


def load_tokenizer(model: str) -> Any:
    """The bare tokenizer of a model, without importing transformers. Raises UserError if there is none."""
    from tokenizers import Tokenizer

    try:
        if (file := Path(model) / "tokenizer.json").is_file():
            return Tokenizer.from_file(str(file))
        return Tokenizer.from_pretrained(model)
    except Exception as error:  # noqa: BLE001  the package raises nothing narrower
        raise UserError(f"{model}: has no tokenizer that can be loaded ({str(error).splitlines()[0]})") from None
