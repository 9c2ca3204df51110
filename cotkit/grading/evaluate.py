"""Evaluates formulas and compares two of them: in exact rationals where possible, else to as many digits as decide.

Two formulas with variables are equal if they agree at four random points. The points are rational and fixed by the names
of the variables. Different formulas of an answer's size agree at one point with probability below 1e-4 (Schwartz-Zippel
lemma). At each point, a difference of zero is proven (approximation.py). What is too large to be decided is not equal.
"""

from __future__ import annotations

import math
import zlib
from collections import Counter
from collections.abc import Mapping
from fractions import Fraction
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import Any

from cotkit.grading.approximation import MAX_INDEX, MAX_PRECISION, Approximation, Arithmetic, Imprecise, is_real
from cotkit.grading.formula_parser import ExpressionError, Node, TooLarge, variables

BITS = 256  # precision of the first try; nearly all formulas are decided by it
MAX_BITS = 20_000  # of an exact integer: 2^4950 is a gold of MATH
MAX_PRIME = 1000  # by which the factors of a product are divided
MAX_APART = 1000  # two factorials that cancel

Number = Fraction | Approximation
Point = Mapping[str, Fraction]
_NO_VALUE = (ExpressionError, ArithmeticError, ValueError)


@lru_cache(maxsize=4096)
def exact_value(node: Node) -> Fraction | None:
    """The value of a formula without variables; None if exact arithmetic does not give a rational number."""
    try:
        value = _Evaluator(BITS, {}).value(node)
    except (*_NO_VALUE, Imprecise):
        return None
    return value if isinstance(value, Fraction) else None


def same_value(left: Node, right: Node) -> bool | None:
    """Are two formulas equal? None if random points cannot tell, because a formula with variables is undefined there.

    Raises TooLarge if the values are so large, or so close, that they cannot be told apart within bounds.
    """
    names = variables(left) | variables(right)
    for index, point in enumerate(_points(names)):
        # One positive point that disagrees decides. At negative points only real values count, since roots and logarithms
        # that are not real there may differ in the branch alone.
        try:
            if not _equal_at(left, right, point, real_only=index > 1):
                return False
        except TooLarge:
            raise
        except _NO_VALUE:
            if not names or not (variables(left) and variables(right)):
                return False  # a constant without a value
            return None
    return True


def too_large(node: Node) -> bool:
    """Is `node` or one of its parts out of bounds?"""
    try:
        _Evaluator(BITS, _points(variables(node))[0]).value(node)
    except TooLarge:
        return True
    except (*_NO_VALUE, Imprecise):
        pass
    return False


def sign(node: Node) -> int | None:
    """-1, 0 or 1 for a formula without variables; None if it has no real value. Raises TooLarge."""
    zero: Node = ("num", Fraction(0))
    try:
        if _equal_at(node, zero, {}):
            return 0
        value = _decided(node, zero, {})[0]
    except TooLarge:
        raise
    except _NO_VALUE:
        return None
    if not is_real(value):
        return None
    return 1 if (value if isinstance(value, Fraction) else value.value.real) > 0 else -1


def substitute(node: Node, point: Mapping[str, Node]) -> Node:
    """`node` with formulas in the place of variables."""
    if node[0] == "var":
        return point.get(node[1], node)
    return (node[0], *(substitute(part, point) if isinstance(part, tuple) else part for part in node[1:]))


def proportional(left: Node, right: Node, positive: bool = False) -> bool | None:
    """Is `left` a constant (with `positive`: a positive one) times `right`? None if they are undefined somewhere."""
    points = [{name: ("num", value) for name, value in p.items()} for p in _points(variables(left) | variables(right))]
    ratios: list[Node] = [("div", substitute(left, point), substitute(right, point)) for point in points]
    try:
        first = sign(ratios[0])
        if first is None or not all(_equal_at(ratio, ratios[0], {}) for ratio in ratios[1:]):
            return None if first is None else False
    except TooLarge:
        return False
    except _NO_VALUE:
        return None
    return first > 0 if positive else first != 0


def _points(names: frozenset[str]) -> list[dict[str, Fraction]]:
    """Two positive points, a negative and a mixed one; a single empty one for formulas without variables."""
    return [{name: _coordinate(name, index) for name in names} for index in range(4 if names else 1)]


def _coordinate(name: str, index: int) -> Fraction:
    draw = zlib.crc32(f"{name} {index}".encode())
    sign = (1, 1, -1, 1 if draw & 64 else -1)[index]
    return Fraction(sign * (draw % 99_991 + 5_000), 31_337)


def _equal_at(left: Node, right: Node, point: Point, real_only: bool = False) -> bool:
    """Are two formulas equal at `point`? With `real_only`, values that are not real count as equal."""
    left_value, right_value, equal = _decided(left, right, point)
    return equal or real_only and not (is_real(left_value) and is_real(right_value))


def _decided(left: Node, right: Node, point: Point) -> tuple[Number, Number, bool]:
    """Both values and whether they are equal. Raises ExpressionError or ArithmeticError if there is no value."""
    bits, work = BITS, 0.0
    while bits <= MAX_PRECISION:
        evaluator = _Evaluator(bits, point, work)
        try:
            a, b = evaluator.value(left), evaluator.value(right)
            if isinstance(a, Fraction) and isinstance(b, Fraction):
                return a, b, a == b
            arithmetic = evaluator.arithmetic
            difference = arithmetic.add(arithmetic.number(a), arithmetic.negative(arithmetic.number(b)))
            if arithmetic.is_nonzero(difference):
                return a, b, False
            if arithmetic.is_zero(difference) or bits == BITS and _same_product(left, right, point):
                return a, b, True
            missing = difference.error + arithmetic.separation(difference)
        except Imprecise:
            missing = bits
        bits, work = bits + max(missing, bits // 8) + 32, evaluator.arithmetic.work
    raise TooLarge("too large")


def _same_product(left: Node, right: Node, point: Point) -> bool:
    """Are two formulas products of the same powers? This knows 4^50000 and 9!/8! of any size."""
    constants: dict[str, Node] = {name: ("num", value) for name, value in point.items()}
    factors = _Factors()
    try:
        factors.collect(substitute(("div", left, right), constants), Fraction(1))
        return factors.are_one()
    except _NO_VALUE:
        return False


class _Factors:
    """The powers of which a constant is the product: of primes, larger numbers, factorials (by their n), pi, e and -1.

    Raises ExpressionError for a constant that is no product.
    """

    def __init__(self) -> None:
        self._powers: Counter[Any] = Counter()

    def are_one(self) -> bool:
        """Is the product 1? Neighbouring factorials cancel: one becomes the next smaller one times what is between."""
        powers = self._powers
        ordered = sorted((key for key in powers if isinstance(key, tuple) and powers[key]), reverse=True)
        for larger, smaller in pairwise(ordered):
            if larger[1] - smaller[1] > MAX_APART:
                return False
            power = powers.pop(larger)
            powers[smaller] += power
            for n in range(smaller[1] + 1, larger[1] + 1):
                self._collect_integer(n, power)
        return powers.pop(-1, 0) % 2 == 0 and not any(powers.values())

    def collect(self, node: Node, power: Fraction, positive: bool = False) -> None:
        """Adds the factors of `node` to the power `power`. With `positive`, no factor may be negative."""
        kind = node[0]
        if kind == "const" and node[1] in ("e", "pi"):
            self._powers[node[1]] += power
        elif kind in ("mul", "div"):
            self.collect(node[1], power, positive)
            self.collect(node[2], power if kind == "mul" else -power, positive)
        elif kind == "neg" and not positive:
            self._powers[-1] += power
            self.collect(node[1], power)
        elif kind == "pow" and (exponent := exact_value(node[2])) is not None:
            self.collect(node[1], power * exponent, positive or exponent.denominator > 1)
        elif kind == "root" and (index := exact_value(node[1])):
            self.collect(node[2], power / index, positive=True)
        elif kind == "fn" and node[1] == "exp" and (exponent := exact_value(node[2])) is not None:
            self._powers["e"] += power * exponent
        elif kind == "fact" and (n := exact_value(node[1])) is not None and n.denominator == 1 and n > 0:
            self._powers["fact", int(n)] += power
        elif kind == "binom":
            n, k = node[1:]
            below: Node = ("mul", ("fact", k), ("fact", ("add", n, ("neg", k))))
            self.collect(("div", ("fact", n), below), power)
        elif (value := exact_value(node)) and (value > 0 or not positive):
            self._powers[-1] += power if value < 0 else 0
            self._collect_integer(abs(value.numerator), power)
            self._collect_integer(value.denominator, -power)
        else:
            raise ExpressionError("no product")

    def _collect_integer(self, n: int, power: Fraction) -> None:
        prime = 2
        while prime * prime <= n and prime <= MAX_PRIME:
            while n % prime == 0:
                self._powers[prime] += power
                n //= prime
            prime += 1 + prime % 2
        if n > 1:
            self._powers[n] += power


class _Evaluator:
    """Values of formulas at `point`: exact fractions up to MAX_BITS, else approximations of `bits` bits."""

    def __init__(self, bits: int, point: Point, work: float = 0.0) -> None:
        self._bits, self._work = bits, work
        self._point = point

    @cached_property
    def arithmetic(self) -> Arithmetic:
        """Made when it is needed, since formulas that are rational never import mpmath."""
        return Arithmetic(self._bits, self._work)

    def value(self, node: Node) -> Number:
        """Raises ExpressionError or ArithmeticError if there is no value, Imprecise if the bits are too few."""
        kind = node[0]
        if kind == "num":
            return node[1]  # type: ignore[no-any-return]
        if kind == "var":
            if node[1] not in self._point:
                raise ExpressionError("not a constant")
            return self._point[node[1]]
        if kind == "const":
            return self.arithmetic.constant(node[1])
        if kind in ("fn", "log"):
            return self._function(node)
        if kind == "root":
            return self._root(self.value(node[1]), self.value(node[2]), node[2])
        if kind == "pow":
            return self._power(self.value(node[1]), self.value(node[2]), node[1])
        result: Number = getattr(self, "_" + kind)(*[self.value(part) for part in node[1:]])
        if type(result) is Fraction and max(result.numerator.bit_length(), result.denominator.bit_length()) > MAX_BITS:
            return self.arithmetic.number(result)
        return result

    def _neg(self, a: Number) -> Number:
        return -a if isinstance(a, Fraction) else self.arithmetic.negative(a)

    def _abs(self, a: Number) -> Number:
        return abs(a) if isinstance(a, Fraction) else self.arithmetic.absolute(a)

    def _add(self, a: Number, b: Number) -> Number:
        if isinstance(a, Fraction) and isinstance(b, Fraction):
            return a + b
        if a == 0 or b == 0:
            return b if a == 0 else a
        return self.arithmetic.add(self.arithmetic.number(a), self.arithmetic.number(b))

    def _mul(self, a: Number, b: Number) -> Number:
        if isinstance(a, Fraction) and isinstance(b, Fraction):
            return a * b
        if a == 0 or b == 0:
            return Fraction(0)
        return self.arithmetic.multiply(self.arithmetic.number(a), self.arithmetic.number(b))

    def _div(self, a: Number, b: Number) -> Number:
        if isinstance(a, Fraction) and isinstance(b, Fraction):
            return a / b
        if b == 0:
            raise ZeroDivisionError
        return self.arithmetic.divide(self.arithmetic.number(a), self.arithmetic.number(b))

    def _deg(self, a: Number) -> Number:
        return self._mul(self._div(a, Fraction(180)), self.arithmetic.constant("pi"))

    def _fact(self, n: Number) -> Number:
        if not isinstance(n, Fraction) or n.denominator != 1 or n < 0:
            raise ExpressionError("not a factorial")
        if n.numerator * n.numerator.bit_length() > 2 * MAX_BITS:
            return self.arithmetic.factorial(n.numerator)
        return Fraction(math.factorial(n.numerator))

    def _binom(self, n: Number, k: Number) -> Number:
        for number in (n, k):
            if not isinstance(number, Fraction) or number.denominator != 1 or number < 0:
                raise ExpressionError("not a binomial coefficient")
        assert isinstance(n, Fraction) and isinstance(k, Fraction)
        if k > n:
            return Fraction(0)
        if min(k, n - k, n.numerator) * n.numerator.bit_length() > 2 * MAX_BITS:
            return self._div(self._fact(n), self._mul(self._fact(k), self._fact(n - k)))
        return Fraction(math.comb(n.numerator, k.numerator))

    def _power(self, base: Number, exponent: Number, radicand: Node) -> Number:
        arithmetic = self.arithmetic
        if isinstance(exponent, Fraction) and exponent.denominator == 1:
            if isinstance(base, Fraction):
                bits = max(base.numerator.bit_length(), base.denominator.bit_length())
                if bits * abs(exponent) <= 2 * MAX_BITS or base in (0, 1):
                    return base ** int(exponent)
                if base == -1:
                    return base ** (int(exponent) % 2)
            return arithmetic.power(arithmetic.number(base), int(exponent))
        if base == 0:
            raise ExpressionError("a power of zero")
        if isinstance(exponent, Fraction) and exponent.denominator <= MAX_INDEX:
            # As with the sign of a root, the odd root of a negative number is the real one.
            root = self._root(Fraction(exponent.denominator), base, radicand)
            return self._power(root, Fraction(exponent.numerator), radicand)
        logarithm = arithmetic.function("ln", arithmetic.number(base))
        return arithmetic.function("exp", arithmetic.multiply(arithmetic.number(exponent), logarithm))

    def _root(self, index: Number, value: Number, radicand: Node) -> Number:
        if not isinstance(index, Fraction) or index.denominator != 1 or not 2 <= index <= MAX_INDEX:
            raise ExpressionError("not a root")
        degree = int(index)
        if isinstance(value, Fraction):
            if value < 0 and degree % 2:
                return self._neg(self._root(index, -value, ("neg", radicand)))
            exact = [_integer_root(part, degree) for part in (value.numerator, value.denominator)]
            if value >= 0 and exact[0] is not None and exact[1] is not None:
                return Fraction(exact[0], exact[1])
        key = value if isinstance(value, Fraction) else radicand
        return self.arithmetic.root(degree, self.arithmetic.number(value), key)

    def _function(self, node: Node) -> Number:
        value = self.value(node[2])
        if node[0] == "log":
            base = self.value(node[1])
            return self._div(self._elementary("ln", value), self._elementary("ln", base))
        return self._elementary(node[1], value)

    def _elementary(self, name: str, value: Number) -> Number:
        if value == 0:
            if name in ("cos", "sec", "cosh", "exp"):
                return Fraction(1)
            if name in ("ln", "log", "cot", "csc"):
                raise ZeroDivisionError
            if name not in ("arccos", "acos"):
                return Fraction(0)
        if value == 1 and name in ("ln", "log"):
            return Fraction(0)
        return self.arithmetic.function(name, self.arithmetic.number(value))


def _integer_root(value: int, degree: int) -> int | None:
    """The root of a non-negative integer if it is an integer, else None."""
    if value < 2:
        return value if value >= 0 else None
    root = math.isqrt(value) if degree == 2 else _floor_root(value, degree)
    return root if root**degree == value else None


def _floor_root(value: int, degree: int) -> int:
    """The integer part of a root, by Newton's method from above."""
    root = 1 << -(-value.bit_length() // degree)
    while (lower := ((degree - 1) * root + value // root ** (degree - 1)) // degree) < root:
        root = lower
    return root
