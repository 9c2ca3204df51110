"""Multiple-choice answers: golds that are letters, and golds that are numbers behind letters."""

from __future__ import annotations

import pytest

from cotkit.grading.grader import Item, check_gold, grade

B = [
    "#### B",
    "#### (B)",
    "#### b",
    "#### B) 27",
    "B",
    "(b)",
    "b.",
    "B) 27",
    "(B) the red one",
    "Option B",
    "option (b)",
    "The answer is B.",
    "The answer is (b).",
    "So the correct option is B.",
    "The correct answer is option (B).",
    "Therefore, the answer is **(B) 27**.",
    "The correct choice is **B**, because 3 is odd.",
    "Answer: B",
    "**Answer: B**",
    "Final answer: (B)",
    "\\boxed{B}",
    "\\boxed{b}",
    "\\boxed{\\text{(B)}}",
    "\\boxed{\\textbf{(B)}\\ 27}",
    "A is too small, C is too large. I choose B.",
    "2+2=4, so (B) is correct.",
    "Option A is wrong. Option B is the correct answer.",
    "The answer is not A. The answer is B.",
    "<think>The answer is A.</think>The answer is B.",
]
NOT_B = [
    ("#### C", "wrong"),
    ("The answer is (c).", "wrong"),
    ("\\boxed{27}", "wrong"),
    ("#### B, C", "wrong"),
    ("\\boxed{B \\text{ or } C}", "wrong"),
    ("A", "wrong"),
    ("The answer is A dog.", "no_answer"),
    ("I do not know.", "no_answer"),
    ("Be careful.", "no_answer"),
    ("B is correct only if x > 0.", "no_answer"),
    ("", "no_answer"),
]


@pytest.mark.parametrize("response", B)
def test_every_usual_way_to_name_an_option(response: str):
    assert grade(Item("a", "choice", "B", response)).verdict == "correct"
    assert grade(Item("a", "choice", "(B)", response)).verdict == "correct"
    assert grade(Item("a", "choice", "C", response)).verdict == "wrong"


@pytest.mark.parametrize(("response", "verdict"), NOT_B)
def test_another_option_or_none(response: str, verdict: str):
    assert grade(Item("a", "choice", "B", response)).verdict == verdict


@pytest.mark.parametrize(
    ("response", "verdict"),
    [
        ("#### (B) 27", "correct"),
        ("\\boxed{27}", "correct"),
        ("The answer is B) 27.", "correct"),
        ("\\boxed{B}", "wrong"),
    ],
)
def test_a_gold_number_is_compared_with_the_value_behind_the_letter(response: str, verdict: str):
    assert grade(Item("a", "choice", "27", response)).verdict == verdict


def test_golds_of_choice_questions_are_letters_or_numbers():
    assert all(check_gold(gold, "choice") for gold in ("A", "(c)", "J", "27", "-1", "\\text{(D)}", "B) 27"))
    assert not any(check_gold(gold, "choice") for gold in ("", "K", "many", "A and B", "x+1"))
