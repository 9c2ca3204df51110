"""How long a method trains: the key `budget` of train.yaml makes methods with sets of different sizes comparable.

budget: epochs            each method sees its own set num_train_epochs times (the default)
budget: steps of gold     each method makes as many optimizer steps as the set gold takes in num_train_epochs
budget: tokens of gold    each method is trained on as many answer tokens as gold has in num_train_epochs
"""

from __future__ import annotations

import math

from cotkit.core.errors import UserError
from cotkit.core.jsonl import Row, read
from cotkit.generation.chat_model import load_tokenizer
from cotkit.training.config import TrainConfig

# The fields of a row whose tokens are trained on; see cotkit/filtering/training_sets.py.
ANSWERS = ("output", "chosen", "rejected")


def divide_batch(config: TrainConfig, processes: int) -> Row:
    """The batch keys for each of several processes. The rows per step stay those that the YAML asks of one process.

    Raises UserError where the rows per step cannot be divided.
    """
    batch = int(config.values.get("per_device_train_batch_size", 8))  # transformers' default
    accumulation = int(config.values.get("gradient_accumulation_steps", 1))
    if accumulation % processes == 0:
        accumulation //= processes
    elif batch % processes == 0:
        batch //= processes
    else:
        raise UserError(
            f"{config.where('gradient_accumulation_steps')}: {batch} x {accumulation} rows per step cannot be divided "
            f"among {processes} processes; make one of the two a multiple of {processes}"
        )
    return {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation}


def rows_per_step(config: TrainConfig) -> int:
    return math.prod(divide_batch(config, 1).values())


def steps(config: TrainConfig) -> int:
    """Optimizer steps of a method. Raises UserError for a budget that has none of the three forms."""
    if limit := int(config.values.get("max_steps") or 0):
        return limit
    dataset = str(config.values["dataset"])
    match config.budget.split():
        case ["epochs"]:
            return steps_for(config, count_rows(config, dataset))
        case ["steps", "of", name]:
            return steps_for(config, count_rows(config, name))
        case ["tokens", "of", name]:
            theirs = steps_for(config, count_rows(config, name)) * tokens_per_row(config, name)
            return max(1, round(theirs / tokens_per_row(config, dataset)))
    raise UserError(f"{config.where('budget')}: must be `epochs`, `steps of SET` or `tokens of SET`")


def steps_for(config: TrainConfig, rows: int) -> int:
    """Steps that so many rows take in num_train_epochs. The last, smaller batch counts, as in transformers."""
    return math.ceil(math.ceil(rows / rows_per_step(config)) * float(config.values.get("num_train_epochs", 3)))


def count_rows(config: TrainConfig, names: str) -> int:
    """Rows of a comma list of training sets."""
    return sum(1 for path in config.files_of(names, "budget").values() for _ in read(path))


def count_answer_tokens(config: TrainConfig, names: str) -> int:
    """Tokens that are trained on in one pass over a comma list of sets, each answer with its end-of-turn token."""
    tokenizer, total = load_tokenizer(str(config.values["model_name_or_path"])), 0
    for path in config.files_of(names, "budget").values():
        answers = [row[field] for row in read(path) for field in ANSWERS if field in row]
        total += len(answers) + sum(map(len, tokenizer(answers, add_special_tokens=False)["input_ids"]))
    return total


def tokens_per_row(config: TrainConfig, names: str) -> float:
    return count_answer_tokens(config, names) / count_rows(config, names)
