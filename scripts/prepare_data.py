"""Stage 0: turns a data set into problem files. Each problem gets an id that all later stages keep.

Reads   published sets: the Hugging Face hub at pinned revisions, or local raw files with --source DIR; gsm_symbolic is
        generated. Your own problems: a file (JSON Lines, JSON, CSV, TSV, Parquet), a folder or a hub id
Writes  <data_root>/<name>/<split>.jsonl, and dataset.json, which describes them
    {"id": "gsm8k-train-02716", "dataset": "gsm8k", "split": "train", "question": "...", "solution": "...", "answer": "18"}

    python scripts/prepare_data.py --dataset gsm_symbolic --max_number 100
    python scripts/prepare_data.py --dataset gsm8k math500 aime aime25 amc23
    python scripts/prepare_data.py --name bakery --input bakery.csv --question prompt --answer final \\
        --solution answer_text --kind number --split train:0.8,dev:0.1,test:0.1

The number in an id is the row, from 0, in the split that was published: GSM8K's dev rows are rows of its train file.
Problems of your own are checked first: all faults are shown at once, each with its file and line. --dry_run only checks
and shows three problems as they will be asked.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from cotkit.core import cli, jsonl
from cotkit.core.datasets import ANSWER_KINDS, BOXED, DATASETS, DESCRIPTION_FILE
from cotkit.core.errors import UserError
from cotkit.core.files import locked
from cotkit.core.jsonl import Row
from cotkit.core.manifest import Input, Manifest
from cotkit.filtering.contamination import TestQuestions
from cotkit.filtering.options import NGRAM
from cotkit.filtering.records import Parameters
from cotkit.generation import prompts
from cotkit.grading.equivalence import gold_problem
from cotkit.preparation.description import OWN_DATA, OWN_KEYS, Description, described
from cotkit.preparation.own_problems import Splits, divided, own_problems
from cotkit.preparation.published_problems import numbered, published_split
from cotkit.preparation.source_files import read_source

SPLIT_SEED = 42  # of the original experiment's division into train and dev
SHOWN = 3  # problems that are printed as they will be asked

# gsm_symbolic: lengths that a 135M model can learn in minutes, and the number of problems per split. `expert` is there to
# train a teacher on, `unlabeled` holds questions without solutions.
UNLABELED = "unlabeled"
MAX_SOLUTION_WORDS, MAX_QUESTION_WORDS = 32, 45
SYMBOLIC_SIZES = {"test": 500, "dev": 200, "train": 2000, "expert": 2400, UNLABELED: 1280}
# A number in digits, such as 1,200 or 0.75.
NUMBER = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?")
SYMBOLIC_TAIL = "Give the result as your final answer. Do not include units."


def published(name: str, raw_root: Path | None) -> Splits:
    """All splits of a published set. Dev is a random part of the published train split."""
    dataset = DATASETS[name]
    splits = {split: published_split(name, split, raw_root) for split in dataset.splits}
    if dataset.disjoint_from:
        splits["train"] = disjoint(name, splits["train"], raw_root)
    if dataset.shares:
        splits = divided(splits.pop("train"), dataset.shares, SPLIT_SEED) | splits
    return splits


def disjoint(name: str, rows: list[Row], raw_root: Path | None) -> list[Row]:
    """The rows with an answer that the grader can read and a question that the other set's test split does not ask.

    Two questions are the same by text if their words are, and by n-grams by the filter's rule `contaminated`.
    """
    kind, other = DATASETS[name].kind, str(DATASETS[name].disjoint_from)
    tests = published_split(other, "test", raw_root)
    texts = {_words(test["question"]) for test in tests}
    grams = TestQuestions([(test["id"], test["question"]) for test in tests], NGRAM)
    counts: Counter[str] = Counter()
    kept = []
    for row in rows:
        if gold_problem(row["answer"], kind) is not None:
            counts["unreadable"] += 1
        elif _words(row["question"]) in texts:
            counts["text"] += 1
        elif (found := grams.closest(row["question"])) and found.share >= Parameters.max_overlap:
            counts["n-grams"] += 1
        else:
            kept.append(row)
    print(
        f"{name}: {len(rows)} rows; removed: {counts['unreadable']} without a readable answer, {counts['text']} with the "
        f"text of a problem of {other}, {counts['n-grams']} with {Parameters.max_overlap:.0%} of their {NGRAM}-grams in "
        f"one; {len(kept)} left"
    )
    return kept


def _words(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\w+", text.lower()))


def gsm_symbolic(seed: int, max_number: int | None = None) -> Splits:
    """Short GSM templates from reasoning-gym. Each split has its own seed, and no question is in two splits.

    With `max_number`, no number in a question, its solution or its answer is larger: small models fail at the arithmetic of
    large numbers, whatever their reasoning is.
    """
    seen: set[str] = set()
    splits: Splits = {}
    for offset, (split, size) in enumerate(SYMBOLIC_SIZES.items()):
        chosen = islice(_short_symbolic(seed + offset, seen, max_number), size)
        splits[split] = [numbered("gsm_symbolic", split, number, fields) for number, fields in enumerate(chosen)]
    for row in splits.get(UNLABELED, []):  # the answer stays, to measure what a vote finds (scripts/vote.py)
        row["solution"] = ""
    return splits


def _short_symbolic(seed: int, seen: set[str], max_number: int | None) -> Iterator[Row]:
    import reasoning_gym

    # Each item has its own seed, so the size of the data set does not change the items.
    for item in reasoning_gym.create_dataset("gsm_symbolic", seed=seed * 1_000_003, size=50_000):
        question = item["question"].removesuffix(SYMBOLIC_TAIL).strip()
        solution = item["metadata"]["answer_cot"].rpartition("####")[0].rstrip()
        short = len(solution.split()) <= MAX_SOLUTION_WORDS and len(question.split()) <= MAX_QUESTION_WORDS
        small = max_number is None or largest_number(f"{question} {solution} {item['answer']}") <= max_number
        if short and small and question not in seen:
            seen.add(question)
            yield {"question": question, "solution": solution, "answer": item["answer"]}


def largest_number(text: str) -> float:
    """The largest of the numbers that stand in a text in digits; 0 if there is none."""
    return max((float(found.replace(",", "")) for found in NUMBER.findall(text)), default=0.0)


GENERATORS: dict[str, Callable[[int, int | None], Splits]] = {"gsm_symbolic": gsm_symbolic}


def prepare_known(name: str, args: argparse.Namespace) -> None:
    """Writes every split of a data set of the table, unless they exist already."""
    dataset, folder = DATASETS[name], args.data_root / name
    # The origin of the rows is recorded but not compared: the hub and the raw files have the same rows.
    settings: Row = {"dataset": name}
    if dataset.generator:
        settings |= {"seed": args.seed, "sizes": SYMBOLIC_SIZES, "max_words": [MAX_QUESTION_WORDS, MAX_SOLUTION_WORDS]}
        bound: Row = {} if args.max_number is None else {"max_number": args.max_number}
        settings |= bound
        source: Row = {"generator": dataset.generator, "seed": args.seed, **bound}
    else:
        pins = {
            split: {"repository": one.repository, "revision": one.revision} for split, one in dataset.splits.items()
        }
        source = {"raw_files": str(args.source)} if args.source else pins
    output = "train.jsonl" if "test" not in dataset.splits and not dataset.generator else "test.jsonl"
    record = Manifest("prepare_data", folder / output, settings, seed=args.seed, overwrite=args.overwrite)
    record.overwrite |= lacks_splits(record)
    description: Row = {"name": name, "kind": dataset.kind, "source": source}
    if is_done(record):
        if not (folder / DESCRIPTION_FILE).is_file():  # an earlier version wrote none
            jsonl.write_json_atomic(folder / DESCRIPTION_FILE, {**description, "splits": record.read()["counts"]})
        return
    splits = (
        GENERATORS[dataset.generator](args.seed, args.max_number) if dataset.generator else published(name, args.source)
    )
    if args.dry_run:
        for split, rows in splits.items():
            print(f"{folder / split}.jsonl would get {len(rows)} problems; the first: {rows[0]}")
        return
    write_splits(record, splits, description, source=str(args.source) if args.source else "hub or package")


def lacks_splits(record: Manifest) -> bool:
    """Whether a generated set was made in the same way with fewer splits. Making it again changes none of them."""
    old = record.read().get("settings", {}) if record.path.is_file() else {}
    sizes, known = record.settings.get("sizes", {}), old.get("sizes", {})
    return {**old, "sizes": sizes} == record.settings and known != sizes and known.items() <= sizes.items()


class OwnSet(NamedTuple):
    """A set of the user's own problems that is checked and not written yet."""

    record: Manifest
    splits: Splits
    description: Row
    dropped: int


def checked(own: Description, args: argparse.Namespace) -> OwnSet | None:
    """Reads and checks a set of the user's own problems, and shows some; None if it is prepared already."""
    folder: Path = args.data_root / own.name
    record = Manifest("prepare_data", folder / DESCRIPTION_FILE, asdict(own), seed=own.seed, overwrite=args.overwrite)
    if not Path(own.input).exists() and is_done(record):  # a finished hub set is not asked for again
        return None
    source = read_source(own.input, own.config, own.revision)
    splits, dropped = own_problems(own, source.splits, lambda answer: gold_problem(answer, own.kind))
    record.inputs = {f"input {number}": Input(path) for number, path in enumerate(source.files, 1)}
    if is_done(record):
        return None
    if not record.path.exists() and not args.overwrite and (found := sorted(folder.glob("*.jsonl"))):
        raise UserError(f"{found[0]}: exists, but was not made by this command; give another --name, or --overwrite")
    print("\n\n".join(as_asked(row) for row in next(iter(splits.values()))[:SHOWN]), end="\n\n")
    if dropped:
        print(f"{own.input}: {dropped} rows with a repeated question were dropped")
    if source.revision and source.revision != own.revision:
        print(f"{own.input}: the commit is {source.revision}; --revision {source.revision} gives the same rows later")
    columns = {key: value for key, value in asdict(own.columns).items() if value}
    origin = {"input": own.input, "config": own.config, "revision": source.revision, "columns": columns}
    return OwnSet(record, splits, {"name": own.name, "kind": own.kind, "source": origin}, dropped)


def is_done(record: Manifest) -> bool:
    """Whether a set is prepared already, which is then said. Raises UserError if it was made in another way."""
    done = record.check() == "done"
    if done:
        print(f"{record.output.parent}: done already, {record.read()['counts']}")
    return done


def write_own(own: OwnSet, dry_run: bool) -> None:
    """Writes a checked set, or says what it would be."""
    if not dry_run:
        write_splits(own.record, own.splits, own.description, dropped=own.dropped)
        return
    for split, rows in own.splits.items():
        print(f"{own.record.output.parent / split}.jsonl would get {len(rows)} problems")


def as_asked(row: Row) -> str:
    """A problem for the reader: its id, the prompt of the student, the answer."""
    prompt = prompts.plain_text(prompts.student_messages(row["question"]))
    return f"-- {row['id']} ({row['split']})\n{prompt}\nanswer: {row['answer']}"


def write_splits(record: Manifest, splits: Splits, description: Row, **extra: Any) -> None:
    """Writes the splits, then their description, then the manifest. Splits that were there before and are no more go."""
    folder = record.output.parent
    described = folder / DESCRIPTION_FILE
    with locked(record.output):
        record.begin()
        earlier = jsonl.read_json(described).get("splits", {}) if described.is_file() else {}
        for split in earlier.keys() - splits.keys():
            (folder / f"{split}.jsonl").unlink(missing_ok=True)
        for split, rows in splits.items():
            jsonl.write_atomic(folder / f"{split}.jsonl", rows)
            print(f"{folder / split}.jsonl: {len(rows)} problems")
        counts = {split: len(rows) for split, rows in splits.items()}
        jsonl.write_json_atomic(described, {**description, "splits": counts})
        record.finish([*(folder / f"{split}.jsonl" for split in splits), described], counts, **extra)


def known_name(text: str) -> str:
    """The type of --dataset."""
    if text in DATASETS:
        return text
    raise argparse.ArgumentTypeError(
        f"invalid choice: {text!r}{cli.similar(text, DATASETS)}; known are {', '.join(DATASETS)}; {OWN_DATA}"
    )


def build_parser() -> cli.StageParser:
    parser = cli.StageParser(
        __doc__,
        *("seed", "dry_run", "overwrite"),
        entries=("dataset", OWN_KEYS),
        other_config="the name of the hub configuration of --input",
    )
    add = parser.add_argument_group("published data sets").add_argument
    add("--dataset", nargs="+", type=known_name, metavar="NAME", help=f"one or several of {', '.join(DATASETS)}")
    add(
        "--max_number",
        type=cli.positive_int,
        metavar="N",
        help="gsm_symbolic: only problems whose numbers are at most N, in question, solution and answer (default: all)",
    )
    add("--source", type=Path, metavar="DIR", help="folder of local raw files to read instead of the hub")
    add = parser.add_argument_group("your own problems").add_argument
    add("--name", help="what to call them")
    add("--input", metavar="FILE", help="JSON Lines, JSON, CSV, TSV or Parquet; a folder of such; or a hub id")
    add("--revision", metavar="R", help="commit, branch or tag of the hub id")
    add("--kind", choices=ANSWER_KINDS, help="kind of the answers")
    add("--question", nargs="+", metavar="COLUMN", help="default question; several are joined by a space")
    add("--answer", metavar="COLUMN", help="default answer, or the solution if --answer_pattern is given")
    add("--solution", metavar="COLUMN", help="reasoning (default: solution, if there is one)")
    add("--id", metavar="COLUMN", help="ids (default: the rows are numbered)")
    text = f"finds the answer inside its column: group 1 of the last match, as in '#### (.+)'; {BOXED}: the last \\boxed{{}}"
    add("--answer_pattern", metavar="REGEX", help=text)
    text = (
        "shares of the train split or only file, as in train:0.8,dev:0.1,test:0.1 (default: that, or the source's own)"
    )
    add("--split", nargs="+", metavar="SHARES", help=text)
    add("--drop_repeated", action="store_true", help="keep the first row of a repeated question, and say how many went")
    parser.add_argument("--data_root", type=Path, default=Path("data"), help="where to write (default data)")
    return parser


def read_own(parser: cli.StageParser, args: argparse.Namespace) -> list[Description]:
    """The descriptions in data.yaml and on the command line. Raises UserError for flags that mean nothing."""
    from_file = args.config is not None and parser.is_file_of_defaults(args.config)
    beside = args.config.parent if from_file else None
    entries = [entry for entry in args.dataset or [] if isinstance(entry, cli.Entry)]
    own = [described({"seed": args.seed, **entry.values}, entry.where, beside) for entry in entries]
    flags = {key: getattr(args, key) for key in OWN_KEYS} | ({"config": None} if from_file else {})
    given = [key for key, value in flags.items() if value not in (None, False) and key != "seed"]
    if args.name is not None or args.input is not None:
        own.append(described(flags, "--name" if args.name is not None else "--input", None))
    elif given:
        raise UserError(f"--{given[0]} {flags[given[0]]}: needs --name and --input (a file of defaults ends in .yaml)")
    names = [one.name for one in own]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"two sets of problems are called {twice!r}; rename one")
    return own


def main(argv: list[str] | None = None) -> int:
    parser = build_parser()
    args = parser.parse(argv)
    own = read_own(parser, args)
    known = dict.fromkeys(name for name in args.dataset or [] if isinstance(name, str))
    if not own and not known:
        parser.error(
            f"--dataset is needed: one of {', '.join(DATASETS)}; or your own problems: --name NAME --input FILE"
        )
    if args.max_number is not None and not any(DATASETS[name].generator for name in known):
        raise UserError(f"--max_number {args.max_number}: only gsm_symbolic is generated; leave it out")
    own_sets = [checked(one, args) for one in own]  # all are checked before anything is written
    for name in known:
        prepare_known(name, args)
    for own_set in filter(None, own_sets):
        write_own(own_set, args.dry_run)
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
