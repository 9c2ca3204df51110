"""Numbers beyond the rationals, with a proven bound on their error and on how small they can be without being zero.

A number is an mpmath value, an error (the true value is at most 2^error away) and two separation bounds. A formula of
integers, `+ - * /` and roots of the total degree D is either zero or at least 2^-((D-1)*high + low) away from it:
Burnikel, Funke, Mehlhorn, Schirra, Schmitt, "A separation bound for real algebraic expressions", ESA 2001. So a
difference of two formulas is decided by enough digits and never by a tolerance. For values of functions, of which no
such theorem is known, `high` and `low` follow their size and that of their argument, and GUARD more bits must agree.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Hashable
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from cotkit.grading.formula_parser import TooLarge

GUARD = 100  # bits that agree by chance with a probability of 1e-30
MAX_PRECISION = 70_000  # bits; e^{-30000} has its first one at 43,281. Another exp takes 0.3 s
MAX_WORK = 2e7  # of all functions in one comparison, in units of bits^1.5: about 0.4 s
MAX_SIZE = 2**64  # of the logarithm of a value
MAX_INDEX = 100  # of a root
_NOTHING = -(2**80)  # the size of zero

_local = threading.local()


class Imprecise(Exception):
    """More digits are needed to tell whether a value is zero, or to bound an error."""


@dataclass(frozen=True, slots=True)
class Approximation:
    """A real or complex number known to within 2^error; `high` and `low` are the bounds of the module's docstring."""

    value: Any
    error: int
    high: int
    low: int


def _context() -> Any:
    """mpmath's arithmetic. Each thread has its own context, since a context holds its precision as state."""
    if not hasattr(_local, "context"):
        from mpmath.ctx_mp import MPContext

        _local.context = MPContext()
    return _local.context


def _log2(number: int) -> int:
    """The logarithm of a positive integer, rounded up."""
    return (number - 1).bit_length()


class Arithmetic:
    """Operations on approximations with `precision` bits. `work` is what earlier tries have spent of MAX_WORK."""

    def __init__(self, precision: int, work: float = 0.0) -> None:
        self.precision = precision
        self.work = work
        self._radicals: dict[Hashable, int] = {}
        self._context = _context()
        self._context.prec = precision

    def number(self, value: Fraction | Approximation) -> Approximation:
        """`value` as an approximation."""
        if isinstance(value, Approximation):
            return value
        top, bottom = value.numerator, value.denominator
        return self._rounded(self._context.mpf(top) / bottom, _NOTHING, _log2(abs(top) or 1), _log2(bottom))

    def constant(self, name: str) -> Approximation:
        """pi, e or i."""
        if name == "i":
            self._radicals["i"] = 2
            return Approximation(self._context.mpc(0, 1), _NOTHING, 0, 0)
        return self._rounded(+getattr(self._context, name), _NOTHING, 2, 0)

    def is_nonzero(self, a: Approximation) -> bool:
        """Is `a` proven to differ from zero?"""
        return self._size(a.value) - 2 > a.error

    def is_zero(self, a: Approximation) -> bool:
        """Is `a` so close to zero that it must be zero?"""
        return a.error <= -self.separation(a) and not self.is_nonzero(a)

    def separation(self, a: Approximation) -> int:
        """The number of bits after the binary point within which `a` differs from zero, unless it is zero."""
        degree = math.prod(self._radicals.values())  # those in `a` and perhaps more
        return (degree - 1) * a.high + a.low + GUARD

    def add(self, a: Approximation, b: Approximation) -> Approximation:
        high = max(a.high + b.low, a.low + b.high) + 1
        return self._rounded(a.value + b.value, max(a.error, b.error) + 1, high, a.low + b.low)

    def negative(self, a: Approximation) -> Approximation:
        return Approximation(-a.value, a.error, a.high, a.low)

    def absolute(self, a: Approximation) -> Approximation:
        return Approximation(abs(a.value), a.error + 1, a.high, a.low)

    def multiply(self, a: Approximation, b: Approximation) -> Approximation:
        error = max(self._size(a.value) + b.error, self._size(b.value) + a.error, a.error + b.error) + 2
        return self._rounded(a.value * b.value, error, a.high + b.high, a.low + b.low)

    def divide(self, a: Approximation, b: Approximation) -> Approximation:
        """Raises ZeroDivisionError if `b` is zero."""
        size, value = self._lower_size(b), a.value / b.value
        error = max(a.error, self._size(value) + b.error) - size + 3
        return self._rounded(value, error, a.high + b.low, a.low + b.high)

    def power(self, base: Approximation, exponent: int) -> Approximation:
        """A power with an integer exponent."""
        if exponent < 0:
            return self.divide(self.number(Fraction(1)), self.power(base, -exponent))
        if (max(abs(self._size(base.value)), 2) if base.value else 1) * exponent > MAX_SIZE:
            raise TooLarge("too large")
        growth = exponent.bit_length() + 2
        if self.is_nonzero(base):
            relative = base.error - self._lower_size(base)
            if max(relative, -self.precision) + growth > -4:
                raise Imprecise
            value = base.value**exponent
            error = self._size(value) + max(relative, 2 - self.precision) + growth
        else:
            value, error = base.value**exponent, exponent * (max(self._size(base.value), base.error) + 1)
        return self._rounded(value, error, base.high * exponent, base.low * exponent)

    def root(self, index: int, a: Approximation, key: Hashable) -> Approximation:
        """The real root if there is one, else the principal root. `key` names the radicand."""
        self._radicals[index, key] = index
        a = self._on_real_line(a)
        size = self._size(a.value)
        if not hasattr(a.value, "_mpc_") and a.value < 0 and index % 2:
            value = -self._context.root(-a.value, index)
        else:
            value = self._context.root(a.value, index) if a.value else a.value
        if self.is_nonzero(a):
            error = self._size(value) + a.error - size + 4
        else:
            error = (max(size, a.error) + 1) // index + 2
        if a.high >= a.low:
            high, low = -(-(a.high + a.low * (index - 1)) // index), a.low
        else:
            high, low = a.high, -(-(a.high * (index - 1) + a.low) // index)
        return self._rounded(value, error, high, low)

    def factorial(self, n: int) -> Approximation:
        """n! for an n that is too large for exact arithmetic."""
        if n > 10**12 or self.precision > 2000:  # Stirling's series takes long for many digits
            raise TooLarge("too large")
        value = self._context.factorial(n)
        return self._rounded(value, self._size(value) - self.precision + 8, self._size(value), 0)

    def function(self, name: str, a: Approximation) -> Approximation:
        """An elementary function. Raises ZeroDivisionError at a pole."""
        one = self.number(Fraction(1))
        quotients = {"tan": ("sin", "cos"), "cot": ("cos", "sin"), "tanh": ("sinh", "cosh")}
        if name in quotients:
            top, bottom = (self.function(part, a) for part in quotients[name])
            return self.divide(top, bottom)
        if name in ("sec", "csc"):
            return self.divide(one, self.function("cos" if name == "sec" else "sin", a))
        name = {"log": "ln", "arcsin": "asin", "arccos": "acos", "arctan": "atan"}.get(name, name)
        self.work += self.precision**1.5
        if self.work > MAX_WORK:
            raise TooLarge("too large")
        if a.error > -6:
            raise Imprecise
        if name in ("exp", "sinh", "cosh") and self._size(a.value) > MAX_SIZE.bit_length():
            raise TooLarge("too large")
        a = self._on_real_line(a)
        error = self._function_error(name, a)
        value = getattr(self._context, name)(a.value)
        if name == "exp":
            error = self._size(value) + a.error + 2
        result = self._rounded(value, error, 0, 0)
        size, extra = self._size(value) if self.is_nonzero(result) else 0, 2 * (a.high + a.low)
        return replace(result, high=max(size, 0) + extra, low=max(-size, 0) + extra)

    def _function_error(self, name: str, a: Approximation) -> int:
        """The error of a function's value at an argument with an error below 2^-6, from a bound of the derivative."""
        context = self._context
        if name in ("sin", "cos", "sinh", "cosh"):
            growth = abs(context.im(a.value) if name in ("sin", "cos") else context.re(a.value))
            return a.error + 2 + int(1.5 * growth)
        if name == "ln":
            return a.error - self._lower_size(a) + 1
        if name in ("asin", "acos", "atan"):
            square = a.value * a.value
            distance = self._size(1 + square if name == "atan" else 1 - square) - 2
            if distance <= a.error + 3:  # at a branch point, where the inverse sines change as a root does
                if name == "atan":
                    raise Imprecise
                return a.error // 2 + 4
            return a.error - (distance if name == "atan" else distance // 2) + 3
        return _NOTHING

    def _on_real_line(self, a: Approximation) -> Approximation:
        """`a` without an imaginary part that is nothing but rounding, so that it is on the right side of a branch cut."""
        if hasattr(a.value, "_mpc_") and self._size(a.value.imag) - 2 <= a.error:
            return Approximation(a.value.real, a.error + 1, a.high, a.low)
        return a

    def _size(self, value: Any) -> int:
        """An upper bound of the value's logarithm, at most two above it."""
        return int(self._context.mag(value)) if value else _NOTHING

    def _lower_size(self, a: Approximation) -> int:
        """A lower bound of the logarithm of a value that must not be zero."""
        if self.is_nonzero(a):
            return self._size(a.value) - 2
        if self.is_zero(a):
            raise ZeroDivisionError
        raise Imprecise

    def _rounded(self, value: Any, error: int, high: int, low: int) -> Approximation:
        """An approximation with the error of its own rounding added."""
        size = self._size(value)
        if size > MAX_SIZE or not self._context.isfinite(value):
            raise TooLarge("too large")
        return Approximation(value, max(error, size - self.precision + 4) + 1, high, low)


def is_real(a: Fraction | Approximation) -> bool:
    """Is `a` a real number, but for rounding?"""
    if isinstance(a, Fraction) or not hasattr(a.value, "_mpc_"):
        return True
    return bool(_context().mag(a.value.imag) - 2 <= a.error)
