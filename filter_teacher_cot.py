"""Stage 2: keeps the teacher's good rows, gives every other row a reason, and writes the training sets.

Reads   teacher rows    (see teacher_cot.py)
Writes  <output_path>                kept rows: teacher row + {"target": "...\\n#### 18", "tokens": 143}
        <stem>.rejected.jsonl        rejected rows: teacher row + {"reason": "wrong_answer", "detail": "wrong: '16', gold '18'"}
        <stem>.retry.jsonl           problems without a kept sample, for another round of teacher_cot.py:
                                     problem + {"retry": "wrong_steps"}, the reason, `truncated` before any other
        <stem>.alignment.jsonl       for `aligned`: {"id": "...", "sample": 3, "rank": 4.1, "surprisal": 0.9}, see alignment.py
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

import json
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from cotkit.core import cli
from cotkit.core.errors import UserError
from cotkit.core.files import locked, open_atomic
from cotkit.core.jsonl import Row, dumps, read_chosen, read_json, write_atomic, write_json_atomic
from cotkit.core.line_index import LineIndex
from cotkit.core.manifest import SUFFIX, Input, Manifest
from cotkit.core.model_identity import fingerprint
from cotkit.core.problems import checked_problems, numbered_inputs, read_problem_files
from cotkit.filtering import report, training_sets
from cotkit.filtering.contamination import TestQuestions
from cotkit.filtering.judging import ROW_RULES, JudgingPlan, NearDuplicates, RowOutcome, judge_rows
from cotkit.filtering.options import FilterOptions, check_examples, read_options
from cotkit.filtering.tally import CODES, FilterTally
from cotkit.filtering.teacher_rows import TeacherFiles
from cotkit.generation import prompts
from cotkit.generation.chat_model import check_model
from cotkit.grading.worker_pool import available_cores

if TYPE_CHECKING:
    from cotkit.filtering.selection import Selection

# Smaller inputs are judged in this process: others take a second to start, and each holds a tokenizer.
SMALL_INPUT_BYTES = 20 * 2**20

JudgedRows = Iterator[tuple[Row, RowOutcome]]


def main(argv: list[str] | None = None) -> int:
    options = read_options(__doc__, argv)
    if options.student_model is not None:
        check_model(options.student_model)
    check_examples(options)
    teacher = TeacherFiles(options.input_path, options.limit)
    first = next(teacher.rows(), None)
    if first is None:
        raise UserError(f"{options.input_path[0]}: holds no teacher rows; run teacher_cot.py first")
    rules = rules_of(options)
    manifest = manifest_of(options, rules)
    if manifest.check() == "done":
        print_done(options.output_path, manifest.read(), rules)
        return 0
    refuse_sets_of_another(options)
    plan = plan_of(options)
    if options.dry_run:
        _, outcome = next(judge_rows([first], plan, workers=1))
        print(f"{first['id']}: {outcome.rejection or 'kept'}")
        return 0
    with locked(options.output_path):
        manifest.begin()
        tally = FilterTally(options.seed)
        rows = judge(options, plan, teacher, tally)
        if options.only_retry:
            counts = write_retry(options.output_path, rows, teacher, tally)
            manifest.finish([options.output_path], counts, judged_by=rules)
        else:
            selection = write_rows(options, rows, teacher, tally)
            align(options, selection)
            counts = report.summarize(tally, selection, teacher.sizes)
            print(report.show(counts))
            sizes = counts["training_sets"] = write_training_sets(options, teacher, selection)
            examples = {reason: tally.examples[reason] for reason in CODES if reason in tally.examples}
            write_json_atomic(options.outputs["report"], {**counts, "examples": examples})
            report.write_markdown(options.outputs["markdown"], counts, examples)
            written = [options.dataset_dir / f"{name}.jsonl" for name, size in sizes.items() if size]
            index = options.dataset_dir / "dataset_info.json"
            manifest.finish([*options.outputs.values(), *written, index], counts)
            print(f"training sets in {options.dataset_dir}: " + ", ".join(f"{name} {sizes[name]}" for name in sizes))
            for name in (name for name, size in sizes.items() if not size):
                print(f"no row fits the training set {name}; it is not in dataset_info.json")
            for group in training_sets.alike(options.dataset_dir, (name for name, size in sizes.items() if size)):
                print(f"note: {' and '.join(group)} hold the same rows: methods trained on them differ by chance alone")
    return 0


def plan_of(options: FilterOptions) -> JudgingPlan:
    """How each row is judged."""
    declared = () if options.only_retry else options.sets.values()
    sources = {part.source for one in declared for part in one.parts}
    return JudgingPlan(
        options.parameters,
        tuple(name for name in ROW_RULES if name not in options.skip_rules),
        options.student_model,
        TestQuestions.read(options.test_paths, options.ngram) if options.test_paths else None,
        measure_raw=not sources.isdisjoint(("teacher", "pairs")),
        measure_complete="complete" in sources,
    )


def rules_of(options: FilterOptions) -> Row:
    """Everything by which rows are judged, as JSON reads it back."""
    rules = {
        **vars(options.parameters),
        "skip_rules": sorted(options.skip_rules),
        "ngram": options.ngram,
        "student": options.student_model and fingerprint(options.student_model),
        "prompt": prompts.wording_hash(prompts.student_messages(prompts.PROBE["question"])),
    }
    return json.loads(json.dumps(rules))


def manifest_of(options: FilterOptions, rules: Row) -> Manifest:
    """What a rerun is compared with.

    With --only_retry the rules are no part of it: a teacher may have been asked the problems that were written, so other
    rules must not change them.
    """
    settings: Row = {"limit": options.limit}
    if not options.only_retry:
        settings |= {
            **rules,
            "sets": list(map(str, options.sets.values())),
            "select": [options.select, options.max_per_question],
            "dev_limit": options.dev_limit,
            "dataset_dir": options.dataset_dir,
            "seed": options.seed,
        }
    inputs = numbered_inputs("teacher", options.input_path) | numbered_inputs("problems", options.problems_path)
    inputs |= {} if options.only_retry else numbered_inputs("dev", options.dev_path)
    inputs |= {f"test {path}": path for path in options.test_paths}
    return Manifest(
        "filter",
        options.output_path,
        settings,
        {name: Input(path) for name, path in inputs.items()},
        options.student_model,
        options.seed,
        derived=True,
        overwrite=options.overwrite,
    )


def refuse_sets_of_another(options: FilterOptions) -> None:
    """Raises UserError if the folder of the training sets holds those of another output beside this one."""
    if options.only_retry:
        return
    index = (options.dataset_dir / "dataset_info.json").resolve()
    for path in sorted(options.output_path.parent.glob(f"*{SUFFIX}")):
        other = path.with_name(path.name.removesuffix(SUFFIX))
        if other.name == options.output_path.name:
            continue
        record = read_json(path)
        if record.get("stage") == "filter" and index in [(path.parent / name).resolve() for name in record["outputs"]]:
            raise UserError(
                f"{options.dataset_dir}: holds the training sets of {other}; give --dataset_dir another folder"
            )


def judge(options: FilterOptions, plan: JudgingPlan, teacher: TeacherFiles, tally: FilterTally) -> JudgedRows:
    """Yields every row with its outcome and adds it to the tally. Raises UserError for a row of an unknown problem."""
    problem_ids = None
    if options.problems_path:
        problem_ids = LineIndex()
        for number, row in chain.from_iterable(map(checked_problems, options.problems_path)):
            problem_ids.add(row["id"], number)
    large = sum(path.stat().st_size for path in teacher.paths) > SMALL_INPUT_BYTES
    workers = options.workers or (available_cores() if large else 1)
    near_duplicates = NearDuplicates(options.parameters.max_similarity)
    for row, outcome in judge_rows(teacher.rows(problem_ids), plan, workers):
        if "near_duplicate" not in options.skip_rules:
            outcome = near_duplicates(row, outcome)
        tally.add(row, outcome)
        yield row, outcome


def select(tally: FilterTally, teacher: TeacherFiles) -> Selection:
    """The selection over all rows. Raises UserError for two rows with the same (id, sample)."""
    from cotkit.filtering.selection import Selection

    selection = Selection(tally)
    teacher.refuse_repeated(selection.repeated())
    return selection


def write_retry(output: Path, rows: JudgedRows, teacher: TeacherFiles, tally: FilterTally) -> Row:
    """Judges all rows and writes only the problems for another round. Returns their counts."""
    for _ in rows:
        pass
    selection = select(tally, teacher)
    retried = list(training_sets.retry_rows(teacher, selection))
    write_atomic(output, retried)
    problems = int(selection.first.sum())
    print(f"{output}: {len(retried)} of {problems} problems have no kept sample and can be asked again")
    return {"rows": len(retried), "problems": problems}


def write_rows(options: FilterOptions, rows: JudgedRows, teacher: TeacherFiles, tally: FilterTally) -> Selection:
    """Judges all rows and writes each to the kept or the rejected file, then the problems for another round."""
    outputs = options.outputs
    with open_atomic(outputs["kept"]) as kept, open_atomic(outputs["rejected"]) as rejected:
        for row, outcome in rows:
            if outcome.rejection is None:
                tokens = {} if outcome.tokens is None else {"tokens": outcome.tokens}
                kept.write(dumps({**row, "target": outcome.target, **tokens}))
            else:
                rejected.write(dumps({**row, "reason": outcome.rejection.reason, "detail": outcome.rejection.detail}))
        selection = select(tally, teacher)
    write_atomic(outputs["retry"], training_sets.retry_rows(teacher, selection))
    return selection


def align(options: FilterOptions, selection: Selection) -> None:
    """Measures how well kept rows suit the student, where a set chooses by that and a question has several of them."""
    sources = options.aligned_sources
    if not sources:
        return
    from cotkit.filtering.alignment import rank_surprisal_ratios

    among = selection.with_choice(selection.kept if "kept" in sources else selection.complete)
    rows = read_chosen(options.output_path, among[selection.kept])
    selection.align(among, rank_surprisal_ratios(str(options.student_model), rows, options.outputs["alignment"]))


def write_training_sets(options: FilterOptions, teacher: TeacherFiles, selection: Selection) -> dict[str, int]:
    """Writes every training set and their index. Returns the number of rows of each; 0 for one without a row."""
    folder, ranking = options.dataset_dir, {name: declared.ranking for name, declared in options.sets.items()}
    sources = training_sets.SetSources(
        teacher, options.output_path, selection, options.select, options.max_per_question
    )
    sizes = {
        name: training_sets.write_training_set(folder, name, sources.rows(options.sets[name]), pairs)
        for name, pairs in ranking.items()
    }
    if options.dev_path:
        files = read_problem_files(options.dev_path, options.dev_limit)
        gold_dev = training_sets.gold_rows(chain.from_iterable(files.values()))
        sizes[training_sets.GOLD_DEV] = training_sets.write_training_set(folder, training_sets.GOLD_DEV, gold_dev)
    training_sets.write_dataset_info(folder, {name: ranking.get(name, False) for name, size in sizes.items() if size})
    return sizes


def print_done(output: Path, record: Row, rules: Row) -> None:
    """Prints what was done before."""
    print(f"{output}: done already, nothing to do")
    if "judged_by" not in record:
        print(report.show(record["counts"]))
    elif record["judged_by"] != rules:
        print(
            "  it was made by other rules and is kept, since a teacher may have been asked; --overwrite makes it anew"
        )


if __name__ == "__main__":
    sys.exit(cli.run(main))
