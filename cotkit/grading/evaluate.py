"""Evaluates formulas, in exact rationals where possible and to 50 digits elsewhere, and compares two of them.

Two formulas are equal if they agree at four random points. The points are rational and fixed by the names of the
variables. Different formulas of an answer's size agree at one point with probability below 1e-4 (Schwartz-Zippel
lemma). Every intermediate value is bounded, so that hostile formulas stay cheap.
"""

from __future__ import annotations

import math
import threading
import zlib
from collections.abc import Mapping
from fractions import Fraction
from functools import lru_cache
from typing import Any

from cotkit.grading.formula_parser import ExpressionError, Node, TooLarge, variables

DIGITS = 50  # working precision beyond the rationals
AGREE = 35  # digits that two equal irrational values share, relative to their size
MAX_DENOMINATOR = 10**15  # of a rational number that may equal a formula with roots
MAX_BITS = 20_000  # of an exact integer, and of the size of any value: 2^4950 is a gold of MATH
MAX_FACTORIAL = 2000
MAX_INDEX = 100  # of a root

_local = threading.local()


def _context() -> Any:
    """mpmath's arithmetic. Each thread has its own context, since a context holds its precision as state."""
    if not hasattr(_local, "context"):
        from mpmath.ctx_mp import MPContext

        _local.context = MPContext()
        _local.context.dps = DIGITS
    return _local.context


@lru_cache(maxsize=4096)
def exact_value(node: Node) -> Fraction | None:
    """The value of a formula without variables; None if exact arithmetic does not give a rational number."""
    try:
        value = _value(node, {})
    except (ExpressionError, ArithmeticError, ValueError):
        return None
    return value if isinstance(value, Fraction) else None


def same_value(left: Node, right: Node) -> bool | None:
    """Are two formulas equal? None if random points cannot tell, because a value is undefined or out of bounds."""
    names = variables(left) | variables(right)
    for index, point in enumerate(_points(names)):
        values = [_value_or_reason(node, point) for node in (left, right)]
        reasons = [value for value in values if isinstance(value, Exception)]
        if reasons:
            # A value out of bounds, or a constant without a value, does not equal one that has a value.
            at_fault = left if values[0] is reasons[0] else right
            apart = isinstance(reasons[0], TooLarge) or not variables(at_fault)
            return False if apart and len(reasons) == 1 else None
        apart = not names and _is_rounding(*values) or not _close(*values)
        # One positive point that disagrees decides. At negative points only real values count, since roots and logarithms
        # that are not real there may differ in the branch alone.
        if apart and (index < 2 or not any(value.imag for value in values)):
            return False
    return True


def too_large(node: Node) -> bool:
    """Is `node` or one of its parts out of bounds?"""
    return isinstance(_value_or_reason(node, _points(variables(node))[0]), TooLarge)


def proportional(left: Node, right: Node, positive: bool = False) -> bool | None:
    """Is `left` a constant (with `positive`: a positive one) times `right`?"""
    try:
        points = _points(variables(left) | variables(right))
        ratios = [_divide(_value(left, point), _value(right, point)) for point in points]
    except (ExpressionError, ArithmeticError, ValueError):
        return None
    agree = all(_close(ratio, ratios[0]) for ratio in ratios) and ratios[0] != 0
    return agree and (not positive or _context().re(_number(ratios[0])) > 0)


def _is_rounding(a: Any, b: Any) -> bool:
    """Is one of two constants a decimal with so many places that it can only be the other one rounded?"""
    rational = [value for value in (a, b) if isinstance(value, Fraction)]
    return len(rational) == 1 and rational[0].denominator > MAX_DENOMINATOR


def _value_or_reason(node: Node, point: Mapping[str, Fraction]) -> Any:
    try:
        return _value(node, point)
    except (ExpressionError, ArithmeticError, ValueError) as reason:
        return reason


def _points(names: frozenset[str]) -> list[dict[str, Fraction]]:
    """Two positive points, a negative and a mixed one; a single empty one for formulas without variables."""
    return [{name: _coordinate(name, index) for name in names} for index in range(4 if names else 1)]


def _coordinate(name: str, index: int) -> Fraction:
    draw = zlib.crc32(f"{name} {index}".encode())
    sign = (1, 1, -1, 1 if draw & 64 else -1)[index]
    return Fraction(sign * (draw % 99_991 + 5_000), 31_337)


def _number(value: Any) -> Any:
    context = _context()
    return context.mpf(value.numerator) / value.denominator if isinstance(value, Fraction) else value


def _close(a: Any, b: Any) -> bool:
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return a == b
    context = _context()
    a, b = _number(a), _number(b)
    size = max(abs(a), abs(b))
    # Two values that are zero but for rounding are equal too.
    return bool(abs(a - b) <= size * context.mpf(10) ** -AGREE or size < context.mpf(10) ** -(AGREE + 5))


def _bounded(value: Any) -> Any:
    if isinstance(value, Fraction):
        if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
            raise TooLarge("too large")
        return value
    context = _context()
    if not context.isfinite(value) or value and abs(context.mag(value)) > MAX_BITS:
        raise TooLarge("too large")
    return value


def _value(node: Node, point: Mapping[str, Fraction]) -> Any:
    """A Fraction or a number of `_context()`. Raises ExpressionError or ArithmeticError if there is no value."""
    kind = node[0]
    if kind == "num":
        return node[1]
    if kind == "var":
        if node[1] not in point:
            raise ExpressionError("not a constant")
        return point[node[1]]
    if kind == "const":
        return _context().mpc(0, 1) if node[1] == "i" else +getattr(_context(), node[1])
    if kind in ("fn", "log"):
        return _bounded(_function(node, point))
    arguments = [_value(part, point) for part in node[1:]]
    return _bounded(_OPERATIONS[kind](*arguments))


def _mixed(operation: Any) -> Any:
    """`operation`, exact for two Fractions and in the context's numbers for anything else."""

    def apply(a: Any, b: Any) -> Any:
        if isinstance(a, Fraction) and isinstance(b, Fraction):
            return operation(a, b)
        return operation(_number(a), _number(b))

    return apply


_divide = _mixed(lambda a, b: a / b)


def _power(base: Any, exponent: Any) -> Any:
    if isinstance(exponent, Fraction):
        if 1 < exponent.denominator <= MAX_INDEX and isinstance(base, Fraction) and base >= 0:
            return _power(_root(Fraction(exponent.denominator), base), Fraction(exponent.numerator))
        if exponent.denominator == 1 and isinstance(base, Fraction):
            bits = max(base.numerator.bit_length(), base.denominator.bit_length())
            if bits * abs(exponent) > 2 * MAX_BITS and abs(base) != 1 and base != 0:
                raise TooLarge("too large")
            return base ** (exponent.numerator % 2 if base == -1 else exponent.numerator if abs(base) != 1 else 1)
    context = _context()
    base, exponent = _number(base), _number(exponent)
    if not base:
        raise ExpressionError("a power of zero")
    if abs(exponent) * (abs(context.mag(base)) + 2) > MAX_BITS:
        raise TooLarge("too large")
    return base**exponent


def _root(index: Any, value: Any) -> Any:
    if not isinstance(index, Fraction) or index.denominator != 1 or not 2 <= index <= MAX_INDEX:
        raise ExpressionError("not a root")
    degree = int(index)
    if not isinstance(value, Fraction):
        return _context().root(value, degree)
    if value < 0 and degree % 2:
        return -_root(index, -value)
    exact = [_integer_root(part, degree) for part in (value.numerator, value.denominator)]
    if value >= 0 and None not in exact:
        return Fraction(*exact)  # type: ignore[arg-type]
    return _context().root(_number(value), degree)


def _integer_root(value: int, degree: int) -> int | None:
    """The root of a non-negative integer if it is an integer, else None."""
    if value < 2:
        return value if value >= 0 else None
    root = math.isqrt(value) if degree == 2 else round(float(_context().root(value, degree)))
    return next((near for near in (root - 1, root, root + 1) if near > 0 and near**degree == value), None)


def _factorial(value: Any) -> Fraction:
    if isinstance(value, Fraction) and value > MAX_FACTORIAL:
        raise TooLarge("too large")
    if not isinstance(value, Fraction) or value.denominator != 1 or value < 0:
        raise ExpressionError("not a factorial")
    return Fraction(math.factorial(int(value)))


def _binomial(n: Any, k: Any) -> Fraction:
    if not all(isinstance(x, Fraction) and x.denominator == 1 and x >= 0 for x in (n, k)):
        raise ExpressionError("not a binomial coefficient")
    if n > MAX_BITS:  # the coefficient has at most n bits
        raise TooLarge("too large")
    return Fraction(math.comb(int(n), int(k)))


_OPERATIONS: dict[str, Any] = {
    "neg": lambda a: -a,
    "add": _mixed(lambda a, b: a + b),
    "mul": _mixed(lambda a, b: a * b),
    "div": _divide,
    "pow": _power,
    "root": _root,
    "fact": _factorial,
    "binom": _binomial,
    "abs": abs,
    "deg": lambda a: _number(a) * _context().pi / 180,
}


def _function(node: Node, point: Mapping[str, Fraction]) -> Any:
    context, value = _context(), _number(_value(node[2], point))
    if node[0] == "log":
        return context.log(value) / context.log(_number(_value(node[1], point)))
    name = {"arcsin": "asin", "arccos": "acos", "arctan": "atan", "log": "ln"}.get(node[1], node[1])
    if name == "exp" and abs(value) > MAX_BITS:
        raise TooLarge("too large")
    return getattr(context, name)(value)
