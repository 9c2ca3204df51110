"""Notations of one value: digit groups, units, bases, repeating decimals, decoration, scaled matrices, sets of numbers."""

from __future__ import annotations

import pytest

from cotkit.core.datasets import AnswerKind
from cotkit.grading.grader import Item, check_gold, grade

C, W = "correct", "wrong"
M23 = r"\begin{pmatrix}1&2\\3&4\end{pmatrix}"


def verdict(gold: str, answer: str, kind: AnswerKind = "latex") -> str:
    return grade(Item("n", kind, gold, rf"So $\boxed{{{answer}}}$.")).verdict


GROUPS = [
    ("100000", "1,00,000", C),
    ("1234567", "12,34,567", C),
    ("10000000", "1,00,00,000", C),
    ("12,34,567", "1234567", C),
    ("100000.5", "1,00,000.50", C),
    ("100000", "1,00,001", W),
    ("10000", "1,00,000", W),
    ("1000", "10,00", W),
    ("12,34,567", "12,34,568", W),
    ("12,34,567", "12, 34, 567", C),  # without the question it may be a list
    ("12,34", "34, 12", C),
]
TEMPERATURES_AND_RATES = [
    ("18", r"18^\circ C", C),
    ("18", "18°C", C),
    ("18", "18 °F", C),
    ("18", r"18^{\circ}\text{C}", C),
    ("18", r"18\,^\circ\mathrm{C}", C),
    ("-5", r"-5^\circ\text{C}", C),
    ("5", r"-5^\circ\text{C}", W),
    (r"18^\circ\text{C}", "18", C),
    (r"18^\circ\text{C}", r"18^\circ", C),
    (r"18^\circ\text{C}", r"18\text{ degrees Celsius}", C),
    (r"18^\circ\text{C}", r"18^\circ\text{F}", W),
    (r"18^\circ\text{C}", r"19^\circ\text{C}", W),
    ("5", r"5\ \mathrm{m/s}", C),
    ("5", r"5 \text{ m/s}", C),
    ("5", "5 m/s", C),
    ("60", "60 km/h", C),
    ("9.8", r"9.8\,\mathrm{m/s^2}", C),
    ("9.8", r"9.8\text{ m/s}^2", C),
    ("9.8", r"9.8\,\frac{\text{m}}{\text{s}^2}", C),
    ("9.8", r"9.7\,\mathrm{m/s^2}", W),
    (r"60\text{ mph}", r"60\text{ miles per hour}", C),
    (r"36\text{ km/h}", r"10\ \mathrm{m/s}", C),
    (r"36\text{ km/h}", r"36\ \mathrm{m/s}", W),
    (r"60\text{ mph}", r"60\text{ km/h}", W),
    (r"5\text{ m/s}", r"5\text{ m/s}^2", W),
    (r"12\text{ cm}^2", r"12\mathrm{~cm}^{2}", C),
    (r"12\text{ cm}^2", r"12\mathrm{~cm}^{3}", W),
    (r"12\text{ cm}^2", r"12\,\mathrm{cm^2}", C),
    (r"5\text{ kg}", r"5000\,\mathrm{g}", C),
    (r"\$18", r"18\text{ dollars per day}", C),
    ("18", "$18/day", C),
    ("60", "60/hour", C),
    ("18", "$19/day", W),
    (r"\frac{18}{d}", "18/d", C),
    ("18", "18/d", W),
    ("100000", "₹1,00,000", C),
    ("500", r"₹500", C),
    ("5m", "5n", W),
    ("5", "5m", W),
    (r"\frac{5m}{s}", "5m/s", C),
]
BASES = [
    ("1011_2", "(1011)_2", C),
    ("1011_2", "(1011)_{2}", C),
    ("1011_2", r"\left(1011\right)_2", C),
    ("(1011)_2", "1011_{2}", C),
    ("(1011)_2", "1011", C),
    ("(A5)_{11}", "A5_{11}", C),
    ("1011_2", "(1011)_3", W),
    ("1011_2", "(1010)_2", W),
    ("11", "(1011)_2", W),
    ("1011", "(1011)_2", W),
]
REPEATING = [
    (r"\frac{1}{3}", r"0.\dot{3}", C),
    (r"\frac{1}{3}", r"0.\dot3", C),
    (r"\frac{1}{6}", r"0.1\dot{6}", C),
    (r"\frac{1}{7}", r"0.\dot{1}4285\dot{7}", C),
    (r"\frac{3}{11}", r"0.\dot{2}\dot{7}", C),
    (r"\frac{4}{3}", r"1.\dot{3}", C),
    (r"-\frac{1}{3}", r"-0.\dot{3}", C),
    (r"0.\dot{3}", r"\frac{1}{3}", C),
    (r"0.\overline{3}", r"0.\dot{3}", C),
    (r"\frac{1}{3}", r"0.333\ldots", C),
    (r"\frac{1}{3}", "0.333...", C),
    (r"\frac{1}{6}", r"0.1666\ldots", C),
    (r"\frac{2}{11}", r"0.1818\ldots", C),
    (r"\frac{1}{3}", "0.(3)", C),
    ("0", "0.(3)", W),
    ("0.3", r"0.\dot{3}", W),
    (r"\frac{33}{100}", r"0.\dot{3}", W),
    (r"\frac{1}{3}", r"0.3\dot{4}", W),
    (r"\pi", r"3.14159\ldots", W),
    (r"\sqrt{2}", "1.414...", W),
    (r"\frac{1}{3}", "0.333", W),
]
DECORATION = [
    ("120", "120\\ ", C),
    ("120", r"120\,", C),
    ("120", r"120\;", C),
    ("120", "120~", C),
    ("120", r"120\quad", C),
    ("120", r"\ 120", C),
    ("120", r"120\ \text{cm}", C),
    ("120", "12\\ ", W),
    ("7", r"\underline{7}", C),
    ("7", r"\underline{\underline{7}}", C),
    ("-7", r"-\underline{7}", C),
    ("7", r"\underline{8}", W),
    ("120", r"\textcolor{blue}{120}", C),
    ("120", r"\color{red}{120}", C),
    ("120", r"\color{red}120", C),
    ("120", r"{\color{red} 120}", C),
    ("120", r"\mathcolor{red}{120}", C),
    ("120", r"\textcolor[rgb]{1,0,0}{120}", C),
    ("120", r"\colorbox{yellow}{120}", C),
    ("120", r"\fcolorbox{red}{white}{120}", C),
    ("120", r"\bbox[5px,border:2px solid red]{120}", C),
    (r"\frac{1}{2}", r"\frac{\textcolor{red}{1}}{2}", C),
    ("120", r"\textcolor{blue}{121}", W),
    (r"\text{B}", r"\underline{\text{B}}", C),
    (r"(1,2)", r"\textcolor{red}{(1,2)}", C),
    (r"1, 2, \ldots, n", r"1, 2, \dots, n", C),
    (r"1, 2, \ldots, n", r"1,2,\cdots,n", C),
    (r"1, 2, \ldots, n", "1, 2, ..., n", C),
    (r"1, 2, \ldots, n", "1, 2, …, n", C),
    (r"1+2+\cdots+n", r"1+2+\dots+n", C),
    (r"1, 2, \ldots, n", r"1, 2, \dots, m", W),
    (r"1, 2, \ldots, n", r"1, 3, \dots, n", W),
    (r"1, 2, 3", r"1, 2, 3, \ldots", W),
    (r"1, 2, 3", "1, 2, 3, ...", W),
]
MATRICES = [
    (M23, r"\frac{1}{2}\begin{pmatrix}2&4\\6&8\end{pmatrix}", C),
    (M23, r"\frac12 \cdot \begin{bmatrix}2&4\\6&8\end{bmatrix}", C),
    (M23, r"-\begin{pmatrix}-1&-2\\-3&-4\end{pmatrix}", C),
    (M23, r"\begin{pmatrix}2&4\\6&8\end{pmatrix}/2", C),
    (M23, r"\frac{1}{2}\begin{pmatrix}2&4\\6&9\end{pmatrix}", W),
    (M23, r"\frac{1}{3}\begin{pmatrix}2&4\\6&8\end{pmatrix}", W),
    (M23, r"-\begin{pmatrix}1&2\\3&4\end{pmatrix}", W),
    (M23, r"2\begin{pmatrix}1&2\\3&4\end{pmatrix}", W),
    (r"\frac{1}{2}\begin{pmatrix}2&4\\6&8\end{pmatrix}", M23, C),
    (r"\frac{1}{3}\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1/3\\2/3\end{pmatrix}", C),
    (r"\begin{pmatrix}\sqrt{2}\\2\end{pmatrix}", r"\sqrt{2}\begin{pmatrix}1\\\sqrt{2}\end{pmatrix}", C),
    (r"\begin{pmatrix}2\\4\end{pmatrix}", r"2\begin{pmatrix}1\\2\\0\end{pmatrix}", W),
]
SETS_OF_NUMBERS = [
    (r"(-\infty,0)\cup(0,\infty)", r"\mathbb{R}\setminus\{0\}", C),
    (r"\mathbb R\setminus\{0\}", r"(-\infty,0)\cup(0,\infty)", C),
    (r"\mathbb R\setminus\{0\}", r"\mathbb{R} \backslash \{0\}", C),
    (r"\mathbb R\setminus\{0\}", r"\mathbb{R} - \{0\}", C),
    (r"\mathbb R\setminus\{0\}", r"x \ne 0", C),
    (r"\mathbb R\setminus\{0\}", r"x \in \mathbb{R} \setminus \{0\}", C),
    (r"(-\infty,-1)\cup(-1,2)\cup(2,\infty)", r"\mathbb{R}\setminus\{2,-1\}", C),
    (r"(0,1)\cup(1,\infty)", r"(0,\infty)\setminus\{1\}", C),
    (r"\mathbb R\setminus\{0\}", r"\mathbb{R}\setminus\{1\}", W),
    (r"\mathbb R\setminus\{0\}", r"\mathbb{R}", W),
    (r"(-\infty,0)\cup(0,\infty)", r"\mathbb{R}\setminus\{0,1\}", W),
    (r"(-\infty,-1)\cup(-1,2)\cup(2,\infty)", r"\mathbb{R}\setminus[-1,2]", W),
    (r"(-\infty,-1)\cup(2,\infty)", r"\mathbb{R}\setminus[-1,2]", C),
]
RESTATED = [
    (r"\frac{1}{2}", r"\cos 60^\circ", W),
    (r"\frac{\pi}{4}", r"\arctan 1", W),
    (r"\frac{2\sqrt{21}+\sqrt{3}}{5}", r"\sin(\arcsin \frac{2}{5} + \arcsin \frac12)", W),
    ("1", r"\tan 45^\circ", W),
    ("2", r"\sin^2 5 + \cos^2 5 + 1", W),
    (r"\frac{1}{\sqrt{1+x^2}}", r"\cos(\arctan x)", W),
    (r"\sin 10^\circ", r"\cos 80^\circ", C),
    (r"\cot x", r"\frac{\cos x}{\sin x}", C),
    (r"4\cos\frac{\pi}{7}", r"4\sin\frac{5\pi}{14}", C),
    (r"2e^{\pi i/3}", r"2(\cos\frac{\pi}{3}+i\sin\frac{\pi}{3})", C),
    (r"\frac{\sqrt{3}}{2}", r"\frac{\sqrt{3}}{2}", C),
    ("3", r"\log_2 8", C),
    ("18", r"\sqrt{324}", C),
]


@pytest.mark.parametrize(
    ("gold", "answer", "expected"),
    [*GROUPS, *TEMPERATURES_AND_RATES, *BASES, *REPEATING, *DECORATION, *MATRICES, *SETS_OF_NUMBERS, *RESTATED],
)
def test_notations(gold: str, answer: str, expected: str) -> None:
    assert verdict(gold, answer) == expected
    assert verdict(gold, gold) == C and verdict(answer, answer) == C


@pytest.mark.parametrize(
    ("gold", "answer", "expected"),
    [
        ("100000", "1,00,000", C),
        ("1,00,000", "100000", C),
        ("1234567", "12,34,567", C),
        ("18", r"18^\circ\text{C}", C),
        ("18", r"36\sin 30^\circ", W),
    ],
)
def test_notations_of_word_problems(gold: str, answer: str, expected: str) -> None:
    assert verdict(gold, answer, "number") == expected


@pytest.mark.parametrize(
    ("gold", "answer", "expected"),
    [
        ("70.0", "70", C),
        ("70.0", "070", C),
        ("70", "70.0", C),
        ("70.0", "71", W),
        (r"336^\circ", "336", C),
        (r"336^\circ", r"336^\circ", C),
        ("336", r"336^\circ", C),
        (r"336^\circ", "335", W),
        ("$70$", "70", C),
    ],
)
def test_integers_from_0_to_999_in_other_notations(gold: str, answer: str, expected: str) -> None:
    assert verdict(gold, answer, "integer") == expected


def test_golds_that_are_no_integer_from_0_to_999_are_still_refused() -> None:
    assert not any(check_gold(gold, "integer") for gold in ("70.5", "1000", "1000.0", "-7", "7^2", r"336^\circ C", "x"))
