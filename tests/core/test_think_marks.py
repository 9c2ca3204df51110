from __future__ import annotations

import pytest

from cotkit.core.think_marks import marks, opened_by

PAIRS = [
    ("<think>", "</think>"),
    ("<Thinking>", "</Thinking>"),
    ("<think time='3'>", "</ think >"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),
    ("<mm:think>", "</mm:think>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    ("<|start|>assistant<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),
]


def states(text: str) -> list[tuple[bool, str]]:
    return [(mark.closes, text[mark.start : mark.end]) for mark in marks(text)]


@pytest.mark.parametrize(("opening", "closing"), PAIRS)
def test_a_thought_has_an_opening_and_a_closing_mark(opening: str, closing: str) -> None:
    assert states(f"a {opening}b{closing} c") == [(False, opening), (True, closing)]
    assert opened_by(f"user: 1+1?\n{opening}\n") == f"{opening}\n"
    assert opened_by(f"{opening}\n\n{closing}\n\n") == ""


@pytest.mark.parametrize(
    "text", ["a < b and [x] > c", "<thinker>", "<answer>5</answer>", "<|im_end|>", "[0, 1]", "think"]
)
def test_other_text_has_no_marks(text: str) -> None:
    assert states(text) == []


def test_marks_of_other_names_inside_a_thought_do_not_end_it() -> None:
    assert states("<think>use <reasoning> tags</think>x") == [(False, "<think>"), (True, "</think>")]
    assert states("<think><reasoning>a</reasoning>b</think>") == [(False, "<think>"), (True, "</think>")]
    assert states("<think>write <think> here</think>") == [(False, "<think>"), (True, "</think>")]


def test_another_spelling_closes_a_thought_too() -> None:
    assert states("<think>a</thinking>b") == [(False, "<think>"), (True, "</thinking>")]
    assert states("a</think>b") == [(True, "</think>")]
    assert opened_by("write <think> in front") == ""
