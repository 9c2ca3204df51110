"""Makes the training target of a teacher row: the reasoning, then one final answer line."""

from __future__ import annotations

import re
from typing import NamedTuple

from cotkit.core.datasets import AnswerKind
from cotkit.core.jsonl import Row
from cotkit.equations.arithmetic import CALCULATOR_MARK
from cotkit.generation import prompts
from cotkit.grading.extraction import Extraction, strip_thinking
from cotkit.grading.grader import Grade

# What may differ between response and target, and the report's words for it.
CHANGES = {
    "text_after_answer": "text after the answer removed",
    "answer_line": "answer line rewritten in the gold's form",
    "calculator_marks": "calculator marks <<...>> removed",
    "headings": "#### of a heading removed",
    "think_removed": "think block removed",
    "think_kept": "think block kept",
}

_HEADING = re.compile(r"^[ \t]*####+[ \t]*", re.MULTILINE)


class Target(NamedTuple):
    """A training target and which of `CHANGES` were made to get it."""

    text: str
    changes: list[str]


def has_answer(kind: AnswerKind, grade: Grade) -> bool:
    """Whether the answer is on an answer line, or in a box where answers are more than plain numbers."""
    return grade.how == "answer_line" or (grade.how == "boxed" and kind != "number")


def reasoning(response: str, found: Grade | Extraction) -> str:
    """The visible text before its answer line. With a boxed answer, up to the end of the line that holds the box."""
    start = len(response) - len(strip_thinking(response)[1])
    if found.how == "answer_line":
        return response[start : found.end].rpartition("####")[0].strip()
    if found.how == "boxed":
        newline = response.find("\n", found.end)
        return response[start : newline if newline >= 0 else None].partition("####")[0].strip()
    return response[start : found.end].strip()


def make_target(row: Row, grade: Grade, keep_thinking: bool) -> Target:
    """The training target of a row that has an answer."""
    response = row["response"]
    thinking, visible = strip_thinking(response)
    thinking = thinking or row.get("thinking", "")
    text = reasoning(response, grade)
    plain = _HEADING.sub("", text)
    target = prompts.target(plain, row["answer"])
    answer_line = response[len(response) - len(visible) : grade.end].rpartition("\n")[2]
    made = {
        "text_after_answer": bool(response[grade.end :].strip(" \n*.$")),
        "answer_line": answer_line.strip() != f"#### {row['answer']}",
        "calculator_marks": CALCULATOR_MARK.search(text) is not None,
        "headings": plain != text,
        "think_removed": bool(thinking) and not keep_thinking,
        "think_kept": bool(thinking) and keep_thinking,
    }
    if made["think_kept"]:
        target = f"<think>\n{thinking}\n</think>\n\n{target}"
    return Target(target, [name for name, changed in made.items() if changed])
