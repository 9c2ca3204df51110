"""Arithmetic steps: a labelled table, generated equations, any text."""

import re
from fractions import Fraction

import pytest
from equations.line_cases import LINES
from hypothesis import given, settings
from hypothesis import strategies as st

from cotkit.equations import checker
from cotkit.equations.checker import find_steps, wrong_steps

RIGHT, WRONG = [True], [False]
CASES = [
    # signs, money, thousands
    ("12*3=36", RIGHT),
    ("12*3=35", WRONG),
    ("He pays $5 x 4 = $20.", RIGHT),
    ("He pays $5 x 4 = $25.", WRONG),
    ("5 × 4 = 20", RIGHT),
    ("20 ÷ 4 = 5", RIGHT),
    ("20 ÷ 4 = 6", WRONG),
    ("10 – 4 = 6", RIGHT),
    ("10 − 4 = 5", WRONG),
    ("5 times 3 = 15", RIGHT),
    ("5 plus 3 minus 2 = 6", RIGHT),
    ("20 divided by 4 = 4", WRONG),
    ("3,000 + 1,500 = 4,500", RIGHT),
    ("3,000 + 1,500 = 4,400", WRONG),
    ("1,000,000 / 4 = 250,000", RIGHT),
    ("£57 x £10 = £570", RIGHT),
    ("2 + 3 * 4 = 14", RIGHT),
    ("2 + 3 * 4 = 20", WRONG),
    ("(2 + 3) * 4 = 20", RIGHT),
    ("2(83+37) = 240", RIGHT),
    ("2(83+37) = 250", WRONG),
    ("-3 + 5 = 2", RIGHT),
    ("5 - -3 = 8", RIGHT),
    ("3^2 + 4^2 = 25", RIGHT),
    ("2**3 = 8", RIGHT),
    ("5² = 24", WRONG),
    ("48/2 = 24 and 24+1 = 26", [True, False]),
    ("24 = 12 + 12", RIGHT),
    ("24 = 12 + 13", WRONG),
    # calculator marks
    ("48/2 = <<48/2=24>>24 clips", [True, True]),
    ("48/2 = <<48/2=23>>24 clips", [False, True]),
    ("48/2 = $<<48/2=24>>23", [True, False]),
    ("16 - 3 - 4 = <<16-3-4=9>>9", [True, True]),
    ("so 52 - 15 = <<37=37>>37", RIGHT),
    ("so 52 - 15 = <<38=37>>37", [False, True]),
    # chains: each side against the next
    ("2+3=5*2=10", [True, True]),  # a running total
    ("2+3=5=4+1", [True, True]),
    ("3 x 4 = 12 = 6 x 2", [True, True]),
    ("4/5 * 1/4 = 1/5 = 20%", [True, True]),
    ("1 - 3/4 = 1/4 of the cake", RIGHT),
    ("4080 + 4080 / 2 = 4000 + 2040 = 6120", [False, False]),
    # percent
    ("7/100*400=28", RIGHT),
    ("20% of 50 = 10", RIGHT),
    ("20% of 50 = 12", WRONG),
    ("20 percent of 50 = 10", RIGHT),
    ("10*20%=2", RIGHT),
    ("100% - 10% = 90% of the quiz", RIGHT),
    ("100% - 10% = 80% of the quiz", WRONG),
    ("15/60 = 25%", RIGHT),
    ("15/60*100 = 25%", RIGHT),
    ("15/60*100 = 35%", WRONG),
    ("95 spools / 250 spools * 100% = 38%", RIGHT),
    ("$50 - 10% = $45", []),
    ("$7500/75% = $100", RIGHT),
    # fractions
    ("1/2*157 = 78.5", RIGHT),
    ("5/6 - 1/6 = 4/6", RIGHT),
    ("5/6 - 1/6 = 3/6", WRONG),
    ("2 1/2 + 3 = 5.5", RIGHT),
    ("2 1/2 + 3 = 6.5", WRONG),
    ("½ + ¼ = 3/4", RIGHT),
    ("14÷1/2=28 minutes", RIGHT),
    ("14÷1/2=7 minutes", RIGHT),
    ("1/2 of 50 = 25", RIGHT),
    ("1/2 of 50 = 35", WRONG),
    ("4 / 3 = 1 and 1/3", RIGHT),
    # units
    ("3 apples + 4 apples = 7 apples", RIGHT),
    ("3 apples + 4 apples = 8 apples", WRONG),
    ("2 hours * 60 minutes/hour = 120 minutes", RIGHT),
    ("2 hours * 60 minutes/hour = 100 minutes", WRONG),
    ("60 miles / hour * 2 hours = 120 miles", RIGHT),
    ("27 years * 3= 81 years old", RIGHT),
    ("193 total students - 23 dance - 12 basketball - 24 bake = 134", RIGHT),
    ("193 total students - 23 dance - 12 basketball - 24 bake = 135", WRONG),
    ("5km + 3km = 8km", RIGHT),
    ("1 hour = 60 minutes", []),
    ("14 hours = 14 * 60 = 840 minutes", RIGHT),
    ("30 minutes + 30 minutes = 1 hour", []),
    ("50 cents * 4 = $2", []),
    ("Area of 4 bedrooms = 121 * 4 = 484", RIGHT),
    ("Week 1 + Week 2 = 35 + 35 = 70 hours", RIGHT),
    # roundings
    ("10 / 3 = 3.33", RIGHT),
    ("20 / 3 = 6.66", RIGHT),
    ("20 / 3 = 6.67", RIGHT),
    ("20 / 3 = 6.68", WRONG),
    ("20 / 3 = 6.6666666666666666", RIGHT),
    ("15/90*100% = 16.66...%", RIGHT),
    ("10.666666666666664 - 2 - 2/3 = 7.999999999999997", RIGHT),
    ("17 / 2 = 8", WRONG),
    ("100 / 3 = 33 stickers each, with 1 left over", []),
    ("10 / 3 = 3 R 1", []),
    ("4000/1000 = 4.0", RIGHT),
    ("4000/1000 = 4.1", WRONG),
    # what is no step
    ("2x + 3 = 9", []),
    ("x + 5 + 3 = 8", []),
    ("5x = 7200", []),
    ("y = 3 + 4 = 7", RIGHT),
    ("E + E - 5 = 37", []),
    ("4ac = 400 - 4ac = 0", []),
    ("half of 12 + 3 = 9", []),
    ("twice 3+4 = 14", []),
    ("his 25 classmates + his 1 teacher + 1 himself = 27 people", []),
    ("$\\frac{3}{4} \\times 20 = 15$ and $\\frac{15}{20} = 75\\%$", [True, True]),
    ("3 + 4 >= 8", []),
    ("3 + 4 ≈ 8", []),
    ("3 + 4 == 8", []),
    ("1 + 2 + ... + 10 = 55", []),
    ("a ratio of 2:3 = 4:6", []),
    ("5:51+0:16 = 5:67 AM", []),
    ("8 + 4 = 12 * the number", []),
    ("3! + 1 = 7", []),
    ("5 / 0 = 0", []),
    ("no equation at all", []),
    ("", []),
    ("= 5", []),
    ("3 + 4 =", []),
    ("adds 20 + 10 cards to the 29 + 24 cards = 83", RIGHT),
    # LaTeX
    (r"$12 \times 3 = 36$", RIGHT),
    (r"$12 \times 3 = 37$", WRONG),
    (r"\(20 \div 4 = 5\)", RIGHT),
    (r"\[3 \cdot 4 = 12\]", RIGHT),
    (r"$\frac{1}{2} + \frac{1}{4} = \frac{3}{4}$", RIGHT),
    (r"$\dfrac{1}{2} + \frac{1}{4} = \frac{3}{5}$", WRONG),
    (r"$10 - 4 = \boxed{6}$", RIGHT),
    (r"$10 - 4 = \boxed{7}$", WRONG),
    (r"$3 \text{ apples} + 4 \text{ apples} = 7 \text{ apples}$", RIGHT),
    (r"$\left(2+3\right) \times 4 = 20$", RIGHT),
    (r"$20\% \times 50 = 10$", RIGHT),
    (r"$10{,}000 + 1 = 10{,}001$", RIGHT),
    (r"$\frac{1}{2}bh = 6$", []),
    (r"$\sqrt{16} + 1 = 5$", []),
    (r"$2\left(x+1\right) = 2 + 3$", []),
    (r"$90^\circ - 30^\circ = 60^\circ$", RIGHT),
    # layout
    ("- 3 + 4 = 7\n- 5 + 6 = 12", [True, False]),
    ("* 3 + 4 = 7", RIGHT),
    ("**3 + 4 = 7**", RIGHT),
    ("Total: **3 + 4** = **8**", WRONG),
    ("1. 3 + 4 = 7", RIGHT),
    ("3 + \n4 + 5 = 9", []),
    ("He runs (3 + 4 = 7) miles", RIGHT),
]


@pytest.mark.parametrize("text, expected", CASES)
def test_cases(text, expected):
    assert [step.holds for step in find_steps(text)] == expected


@pytest.mark.parametrize(("kind", "line", "kept"), LINES, ids=lambda value: str(value)[:50])
def test_lines_as_teachers_write_them(kind, line, kept):
    assert (not wrong_steps(line)) == kept, kind


def test_a_running_total_says_so():
    assert [(step.text, step.running) for step in find_steps("2+3=5*2=10 and 1+1=2")] == [
        ("2+3=5*2", True),
        ("5*2=10", False),
        ("1+1=2", False),
    ]
    assert [step.running for step in find_steps("2 + 3 = 5 * 2\n= 10")] == [True]
    assert [step.holds for step in find_steps("2 + 3 = 5 * 2\nSo it is 10")] == [False]


def test_table_is_large_enough():
    assert len({text for text, _ in CASES}) == len(CASES) >= 80


def test_spans_and_wrong_steps():
    text = "So 3 x $4 = $12, then 48/2 = <<48/2=25>>24 and $5 + 5 = 11 left."
    found = find_steps(text)
    assert all(text[step.start : step.end] == step.text for step in found)
    assert [step.text for step in found] == ["48/2=25", "3 x $4 = $12", "48/2 = <<48/2=25>>24", "5 + 5 = 11"]
    assert [step.text for step in wrong_steps(text)] == ["48/2=25", "5 + 5 = 11"]


@st.composite
def expressions(draw, depth=3):
    """(text, exact value, binds tightly enough to be an operand of * and /)."""
    if depth == 0 or draw(st.booleans()):
        number = draw(st.integers(1, 99999))
        decimals = draw(st.sampled_from([0, 0, 1, 2]))
        value = Fraction(number, 10**decimals)
        return (f"{number / 10**decimals:.{decimals}f}" if decimals else f"{number:,}"), value, True
    (left, a, left_tight), (right, b, right_tight) = draw(expressions(depth - 1)), draw(expressions(depth - 1))
    operator = draw(st.sampled_from("+-*"))
    if operator == "*":
        left, right = (text if tight else f"({text})" for text, tight in ((left, left_tight), (right, right_tight)))
        return f"{left} {draw(st.sampled_from(['*', 'x', '×']))} {right}", a * b, True
    right = right if right_tight else f"({right})"
    return f"{left} {operator} {right}", a + b if operator == "+" else a - b, False


@settings(max_examples=300, deadline=None)
@given(expressions())
def test_generated_equations(expression):
    text, value, _ = expression
    if not re.search(r"[-+*x×]", text):
        return
    places = next(d for d in range(20) if (value * 10**d).denominator == 1)
    digits = f"{abs(int(value * 10**places)):0{places + 1}d}"
    right = ("-" if value < 0 else "") + (f"{digits[:-places]}.{digits[-places:]}" if places else digits)
    assert [step.holds for step in find_steps(f"He has {text} = {right} in all.")] == [True]
    assert [step.holds for step in find_steps(f"He has {text} = {right} + 1 in all.")] == [False]


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="0123456789+-*/=().,%$ x\n<>\\{}^½½of apples", max_size=60))
def test_any_text_is_read_without_error(text):
    for step in find_steps(text):
        assert text[step.start : step.end] == step.text


def test_the_fast_path_agrees_with_the_parser(monkeypatch):
    rows = worked_solutions()
    quick = [[(step.start, step.holds) for step in find_steps(row)] for row in rows]
    monkeypatch.setattr(checker, "_plain_steps", lambda line: [])
    slow = [[(step.start, step.holds) for step in find_steps(row)] for row in rows]
    assert sum(a != b for a, b in zip(quick, slow, strict=True)) <= len(rows) / 1000


def worked_solutions() -> list[str]:
    reasoning_gym = pytest.importorskip("reasoning_gym", reason="needs the package reasoning-gym")
    problems = reasoning_gym.create_dataset("gsm_symbolic", seed=1, size=1500)
    return [problem["metadata"]["answer_cot"] for problem in problems]
