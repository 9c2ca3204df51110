"""Solutions are written one operation at a time, and only where the checker agrees with every equation."""

from __future__ import annotations

import pytest

from cotkit.equations.checker import wrong_steps
from cotkit.equations.split_steps import split_steps


@pytest.mark.parametrize(
    ("text", "split"),
    [
        ("They ate 3 + 9 + 12 = 24 slices.", "They ate 3 + 9 + 12 = 12 + 12 = 24 slices."),
        ("29-7-14=8 bricks", "29-7-14 = 22 - 14 = 8 bricks"),
        ("1+2+3+4=10", "1+2+3+4 = 3 + 3 + 4 = 6 + 4 = 10"),
        ("100 - 7 x 12 = 16", "100 - 7 x 12 = 100 - 84 = 16"),
        ("12 pages x 3 / 4 = 9 pages", "12 pages x 3 / 4 = 36 / 4 = 9 pages"),
        ("$5.50 * 3 + $1.25 = $17.75", "$5.50 * 3 + $1.25 = 16.50 + 1.25 = $17.75"),
        ("1,200 + 34 + 6 = 1,240", "1,200 + 34 + 6 = 1234 + 6 = 1,240"),
        ("so 1 + 2 + 3 = <<1+2+3=6>>6\nand 9 - 1 - 2 = 6", "so 1 + 2 + 3 = 3 + 3 = 6\nand 9 - 1 - 2 = 8 - 2 = 6"),
    ],
)
def test_intermediate_results_are_written(text: str, split: str):
    assert split_steps(text) == split
    assert not wrong_steps(split)
    assert split_steps(split) == split


@pytest.mark.parametrize(
    "text",
    [
        "There is nothing to calculate.",
        "42 + 32 = 74, then 74 / 2 = 37",  # one operation each
        "3 + 9 + 12 = 25",  # false
        "2 * 23 - 4 = 46 - 4 = 42",  # split already
        "60 / 3/4 = 80",  # 3/4 is one number here
        "(3 + 4) * 12 = 84",  # brackets are beyond it
        "10 / 3 + 0 = 3.33",  # an intermediate result without end
        "2x + 14 + 1 = 39",
        "3.33… * 3 + 0.01 = 10",  # a number that is cut off
        r"$10,\!000 + 5 + 5 = 10,\!010$",
    ],
)
def test_what_cannot_be_split_stays(text: str):
    assert split_steps(text) == text
