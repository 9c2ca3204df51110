"""Stage 0: turns a data set into problem files. Each problem gets an id that all later stages keep.

Reads   the Hugging Face hub at pinned revisions, or local raw files with --source DIR; gsm_symbolic is generated
Writes  <data_root>/<dataset>/<split>.jsonl
    {"id": "gsm8k-train-02716", "dataset": "gsm8k", "split": "train", "question": "...", "solution": "...", "answer": "18"}

    python scripts/prepare_data.py --dataset gsm_symbolic
    python scripts/prepare_data.py --dataset gsm8k math500 aime aime25 amc23

The number in an id is the row, from 0, in the split that was published: GSM8K's dev rows are rows of its train file.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from cotkit.core import cli, jsonl
from cotkit.core.datasets import PREPARABLE
from cotkit.core.errors import UserError
from cotkit.core.files import locked
from cotkit.core.jsonl import Row
from cotkit.core.manifest import Manifest

DEV_SHARE, SPLIT_SEED = 0.1, 42  # train_test_split(test_size=0.1, seed=42) of the original experiment
Splits = dict[str, list[Row]]


@dataclass(frozen=True)
class PublishedSource:
    """A published split, on the hub at a commit and as a local raw file."""

    repository: str
    config: str | None
    hub_split: str
    revision: str
    raw_file: str


_GSM8K_REVISION = "e53f048856ff4f594e959d75785d2c2d37b678ee"
SOURCES: dict[tuple[str, str], PublishedSource] = {
    ("gsm8k", "train"): PublishedSource("openai/gsm8k", "main", "train", _GSM8K_REVISION, "gsm8k/train.jsonl"),
    ("gsm8k", "test"): PublishedSource("openai/gsm8k", "main", "test", _GSM8K_REVISION, "gsm8k/test.jsonl"),
    ("math500", "test"): PublishedSource(
        "HuggingFaceH4/MATH-500", None, "test", "6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be", "math500/test.jsonl"
    ),
    ("aime", "test"): PublishedSource(
        "HuggingFaceH4/aime_2024", None, "train", "2fe88a2f1091d5048c0f36abc874fb997b3dd99a", "aime/aime24.jsonl"
    ),
    ("aime25", "test"): PublishedSource(
        "math-ai/aime25", None, "test", "563bb8404243c5f09de6ec262f2db674fe5bce9b", "aime/aime25.jsonl"
    ),
    ("amc23", "test"): PublishedSource(
        "math-ai/amc23", None, "test", "80815d37005feb82cd7f8fbc6901d5d3eff43057", "amc23/test.jsonl"
    ),
}

# gsm_symbolic: lengths that a 135M model can learn in minutes, and the number of problems per split.
MAX_SOLUTION_WORDS, MAX_QUESTION_WORDS = 32, 45
SYMBOLIC_SIZES = {"test": 500, "dev": 200, "train": 2000}
SYMBOLIC_TAIL = "Give the result as your final answer. Do not include units."


def read_source(source: PublishedSource, raw_root: Path | None) -> list[Row]:
    """The rows of a published split, in its order. Raises UserError if it cannot be read."""
    if raw_root is not None:
        path = raw_root / source.raw_file
        if not path.is_file():
            raise UserError(f"{path}: not found; --source must hold {source.raw_file}")
        return list(jsonl.read(path))
    from datasets import load_dataset

    try:
        dataset = load_dataset(source.repository, source.config, split=source.hub_split, revision=source.revision)
    except Exception as error:  # noqa: BLE001  the hub client raises many kinds; all mean the same to the user
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{source.repository}: cannot be loaded from the hub ({reason}); try --source DIR") from None
    return [dict(row) for row in dataset]


def convert_gsm8k(row: Row) -> Row:
    """Splits GSM8K's answer field at its last ``#### x`` and removes thousands commas from the answer."""
    solution, mark, answer = row["answer"].rpartition("####")
    if not mark:
        raise UserError(f"gsm8k: an answer without '####': {row['answer'][:60]!r}")
    return {"question": row["question"], "solution": solution.rstrip(), "answer": answer.strip().replace(",", "")}


def convert_competition(row: Row) -> Row:
    """MATH-500, AIME and AMC. Some call the question `problem`, some have no solution, AMC writes 27 as 27.0."""
    answer = re.sub(r"^(-?\d+)\.0$", r"\1", str(row["answer"]))
    question = row.get("question") or row["problem"]
    extra = {key: row[key] for key in ("subject", "level") if key in row}
    return {"question": question, "solution": row.get("solution") or "", "answer": answer, **extra}


def published_split(dataset: str, split: str, raw_root: Path | None) -> list[Row]:
    """One published split as problem rows."""
    convert = convert_gsm8k if dataset == "gsm8k" else convert_competition
    rows = read_source(SOURCES[dataset, split], raw_root)
    return [_problem(dataset, split, number, convert(row)) for number, row in enumerate(rows)]


def _problem(dataset: str, split: str, number: int, fields: Row) -> Row:
    return {"id": f"{dataset}-{split}-{number:05d}", "dataset": dataset, "split": split, **fields}


def gsm8k(raw_root: Path | None) -> Splits:
    """Train, dev and test. Dev is a random part of the published train split."""
    from datasets import Dataset

    published = published_split("gsm8k", "train", raw_root)
    numbers = Dataset.from_dict({"row": list(range(len(published)))})
    parts = numbers.train_test_split(test_size=DEV_SHARE, seed=SPLIT_SEED)
    train = [published[number] for number in parts["train"]["row"]]
    dev = [{**published[number], "split": "dev"} for number in parts["test"]["row"]]
    return {"train": train, "dev": dev, "test": published_split("gsm8k", "test", raw_root)}


def gsm_symbolic(seed: int) -> Splits:
    """Short GSM templates from reasoning-gym. Each split has its own seed, and no question is in two splits."""
    seen: set[str] = set()
    splits: Splits = {}
    for offset, (split, size) in enumerate(SYMBOLIC_SIZES.items()):
        chosen = islice(_short_symbolic(seed + offset, seen), size)
        splits[split] = [_problem("gsm_symbolic", split, number, fields) for number, fields in enumerate(chosen)]
    return splits


def _short_symbolic(seed: int, seen: set[str]) -> Iterator[Row]:
    import reasoning_gym

    # Each item has its own seed, so the size of the data set does not change the items.
    for item in reasoning_gym.create_dataset("gsm_symbolic", seed=seed * 1_000_003, size=50_000):
        question = item["question"].removesuffix(SYMBOLIC_TAIL).strip()
        solution = item["metadata"]["answer_cot"].rpartition("####")[0].rstrip()
        short = len(solution.split()) <= MAX_SOLUTION_WORDS and len(question.split()) <= MAX_QUESTION_WORDS
        if short and question not in seen:
            seen.add(question)
            yield {"question": question, "solution": solution, "answer": item["answer"]}


def splits_of(dataset: str, raw_root: Path | None, seed: int) -> Splits:
    """All splits of a data set as problem rows."""
    if dataset == "gsm_symbolic":
        return gsm_symbolic(seed)
    return gsm8k(raw_root) if dataset == "gsm8k" else {"test": published_split(dataset, "test", raw_root)}


def prepare(dataset: str, args: argparse.Namespace) -> None:
    """Writes every split of one data set, unless they exist already."""
    folder: Path = args.data_root / dataset
    # The origin of the rows is recorded but not compared: the hub and the raw files have the same rows.
    settings: Row = {"dataset": dataset}
    if dataset == "gsm_symbolic":
        settings |= {"seed": args.seed, "sizes": SYMBOLIC_SIZES, "max_words": [MAX_QUESTION_WORDS, MAX_SOLUTION_WORDS]}
    record = Manifest("prepare_data", folder / "test.jsonl", settings, seed=args.seed, overwrite=args.overwrite)
    if record.check() == "done":
        print(f"{folder}: done already, {record.read()['counts']}")
        return
    splits = splits_of(dataset, args.source, args.seed)
    if args.dry_run:
        for split, rows in splits.items():
            print(f"{folder / split}.jsonl would get {len(rows)} problems; the first: {rows[0]}")
        return
    with locked(record.output):
        record.begin()
        for split, rows in splits.items():
            jsonl.write_atomic(folder / f"{split}.jsonl", rows)
            print(f"{folder / split}.jsonl: {len(rows)} problems")
        counts = {split: len(rows) for split, rows in splits.items()}
        files = [folder / f"{split}.jsonl" for split in splits]
        record.finish(files, counts, source=str(args.source) if args.source else "hub or package")


def main(argv: list[str] | None = None) -> int:
    parser = cli.StageParser(__doc__, "seed", "dry_run", "overwrite")
    parser.add_argument("--dataset", nargs="+", required=True, choices=PREPARABLE, help="one or several")
    parser.add_argument(
        "--source", type=Path, metavar="DIR", help="folder of local raw files to read instead of the hub"
    )
    parser.add_argument("--data_root", type=Path, default=Path("data"), help="where to write (default data)")
    args = parser.parse(argv)
    for dataset in dict.fromkeys(args.dataset):
        prepare(dataset, args)
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
