"""The original experiment's rules of extraction and grading."""

from __future__ import annotations

import pytest
from conftest import raw_rows

from cotkit.grading.grader import Item
from cotkit.grading.original_protocol import extract_original, grade_original


@pytest.mark.parametrize(
    ("response", "answer", "how"),
    [
        ("a\n#### 18 dollars\n#### 7", "18 dollars", "answer_line"),
        ("a\nso it is 18\n\n", "so it is 18", "last_line"),
        ("a #### x", "x", "answer_line"),
        ("a\n#### 5 #### 6\n#### 7", "6", "answer_line"),
        ("####\n42", "42", "answer_line"),
        ("a ####\n\n  42 eggs\nb", "42 eggs", "answer_line"),
        ("so it is 18\n####", "####", "last_line"),
        ("####\n#### 5", "#### 5", "answer_line"),
        ("", "", "none"),
    ],
)
def test_original_extraction(response: str, answer: str, how: str) -> None:
    assert extract_original(response) == (answer, how)


def test_verdicts_are_those_of_the_original() -> None:
    items = [
        Item("first marker", "number", "18", "#### 18\nProblem:\n#### 7"),
        Item("bare LaTeX", "latex", "\\sqrt{51}", "#### \\sqrt{51}"),
        Item("missing", "number", "18", ""),
        Item("words around", "number", "18", "#### 18 dollars"),
        Item("echo", "number", "18", "#### x"),
    ]
    graded = {g.id: g for g in grade_original(items, workers=1)}
    assert [graded[item.id].verdict for item in items] == ["correct", "wrong", "wrong", "correct", "wrong"]
    assert all(graded[item.id].end == len(item.response) for item in items)


# The 51 golds of MATH-500 that Math-Verify cannot read without delimiters.
LOST = (
    "1 4 14 17 53 60 66 73 74 78 85 97 102 103 106 120 144 146 157 162 164 166 181 184 218 227 242 255 266 "
    "277 296 305 312 314 318 356 358 362 364 376 380 382 383 389 392 398 422 431 459 488 495"
).split()


def test_bare_golds_of_math500_that_are_lost() -> None:
    rows = raw_rows("math500/test.jsonl")
    items = [Item(str(number), "latex", row["answer"], f"#### {row['answer']}") for number, row in rows.items()]
    wrong = {grade.id for grade in grade_original(items, workers=2) if grade.verdict != "correct"}
    assert wrong == {number for number in LOST if int(number) in rows}
