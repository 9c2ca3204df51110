"""Does an answer equal the gold answer? Decided by text, exact values and structure; computer algebra is an oracle.

Truth has three values: True, False, and None if only computer algebra can tell. docs/GRADING.md gives the conventions
and the reason for each.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from fractions import Fraction
from typing import NamedTuple

from cotkit.core.datasets import AnswerKind
from cotkit.core.number_words import NUMBER_WORDS
from cotkit.grading.answer_types import (
    Code,
    Matrix,
    Relation,
    Scalar,
    Sequence,
    Value,
    Words,
    choice_letter,
    letter_with_value,
    read,
)
from cotkit.grading.choices import option_letter
from cotkit.grading.evaluate import exact_value, proportional, same_value, too_large
from cotkit.grading.formula_parser import MAX_LENGTH, ExpressionError, Node, TooLarge, parse, variables
from cotkit.grading.inequalities import has_inequality, same_solutions
from cotkit.grading.normalize import normalize, plain_number, plain_thousands, same_number, without_blanks
from cotkit.grading.units import DEGREE, PERCENT, Unit, factor
from cotkit.grading.wording import changing_words, in_digits, without_counted

Truth = bool | None
Oracle = Callable[[str, str], Truth]

# In characters: the longest gold of MATH has 200, and the LaTeX reader takes milliseconds per character.
MAX_FOR_ALGEBRA = 250
# An answer that must still be summed or integrated is not final, and often stalls computer algebra.
_UNEVALUATED = re.compile(r"\\(?:sum|prod|int|iint|iiint|oint|lim|bigcup|bigcap)(?![a-zA-Z])")
# A trigonometric expression where the gold answer has no function restates the question, for example `\cos 60^\circ`.
_TRIGONOMETRIC = re.compile(r"(?:sin|cos|tan|cot|sec|csc)(?!h)")
_FUNCTION_OR_COMPLEX = re.compile(r"sin|cos|tan|cot|sec|csc|log|ln|exp|(?<![a-zA-Z\\])[ei](?![a-zA-Z])")
_APPROX = re.compile(r"\\approx(?![a-zA-Z])")
_NUMBER_WORDS = {word: str(number) for number, word in enumerate(NUMBER_WORDS)}


class Decision(NamedTuple):
    """`verdict` is correct, wrong or grader_timeout; `rule` names the rule that decided."""

    verdict: str
    rule: str


class Judgement(NamedTuple):
    """Whether two answers are equal, and the rule that decided."""

    equal: Truth
    rule: str


def _any_of(judgements: Iterable[Judgement]) -> Judgement:
    """The first True, else a None if there is one, else the last False."""
    unknown, last = None, Judgement(False, "none")
    for last in judgements:
        if last.equal:
            return last
        unknown = last if last.equal is None else unknown
    return unknown or last


def _all_of(judgements: Iterable[Judgement], rule: str) -> Judgement:
    """False if one is False, else None if one is None, else True; by `rule`."""
    equal: Truth = True
    for judgement in judgements:
        if judgement.equal is False:
            return Judgement(False, rule)
        equal = equal if judgement.equal else None
    return Judgement(equal, rule)


def compare(gold: str, answer: str, kind: AnswerKind, oracle: Oracle = lambda *_: None) -> Decision | None:
    """The outcome of one comparison; None if only the oracle can decide and it does not know.

    `oracle(gold, answer)` is asked about formulas in normalized LaTeX that exact arithmetic cannot decide.
    """
    if gold.strip() == answer.strip():
        return Decision("correct", "exact")
    if (settled := compare_numbers(gold, answer, kind)) is not None:
        return settled
    if kind == "choice" and (letter := option_letter(gold)):
        return Decision("correct" if option_letter(answer) == letter else "wrong", "choice")
    if len(answer) > MAX_LENGTH:
        return Decision("wrong", "too_long")
    gold, answer = in_digits(gold), in_digits(without_counted(answer, gold))
    if (words := changing_words(answer)) and words != changing_words(gold):
        return Decision("wrong", "words")
    left, right = normalize(gold), normalize(answer)
    if kind in ("number", "choice"):
        left, right = plain_thousands(left), plain_thousands(right)
    if right and without_blanks(left) == without_blanks(right):
        return Decision("correct", "exact")
    result = _judge_readings(left, right, oracle)
    if result.equal is None:
        return None
    rule = "integer" if kind == "integer" and result.rule == "rational" else result.rule
    return Decision("correct" if result.equal else "wrong", rule)


def compare_numbers(gold: str, answer: str, kind: AnswerKind) -> Decision | None:
    """The outcome for two plain numbers, without parsing; None if one of them is anything else."""
    grouped = kind == "number"
    left, right = plain_number(gold, grouped), plain_number(answer, grouped)
    if left is None or right is None or kind == "integer" and len(left) > 3:
        return None
    if left == right:
        return Decision("correct", "exact")
    rule = "integer" if kind == "integer" else "rational"
    return Decision("correct" if same_number(left, right) else "wrong", rule)


def gold_problem(gold: str, kind: AnswerKind) -> str | None:
    """Why `gold` cannot be an answer of this kind; None if it can."""
    if kind != "integer" and plain_number(gold, True):
        return None
    if len(gold) > MAX_LENGTH:
        return f"gold is longer than {MAX_LENGTH} characters"
    text = normalize(gold)
    if not re.search(r"\w|\\\w", text):
        return "gold is empty"
    bare = re.sub(r"\\[{}]", "", text)
    if bare.count("{") != bare.count("}") or text.count(r"\begin") != text.count(r"\end"):
        return "gold has unbalanced braces"
    if kind == "integer" and not re.fullmatch(r"\d{1,3}(?:\.0+)?(?:\^\\circ)?", text):
        return "gold is not an integer from 0 to 999"
    if kind == "choice" and option_letter(gold):
        return None
    if kind in ("number", "choice"):
        value = read(plain_thousands(text))[0]
        node = _formula(value)
        if node is None or exact_value(node) is None and variables(node):
            return "gold is not a number" if kind == "number" else "gold is neither an option's letter nor a number"
    return None


def _judge_readings(gold: str, answer: str, oracle: Oracle) -> Judgement:
    """Compares every reading of the gold answer with every reading of the answer."""
    letter = choice_letter(gold)
    if letter is not None and choice_letter(answer) is not None:
        return Judgement(letter == choice_letter(answer), "choice")
    if lettered := letter_with_value(answer):
        if letter is not None:
            return Judgement(letter == lettered[0], "choice")
        answer = lettered[1]
    golds = [value for text in _gold_forms(gold) for value in read(text)]
    answers = read(next(iter(_approximated(answer)), answer))  # what is exact comes before the sign
    result = _any_of(_judge(left, right, oracle) for left in golds for right in answers)
    if result.equal is False and any(isinstance(v, Words) and v.opaque for v in (*golds, *answers)):
        fault = _unfit_for_algebra(gold, answer, answers)
        return Judgement(False, fault) if fault else Judgement(oracle(gold, answer), "math_verify")
    return result


def _unfit_for_algebra(gold: str, answer: str, readings: tuple[Value, ...]) -> str | None:
    """Why computer algebra is not asked about an answer: it would only lose time."""
    if len(answer) > MAX_FOR_ALGEBRA or any((node := _formula(v)) and too_large(node) for v in readings):
        return "too_large"
    if _UNEVALUATED.search(answer) and not _UNEVALUATED.search(gold):
        return "unevaluated"
    unbalanced = sum(answer.count(c) for c in "([{") != sum(answer.count(c) for c in ")]}")
    return "malformed" if unbalanced else None


def _formula(value: Value) -> Node | None:
    """The tree of a formula; None for infinity and for what is no formula."""
    return parse(value.text) if isinstance(value, Scalar) and r"\infty" not in value.text else None


def _gold_forms(gold: str) -> list[str]:
    """The forms in which a gold answer gives its value: `0.56 = 56%`, `2/3 \\approx 0.67`."""
    forms = _approximated(gold)
    if len(forms) == 1 and "=" in gold and not re.search(r"[a-zA-Z<>]", re.sub(r"\\[a-zA-Z]+", "", gold)):
        forms = [part.strip() for part in gold.split("=") if part.strip()]
    return forms


def _approximated(text: str) -> list[str]:
    """The parts of a text between approximation signs."""
    return [part.strip() for part in _APPROX.split(text) if part.strip()]


def _judge(gold: Value, answer: Value, oracle: Oracle) -> Judgement:
    """Compares one reading with another, by their types."""
    if (has_inequality(gold) or has_inequality(answer)) and (same := _same_solutions(gold, answer)) is not None:
        return same
    if isinstance(gold, Relation) or isinstance(answer, Relation):
        return _judge_relation(gold, answer, oracle)
    if isinstance(gold, Code) or isinstance(answer, Code):
        return _judge_code(gold, answer)
    if isinstance(gold, Matrix) or isinstance(answer, Matrix):
        return _judge_matrix(gold, answer, oracle)
    if isinstance(gold, Sequence) or isinstance(answer, Sequence):
        return _judge_sequence(gold, answer, oracle)
    if isinstance(gold, Words) or isinstance(answer, Words):
        return Judgement(_fold(gold.text) == _fold(answer.text), "text")
    return _judge_scalar(gold, answer, oracle)


def _same_solutions(gold: Value, answer: Value) -> Judgement | None:
    """Whether two answers describe the same real numbers; None if they are no such sets or are written alike."""
    try:
        same = same_solutions(gold, answer)
    except TooLarge:
        return Judgement(False, "too_large")
    return None if same is None else Judgement(same, "inequality")


def _judge_matrix(gold: Value, answer: Value, oracle: Oracle) -> Judgement:
    if isinstance(gold, Matrix) and isinstance(answer, Matrix):
        if [len(row) for row in gold.rows] != [len(row) for row in answer.rows]:
            return Judgement(False, "matrix")
        pairs = (
            (a, b) for left, right in zip(gold.rows, answer.rows, strict=True) for a, b in zip(left, right, strict=True)
        )
        return _all_of((_judge(a, b, oracle) for a, b in pairs), "matrix")
    matrix, other = (gold, answer) if isinstance(gold, Matrix) else (answer, gold)
    assert isinstance(matrix, Matrix)
    if not isinstance(other, Sequence) or other.brackets not in ("()", "") or len(matrix.rows[0]) != 1:
        return Judgement(False, "matrix")
    column = Sequence("()", tuple(row[0] for row in matrix.rows))
    return _judge_sequence(column, other, oracle) if matrix is gold else _judge_sequence(other, column, oracle)


def _judge_sequence(gold: Value, answer: Value, oracle: Oracle) -> Judgement:
    """Lists, tuples, sets, intervals and unions."""
    if not (isinstance(gold, Sequence) and isinstance(answer, Sequence)):
        sequence, single = (gold, answer) if isinstance(gold, Sequence) else (answer, gold)
        assert isinstance(sequence, Sequence)
        if sequence.brackets == "{}" and len(sequence.items) == 1:
            return _judge(sequence.items[0], single, oracle)
        if sequence is answer and sequence.brackets == "":  # `2 - b or -b + 2` names one value twice
            every = _all_of((_judge(gold, item, oracle) for item in sequence.items), "list")
            return every if every.equal else Judgement(False, "shape")
        return Judgement(False, "shape")
    left, right = _as_union(gold), _as_union(answer)
    kinds = {left.brackets, right.brackets}
    rule = {"": "list", "()": "tuple", "{}": "set", "cup": "union", "cap": "inequality", "minus": "set"}.get(
        left.brackets, "interval"
    )
    if left.name and right.name and left.name != right.name:
        return Judgement(False, "variable")
    unlike = len(kinds) > 1 and (kinds not in ({"", "()"}, {"", "{}"}) or bool(left.name or right.name))
    if len(left.items) != len(right.items) or unlike:
        return Judgement(False, rule)
    named = [all(isinstance(item, Relation) for item in side.items) for side in (left, right)]
    if kinds <= {"", "{}", "cup"} and named[0] == named[1]:
        return _judge_unordered(left.items, right.items, oracle, rule)
    return _all_of((_judge(a, b, oracle) for a, b in zip(left.items, right.items, strict=True)), rule)


def _as_union(value: Sequence) -> Sequence:
    """A bare list of intervals (`x < 2 or x > 3`) is their union."""
    intervals = value.brackets == "" and all(
        isinstance(item, Sequence) and (r"\infty" in str(item.items) or set(item.brackets) & set("[]"))
        for item in value.items
    )
    return Sequence("cup", value.items, value.name) if intervals else value


def _judge_unordered(gold: tuple[Value, ...], answer: tuple[Value, ...], oracle: Oracle, rule: str) -> Judgement:
    """Pairs each gold item with an equal item of the answer. The choice is greedy, as equality is nearly transitive."""
    rest, judgements = list(answer), []
    for item in gold:
        tried = [_judge(item, other, oracle) for other in rest]
        best = next((i for i, t in enumerate(tried) if t.equal), None)
        judgements.append(Judgement(True, rule) if best is not None else _any_of(tried))
        if best is not None:
            del rest[best]
    return _all_of(judgements, rule)


def _judge_relation(gold: Value, answer: Value, oracle: Oracle) -> Judgement:
    if not isinstance(answer, Relation):
        assert isinstance(gold, Relation)
        # A name on the left may be left out: `5` for `x=5`. Any other equation does not equal an expression.
        if gold.op == "=" and _is_name(gold.left):
            return _judge(gold.right, answer, oracle)
        return Judgement(False, "equation")
    if not isinstance(gold, Relation):
        return _judge(gold, answer.right, oracle) if answer.op == "=" else Judgement(False, "inequality")
    if gold.op == answer.op == "=" and gold.left == answer.left:
        result = _judge(gold.right, answer.right, oracle)
        if result.equal or _is_name(gold.left):
            return result._replace(rule="equation")
    return _judge_sides(gold, answer, oracle)


def _is_name(text: str) -> bool:
    return (
        re.fullmatch(r"[a-zA-Z]{1,3}|\\?[a-zA-Z]+|[a-zA-Z]\(\w\)|[a-zA-Z]_\{?\w+\}?|\(\w(?:,\w)+\)", text) is not None
    )


def _judge_sides(gold: Relation, answer: Relation, oracle: Oracle) -> Judgement:
    """Equations are equal if left minus right is proportional; inequalities must also agree in direction."""
    rule = "equation" if gold.op == "=" else "inequality"
    turned = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}
    differences: list[Node] = []
    for relation in (gold, answer):
        if not isinstance(relation.right, Scalar) or relation.right.unit not in (None, DEGREE):
            return Judgement(_fold(relation.left) == _fold(str(relation.right)), rule)
        try:
            differences.append(("add", parse(relation.left), ("neg", parse(relation.right.text))))
        except ExpressionError:
            return Judgement(None, "math_verify")
    if gold.op == answer.op:
        equal = proportional(differences[0], differences[1], positive=gold.op not in ("=", "!="))
    elif turned.get(gold.op) == answer.op:
        equal = proportional(differences[0], ("neg", differences[1]), positive=True)
    else:
        equal = False
    if equal is None:
        texts = [f"{r.left}{r.op}{r.right.text}" for r in (gold, answer) if isinstance(r.right, Scalar)]
        return Judgement(oracle(*texts), "math_verify")
    return Judgement(equal, rule)


def _fold(text: str) -> str:
    """Words without articles, blanks and punctuation. Words are lower-cased, but not letters such as `B`."""
    text = re.sub(r"\\text|[{}\s.,;:'\"()$]+|(?<=[a-zA-Z])-", " ", text)
    words = re.sub(r"\b(?:the|an?)\s+(?=[a-zA-Z])", "", text).split()
    words = [word.lower() if len(word) > 2 or re.fullmatch("[A-Z][a-z]", word) else word for word in words]
    return re.sub(r"(?<!\d) | (?!\d)", "", " ".join(_NUMBER_WORDS.get(word, word) for word in words))


def _judge_scalar(gold: Scalar, answer: Scalar, oracle: Oracle) -> Judgement:
    if gold.text.replace(" ", "") == answer.text.replace(" ", "") and gold.unit == answer.unit:
        return Judgement(True, "exact")
    if r"\infty" in gold.text or r"\infty" in answer.text:
        return Judgement(gold.text == answer.text, "infinity")
    if _TRIGONOMETRIC.search(answer.text) and not _FUNCTION_OR_COMPLEX.search(gold.text):
        return Judgement(False, "unevaluated")
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
    """`20%` equals 20, as the question may ask for percent, and 1/5. Two percentages are compared as numbers."""
    texts = ("", "")
    if units[0] == units[1]:
        return _judge_value(left, right, oracle, texts)._replace(rule="percent")
    hundredth: Node = ("num", Fraction(1, 100))
    scaled = (("mul", hundredth, left), right) if units[0] == PERCENT else (left, ("mul", hundredth, right))
    result = _any_of((_judge_value(left, right, oracle, texts), _judge_value(*scaled, oracle, texts)))
    return result._replace(rule="percent")


def _judge_value(left: Node, right: Node, oracle: Oracle, texts: tuple[str, str]) -> Judgement:
    a, b = exact_value(left), exact_value(right)
    if a is not None and b is not None:
        return Judgement(a == b, "rational")
    try:
        equal = same_value(left, right)
    except TooLarge:
        return Judgement(False, "too_large")
    if equal is None and all(texts):
        return Judgement(oracle(*texts), "math_verify")
    return Judgement(bool(equal), "numeric")


def _judge_code(gold: Value, answer: Value) -> Judgement:
    """Ratios, times and numbers in other bases. The base may be left out, since the question gives it."""
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
    value = exact_value(node) if (node := _formula(other)) else None
    is_ratio = len(code.parts) == 3 and not code.parts[2] and all(code.parts[:2])
    ratio = Fraction(int(code.parts[0]), int(code.parts[1])) if is_ratio else None
    # `9:24` for 0.375 is a ratio. `5:00` is a time, and nobody writes a whole number as a ratio.
    return Judgement(ratio is not None and value == ratio and ratio.denominator > 1, "ratio")
