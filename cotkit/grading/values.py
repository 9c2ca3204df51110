"""Comparison of single values: formulas with units, words, and digits that are compared as written."""

from __future__ import annotations

import re
from fractions import Fraction

from cotkit.grading.answer_types import Code, Scalar, Value, Words
from cotkit.grading.evaluate import exact_value, same_value
from cotkit.grading.formula_parser import Node, parse
from cotkit.grading.truth import Judgement, Oracle, any_of
from cotkit.grading.units import PERCENT, Unit, factor

_NUMBER_WORDS = {
    word: str(n)
    for n, word in enumerate(
        (
            "zero",
            "one",
            "two",
            "three",
            "four",
            "five",
            "six",
            "seven",
            "eight",
            "nine",
            "ten",
            "eleven",
            "twelve",
            "thirteen",
            "fourteen",
            "fifteen",
            "sixteen",
            "seventeen",
            "eighteen",
            "nineteen",
            "twenty",
        )
    )
}


def fold(text: str) -> str:
    """Words without case (of words, not of single letters), articles, blanks and punctuation."""
    words = re.sub(
        r"\b(?:the|an?)\s+(?=[a-zA-Z])", "", re.sub(r"\\text|[{}\s.,;:'\"()$]+|(?<=[a-zA-Z])-", " ", text)
    ).split()
    words = [word.lower() if len(word) > 2 else word for word in words]
    return re.sub(r"(?<!\d) | (?!\d)", "", " ".join(_NUMBER_WORDS.get(word, word) for word in words))


def judge_scalar(gold: Scalar, answer: Scalar, oracle: Oracle) -> Judgement:
    if gold.text.replace(" ", "") == answer.text.replace(" ", "") and gold.unit == answer.unit:
        return Judgement(True, "exact")
    if r"\infty" in gold.text or r"\infty" in answer.text:
        return Judgement(gold.text == answer.text, "infinity")
    left, right = parse(gold.text), parse(answer.text)
    units = (gold.unit, answer.unit)
    if PERCENT in units and (None in units or units[0] == units[1]):
        return _judge_percent(left, right, units, oracle)
    if None not in units and gold.unit != answer.unit:
        scale = factor(answer.unit, gold.unit)  # type: ignore[arg-type]
        if scale is None:
            return Judgement(False, "unit")
        right = ("mul", ("num", scale), right)
    return _judge_value(left, right, oracle, (gold.text, answer.text))


def _judge_percent(left: Node, right: Node, units: tuple[Unit | None, Unit | None], oracle: Oracle) -> Judgement:
    """`20%` is 20 in the unit the question asks for, and 1/5 as a value; two percentages are compared as such."""
    texts = ("", "")
    if units[0] == units[1]:
        return _judge_value(left, right, oracle, texts)._replace(rule="percent")
    hundredth: Node = ("num", Fraction(1, 100))
    scaled = (("mul", hundredth, left), right) if units[0] == PERCENT else (left, ("mul", hundredth, right))
    result = any_of((_judge_value(left, right, oracle, texts), _judge_value(*scaled, oracle, texts)))
    return result._replace(rule="percent")


def _judge_value(left: Node, right: Node, oracle: Oracle, texts: tuple[str, str]) -> Judgement:
    a, b = exact_value(left), exact_value(right)
    if a is not None and b is not None:
        return Judgement(a == b, "rational")
    equal = same_value(left, right)
    if equal is None and all(texts):
        return Judgement(oracle(*texts), "math_verify")
    return Judgement(bool(equal), "numeric")


def judge_code(gold: Value, answer: Value) -> Judgement:
    """Ratios, times and numbers in other bases; the base, which the question fixes, may be left out."""
    if isinstance(gold, Code) and isinstance(answer, Code):
        times = gold.kind == "colon" and "" in (gold.parts[-1], answer.parts[-1])
        same = gold.parts[:-1] == answer.parts[:-1] if times else gold.parts == answer.parts
        return Judgement(gold.kind == answer.kind and same, gold.kind)
    code, other = (gold, answer) if isinstance(gold, Code) else (answer, gold)
    assert isinstance(code, Code)
    text = other.text.replace(" ", "") if isinstance(other, Scalar | Words) else ""
    if code.kind == "base":
        may_omit = code is gold or code.parts[1] == "10"
        return Judgement(may_omit and text.upper().lstrip("0") == code.parts[0], "base")
    value = exact_value(parse(other.text)) if isinstance(other, Scalar) else None
    is_ratio = len(code.parts) == 3 and not code.parts[2] and all(code.parts[:2])
    ratio = Fraction(int(code.parts[0]), int(code.parts[1])) if is_ratio else None
    # `9:24` for the gold 0.375 is a ratio; `5:00` never is, and a whole number is never meant by one.
    return Judgement(ratio is not None and value == ratio and ratio.denominator > 1, "ratio")
