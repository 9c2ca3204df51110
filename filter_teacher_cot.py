"""Stage 2: keeps the teacher's good rows, gives every other row a reason, and writes the training sets.

Reads   teacher rows    (see teacher_cot.py)
Writes  <output_path>                kept rows: teacher row + {"target": "...\\n#### 18", "tokens": 143}
        <stem>.rejected.jsonl        rejected rows: teacher row + {"reason": "wrong_answer", "detail": "wrong: '16', gold '18'"}
        <stem>.retry.jsonl           problems without a kept sample, for another round of teacher_cot.py:
                                     problem + {"retry": "wrong_steps"}, the reason, `truncated` before any other
        <stem>.report.json, .md      counts per reason (kept + rejected = read), by round and difficulty, examples
        <dataset_dir>/               the sets of --sets, gold_dev and dataset_info.json for LLaMA-Factory
                                     {"system": "...", "instruction": "...", "input": "", "output": "...\\n#### 18"}

    python filter_teacher_cot.py --input_path outputs/teacher.jsonl --output_path outputs/kept.jsonl
    python filter_teacher_cot.py --config configs/smollm2_cpu/filter.yaml --input_path ... --output_path ...
    python filter_teacher_cot.py --input_path outputs/teacher.jsonl outputs/teacher.round2.jsonl --output_path ...
    python filter_teacher_cot.py --only_retry --input_path outputs/teacher.jsonl --output_path outputs/retry.round2.jsonl

Every rule, with texts that it keeps and rejects: cotkit/filtering/rules.py. Training sets: cotkit/filtering/training_sets.py.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from cotkit.core import cli
from cotkit.core.errors import UserError
from cotkit.core.files import AtomicWriter, Lock
from cotkit.core.jsonl import Row, dumps, read_numbered, write_atomic, write_json_atomic
from cotkit.core.key_index import KeyIndex
from cotkit.core.manifest import Input, Manifest
from cotkit.core.model_identity import fingerprint
from cotkit.core.problems import read_problems, with_id
from cotkit.filtering import options
from cotkit.filtering.contamination import TestQuestions
from cotkit.filtering.judging import BY_ITSELF, JudgingPlan, NearDuplicates, RowOutcome, judged
from cotkit.filtering.records import Parameters
from cotkit.filtering.report import FilterTally, show, write_markdown
from cotkit.filtering.selection import Account
from cotkit.filtering.teacher_rows import TeacherFiles
from cotkit.filtering.training_sets import (
    FilterRun,
    gold_rows,
    parse_sets,
    retry_rows,
    write_dataset_info,
    write_training_set,
)
from cotkit.generation import engines, prompts
from cotkit.grading.worker_pool import available_cores

# Smaller inputs are judged here: processes take a second to start, and each holds a tokenizer.
SMALL_INPUT_BYTES = 20 * 2**20

Judged = tuple[Row, RowOutcome]


def outcomes(args: argparse.Namespace, plan: JudgingPlan, teacher: TeacherFiles, account: Account) -> Iterator[Judged]:
    """Every row with what was found in it, entered into the account. Raises UserError for a row of no problem."""
    near_duplicates = NearDuplicates(plan.parameters, "near_duplicate" not in args.skip_rules)
    problem_ids = None
    if args.problems_path is not None:
        problem_ids = KeyIndex()
        for number, row in read_numbered(args.problems_path):
            problem_ids.add(with_id(row)["id"], number)
    large = sum(path.stat().st_size for path in teacher.paths) > SMALL_INPUT_BYTES
    workers = args.workers or (available_cores() if large else 1)
    for row, found in judged(teacher.rows(problem_ids), plan, workers):
        outcome = near_duplicates(row, found)
        account.add(row, outcome)
        yield row, outcome
    teacher.refuse_repeated(account)


def split(judged_rows: Iterable[Judged], outputs: dict[str, Path]) -> Iterator[Judged]:
    """Writes each row to the kept or the rejected file as it passes."""
    with AtomicWriter(outputs["kept"]) as kept, AtomicWriter(outputs["rejected"]) as rejected:
        for row, outcome in judged_rows:
            if outcome.rejection is None:
                tokens = {} if outcome.tokens is None else {"tokens": outcome.tokens}
                kept.write(dumps({**row, "target": outcome.target, **tokens}))
            else:
                rejected.write(dumps({**row, "reason": outcome.rejection.reason, "detail": outcome.rejection.detail}))
            yield row, outcome


def write_training_sets(args: argparse.Namespace, source: FilterRun, folder: Path) -> dict[str, int]:
    """Writes every training set and their index; returns the rows of each, 0 for one that came out empty."""
    sets = parse_sets(args.sets)
    ranking = {name: declared.ranking for name, declared in sets.items()}
    sizes = {name: write_training_set(folder, name, source.rows(sets[name]), pairs) for name, pairs in ranking.items()}
    if args.dev_path is not None:
        sizes["gold_dev"] = write_training_set(
            folder, "gold_dev", gold_rows(read_problems(args.dev_path, args.dev_limit))
        )
    write_dataset_info(folder, {name: ranking.get(name, False) for name, size in sizes.items() if size})
    return sizes


def rules_of(args: argparse.Namespace, parameters: Parameters) -> Row:
    """Everything by which rows are judged, as JSON reads it back."""
    rules = {
        **vars(parameters),
        "skip_rules": sorted(args.skip_rules),
        "ngram": args.ngram,
        "student": args.student_model and fingerprint(args.student_model),
        "prompt": prompts.wording_hash(prompts.student_messages(prompts.PROBE["question"])),
    }
    return json.loads(json.dumps(rules))


def settings_of(args: argparse.Namespace, rules: Row, folder: Path) -> Row:
    """What the manifest binds a rerun to.

    Which problems are asked again is settled once, whatever becomes of the rules, since a teacher was asked them.
    """
    if args.only_retry:
        return {"limit": args.limit}
    return {
        **rules,
        "sets": [str(declared) for declared in args.sets],
        "select": [args.select, args.max_per_question],
        "limit": args.limit,
        "dev_limit": args.dev_limit,
        "dataset_dir": folder,
        "seed": args.seed,
    }


def inputs_of(args: argparse.Namespace) -> dict[str, Input]:
    named = {"teacher" if number == 1 else f"teacher {number}": path for number, path in enumerate(args.input_path, 1)}
    named |= {"problems": args.problems_path, "dev": None if args.only_retry else args.dev_path}
    named |= {f"test {path}": path for path in args.test_paths}
    return {name: Input(path) for name, path in named.items() if path is not None}


def run(
    args: argparse.Namespace, plan: JudgingPlan, outputs: dict[str, Path], manifest: Manifest, folder: Path, rules: Row
) -> None:
    """Judges all rows and writes all outputs; the manifest is the last."""
    manifest.begin()
    teacher, tally, account = TeacherFiles(args.input_path, args.limit), FilterTally(args.seed), Account()
    rows = outcomes(args, plan, teacher, account)
    for row, outcome in rows if args.only_retry else split(rows, outputs):
        tally.add(row, outcome)
    first_rows, reasons = account.again()
    write_atomic(outputs["retry"], retry_rows(teacher, first_rows, reasons))
    if args.only_retry:
        problems = int(account.first().sum())
        print(f"{args.output_path}: {len(reasons)} of {problems} problems have no kept sample and can be asked again")
        manifest.finish([args.output_path], {"rows": len(reasons), "problems": problems}, judged_by=rules)
        return
    print(show(tally.account(account, teacher.sizes, {})))
    source = FilterRun(teacher, outputs["kept"], account, args.select, args.max_per_question)
    sizes = write_training_sets(args, source, folder)
    counts, examples = tally.account(account, teacher.sizes, sizes), tally.examples()
    write_json_atomic(outputs["report"], {**counts, "examples": examples})
    write_markdown(outputs["markdown"], counts, examples)
    files = [folder / f"{name}.jsonl" for name, size in sizes.items() if size]
    manifest.finish([*outputs.values(), *files, folder / "dataset_info.json"], counts)
    print(f"training sets in {folder}: " + ", ".join(f"{name} {size}" for name, size in sizes.items()))
    for name in (name for name, size in sizes.items() if not size):
        print(f"no row fits the training set {name}; it is not in dataset_info.json")


def outputs_of(args: argparse.Namespace) -> dict[str, Path]:
    """The files beside the training sets, by what they hold."""
    if args.only_retry:
        return {"retry": args.output_path}
    suffixes = {
        "rejected": ".rejected.jsonl",
        "retry": ".retry.jsonl",
        "report": ".report.json",
        "markdown": ".report.md",
    }
    return {"kept": args.output_path} | {name: args.output_path.with_suffix(end) for name, end in suffixes.items()}


def tell_done(output: Path, record: Row, rules: Row) -> None:
    """Says that there is nothing to do, and what had been done."""
    print(f"{output}: done already, nothing to do")
    if "judged_by" not in record:
        print(show(record["counts"]))
    elif record["judged_by"] != rules:
        print("  it was made by other rules and stays, since a teacher may have been asked; --overwrite makes it anew")


def main(argv: list[str] | None = None) -> int:
    args = options.build_parser(__doc__).parse(argv)
    if args.max_tokens is not None and args.student_model is None:
        raise UserError("--max_tokens needs --student_model, whose tokenizer counts")
    if args.student_model is not None:
        engines.check_model(args.student_model)
    parameters = options.parameters_of(args)
    options.check(args, parameters)
    first = next(TeacherFiles(args.input_path, 1).rows(), None)
    if first is None:
        raise UserError(f"{args.input_path[0]}: holds no teacher rows; run teacher_cot.py first")
    folder, outputs = args.dataset_dir or args.output_path.parent / "datasets", outputs_of(args)
    rules = rules_of(args, parameters)
    settings, inputs = settings_of(args, rules, folder), inputs_of(args)
    manifest = Manifest(
        "filter",
        args.output_path,
        settings,
        inputs,
        args.student_model,
        args.seed,
        derived=True,
        overwrite=args.overwrite,
    )
    if manifest.check() == "done":
        tell_done(args.output_path, manifest.read(), rules)
        return 0
    tests = TestQuestions.read(args.test_paths, args.ngram) if args.test_paths else None
    sets = [] if args.only_retry else args.sets
    sources = {part.source for declared in sets for part in declared.parts}
    names = tuple(name for name in BY_ITSELF if name not in args.skip_rules)
    plan = JudgingPlan(
        parameters,
        names,
        args.student_model,
        tests,
        not sources.isdisjoint(("teacher", "pairs")),
        "complete" in sources,
    )
    if args.dry_run:
        _, outcome = next(judged([first], plan, workers=1))
        print(f"{first['id']}: {outcome.rejection or 'kept'}")
        return 0
    with Lock(args.output_path):
        run(args, plan, outputs, manifest, folder, rules)
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
