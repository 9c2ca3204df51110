"""Two controls of the filter on real solutions: what it does to good ones, and whether it finds planted faults.

Reads   GSM8K's train.jsonl and test.jsonl, {"question": "...", "answer": "...<<48/2=24>>24...\\n#### 72"}
        tests/data/gsm8k/faults.json, the published solutions with a fault: {"train": {"wrong_steps": [167, ...]}, ...}
Prints  official: the reason of every rejected solution; planted: how many faults were found for the right reason;
        precision per rule: of the rows that it rejects, the share with a fault, published or planted

    python scripts/dev/study_filter.py --source DIR_OF_RAW_DATA
    python scripts/dev/study_filter.py --source DIR --report_path outputs/study_filter.json

Official: every solution, as if a teacher had written it. Planted: of `--planted` of them, equal parts get one number of an
equation changed, a sentence repeated, the end removed, a second problem appended, the answer replaced, leftovers of a chat
added, or their last step removed.
"""

from __future__ import annotations

import random
import re
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from cotkit.core import cli
from cotkit.core.jsonl import Row, read, read_json, write_json_atomic
from cotkit.equations import error_injection
from cotkit.filtering.judging import JudgingPlan, RowJudge, RowOutcome
from cotkit.filtering.records import Parameters
from cotkit.generation import prompts

# Returns the fields of a row that a fault changes; None if the fault does not fit the row.
Plant = Callable[[Row, random.Random], Row | None]


ROOT = Path(__file__).resolve().parents[2]


def official(path: Path) -> list[Row]:
    """The official solutions of a split in the form of teacher rows."""
    rows, split = [], path.stem
    for number, row in enumerate(read(path)):
        solution, _, answer = row["answer"].rpartition("####")
        problem = {"id": f"gsm8k-{split}-{number:05d}", "dataset": "gsm8k", "split": split, "question": row["question"]}
        problem |= {"solution": solution.rstrip(), "answer": answer.strip().replace(",", "")}
        sample = {"sample": 0, "response": row["answer"], "thinking": "", "finish_reason": "stop"}
        rows.append(problem | sample | {"prompt_tokens": 0, "completion_tokens": len(row["answer"].split())})
    return rows


def change_number(row: Row, rng: random.Random) -> Row | None:
    """One number of one equation is wrong."""
    changed = error_injection.change_number(row["response"], rng)
    return None if changed is None else {"response": changed}


def repeat_sentence(row: Row, rng: random.Random) -> Row | None:
    """One line of the solution appears 3 to 12 times."""
    lines = row["response"].split("\n")
    at = [number for number, line in enumerate(lines[:-1]) if len(line.split()) >= 5]
    if not at:
        return None
    number = rng.choice(at)
    joint = rng.choice(["\n", " "])
    lines[number] = joint.join([lines[number]] * rng.randint(3, 12))
    return {"response": "\n".join(lines)}


def remove_end(row: Row, rng: random.Random) -> Row | None:
    """The last 10 to 60 % are missing, whether or not the engine reports it."""
    size = int(len(row["response"]) * rng.uniform(0.4, 0.9))
    size = min(size, row["response"].rindex("####") - 1)
    return {"response": row["response"][:size], "finish_reason": rng.choice(["length", "stop"])}


def append_problem(row: Row, rng: random.Random) -> Row | None:
    """Another problem follows with its own solution: runaway text."""
    start = rng.choice(["\n\nProblem: ", "\n\nQuestion: ", "\nuser\n", "\n\n"])
    second = "Ann has 7 pens and gives away 3. How many pens are left?\nAnn has 7-3=4 pens left.\n#### 4"
    return {"response": row["response"] + start + second}


def replace_answer(row: Row, rng: random.Random) -> Row | None:
    """The answer line has another number, an echo of the instruction, or is missing."""
    text, _, answer = row["response"].rpartition("####")
    other = str(int(row["answer"]) + rng.randint(1, 9))
    line = rng.choice([f"#### {other}", "#### x", "#### <answer>", f"So it is {answer.strip()}."])
    return {"response": text + line}


def add_leftover(row: Row, rng: random.Random) -> Row | None:
    """A tag, a turn mark or an echo of the prompt is in the text."""
    text, _, answer = row["response"].rpartition("\n#### ")
    echo = rng.choice(
        ("Write your final answer on the last line.", "There are 9000 rolls.", prompts.REWRITE_INSTRUCTION)
    )
    start, end = rng.choice((("<solution>", "</solution>"), ("Assistant: ", ""), ("[/INST] ", ""), (echo + "\n", "")))
    return {"response": f"{start}{text}{end}\n#### {answer}"}


def remove_last_step(row: Row, rng: random.Random) -> Row | None:
    """The line with the last result is missing, so that nothing before the answer line states the answer."""
    lines = row["response"].split("\n")
    kept, answer = "\n".join(lines[:-2]), row["answer"]
    written = re.findall(r"\d+", kept.replace(",", ""))
    if len(lines) < 4 or int(answer) <= 20 or answer in written or int(answer) * 100 in map(int, written):
        return None
    return {"response": f"{kept}\n{lines[-1]}"}


# Each fault with the reasons that are right for it.
PLANTS: dict[str, tuple[Plant, str]] = {
    "number changed": (change_number, "wrong_steps"),
    "sentence repeated": (repeat_sentence, "repetition"),
    "end removed": (remove_end, "truncated no_answer_line"),
    "problem appended": (append_problem, "kept"),
    "answer replaced": (replace_answer, "wrong_answer malformed_answer_line no_answer_line"),
    "leftover added": (add_leftover, "leftover_markup"),
    "last step removed": (remove_last_step, "unreached_answer"),
}


def reason_of(outcome: RowOutcome) -> str:
    return outcome.rejection.reason if outcome.rejection else "kept"


def study_official(rows: list[Row], judge: RowJudge) -> tuple[Row, list[Row]]:
    """The counts of all reasons with the rejected rows, and the solutions that were kept."""
    counts: Counter[str] = Counter()
    rejected, kept = [], []
    for row in rows:
        outcome = judge(row)
        counts[reason_of(outcome)] += 1
        if outcome.rejection is None:
            kept.append(row)
        else:
            rejected.append({"id": row["id"], **vars(outcome.rejection)})
    return {"read": len(rows), "kept_share": counts["kept"] / len(rows), "counts": counts, "rejected": rejected}, kept


def study_planted(kept: list[Row], judge: RowJudge, size: int, seed: int) -> Row:
    """For each kind of fault: how many of `size` ended with a right reason, and the others."""
    rng = random.Random(seed)
    rows = iter(rng.sample(kept, len(kept)))
    found: Row = {}
    for name, (plant, reasons) in PLANTS.items():
        counts: Counter[str] = Counter()
        missed = []
        while counts.total() < size:
            clean = next(rows)
            planted = plant(clean, rng)
            if planted is None:
                continue
            outcome = judge({**clean, **planted})
            reason = reason_of(outcome)
            counts[reason] += 1
            # With an appended problem, the target must be that of the clean solution.
            if reason not in reasons.split() or (reason == "kept" and outcome.target != judge(clean).target):
                missed.append({"id": clean["id"], "reason": reason, "response": planted["response"]})
        found[name] = {"planted": size, "right": size - len(missed), "counts": counts, "missed": missed}
    return found


def precision(rejected: list[Row], planted: Row) -> dict[str, tuple[int, int]]:
    """For each rule: how many of the rows that it rejects have a fault that it may find, and how many it rejects."""
    faults = read_json(ROOT / "tests/data/gsm8k/faults.json")
    right, total = Counter[str](), Counter[str]()
    for row in rejected:
        _, split, number = row["id"].split("-")
        total[row["reason"]] += 1
        right[row["reason"]] += int(number) in faults[split].get(row["reason"], [])
    for name, result in planted.items():
        for reason, count in result["counts"].items():
            total[reason] += count
            right[reason] += count * (reason in PLANTS[name][1].split())
    del total["kept"]
    return {reason: (right[reason], total[reason]) for reason in sorted(total)}


def main(argv: list[str] | None = None) -> int:
    parser = cli.StageParser(__doc__, "limit", "seed")
    add = parser.add_argument
    add("--source", type=Path, required=True, metavar="DIR", help="raw data, with gsm8k/train.jsonl and test.jsonl")
    add("--planted", type=cli.positive_int, default=1000, metavar="N", help="total number of faults, default 1000")
    add("--report_path", type=Path, metavar="JSON", help="also write everything there")
    args = parser.parse(argv)
    judge = RowJudge(JudgingPlan(Parameters()))
    rows = [row for split in ("train", "test") for row in official(args.source / f"gsm8k/{split}.jsonl")][: args.limit]
    good, kept = study_official(rows, judge)
    print(f"official solutions: {good['read']} read, {good['kept_share']:.2%} kept, {dict(good['counts'])}")
    for row in good["rejected"]:
        print(f"  {row['id']} {row['reason']}: {row['detail']}")
    planted = study_planted(kept, judge, args.planted // len(PLANTS), args.seed)
    for name, result in planted.items():
        print(f"{name}: {result['right']} of {result['planted']} right, {dict(result['counts'])}")
        for row in result["missed"]:
            print(f"  {row['id']} {row['reason']}: {row['response']!r}")
    shares = precision(good["rejected"], planted)
    for reason, (right, total) in shares.items():
        print(f"precision of {reason}: {right} of {total} rejected rows have such a fault")
    if args.report_path is not None:
        write_json_atomic(args.report_path, {"official": good, "planted": planted, "precision": shares})
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
