"""Two controls of the filter on real solutions: what it does to good ones, and whether it finds planted faults.

Reads   GSM8K's train.jsonl, {"question": "...", "answer": "...<<48/2=24>>24...\\n#### 72"}
Prints  official: the reasons of all rejected solutions, every false equation; planted: faults caught with the right reason

    python scripts/dev/study_filter.py --source DIR_OF_RAW_DATA
    python scripts/dev/study_filter.py --source DIR --report_path outputs/study_filter.json

Good: every official solution as if a teacher had written it. Planted: of `--planted` of them, equal parts get one number
of one equation changed, a sentence looped, the end cut off, an invented second problem appended, the answer replaced.
"""

from __future__ import annotations

import random
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from cotkit.core import cli
from cotkit.core.jsonl import Row, read, write_json_atomic
from cotkit.equations import error_injection
from cotkit.filtering.judging import JudgingPlan, RowJudge, RowOutcome
from cotkit.filtering.records import Parameters

Plant = Callable[[Row, random.Random], Row | None]


def official(path: Path) -> list[Row]:
    """The official solutions in the form of teacher rows."""
    rows = []
    for number, row in enumerate(read(path)):
        solution, _, answer = row["answer"].rpartition("####")
        rows.append(
            {
                "id": f"gsm8k-train-{number:05d}",
                "dataset": "gsm8k",
                "split": "train",
                "question": row["question"],
                "solution": solution.rstrip(),
                "answer": answer.strip().replace(",", ""),
                "sample": 0,
                "response": row["answer"],
                "thinking": "",
                "finish_reason": "stop",
                "prompt_tokens": 0,
                "completion_tokens": len(row["answer"].split()),
            }
        )
    return rows


def change_number(row: Row, rng: random.Random) -> Row | None:
    """One number of one equation is wrong."""
    changed = error_injection.change_number(row["response"], rng)
    return None if changed is None else {**row, "response": changed}


def loop_sentence(row: Row, rng: random.Random) -> Row | None:
    """One line of the solution stands 3 to 12 times."""
    lines = row["response"].split("\n")
    at = [number for number, line in enumerate(lines[:-1]) if len(line.split()) >= 5]
    if not at:
        return None
    number = rng.choice(at)
    joint = rng.choice(["\n", " "])
    lines[number] = joint.join([lines[number]] * rng.randint(3, 12))
    return {**row, "response": "\n".join(lines)}


def cut_end(row: Row, rng: random.Random) -> Row | None:
    """The last 10 to 60 % are missing, with or without the engine saying so."""
    kept = int(len(row["response"]) * rng.uniform(0.4, 0.9))
    kept = min(kept, row["response"].rindex("####") - 1)
    return {**row, "response": row["response"][:kept], "finish_reason": rng.choice(["length", "stop"])}


def append_problem(row: Row, rng: random.Random) -> Row | None:
    """Another problem with a solution of its own, as models run on."""
    start = rng.choice(["\n\nProblem: ", "\n\nQuestion: ", "\nuser\n", "\n\n"])
    second = "Ann has 7 pens and gives away 3. How many pens are left?\nAnn has 7-3=4 pens left.\n#### 4"
    return {**row, "response": row["response"] + start + second}


def replace_answer(row: Row, rng: random.Random) -> Row | None:
    """The answer line says another number, an echo of the instruction, or nothing."""
    text, _, answer = row["response"].rpartition("####")
    other = str(int(row["answer"]) + rng.randint(1, 9))
    line = rng.choice([f"#### {other}", "#### x", "#### <answer>", f"So it is {answer.strip()}."])
    return {**row, "response": text + line}


PLANTS: dict[str, tuple[Plant, frozenset[str]]] = {
    "number changed": (change_number, frozenset({"wrong_steps"})),
    "sentence looped": (loop_sentence, frozenset({"repetition"})),
    "end cut": (cut_end, frozenset({"truncated", "no_answer_line"})),
    "problem appended": (append_problem, frozenset({"kept"})),
    "answer replaced": (replace_answer, frozenset({"wrong_answer", "malformed_answer_line", "no_answer_line"})),
}


def reason_of(outcome: RowOutcome) -> str:
    return outcome.rejection.reason if outcome.rejection else "kept"


def study_official(rows: list[Row], judge: RowJudge) -> tuple[Row, list[Row]]:
    """Reasons and rejected rows, and the solutions that were kept."""
    counts: Counter[str] = Counter()
    rejected, kept = [], []
    for row in rows:
        outcome = judge(row)
        counts[reason_of(outcome)] += 1
        if outcome.rejection is None:
            kept.append(row)
        else:
            rejected.append({"id": row["id"], "reason": outcome.rejection.reason, "detail": outcome.rejection.detail})
    return {"read": len(rows), "kept_share": counts["kept"] / len(rows), "counts": counts, "rejected": rejected}, kept


def study_planted(kept: list[Row], judge: RowJudge, size: int, seed: int) -> Row:
    """For each kind of fault how many of `size` were caught with a right reason or made canonical, and the others."""
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
            outcome = judge(planted)
            reason = reason_of(outcome)
            # A target with an appended problem must be that of the clean solution.
            right = reason in reasons and (reason != "kept" or outcome.target == judge(clean).target)
            counts[reason] += 1
            if not right:
                missed.append({"id": clean["id"], "reason": reason, "response": planted["response"]})
        found[name] = {"planted": size, "right": size - len(missed), "counts": counts, "missed": missed}
    return found


def main(argv: list[str] | None = None) -> int:
    parser = cli.StageParser(__doc__, "limit", "seed")
    parser.add_argument(
        "--source", type=Path, required=True, metavar="DIR", help="raw data, with gsm8k/train.jsonl in it"
    )
    parser.add_argument(
        "--planted", type=cli.positive_int, default=1000, metavar="N", help="faults in all, default 1000"
    )
    parser.add_argument("--report_path", type=Path, metavar="JSON", help="also write everything there")
    args = parser.parse(argv)
    judge = RowJudge(JudgingPlan(Parameters()))
    rows = official(args.source / "gsm8k/train.jsonl")[: args.limit]
    good, kept = study_official(rows, judge)
    print(f"official solutions: {good['read']} read, {good['kept_share']:.2%} kept, {dict(good['counts'])}")
    for row in good["rejected"]:
        print(f"  {row['id']} {row['reason']}: {row['detail']}")
    planted = study_planted(kept, judge, args.planted // len(PLANTS), args.seed)
    for name, result in planted.items():
        print(f"{name}: {result['right']} of {result['planted']} right, {dict(result['counts'])}")
        for row in result["missed"]:
            print(f"  {row['id']} {row['reason']}: {row['response']!r}")
    if args.report_path is not None:
        write_json_atomic(args.report_path, {"official": good, "planted": planted})
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
