"""The original experiment's grading rules. Use them only to compare with its published table.

The answer is the text behind the last `####` of the first line that has one, or the next line with text if the marker
ends its line; else the last line that is not empty. Math-Verify compares it with the gold answer as bare strings, so many LaTeX golds cannot score. A missing,
truncated or unreadable answer is wrong. Words are counted over the whole response: `end` is its length.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from cotkit.grading.grader import Grade, Item, Task, run_tasks
from cotkit.grading.math_verify_worker import ORIGINAL

_INTEGER = re.compile(r"-?[1-9]\d{0,14}", re.ASCII)


def extract_original(response: str) -> tuple[str, str]:
    """(answer, how): the text of the answer line, else the last line that is not empty, else ""."""
    first = response.find("####")
    line_end = response.find("\n", first)
    last = response.rfind("####", 0, None if line_end < 0 else line_end)
    if first >= 0 and (behind := response[last + 4 :].strip()):
        return behind.split("\n", 1)[0].strip(), "answer_line"
    lines = [line.strip() for line in response.split("\n") if line.strip()]
    return (lines[-1], "last_line") if lines else ("", "none")


def grade_original(items: Iterable[Item], workers: int | None = None) -> Iterator[Grade]:
    """Yields the grades in the order of `items`; `workers` as in `grade_many`."""
    return run_tasks(map(_task, items), workers)


def _task(item: Item) -> Grade | Task:
    answer, how = extract_original(item.response)
    end = len(item.response)
    if not answer:
        return Grade(item.id, "wrong", None, how, "missing", end)
    # Math-Verify calls two plain integers equal exactly if their digits are equal. All else is left to it.
    if _INTEGER.fullmatch(answer) and _INTEGER.fullmatch(item.gold):
        return Grade(item.id, "correct" if answer == item.gold else "wrong", answer, how, "integer", end)
    template = Grade(item.id, "wrong", answer, how, "", end)
    return Task(template, (item.gold, answer, ORIGINAL), two_verdicts=True)
