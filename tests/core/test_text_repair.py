"""LaTeX commands that a reader took for escapes, and control characters."""

from __future__ import annotations

import pytest

from cotkit.core.text_repair import control_character, repaired


@pytest.mark.parametrize(
    ("damaged", "formula"),
    [
        ("$\x0crac{1}{2}$", r"$\frac{1}{2}$"),
        ("\x0crac12 of them", r"\frac12 of them"),
        ("$\x0corall x$", r"$\forall x$"),
        ("$\x08inom{5}{2}$", r"$\binom{5}{2}$"),
        ("\x08oxed{5}", r"\boxed{5}"),
        ("\x08egin{pmatrix} 1 \\\\ 2 \\end{pmatrix}", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}"),
        ("$\x07ngle ABC = \x07lpha$", r"$\angle ABC = \alpha$"),
        ("$\x0bec{v}$", r"$\vec{v}$"),
        ("$3 \times 4$", r"$3 \times 4$"),
        ("5 \text{ cm}", r"5 \text{ cm}"),
        ("\\qquad\textbf{(C)} 96", r"\qquad\textbf{(C)} 96"),
        ("$\tfrac12$ and $\theta$", r"$\tfrac12$ and $\theta$"),
        ("$\tan\theta$", r"$\tan\theta$"),
        ("$\\left( 1 \right)$", r"$\left( 1 \right)$"),
        ("$A \rightarrow B$", r"$A \rightarrow B$"),
        ("$x \neq 3$", r"$x \neq 3$"),
        ("\\[x \neq y\\]", r"\[x \neq y\]"),
        ("$x \notin A$", r"$x \notin A$"),
    ],
)
def test_a_command_that_was_read_as_an_escape_is_restored(damaged: str, formula: str):
    assert repaired(damaged) == formula
    assert repaired(formula) == formula
    assert control_character(formula) is None


@pytest.mark.parametrize(
    "text",
    [
        "one\ttwo\tthree",
        "a table:\n\tan apple\t3",
        "call ext\text 5",
        "Two lines.\nHe is here.\r\nnext",
        "see\neq (3) below",
        "$$\nu + v &= 1\ne^x\ni.e.\n$$",
        "\n\nnot every line",
        "for(i = 0; i < 4; ++i) {\n\tdraw((i,0));\n\treturn x;}",
        "separators \u2028 and \u0085",
    ],
)
def test_plain_white_space_is_left_alone(text: str):
    assert repaired(text) == text
    assert control_character(text) is None


def test_an_answer_is_a_formula_without_delimiters():
    assert repaired("x \neq 3", formula=True) == r"x \neq 3"
    assert repaired("x \neq 3") == "x \neq 3"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("\x0cProblem 3", "U+000C before 'Problem 3'"),
        ("a\x0crackling", "U+000C before 'rackling'"),
        ("a\x00b", "U+0000 before 'b'"),
        ("it\x92s", "U+0092 before 's'"),
        ("$\root{3}$", "U+000D before 'oot{3}$'"),
        ("del\x7f", "U+007F before ''"),
    ],
)
def test_what_is_not_certain_is_named(text: str, says: str):
    assert repaired(text) == text
    assert says in str(control_character(text))
