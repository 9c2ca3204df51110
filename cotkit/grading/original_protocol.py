"""The original experiment's grading rules, for comparison with its published table and for nothing else.

The answer is the whole text after the first `####` up to the end of that line, else the last line that is not empty;
it is compared with the gold answer by Math-Verify on bare strings, which is why bare LaTeX golds often cannot score.
There are two verdicts: what is missing, cut off or unreadable is wrong. Words are counted over the whole generation,
so that `end` is the length of the response.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from cotkit.grading.grader import Grade, Item, Task, run_tasks
from cotkit.grading.math_verify_worker import ORIGINAL

_INTEGER = re.compile(r"-?[1-9]\d{0,14}", re.ASCII)


def extract_original(response: str) -> tuple[str, str]:
    """(answer, how): the answer line's text, else the last line that is not empty, "" when there is none."""
    _, marker, rest = response.partition("####")
    if marker:
        return rest.split("\n", 1)[0].strip(), "answer_line"
    lines = [line.strip() for line in response.split("\n") if line.strip()]
    return (lines[-1], "last_line") if lines else ("", "none")


def grade_original(items: Iterable[Item], workers: int | None = None) -> Iterator[Grade]:
    """Grades by the original rules, in the order of `items`, as a stream; `workers` as in `grade_many`."""
    return run_tasks(map(_task, items), workers)


def _task(item: Item) -> Grade | Task:
    answer, how = extract_original(item.response)
    end = len(item.response)
    if not answer:
        return Grade(item.id, "wrong", None, how, "missing", end)
    # Two plain integers are equal for Math-Verify when their digits are; nothing else is decided without it.
    if _INTEGER.fullmatch(answer) and _INTEGER.fullmatch(item.gold):
        return Grade(item.id, "correct" if answer == item.gold else "wrong", answer, how, "integer", end)
    template = Grade(item.id, "wrong", answer, how, "", end)
    return Task(template, (item.gold, answer, ORIGINAL), only_correct_counts=True)
