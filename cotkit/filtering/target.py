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

_HEADING = re.compile(r"^([ \t]*[*_]*)####+[ \t]*", re.MULTILINE)

_CLOSING_LINE = re.compile(r"\n[ \t]*(?:\$\$|\\\]|```|\*\*)[ \t]*(?=\n|$)")  # after the line of a box
_MARK_AT_END = re.compile(r"(?:```\w*|\$\$?|\*{1,3}|_{1,3}|~~|`|#{1,6}|-{3,}|[-+>•]|\\[\[(])\Z")
_LONGEST_MARK = 16  # characters


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
        return without_open_marks(response[start : found.end].rpartition("####")[0])
    if found.how == "boxed":
        newline = response.find("\n", found.end)
        closing = _CLOSING_LINE.match(response, newline) if newline >= 0 else None
        end = closing.end() if closing else newline if newline >= 0 else len(response)
        return without_open_marks(response[start:end].partition("####")[0])
    return response[start : found.end].strip()


def without_open_marks(text: str) -> str:
    """`text` without the marks at its end that open the answer line: `**` of `**#### 2**`, a bullet, a heading's `#`.

    Marks that close something in the text stay: the second `$$` of a formula, the second ``` of a block.
    """
    text = text.strip()
    while (mark := _MARK_AT_END.search(text, max(0, len(text) - _LONGEST_MARK))) and _opens(mark[0], text):
        text = text[: mark.start()].rstrip()
    return text


def _opens(mark: str, text: str) -> bool:
    """Whether the mark at the end of `text` opens something after it."""
    if mark[:3] == "```" or mark == "$$":
        return text.count(mark[:3]) % 2 == 1
    before = text[: -len(mark)]
    if before.rstrip(" \t")[-1:] in ("", "\n") or mark[0] == "\\":
        return True
    if mark in ("**", "__", "`"):
        return text.count(mark) % 2 == 1
    apart = before[-1:].isspace()
    return apart and (mark[0] in "*_~#" or (mark == "$" and not before.rstrip()[-1].isdigit()))  # 5 $ is a price


def make_target(row: Row, grade: Grade, text: str, keep_thinking: bool) -> Target:
    """The training target of a row that has an answer; `text` is its reasoning."""
    response = row["response"]
    thinking, visible = strip_thinking(response)
    thinking = thinking or row.get("thinking", "")
    plain = _HEADING.sub(r"\1", text) if "####" in text else text
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
