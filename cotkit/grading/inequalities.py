"""Solutions of inequalities in one variable, as sets of real numbers that can be compared.

A set is a test whether it contains a point, and the points where the answer may change: the zeros and poles of the
inequality's two sides, the ends of an interval. Two sets are equal if they agree at each of these points and between
neighbouring ones, which the exact arithmetic of evaluate.py tells.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cmp_to_key

from cotkit.grading.answer_types import Relation, Scalar, Sequence, Value
from cotkit.grading.evaluate import exact_value, same_value, sign, substitute
from cotkit.grading.formula_parser import ExpressionError, Node, parse, variables

MAX_DEGREE = 8  # of a polynomial
MAX_ABSOLUTE = 3  # absolute values in a sum; each doubles the cases
MAX_POINTS = 24
MAX_COEFFICIENT = 10**6  # in the search for rational zeros

_ONE: Node = ("num", Fraction(1))
_TRUE_SIGNS = {"<": (-1,), ">": (1,), "<=": (-1, 0), ">=": (0, 1), "!=": (-1, 1), "=": (0,)}
Polynomial = list[Node]  # coefficients without variables, the constant one first


class Unsolvable(Exception):
    """The set of solutions cannot be found here."""


@dataclass(frozen=True)
class RealSet:
    """A set of values of the variable `name` ("" if none is named), which may begin or end only at `ends`."""

    name: str
    ends: tuple[Node, ...]
    contains: Callable[[Node], bool]


def has_inequality(value: Value) -> bool:
    """Is `value` written, at least in part, as an inequality or a difference of sets?"""
    if isinstance(value, Relation):
        return value.op != "="
    if not isinstance(value, Sequence):
        return False
    parts = value.brackets in ("", "cup") and any(has_inequality(item) for item in value.items)
    return bool(value.name) or value.brackets in ("cap", "minus") or parts


def same_solutions(left: Value, right: Value) -> bool | None:
    """Do two answers describe the same real numbers? None if one of them is no set of numbers that can be found here.

    Raises TooLarge if two ends cannot be told apart within bounds.
    """
    try:
        sets = (_set_of(left), _set_of(right))
        names = {one.name for one in sets} - {""}
        if len(names) > 1:
            return False
        points = _samples((*sets[0].ends, *sets[1].ends))
        return all(sets[0].contains(point) == sets[1].contains(point) for point in points)
    except Unsolvable:
        return None


def _set_of(value: Value) -> RealSet:
    if isinstance(value, Relation):
        return _solutions(value)
    if not isinstance(value, Sequence):
        raise Unsolvable
    if value.brackets in ("()", "[)", "(]", "[]"):
        return _interval(value)
    if value.brackets == "{}":
        return _finite_set(value)
    sets = [_set_of(item) for item in value.items]
    names = {one.name for one in sets} - {""}
    if not sets or len(names) > 1:
        raise Unsolvable
    name = value.name or next(iter(names), "")
    ends = tuple(end for one in sets for end in one.ends)
    if value.brackets == "minus":
        return RealSet(name, ends, lambda point: sets[0].contains(point) and not sets[1].contains(point))
    union = RealSet(name, ends, lambda point: any(one.contains(point) for one in sets))
    # `x > 0, x < 1` is no union, which would be all numbers: both hold.
    if value.brackets == "cap" or value.brackets == "" and all(union.contains(point) for point in _samples(ends)):
        return RealSet(name, ends, lambda point: all(one.contains(point) for one in sets))
    return union


def _interval(value: Sequence) -> RealSet:
    if len(value.items) != 2:
        raise Unsolvable
    left, right = (_end(item) for item in value.items)
    if left is not None and right is not None and _order(left, right) > 0:
        raise Unsolvable  # a point such as (2,1), no interval
    left_signs, right_signs = (0, 1) if value.brackets[0] == "[" else (1,), (0, 1) if value.brackets[1] == "]" else (1,)

    def contains(point: Node) -> bool:
        above = left is None or _order(point, left) in left_signs
        return above and (right is None or _order(right, point) in right_signs)

    return RealSet(value.name, tuple(end for end in (left, right) if end is not None), contains)


def _end(item: Value) -> Node | None:
    """The end of an interval, None for an infinite one."""
    if isinstance(item, Scalar) and item.text in (r"\infty", r"-\infty"):
        return None
    return _constant(item)


def _finite_set(value: Sequence) -> RealSet:
    elements = tuple(_constant(item) for item in value.items)
    return RealSet("", elements, lambda point: any(same_value(point, element) for element in elements))


def _constant(item: Value) -> Node:
    if not isinstance(item, Scalar) or item.unit is not None:
        raise Unsolvable
    node = _parsed(item.text)
    if variables(node) or sign(node) is None:
        raise Unsolvable
    return node


def _parsed(text: str) -> Node:
    try:
        return parse(text)
    except ExpressionError:
        raise Unsolvable from None


def _solutions(relation: Relation) -> RealSet:
    """The solutions of a relation in one variable."""
    if not isinstance(relation.right, Scalar) or relation.right.unit is not None:
        raise Unsolvable
    difference: Node = ("add", _parsed(relation.left), ("neg", _parsed(relation.right.text)))
    names = variables(difference)
    if len(names) != 1:
        raise Unsolvable
    name = next(iter(names))
    ends = tuple(_turning_points(difference))
    signs = _TRUE_SIGNS[relation.op]
    return RealSet(name, ends, lambda point: sign(substitute(difference, {name: point})) in signs)


def _turning_points(node: Node) -> Iterator[Node]:
    """Points that include all zeros and poles of a formula in one variable. Raises Unsolvable if they are unknown."""
    kind = node[0]
    if not variables(node):
        return
    if kind in ("mul", "div"):
        yield from _turning_points(node[1])
        yield from _turning_points(node[2])
    elif kind in ("neg", "abs") or kind == "pow" and _integer(node[2]) is not None:
        yield from _turning_points(node[1])
    else:
        absolute = list(dict.fromkeys(_absolute_values(node)))
        if len(absolute) > MAX_ABSOLUTE:
            raise Unsolvable
        for part in absolute:
            yield from _turning_points(part[1])
        for signs in itertools.product((False, True), repeat=len(absolute)):
            top, bottom = _quotient(node, dict(zip(absolute, signs, strict=True)))
            yield from _zeros(top)
            yield from _zeros(bottom)


def _absolute_values(node: Node) -> Iterator[Node]:
    if node[0] == "abs" and variables(node):
        yield node
    elif node[0] not in ("num", "var", "const"):
        for part in node[1:]:
            if isinstance(part, tuple):
                yield from _absolute_values(part)


def _quotient(node: Node, negative: dict[Node, bool]) -> tuple[Polynomial, Polynomial]:
    """A formula as a quotient of polynomials, its absolute values replaced by their arguments or the opposite ones."""
    kind = node[0]
    if not variables(node):
        return [node], [_ONE]
    if kind == "var":
        return [("num", Fraction(0)), _ONE], [_ONE]
    if kind == "abs":
        top, bottom = _quotient(node[1], {})
        return (_scaled(top, -1) if negative[node] else top), bottom
    if kind == "pow" and (exponent := _integer(node[2])) is not None and 0 < exponent <= MAX_DEGREE:
        top, bottom = [_ONE], [_ONE]
        base = _quotient(node[1], negative)
        for _ in range(exponent):
            top, bottom = _product(top, base[0]), _product(bottom, base[1])
        return top, bottom
    if kind not in ("neg", "add", "mul", "div"):
        raise Unsolvable
    parts = [_quotient(part, negative) for part in node[1:]]
    if kind == "neg":
        return _scaled(parts[0][0], -1), parts[0][1]
    (a, b), (c, d) = parts
    if kind == "add":
        return _sum(_product(a, d), _product(c, b)), _product(b, d)
    return (_product(a, c), _product(b, d)) if kind == "mul" else (_product(a, d), _product(b, c))


def _sum(a: Polynomial, b: Polynomial) -> Polynomial:
    zero: Node = ("num", Fraction(0))
    return [_simple(("add", x, y)) for x, y in itertools.zip_longest(a, b, fillvalue=zero)]


def _product(a: Polynomial, b: Polynomial) -> Polynomial:
    if len(a) + len(b) - 2 > MAX_DEGREE:
        raise Unsolvable
    result: Polynomial = [("num", Fraction(0))] * (len(a) + len(b) - 1)
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            result[i + j] = _simple(("add", result[i + j], ("mul", x, y)))
    return result


def _scaled(a: Polynomial, factor: int) -> Polynomial:
    return _product(a, [("num", Fraction(factor))])


def _simple(node: Node) -> Node:
    value = exact_value(node)
    return node if value is None else ("num", value)


def _integer(node: Node) -> int | None:
    value = None if variables(node) else exact_value(node)
    return int(value) if value is not None and value.denominator == 1 else None


def _zeros(polynomial: Polynomial) -> Iterator[Node]:
    """The real zeros. Raises Unsolvable if neither rational zeros nor the quadratic formula give them all."""
    while len(polynomial) > 1 and sign(polynomial[-1]) == 0:
        polynomial = polynomial[:-1]
    while len(polynomial) > 3:
        zero = _rational_zero(polynomial)
        yield ("num", zero)
        polynomial = _divided(polynomial, zero)
    if len(polynomial) == 2:
        yield _simple(("neg", ("div", polynomial[0], polynomial[1])))
    elif len(polynomial) == 3:
        c, b, a = polynomial
        discriminant = _simple(("add", ("mul", b, b), ("mul", ("num", Fraction(-4)), ("mul", a, c))))
        if sign(discriminant) != -1:
            root: Node = ("root", ("num", Fraction(2)), discriminant)
            for term in (root, ("neg", root)):
                yield _simple(("div", ("add", ("neg", b), term), ("mul", ("num", Fraction(2)), a)))


def _rational_zero(polynomial: Polynomial) -> Fraction:
    """A rational zero of a polynomial with rational coefficients, by the rational root theorem."""
    coefficients = [exact_value(node) for node in polynomial]
    exact = [value for value in coefficients if value is not None]
    if len(exact) < len(polynomial):
        raise Unsolvable
    if exact[0] == 0:
        return Fraction(0)
    scale = 1
    for value in exact:
        scale *= value.denominator
    first, last = abs(int(exact[0] * scale)), abs(int(exact[-1] * scale))
    if max(first, last) > MAX_COEFFICIENT:
        raise Unsolvable
    for top, bottom in itertools.product(_divisors(first), _divisors(last)):
        for candidate in (Fraction(top, bottom), Fraction(-top, bottom)):
            if sum(value * candidate**power for power, value in enumerate(exact)) == 0:
                return candidate
    raise Unsolvable


def _divisors(number: int) -> list[int]:
    small = [n for n in range(1, int(number**0.5) + 1) if number % n == 0]
    return [*small, *(number // n for n in small)]


def _divided(polynomial: Polynomial, zero: Fraction) -> Polynomial:
    """The polynomial without the factor x - zero, by Horner's scheme."""
    result: Polynomial = []
    for coefficient in polynomial[:0:-1]:
        result.append(_simple(("add", coefficient, ("mul", ("num", zero), result[-1]))) if result else coefficient)
    return result[::-1]


def _samples(ends: tuple[Node, ...]) -> list[Node]:
    """The different ends in order, a point between each two, and a point before and after all of them."""
    if len(ends) > MAX_POINTS:
        raise Unsolvable
    ordered: list[Node] = []
    for end in sorted(ends, key=cmp_to_key(_order)):
        if not ordered or _order(ordered[-1], end):
            ordered.append(end)
    if not ordered:
        return [("num", Fraction(0))]
    half: Node = ("num", Fraction(1, 2))
    between = [_simple(("mul", half, ("add", a, b))) for a, b in itertools.pairwise(ordered)]
    outside: list[Node] = [("add", ordered[0], ("num", Fraction(-1))), ("add", ordered[-1], _ONE)]
    return [*ordered, *between, *map(_simple, outside)]


def _order(a: Node, b: Node) -> int:
    """-1, 0 or 1 as `a` is less than, equal to or greater than `b`."""
    order = sign(("add", a, ("neg", b)))
    if order is None:
        raise Unsolvable
    return order
