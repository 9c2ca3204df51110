"""Stage 2: keeps the teacher's good rows, gives every other row a reason, and writes the training sets.

Reads   teacher rows    (see teacher_cot.py)
Writes  <output_path>                kept rows: teacher row + {"target": "...\\n#### 18", "tokens": 143}
        <stem>.rejected.jsonl        rejected rows: teacher row + {"reason": "wrong_answer", "detail": "wrong: '16', gold '18'"}
        <stem>.retry.jsonl           problems without a kept sample, for another round of teacher_cot.py
        <stem>.report.json, .md      counts per reason (kept + rejected = read), by difficulty, random examples
        <dataset_dir>/               the sets of --sets, gold_dev and dataset_info.json for LLaMA-Factory
                                     {"system": "...", "instruction": "...", "input": "", "output": "...\\n#### 18"}

    python filter_teacher_cot.py --input_path outputs/teacher.jsonl --output_path outputs/kept.jsonl
    python filter_teacher_cot.py --config configs/smollm2_cpu/filter.yaml --input_path ... --output_path ...

Every rule, with texts that it keeps and rejects: cotkit/rules.py. Training sets: cotkit/training_sets.py.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from cotkit import cli, filter_config, generate, prompts
from cotkit.contamination import TestQuestions, hash64
from cotkit.files import AtomicWriter, DataError, Lock
from cotkit.filter_report import Tally, show, write_markdown
from cotkit.filtering import BY_ITSELF, NearDuplicates, Plan, judged
from cotkit.grader_pool import available_cores
from cotkit.jsonl import Row, dumps, read_numbered, require, write_atomic, write_json_atomic
from cotkit.manifest import Input, Manifest
from cotkit.model_files import fingerprint
from cotkit.problems import PROBLEM_FIELDS, read_problems, with_id
from cotkit.record import Parameters
from cotkit.selection import Account
from cotkit.set_rows import Source, gold_rows
from cotkit.training_sets import parse_sets, write_dataset_info, write_training_set

TEACHER_FIELDS = {**PROBLEM_FIELDS, "sample": int, "response": str, "finish_reason": str, "completion_tokens": int}

# Starting a process that counts tokens takes some seconds: so many bytes of rows are judged here in the same time.
SMALL_INPUT_BYTES = 20 * 2**20


def teacher_rows(path: Path, limit: int | None, problem_ids: set[int] | None = None) -> Iterator[Row]:
    """The checked teacher rows in order. Raises DataError for a missing field or an id that no problem has."""
    for number, row in islice(read_numbered(path), limit):
        require(row, TEACHER_FIELDS, f"{path}:{number}")
        if problem_ids is not None and hash64(row["id"]) not in problem_ids:
            raise DataError(f"{path}:{number}: no problem has the id {row['id']!r}; remove the row or give its problems")
        yield row


def refuse_repeated(path: Path, limit: int | None, account: Account) -> None:
    """Raises DataError naming both lines where two rows have one (id, sample)."""
    if (positions := account.repeated()) is None:
        return
    rows = islice(read_numbered(path), limit)
    (first, _), (second, row) = (entry for at, entry in enumerate(rows) if at in positions)
    key = (row["id"], row["sample"])
    raise DataError(f"{path}:{second}: {key} stands already in line {first}; remove one of the two")


def split_rows(args: argparse.Namespace, plan: Plan, outputs: dict[str, Path]) -> tuple[Tally, Account]:
    """Writes the kept and the rejected file; returns the counts and the account of all rows."""
    tally, account = Tally(args.seed), Account()
    near_duplicates = NearDuplicates(plan.parameters, "near_duplicate" not in args.skip_rules)
    problem_ids = None
    if args.problems_path is not None:
        problem_ids = {hash64(with_id(row)["id"]) for _, row in read_numbered(args.problems_path)}
    rows = teacher_rows(args.input_path, args.limit, problem_ids)
    large = args.input_path.stat().st_size > SMALL_INPUT_BYTES
    workers = args.workers or (available_cores() if large else 1)
    with AtomicWriter(outputs["kept"]) as kept, AtomicWriter(outputs["rejected"]) as rejected:
        for row, found in judged(rows, plan, workers):
            outcome = near_duplicates(row, found)
            tally.add(row, outcome)
            account.add(row, outcome)
            if outcome.rejection is None:
                tokens = {} if outcome.tokens is None else {"tokens": outcome.tokens}
                kept.write(dumps({**row, "target": outcome.target, **tokens}))
            else:
                rejected.write(dumps({**row, "reason": outcome.rejection.reason, "detail": outcome.rejection.detail}))
        refuse_repeated(args.input_path, args.limit, account)
    return tally, account


def write_training_sets(args: argparse.Namespace, source: Source, folder: Path) -> dict[str, int]:
    """Writes every training set and their index; returns the rows of each, 0 for one that came out empty."""
    sets = parse_sets(args.sets)
    ranking = {name: declared.ranking for name, declared in sets.items()}
    sizes = {name: write_training_set(folder, name, source.rows(sets[name]), pairs) for name, pairs in ranking.items()}
    if args.dev_path is not None:
        sizes["gold_dev"] = write_training_set(folder, "gold_dev", gold_rows(read_problems(args.dev_path, args.dev_limit)))
    write_dataset_info(folder, {name: ranking.get(name, False) for name, size in sizes.items() if size})
    return sizes


def settings_of(args: argparse.Namespace, parameters: Parameters, folder: Path) -> Row:
    """Everything that the outputs depend on, for the manifest."""
    return {
        "rules": vars(parameters),
        "skip_rules": sorted(args.skip_rules),
        "sets": [str(declared) for declared in args.sets],
        "select": [args.select, args.max_per_question],
        "ngram": args.ngram,
        "student": args.student_model and fingerprint(args.student_model),
        "prompt": prompts.wording_hash(prompts.student_messages(prompts.PROBE["question"])),
        "limit": args.limit,
        "dev_limit": args.dev_limit,
        "dataset_dir": folder,
        "seed": args.seed,
    }


def inputs_of(args: argparse.Namespace) -> dict[str, Input]:
    named = {"teacher": args.input_path, "dev": args.dev_path, "problems": args.problems_path}
    named |= {f"test {path}": path for path in args.test_paths}
    return {name: Input(path) for name, path in named.items() if path is not None}


def run(args: argparse.Namespace, plan: Plan, outputs: dict[str, Path], manifest: Manifest, folder: Path) -> None:
    """Judges all rows and writes all outputs; the manifest is the last."""
    manifest.begin()
    tally, account = split_rows(args, plan, outputs)
    problems, without_kept = int(account.first().sum()), int(account.without_kept().sum())
    print(show(tally.account(problems, without_kept, {})))
    source = Source(lambda: teacher_rows(args.input_path, args.limit), outputs["kept"], account, args.select,
                    args.max_per_question)  # fmt: skip
    write_atomic(outputs["retry"], source.retry())
    sizes = write_training_sets(args, source, folder)
    counts, examples = tally.account(problems, without_kept, sizes), tally.examples()
    write_json_atomic(outputs["report"], {**counts, "examples": examples})
    write_markdown(outputs["markdown"], counts, examples)
    files = [folder / f"{name}.jsonl" for name, size in sizes.items() if size]
    manifest.finish([*outputs.values(), *files, folder / "dataset_info.json"], counts)
    print(f"training sets in {folder}: " + ", ".join(f"{name} {size}" for name, size in sizes.items()))
    for name in (name for name, size in sizes.items() if not size):
        print(f"no row fits the training set {name}; it is not in dataset_info.json")


def main(argv: list[str] | None = None) -> int:
    args = filter_config.build_parser(__doc__).parse(argv)
    if args.max_tokens is not None and args.student_model is None:
        raise DataError("--max_tokens needs --student_model, whose tokenizer counts")
    if args.student_model is not None:
        generate.check_model(args.student_model)
    parameters = filter_config.parameters_of(args)
    filter_config.check(args, parameters)
    if next(teacher_rows(args.input_path, args.limit), None) is None:
        raise DataError(f"{args.input_path}: holds no teacher rows; run teacher_cot.py first")
    folder = args.dataset_dir or args.output_path.parent / "datasets"
    suffixes = {"rejected": ".rejected.jsonl", "retry": ".retry.jsonl", "report": ".report.json", "markdown": ".report.md"}
    outputs = {"kept": args.output_path} | {name: args.output_path.with_suffix(end) for name, end in suffixes.items()}
    settings, inputs = settings_of(args, parameters, folder), inputs_of(args)
    manifest = Manifest(
        "filter", args.output_path, settings, inputs, args.student_model, args.seed, derived=True, overwrite=args.overwrite
    )
    if manifest.check() == "done":
        print(f"{args.output_path}: done already, nothing to do\n{show(manifest.read()['counts'])}")
        return 0
    tests = TestQuestions.read(args.test_paths, args.ngram) if args.test_paths else None
    raw = any(part.source == "teacher" for declared in args.sets for part in declared.parts)
    names = tuple(name for name in BY_ITSELF if name not in args.skip_rules)
    plan = Plan(parameters, names, args.student_model, tests, raw)
    if args.dry_run:
        row, outcome = next(judged(teacher_rows(args.input_path, 1), plan, workers=1))
        print(f"{row['id']}: {outcome.rejection or 'kept'}")
        return 0
    with Lock(args.output_path):
        run(args, plan, outputs, manifest, folder)
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
