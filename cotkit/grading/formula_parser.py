"""Parses the formulas of answers, LaTeX or plain text, into small syntax trees.

It knows numbers, variables, `+ - * / ^ !`, fractions, roots, bars, degrees and elementary functions. Anything else
raises ExpressionError. It takes time linear in the length of the text.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from typing import Any

MAX_LENGTH = 500  # characters; the longest gold of MATH has 200
MAX_DEPTH = 40  # nested groups; the deepest gold of MATH has 5

# ("num", Fraction) ("var", name) ("const", name) ("neg", a) ("add" | "mul" | "div" | "pow" | "binom", a, b)
# ("root", index, a) ("fact", a) ("abs", a) ("deg", a) ("fn", name, a) ("log", base, a)
Node = tuple[Any, ...]


class ExpressionError(ValueError):
    """The text is not a formula that this parser knows, or it has no value within bounds."""


class TooLarge(ExpressionError):
    """The value of a formula or of a part is out of bounds."""


FUNCTIONS = frozenset("sin cos tan cot sec csc sinh cosh tanh arcsin arccos arctan asin acos atan ln exp log".split())
_GREEK = frozenset(
    rf"\{letter}"
    for letter in (
        "alpha beta gamma delta epsilon varepsilon zeta eta theta lambda mu nu rho sigma tau phi varphi psi omega "
        "Delta Gamma Theta Lambda Sigma Phi Omega ell"
    ).split()
)
_WORDS = "arcsin|arccos|arctan|asin|acos|atan|sinh|cosh|tanh|sqrt|sin|cos|tan|cot|sec|csc|log|exp|ln|pi"
_TOKEN = re.compile(
    rf"\s*(?:(\d+\.?\d*|\.\d+)|(\^\\circ)|(\\[a-zA-Z]+)|({_WORDS})(?![a-z]{{2}})|([a-zA-Z])|([-+*/^()\[\]{{}}|!_]))"
)
_PROSE = re.compile(r"[a-zA-Z]{4,}")
_NOT_PROSE = re.compile(rf"\\[a-zA-Z]+|{_WORDS}")
_CLOSING = {"(": ")", "[": "]", "{": "}", "|": "|"}
_ONE = ("num", Fraction(1))


@lru_cache(maxsize=4096)
def parse(text: str) -> Node:
    """The tree of a formula that `normalize` has cleaned. Raises ExpressionError."""
    if len(text) > MAX_LENGTH:
        raise ExpressionError(f"longer than {MAX_LENGTH} characters")
    if _PROSE.search(_NOT_PROSE.sub(" ", text)):
        raise ExpressionError("prose")
    parser = _FormulaParser(_tokens(text))
    node = parser.sum()
    if parser.token:
        raise ExpressionError(f"unexpected {parser.token!r}")
    return node


def variables(node: Node) -> frozenset[str]:
    """Names of the variables in `node`."""
    if node[0] == "var":
        return frozenset((node[1],))
    return frozenset().union(*(variables(part) for part in node[1:] if isinstance(part, tuple)))


def _tokens(text: str) -> list[str]:
    tokens, position = [], 0
    text = text.rstrip()
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise ExpressionError(f"unexpected {text[position : position + 10]!r}")
        tokens.append(match[0].strip())
        position = match.end()
    return tokens


class _FormulaParser:
    """Recursive descent over a list of tokens; `token` is "" at the end."""

    def __init__(self, tokens: list[str]) -> None:
        self._tokens = tokens[::-1]
        self._depth = 0
        self._bars = 0

    @property
    def token(self) -> str:
        return self._tokens[-1] if self._tokens else ""

    def _next(self) -> str:
        if not self._tokens:
            raise ExpressionError("unexpected end")
        return self._tokens.pop()

    def _accept(self, *tokens: str) -> str:
        return self._next() if self.token in tokens and self._tokens else ""

    def sum(self) -> Node:
        node = self._signed_product()
        while sign := self._accept("+", "-"):
            term = self._signed_product()
            node = ("add", node, term if sign == "+" else ("neg", term))
        return node

    def _signed_product(self) -> Node:
        if not self._accept("-"):
            self._accept("+")
            return self._product()
        if self.token in ("+", "-"):
            raise ExpressionError("two signs")
        return ("neg", self._product())

    def _product(self) -> Node:
        node = self._power()
        while True:
            if self._accept("*"):
                node = ("mul", node, self._factor())
            elif self._accept("/"):
                node = ("div", node, self._factor())
            elif self._starts_factor():
                if self.token[0].isdigit() or self.token[0] == ".":
                    raise ExpressionError("a number directly after a factor")
                node = self._juxtaposed(node)
            else:
                return node

    def _factor(self) -> Node:
        return ("neg", self._power()) if self._accept("-") else self._power()

    def _starts_factor(self) -> bool:
        token = self.token
        if token == "|":
            return not self._bars
        return bool(token) and (token[0].isalnum() or token[0] in "\\([{.")

    def _juxtaposed(self, node: Node) -> Node:
        r"""A factor directly after `node`: a product, or a mixed number such as `2\frac{1}{3}`."""
        is_fraction = self.token == r"\frac"
        factor = self._power()
        if is_fraction and factor[0] == "div" and node[0] == "num" and node[1].denominator == 1:
            parts = factor[1:]
            if all(part[0] == "num" and part[1].denominator == 1 for part in parts):
                if not 0 < parts[0][1] < parts[1][1]:
                    raise ExpressionError("not a mixed number")
                return ("add", node, factor)
        return ("mul", node, factor)

    def _power(self) -> Node:
        node = self._postfix(self._atom())
        if self._accept("^"):
            return self._postfix(("pow", node, self._exponent()))
        return node

    def _exponent(self) -> Node:
        if self._accept("-"):
            return ("neg", self._exponent())
        self._accept("+")
        return self._group() if self.token == "{" else self._power()

    def _postfix(self, node: Node) -> Node:
        while mark := self._accept("!", r"^\circ"):
            node = ("fact", node) if mark == "!" else ("deg", node)
        return node

    def _atom(self) -> Node:
        token = self.token
        if token in _CLOSING:
            return self._group()
        token = self._next()
        if token[0].isdigit() or token[0] == ".":
            return ("num", Fraction(token.rstrip(".")))
        name = token.lstrip("\\")
        if name in FUNCTIONS:
            return self._function(name)
        if name == "frac" or name == "binom":
            return ("div" if name == "frac" else "binom", self._argument(), self._argument())
        if name == "sqrt":
            index = self._group() if self.token == "[" else ("num", Fraction(2))
            if not self._starts_factor() and self.token != "{" or self.token == "[":
                raise ExpressionError("an argument is missing")
            return ("root", index, self._atom())
        if name == "pi" or token in ("e", "i"):
            return ("const", name)
        if token in _GREEK or len(token) == 1 and token.isalpha():
            return ("var", token + self._subscript())
        raise ExpressionError(f"unknown {token!r}")

    def _group(self) -> Node:
        opening = self._next()
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise ExpressionError(f"nested deeper than {MAX_DEPTH}")
        outer, self._bars = self._bars, int(opening == "|")
        node = self.sum()
        if self._next() != _CLOSING[opening]:
            raise ExpressionError(f"{opening!r} is not closed")
        self._depth, self._bars = self._depth - 1, outer
        return ("abs", node) if opening == "|" else node

    def _argument(self) -> Node:
        r"""An argument of `\frac`: a group, else the next single digit or symbol, as TeX reads it."""
        if self.token == "{":
            return self._group()
        if self.token.isdigit() and len(self.token) > 1:
            digits = self._next()
            self._tokens.append(digits[1:])
            return ("num", Fraction(digits[0]))
        if not (self.token.isalnum() or self.token in (r"\pi", r"\sqrt")):
            raise ExpressionError("an argument is missing")
        return self._atom()

    def _subscript(self) -> str:
        if not self._accept("_"):
            return ""
        if not self._accept("{"):
            return "_" + self._next()
        name = "_"
        while (token := self._next()) != "}":
            name += token
        return name

    def _function(self, name: str) -> Node:
        base = None
        if name == "log" and self._accept("_"):
            base = self._group() if self.token == "{" else self._argument()
        power = self._exponent() if self._accept("^") else None
        argument = self._group() if self.token in ("(", "{", "[") else self._function_argument()
        node = ("log", base, argument) if base else ("fn", name, argument)
        if power == ("neg", _ONE):
            raise ExpressionError("an inverse function")
        return ("pow", node, power) if power else node

    def _function_argument(self) -> Node:
        r"""The unbracketed argument of a function: the product up to the next function, as in `\sin 5x \cos x`."""
        if not self._starts_factor():
            raise ExpressionError("a function without an argument")
        node = self._power()
        while self._starts_factor() and self.token.lstrip("\\") not in FUNCTIONS and self.token not in ("(", "["):
            node = self._juxtaposed(node)
        return node
