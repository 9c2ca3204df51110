"""Between stages 1 and 2: gives questions without a known answer one, by a vote over the teacher's samples.

Reads   teacher rows with several samples of each question (see teacher_cot.py); their `answer` may be ""
Writes  <output_path>           the rows of each question whose samples agree: teacher row with the winner as its `answer`
                                + {"given_answer": "", "votes": 3, "voters": 4}; filter_teacher_cot.py reads it
        <stem>.rejected.jsonl   all other rows: teacher row + {"reason": "no_majority", "detail": "2 of 4 for '18'"}

    python scripts/vote.py --input_path outputs/teacher.jsonl --output_path outputs/voted.jsonl
    python scripts/vote.py --input_path outputs/teacher.jsonl --output_path outputs/voted.jsonl --min_share 0.75

Equivalent answers count as one, by the grader's rules (self-consistency: Wang et al. 2022, arXiv:2203.11171). A sample
without an answer is a vote for none. A failed request is no vote, and neither is a sample with a false calculation, which
the filter would reject anyway; with --let_all_vote it is one. Where an answer was given, it takes no part in the vote, and
the share of winners that are equivalent to it is printed.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from cotkit.core import cli
from cotkit.core.datasets import AnswerKind, kind_of
from cotkit.core.errors import UserError
from cotkit.core.files import locked, open_atomic
from cotkit.core.finish_reasons import is_failed
from cotkit.core.jsonl import Row, dumps
from cotkit.core.manifest import Input, Manifest
from cotkit.core.problems import numbered_inputs, refuse_repeated
from cotkit.equations.checker import wrong_steps
from cotkit.filtering.teacher_rows import TeacherFiles
from cotkit.grading.equivalence import gold_problem
from cotkit.grading.grader import equivalent, find_answer
from cotkit.grading.voting import answer_classes, winner

NO_MAJORITY = "no_majority"


def share(text: str) -> float:
    """An argparse type: a share above 0 and at most 1."""
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"must be above 0 and at most 1, found {text}")
    return value


def build_parser() -> cli.StageParser:
    parser = cli.StageParser(__doc__, "overwrite")
    parser.add_argument("--input_path", nargs="+", type=Path, required=True, metavar="JSONL", help="teacher rows")
    parser.add_argument("--output_path", type=Path, required=True, metavar="JSONL", help="rows with an answer")
    parser.add_argument(
        "--min_share",
        type=share,
        default=0.5,
        metavar="X",
        help="least share of a question's votes for one answer (default 0.5); a tie is no agreement",
    )
    parser.add_argument("--let_all_vote", action="store_true", help="samples with a false calculation vote too")
    return parser


@dataclass(frozen=True)
class Vote:
    """The outcome for one question. `answer` is None if no answer has enough votes, or two have the most."""

    answer: str | None
    votes: int
    voters: int
    leader: str | None

    @property
    def detail(self) -> str:
        if self.leader is None:
            return f"no single answer leads among {self.voters}"
        return f"{self.votes} of {self.voters} for {self.leader!r}"


def answer_of(row: Row, kind: AnswerKind) -> str | None:
    """The answer of a sample, if the grader could compare others with it."""
    found = find_answer(row["response"], kind, row["finish_reason"]).answer
    return found if found is not None and gold_problem(found, kind) is None else None


def has_vote(row: Row, let_all_vote: bool) -> bool:
    """Whether a sample has a vote."""
    return not is_failed(row["finish_reason"]) and (let_all_vote or not wrong_steps(row["response"]))


def count_votes(teacher: TeacherFiles, min_share: float, let_all_vote: bool) -> dict[str, Vote]:
    """The vote on every question, by id. Raises UserError for a sample that votes twice, and if no question gets an answer."""
    answers: dict[str, list[str | None]] = defaultdict(list)
    kinds: dict[str, AnswerKind] = {}
    seen: dict[tuple[str, int], int] = {}
    for number, row in enumerate(teacher.rows()):
        first = seen.setdefault((row["id"], row["sample"]), number)
        teacher.refuse_repeated((first, number) if first != number else None)
        kinds[row["id"]] = kind_of(row, row["id"])
        voters = answers[row["id"]]
        if has_vote(row, let_all_vote):
            voters.append(answer_of(row, kinds[row["id"]]))
    votes = {one: vote(answers[one], kinds[one], min_share) for one in answers}
    if all(one.answer is None for one in votes.values()):
        raise UserError(
            f"{teacher.paths[0]}: no question has {min_share:.0%} of its votes for one answer; lower --min_share, or let the "
            "teacher write more samples"
        )
    return votes


def vote(answers: list[str | None], kind: AnswerKind, min_share: float) -> Vote:
    """The vote on one question."""
    leader, votes = winner(answer_classes(answers, kind)) or (None, 0)
    enough = votes > 0 and votes >= min_share * len(answers)
    return Vote(leader if enough else None, votes, len(answers), leader)


def write_rows(args: argparse.Namespace, teacher: TeacherFiles, votes: dict[str, Vote]) -> Row:
    """Writes every row with its vote's winner, or as rejected. Returns the counts."""
    kept = rejected = 0
    known: dict[str, bool] = {}  # question -> whether the winner is the answer that was given
    with open_atomic(args.output_path) as voted, open_atomic(rejected_path(args.output_path)) as others:
        for row in teacher.rows():
            result = votes[row["id"]]
            if result.answer is None:
                rejected += 1
                others.write(dumps({**row, "reason": NO_MAJORITY, "detail": result.detail}))
                continue
            given = row["answer"]
            if given.strip() and row["id"] not in known:
                known[row["id"]] = equivalent(given, result.answer, kind_of(row, row["id"]))
            kept += 1
            new = {"answer": result.answer, "given_answer": given, "votes": result.votes, "voters": result.voters}
            voted.write(dumps({**row, **new}))
    return {
        "read": kept + rejected,
        "kept": kept,
        "rejected": {NO_MAJORITY: rejected},
        "questions": len(votes),
        "voted": sum(one.answer is not None for one in votes.values()),
        "known": len(known),
        "agree": sum(known.values()),
    }


def rejected_path(output: Path) -> Path:
    return output.with_name(f"{output.stem}.rejected.jsonl")


def show(output: Path, counts: Row) -> str:
    """The counts as one line."""
    text = f"{output}: {counts['voted']} of {counts['questions']} questions have an answer by vote ({counts['kept']} of {counts['read']} rows)"
    if counts["known"]:
        text += f"; of {counts['known']} whose answer is known the vote found {counts['agree'] / counts['known']:.1%}"
    return text


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse(argv)
    refuse_repeated(args.input_path)
    teacher = TeacherFiles(tuple(args.input_path))
    if next(teacher.rows(), None) is None:
        raise UserError(f"{args.input_path[0]}: holds no teacher rows; run teacher_cot.py first")
    manifest = Manifest(
        "vote",
        args.output_path,
        {"min_share": args.min_share, "let_all_vote": args.let_all_vote},
        {name: Input(path) for name, path in numbered_inputs("teacher", args.input_path).items()},
        derived=True,
        overwrite=args.overwrite,
    )
    if manifest.check() == "done":
        print(f"{args.output_path}: done already, nothing to do")
        print(show(args.output_path, manifest.read()["counts"]))
        return 0
    with locked(args.output_path):
        manifest.begin()
        counts = write_rows(args, teacher, count_votes(teacher, args.min_share, args.let_all_vote))
        manifest.finish([args.output_path, rejected_path(args.output_path)], counts)
    print(show(args.output_path, counts))
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
