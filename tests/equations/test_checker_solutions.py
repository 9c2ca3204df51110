"""Arithmetic steps in real solutions, planted errors and hostile text."""

import random
import re
import time
from fractions import Fraction

import pytest
from conftest import FALSE_IN_GSM8K, raw_rows
from equations.test_checker import worked_solutions

from cotkit.equations.checker import find_steps, wrong_steps

MARK = re.compile(r"<<[^>]*>>")


def gsm8k() -> dict[int, str]:
    return {number: row["answer"] for number, row in raw_rows("gsm8k/train.jsonl").items()}


@pytest.mark.parametrize("marks", [True, False])
def test_gsm8k_solutions_are_right(marks):
    found = {number: find_steps(row if marks else MARK.sub("", row)) for number, row in gsm8k().items()}
    wrong = {number for number, row_steps in found.items() if not all(step.holds for step in row_steps)}
    assert wrong == FALSE_IN_GSM8K & found.keys()
    steps, read = sum(map(len, found.values())), sum(map(bool, found.values()))  # it is not right by reading nothing
    if len(found) == 7473:
        assert steps >= (47_000 if marks else 23_500) and read >= 0.97 * len(found)
    assert steps >= (4 if marks else 2) * len(found) and read >= 0.95 * len(found)


def test_gsm_symbolic_solutions_are_right_but_for_cut_decimals():
    """Its generator cuts floats: `0.88*40 = 35`, `564.3 / 1.35 = 417` and `74.88 - 44.88 = 29` are false as written."""
    found = [find_steps(row) for row in worked_solutions()]
    wrong = [step.text for row_steps in found for step in row_steps if not step.holds]
    for text in wrong:
        left, right = re.sub(r"[$£€]", "", text).replace("÷", "/").split("=")
        numbers = [Fraction(number) for number in re.findall(r"[0-9.]+", left)]
        a, b = numbers[0], (numbers[1] / numbers[2] if len(numbers) == 3 else numbers[1])
        exact = {"*": a * b, "/": a / b, "-": a - b}[re.search(r" [-*/] |[*/]", left)[0].strip()]
        assert exact != int(right) and 0 < exact - int(right) <= 1
    assert len(wrong) <= 40
    assert sum(map(len, found)) >= 4700


def change_one_number(text: str, rng: random.Random) -> tuple[str, int, int] | None:
    """`text` with one digit of one right step changed, and the span of that step; None where there is no such step."""
    found = [step for step in find_steps(text) if step.holds]
    if not found or wrong_steps(text):
        return None
    step = rng.choice(found)
    number = rng.choice(list(re.finditer(r"[0-9][0-9,]*(?:\.[0-9]+)?|\.[0-9]+", step.text)))
    at = step.start + rng.choice([i for i in range(number.start(), number.end()) if step.text[i].isdigit()])
    return text[:at] + rng.choice([d for d in "123456789" if d != text[at]]) + text[at + 1 :], step.start, step.end


@pytest.mark.parametrize("marks", [True, False])
def test_planted_errors_are_found(marks):
    rows, rng = list(gsm8k().values()), random.Random(1)
    rows = rows if marks else [MARK.sub("", row) for row in rows]
    rng.shuffle(rows)
    rows = rows[:1300] if len(rows) > 1300 else rows * 10  # of a small sample, each row gets several errors
    planted = [change for row in rows if (change := change_one_number(row, rng))][:1000]
    caught = sum(any(w.start < end and w.end > start for w in wrong_steps(text)) for text, start, end in planted)
    assert len(planted) == 1000
    assert caught >= 990


HOSTILE = {
    "brackets": "(" * 50_000 + "1" + ")" * 50_000 + " = 1",
    "open brackets": "(1+" * 30_000 + "= 2",
    "nested sums": "(1+" * 15_000 + "1" + ")" * 15_000 + " = 2",
    "signs": "-" * 50_000 + "1 = 1",
    "digits": "9" * 50_000 + " + 1 = 2",
    "commas": "1" + ",000" * 20_000 + " + 1 = 2",
    "dots": "1." * 30_000 + " = 1",
    "sum": "1+" * 50_000 + "1 = 50001",
    "products": "99999999999999999999*" * 5_000 + "1 = 1",
    "powers": "9^9^9^9^9^9 = 1\n" * 5_000,
    "big powers": "2^999999999 = 1\n" * 5_000,
    "fractions": "\\frac{" * 20_000 + "1 = 1",
    "equals": "=" * 100_000,
    "chain": "1=" * 50_000 + "2",
    "false ones in a line": "1+1=3 and " * 10_000,
    "marks": "<<" * 50_000 + "1=1>>",
    "words": "half the " * 12_000 + "3+4 = 7",
    "one word": "a" * 100_000 + " = 1+1",
    "hyphens": "3 a" + "-a" * 50_000 + " = 3",
    "blanks": "1 + 1" + " " * 100_000 + "= 2",
    "percent": "1% of " * 20_000 + "1 = 1",
    "many lines": "3 + 4 = 8 apples\n" * 6_000,
    "scaled": "3 + 4 = 700 percent and " * 4_000,
    "roundings": "1/7 + 0.33 = 0.5, " * 5_000,
    "quantities": "1 a " * 20_000 + "of 1 + 1 = 3",
    "joined": "3 boxes of 1 + 1 = 3 and " * 4_000,
    "false with units": "2 hours * 60 = 121 minutes, " * 4_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_is_read_in_bounded_time(name):
    start = time.process_time()
    find_steps(HOSTILE[name])
    assert time.process_time() - start < 5  # seconds for about 100,000 characters; a quadratic reader needs minutes
