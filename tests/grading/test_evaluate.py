"""Values beyond floats: what is equal is proven, what is large, tiny or close is told apart or not called equal."""

from __future__ import annotations

import pytest

from cotkit.grading.evaluate import same_value
from cotkit.grading.formula_parser import TooLarge, parse
from cotkit.grading.grader import equivalent
from cotkit.grading.math_verify_worker import answer_one

EQUAL = [
    (r"\frac{2004!}{2003!}", "2004"),
    (r"\frac{100000!}{99998!}", "9999900000"),
    (r"\frac{1}{100000!}", r"\frac{100001}{100001!}"),
    (r"\frac{(2024!)^2}{2023!*2025!}", r"\frac{2024}{2025}"),
    ("2023!+2022!", "2024*2022!"),
    (r"\binom{100000}{2}", "4999950000"),
    (r"\binom{4000}{2000}", r"\frac{4000!}{(2000!)^2}"),
    ("2^{100000}", "4^{50000}"),
    ("10000^{10000}", "10^{40000}"),
    (r"\frac{1}{2^{50000}}", "2^{-50000}"),
    (r"\frac{1}{e^{30000}}", "e^{-30000}"),
    (r"\frac{x^{1000000}}{x^{999999}}", "x"),
    (r"\sqrt[3]{10^{3000}}", "10^{1000}"),
    (r"\sqrt{2}+\sqrt{3}", r"\sqrt{5+2\sqrt{6}}"),
    (r"\sqrt[3]{2+\sqrt{5}}+\sqrt[3]{2-\sqrt{5}}", "1"),
    (r"\sin(\pi)", "0"),
    (r"\tan 15^\circ", r"2-\sqrt{3}"),
    (r"e^{\ln 5}", "5"),
    (r"\log_2 8", "3"),
    (r"e^{i\pi}", "-1"),
    (r"\sqrt{-4}", "2i"),
    (r"\sqrt[3]{x-1}", "(x-1)^{1/3}"),
    (r"\sqrt[5]{1-x}", "-(x-1)^{1/5}"),
    ("(-8)^{1/3}", "-2"),
    ("(-8)^{2/3}", "4"),
    (r"\sqrt[3]{-\sqrt{2}}", r"-\sqrt[6]{2}"),
    (r"\sqrt{x^2-2x+1}", "|x-1|"),
]
DIFFERENT = [
    ("e^{-100}", "0"),
    ("e^{-100}", "-e^{-100}"),
    ("1+e^{-100}", "1"),
    ("1+e^{-30000}", "1"),
    ("e^{-30000}", "e^{-30001}"),
    ("e^{-1000}+e^{-2000}", "e^{-1000}"),
    ("2^{-30000}", "2^{-30001}"),
    ("2^{-30000}", "0"),
    (r"\frac{1}{2^{100000}}", r"\frac{1}{2^{100001}}"),
    (r"\frac{1}{2004!}", r"\frac{1}{2006!}"),
    (r"\frac{1}{100000!}", r"\frac{1}{100001!}"),
    (r"1-\frac{1}{2024!}", r"1-\frac{1}{2023!}"),
    (r"\frac{2023!}{2021!}", r"\frac{2023!}{2022!}"),
    (r"\sin(10^{-50})", "0"),
    (r"\cos(10^{-50})", "1"),
    (r"\ln(1+10^{-60})", "0"),
    (r"\tanh(100)", "1"),
    (r"\arctan(10^{60})", r"\frac{\pi}{2}"),
    (r"\sqrt{10^{100}+1}", "10^{50}"),
    (r"\sqrt{10^{100}+1}-10^{50}", "5*10^{-51}"),
    (r"\sqrt{2}", "1.41421356237309504880168872420969807856967187537694"),
    (r"e^{\pi*\sqrt{163}}", "262537412640768744"),
    (r"(\frac{1}{3})^{20000}", r"(\frac{1}{3})^{20001}"),
    ("x^{100000}", "x^{100001}"),
    (r"\sqrt[6]{x^2}", r"\sqrt[3]{x}"),
    (r"\sqrt{x^2}", "x"),
    (r"\frac{0}{0}", "0^0"),
]
UNDECIDED = [
    ("2^{100000}+1", "2^{100000}"),
    (r"1-\frac{1}{100000!}", "1"),
    ("e^{-100000}+1", "1"),
    ("9^{9^9}", "9^{9^9}+1"),
    ("9^{9^{9^{9^7}}}", "9^{9^{9^{9^8}}}"),
    ("x^{10000}+1", "x^{10000}+2"),
]


@pytest.mark.parametrize(("left", "right"), EQUAL)
def test_equal_values_are_proven_equal(left: str, right: str) -> None:
    assert same_value(parse(left), parse(right)) is True
    assert same_value(parse(right), parse(left)) is True


@pytest.mark.parametrize(("left", "right"), DIFFERENT)
def test_different_values_are_told_apart(left: str, right: str) -> None:
    assert same_value(parse(left), parse(right)) is False
    assert same_value(parse(right), parse(left)) is False
    assert not equivalent(left, right, "latex")


@pytest.mark.parametrize(("left", "right"), UNDECIDED)
def test_what_is_too_large_to_be_told_apart_is_not_equal(left: str, right: str) -> None:
    with pytest.raises(TooLarge):
        same_value(parse(left), parse(right))
    assert answer_one(left, right, "latex") == ("wrong", "too_large")
    assert answer_one(f"(1,{left})", f"(1,{right})", "latex").verdict == "wrong"


@pytest.mark.parametrize(
    ("gold", "answer", "verdict"),
    [
        (r"\lfloor x \rfloor", r"\lfloor x \rfloor + 10^{-20}", "wrong"),
        (r"\lfloor 3.5 \rfloor", r"\lceil 2.5 \rceil + 10^{-20}", "wrong"),
        (r"(1,\lceil 2.5 \rceil)", r"(1,3+10^{-20})", "wrong"),
        (r"\{1,2,\lfloor 3.5 \rfloor\}", r"\{1,2,3+10^{-20}\}", "wrong"),
        (r"\lceil 2.5 \rceil \sqrt{2}", r"3\sqrt{2}+10^{-40}", "wrong"),
        (r"\lceil 2.5 \rceil \sqrt{2}", r"3\sqrt{2}", "correct"),
        (r"\frac{(n+1)!}{n!}", "n+1", "correct"),
        (r"\binom{n}{2}", r"\frac{n(n-1)}{2}", "correct"),
    ],
)
def test_no_tolerance_of_computer_algebra_decides(gold: str, answer: str, verdict: str) -> None:
    assert answer_one(gold, answer, "latex").verdict == verdict
