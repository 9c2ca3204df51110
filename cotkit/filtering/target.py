"""What the student is trained on, made from a teacher's row: the reasoning, then one final answer line."""

from __future__ import annotations

import re

from cotkit.core.datasets import NUMBER_DATASETS
from cotkit.core.jsonl import Row
from cotkit.generation import prompts
from cotkit.grading.grader import Grade, strip_thinking

# What can be changed on the way, in the words of the report.
CHANGES = {
    "text_after_answer": "text after the answer removed",
    "answer_line": "answer line rewritten in the gold's form",
    "calculator_marks": "calculator marks <<...>> removed",
    "headings": "#### of a heading removed",
    "think_removed": "think block removed",
    "think_kept": "think block kept",
}

_HEADING = re.compile(r"^[ \t]*####+[ \t]*", re.MULTILINE)
_MARK = re.compile(r"<<[^<>\n]*>>")


def has_answer(row: Row, grade: Grade) -> bool:
    """Whether the answer stands where it has to: on an answer line, or in the box of a data set that boxes answers."""
    return grade.how == "answer_line" or (grade.how == "boxed" and row["dataset"] not in NUMBER_DATASETS)


def reasoning(row: Row, grade: Grade) -> str:
    """The visible text up to its answer line; with a boxed answer, to the end of the line that holds the box."""
    response = row["response"]
    start = len(response) - len(strip_thinking(response)[1])
    if grade.how == "answer_line":
        return response[start : grade.end].rpartition("####")[0].strip()
    if grade.how == "boxed":
        newline = response.find("\n", grade.end)
        return response[start : newline if newline >= 0 else None].partition("####")[0].strip()
    return response[start : grade.end].strip()


def canonical(row: Row, grade: Grade, keep_thinking: bool) -> tuple[str, list[str]]:
    """The training target of a row with an answer, and which of `CHANGES` were made to get it."""
    response = row["response"]
    thinking, visible = strip_thinking(response)
    thinking = thinking or row.get("thinking", "")
    text = reasoning(row, grade)
    plain = _HEADING.sub("", text)
    target = prompts.target(plain, row["answer"])
    answer_line = response[len(response) - len(visible) : grade.end].rpartition("\n")[2]
    made = {
        "text_after_answer": bool(response[grade.end :].strip(" \n*.$")),
        "answer_line": answer_line.strip() != f"#### {row['answer']}",
        "calculator_marks": _MARK.search(text) is not None,
        "headings": plain != text,
        "think_removed": bool(thinking) and not keep_thinking,
        "think_kept": bool(thinking) and keep_thinking,
    }
    if made["think_kept"]:
        target = f"<think>\n{thinking}\n</think>\n\n{target}"
    return target, [name for name, changed in made.items() if changed]
