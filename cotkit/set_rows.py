"""The rows of training sets, and the problems of the next round: passes over the teacher's and the kept rows, in order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from cotkit import prompts
from cotkit.answers import Grade, extract
from cotkit.canonical import reasoning
from cotkit.jsonl import Row, read_chosen
from cotkit.problems import TRUNCATED
from cotkit.selection import Account
from cotkit.steps import find_steps
from cotkit.teacher_files import TeacherFiles
from cotkit.training_sets import Part, TrainingSet

if TYPE_CHECKING:
    from cotkit.selection import Mask

# What a teacher adds to a problem; see teacher_cot.py.
TEACHER_ONLY = frozenset(
    {"sample", "response", "thinking", "finish_reason", "prompt_tokens", "completion_tokens", "model", "error", "retry"}
)


@dataclass(frozen=True)
class Source:
    """The files of a filter run and its account of their rows."""

    teacher: TeacherFiles
    kept: Path
    account: Account
    select: str = "first"
    cap: int | None = None

    def rows(self, declared: TrainingSet) -> Iterator[Row]:
        """The training rows of a declared set."""
        return self._pairs() if declared.ranking else chain.from_iterable(map(self._part, declared.parts))

    def _part(self, part: Part) -> Iterator[Row]:
        if part.source == "gold":
            return gold_rows(self.teacher.chosen(self.account.first()))
        select, cap = part.select or self.select, part.cap or (self.cap if part.select is None else None)
        if part.source == "teacher":
            raw = self.teacher.chosen(self.account.choose(self.account.raw(), select, cap))
            return (prompts.training_row(row["question"], row["response"].strip()) for row in raw)
        kept = self.account.kept()
        among = self.account.whole() if part.source == "whole" else kept
        chosen = read_chosen(self.kept, self.account.choose(among, select, cap)[kept])
        return (prompts.training_row(row["question"], row["target"]) for row in chosen)

    def _pairs(self) -> Iterator[Row]:
        """Preference rows; a half waits for its other half, which a teacher writes close by."""
        chosen, rejected = self.account.pairs()
        kept = self.account.kept()
        targets = read_chosen(self.kept, chosen[kept])
        halves: dict[str, dict[str, str | None]] = {}
        either = chosen | rejected
        for row, good in zip(self.teacher.chosen(either), chosen[either], strict=True):
            half = halves.setdefault(row["id"], {})
            half["chosen" if good else "rejected"] = next(targets)["target"] if good else wrong_target(row)
            if len(half) == 2 and half["rejected"] is not None:
                del halves[row["id"]]
                prompt = prompts.training_row(row["question"], "")
                del prompt["output"]
                yield {**prompt, "chosen": half["chosen"], "rejected": half["rejected"]}


def retry_rows(teacher: TeacherFiles, again: Mask, reasons: Sequence[str]) -> Iterator[Row]:
    """The problems for another round, each with the reason in `retry`; one truncated earlier keeps its larger budget.

    `again` and `reasons` are `Account.again`'s.
    """
    for row, reason in zip(teacher.chosen(again), reasons, strict=True):
        problem = {name: value for name, value in row.items() if name not in TEACHER_ONLY}
        yield {**problem, "retry": TRUNCATED if row.get("retry") == TRUNCATED else reason}


def wrong_target(row: Row) -> str | None:
    """A wrong response in the form of a target: its reasoning and its own answer on one last line.

    None if what was wrong stood in a calculator mark only, which a target does without.
    """
    found = extract(row["response"], row["dataset"])
    text = reasoning(row, Grade(row["id"], "wrong", found.answer, found.how, "", found.end))
    target = prompts.target(text, found.answer or "")
    wrong = found.answer != row["answer"] or any(not step.holds for step in find_steps(target))
    return target if wrong else None


def gold_rows(problems: Iterable[Row]) -> Iterator[Row]:
    """One training row a problem that has a solution: the data set's own reasoning."""
    for row in problems:
        if row["solution"].strip():
            yield prompts.training_row(row["question"], prompts.target(row["solution"], row["answer"]))
