"""The original experiment's rules of extraction and grading."""

from __future__ import annotations

from collections import Counter

import pytest
from grading.test_grader import golds, needs_data

from cotkit.grading.grader import Item
from cotkit.grading.original_protocol import extract_original, grade_original


@pytest.mark.parametrize(
    ("response", "answer", "how"),
    [
        ("a\n#### 18 dollars\n#### 7", "18 dollars", "answer_line"),
        ("a\nso it is 18\n\n", "so it is 18", "last_line"),
        ("a #### x", "x", "answer_line"),
        ("", "", "none"),
    ],
)
def test_seed_extraction(response: str, answer: str, how: str) -> None:
    assert extract_original(response) == (answer, how)


def test_seed_protocol_grades_as_the_original_did() -> None:
    items = [
        Item("first marker", "gsm8k", "18", "#### 18\nProblem:\n#### 7"),
        Item("bare LaTeX", "math500", "\\sqrt{51}", "#### \\sqrt{51}"),
        Item("missing", "gsm8k", "18", ""),
        Item("words around", "gsm8k", "18", "#### 18 dollars"),
        Item("echo", "gsm8k", "18", "#### x"),
    ]
    graded = {g.id: g for g in grade_original(items, workers=1)}
    assert [graded[item.id].verdict for item in items] == ["correct", "wrong", "wrong", "correct", "wrong"]
    assert all(graded[item.id].end == len(item.response) for item in items)


@needs_data
def test_seed_protocol_loses_51_bare_golds_of_math500() -> None:
    answers = golds("math500/test.jsonl")
    graded = grade_original(
        (Item(str(n), "math500", gold, f"#### {gold}") for n, gold in enumerate(answers)), workers=2
    )
    assert Counter(g.verdict for g in graded) == {"correct": 449, "wrong": 51}
