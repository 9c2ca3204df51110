"""Properties of the grader, by hypothesis: spellings of numbers, text after the answer, answers swapped."""

from __future__ import annotations

import re
from fractions import Fraction

from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from cotkit.core.datasets import ANSWER_KINDS, AnswerKind
from cotkit.core.think_marks import marks
from cotkit.grading.extraction import Extraction, answer_line_end, extract
from cotkit.grading.grader import VERDICTS, Item, grade

SETTINGS = settings(max_examples=250, deadline=None)
numbers = st.integers(-(10**9), 10**9)
kinds = st.sampled_from([kind for kind in ANSWER_KINDS if kind != "integer"])


def verdict(kind: AnswerKind, gold: str, response: str) -> str:
    return grade(Item("p", kind, gold, response)).verdict


SPELLINGS = (
    "{0}",
    "{0:,}",
    "{0}.0",
    "{0}.00",
    "{0}.",
    "${0}",
    "\\${0:,}",
    "**{0}**",
    "`{0}`",
    "\\({0}\\)",
    "\\boxed{{{0}}}",
    " {0} ",
    "${0}$",
    "{0} dollars",
    "{0} apples",
    "x = {0}",
    "\\textbf{{{0}}}",
    "\\mathbf{{{0}}}",
    "\\frac{{{0}}}{{1}}",
    "{0}/1",
    "({0})",
)


def spell(value: int, form: str) -> str:
    text = form.format(value)
    return re.sub(r"(\\?\$)-", r"-\1", text) if form != "${0}$" else text


@SETTINGS
@given(numbers, st.sampled_from(SPELLINGS), kinds)
@example(-7, "${0}", "number")
def test_any_usual_spelling_of_a_number_keeps_its_verdict(value: int, form: str, kind: AnswerKind) -> None:
    text = spell(value, form)
    for response in (f"#### {text}", f"So we get \\boxed{{{text}}}.", f"Thus.\n#### {text}\n"):
        assert verdict(kind, str(value), response) == "correct", response
        assert verdict(kind, str(value + 1), response) == "wrong", response


@SETTINGS
@given(numbers, st.sampled_from((",", "{,}", "\\,", ",\\!", "\u202f", " ")), kinds)
def test_thousands_marks(value: int, mark: str, kind: AnswerKind) -> None:
    text = f"{value:,}".replace(",", mark)
    assert verdict(kind, str(value), f"\\boxed{{{text}}}") == "correct"


@SETTINGS
@given(numbers, kinds)
def test_minus_signs(value: int, kind: AnswerKind) -> None:
    for minus in ("-", "\u2212", "\u2013", "\uff0d"):
        assert verdict(kind, str(value), f"\\boxed{{{str(value).replace('-', minus)}}}") == "correct"


@SETTINGS
@given(st.integers(-999, 999), st.integers(1, 999), kinds)
def test_fractions_are_compared_exactly(top: int, bottom: int, kind: AnswerKind) -> None:
    value = Fraction(top, bottom)
    gold = f"{value.numerator}/{value.denominator}" if value.denominator > 1 else str(value)
    for text in (f"{top}/{bottom}", f"\\frac{{{top}}}{{{bottom}}}", f"\\dfrac{{{top}}}{{{bottom}}}"):
        assert verdict(kind, gold, f"\\boxed{{{text}}}") == "correct", text
    near = f"\\frac{{{top * 10**9 + 1}}}{{{bottom * 10**9}}}"
    assert verdict(kind, gold, f"\\boxed{{{near}}}") == "wrong"


@SETTINGS
@given(st.integers(-(10**12), 10**12), st.integers(1, 9), kinds)
def test_decimals_are_compared_exactly(digits: int, places: int, kind: AnswerKind) -> None:
    value = Fraction(digits, 10**places)
    sign, text = "-" * (digits < 0), f"{abs(digits):0{places + 1}}"
    decimal = f"{sign}{text[:-places]}.{text[-places:]}"
    assert verdict(kind, decimal, f"\\boxed{{{decimal}000}}") == "correct"
    assert verdict(kind, decimal, f"\\boxed{{{value.numerator}/{value.denominator}}}") == "correct"
    assert verdict(kind, decimal, f"\\boxed{{{decimal}1}}") == "wrong"


# What models write after their answer: the next problem, another turn, control tokens, anything that opens with one.
openers = st.sampled_from(
    (
        "Problem:",
        "Question: what is next?",
        "\nProblem 2: Ann has",
        "Q: how many?",
        "user",
        "assistant\n",
        "<|im_end|>",
        "\n",
        "<|im_start|>user\n",
        "Human: hello",
        "**Question:** more?",
        "Jim has 3 cats and 4 dogs. How many pets does he have?",
        "</s>",
    )
)
runaway = st.builds(
    lambda opener, text, n, end: f"{opener}\n{text}\n#### {n}\n\\boxed{{{n}}} The answer is {n}.{end}",
    openers,
    st.text(max_size=60),
    st.integers(0, 99),
    st.sampled_from(("", "\n", "\nProblem:", "<think>")),
)


def closes_a_thought(text: str) -> bool:
    """A stray closing mark ends a think block that the prompt opened, so what stands before it is no answer."""
    return any(mark.closes for mark in marks(text))


@SETTINGS
@given(numbers, runaway, st.sampled_from(ANSWER_KINDS))
def test_runaway_text_after_the_answer_line_changes_nothing(value: int, text: str, kind: AnswerKind) -> None:
    assume(not closes_a_thought(text))
    for answer in (f"2+2\n#### {value}\n", f"So \\boxed{{{value}}}.\n#### {value}\n"):
        before, after = extract(answer, kind), extract(answer + text, kind)
        assert after == before


@SETTINGS
@given(numbers, runaway)
def test_runaway_text_after_a_box_changes_nothing(value: int, text: str) -> None:
    assume(not closes_a_thought(text))
    answer = f"So the answer is $\\boxed{{{value}}}$.\n\n"
    assume(not text.startswith(("Jim", "\n\n")))  # nothing marks the new problem, which may be part of the solution
    assert extract(answer + text, "latex") == extract(answer, "latex")


@SETTINGS
@given(numbers, numbers, st.sampled_from(SPELLINGS), kinds)
def test_an_unequal_answer_is_never_correct(gold: int, other: int, form: str, kind: AnswerKind) -> None:
    assume(gold != other)
    for response in (
        f"#### {spell(other, form)}",
        f"\\boxed{{{spell(other, form)}}}",
        f"The answer is {spell(other, form)}.",
    ):
        assert verdict(kind, str(gold), response) != "correct", response


@settings(max_examples=400, deadline=None)
@given(st.text(max_size=200), st.sampled_from(ANSWER_KINDS))
def test_any_text_has_an_extraction_inside_it(text: str, kind: AnswerKind) -> None:
    found = extract(text, kind)
    assert isinstance(found, Extraction) and 0 <= found.end <= len(text)
    assert (found.answer is None) == (found.how in ("none", "unclosed_think"))
    assert found.answer is None or found.answer.strip() == found.answer != ""


pieces = st.lists(
    st.sampled_from(
        (
            "\\frac",
            "{",
            "}",
            "1",
            "23",
            "x",
            "\\sqrt",
            "^",
            "_",
            "(",
            ")",
            "[",
            ",",
            "\\cup",
            "\\boxed{",
            "####",
            "\n",
            " ",
            "$",
            "%",
            "\\pm",
            "=",
            "<",
            "\\le",
            "\\text{",
            "and",
            "\\begin{pmatrix}",
            "\\end{pmatrix}",
            "&",
            "\\\\",
            "!",
            "|",
            "-",
            ".",
            ":",
            "°",
            "<think>",
            "</think>",
        )
    ),
    max_size=30,
).map("".join)


@settings(max_examples=400, deadline=None)
@given(pieces, st.sampled_from(ANSWER_KINDS))
def test_any_mixture_of_tokens_gets_a_verdict(text: str, kind: AnswerKind) -> None:
    gold = "12" if kind != "latex" else "(3,4]"
    assert verdict(kind, gold, text) in VERDICTS
    assert verdict(kind, gold, f"\\boxed{{{text}}}") in VERDICTS


@SETTINGS
@given(pieces)
def test_the_end_of_an_answer_line_is_a_line_end(text: str) -> None:
    end = answer_line_end(text)
    assert end is None or (text[end] == "\n" and "####" in text[:end])
    if end is not None and "think" not in text:
        assert answer_line_end(text[: end + 1]) == end
