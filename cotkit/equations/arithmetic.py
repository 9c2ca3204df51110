"""Reads arithmetic expressions from text: a tokenizer and a recursive-descent parser over exact rationals.

Reads numbers (1,200, .5, 2 1/2, ½), operators as signs, words and LaTeX, brackets, percent, powers, and units after a
number (`2 hours * 60 minutes/hour`). The text is untrusted, so digits, operands, nesting and powers are bounded and the
time is linear in the length. `checker.py` decides what an equation is.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from typing import Literal, NamedTuple

from cotkit.equations.scale_words import scale_of

Number = int | Fraction

# GSM8K's calculator marks, 48/2 = <<48/2=24>>24; group 1 is the inside.
CALCULATOR_MARK = re.compile(r"<<([^<>\n]*)>>")

_LETTER = "A-Za-zÀ-ÖØ-öø-ɏ"
_WORD = rf"[{_LETTER}]+(?:['’-][{_LETTER}]+)*(?:(?<=s)['’])?"
_OPERATOR_WORD = r"(?:times|multiplied by|plus|minus|divided by|percent|of)\b"
_OPERAND = r"(?=\s*[$€£]?\s*(?:[0-9(\\]|\.[0-9]))"
_TIMES_X = rf"[xX]{_OPERAND}"
_TOKEN = re.compile(
    rf"""
      (?P<skip> [\s$€£&]+ | \\[$,;:!()\[\] ] | \\(?:displaystyle|boxed)(?![A-Za-z])
              | \*\*(?![0-9(]) | (?<![0-9)])\*\* )
    | (?P<num> (?: (?: [0-9]{{1,3}}(?:(?:,(?:\\!)?|\{{,\}})[0-9]{{3}})++ | [0-9]++ ) (?:\.[0-9]++(?:\.\.\.|…)?)?
                 | \.[0-9]++ ) (?![.,:]?[0-9]) )
    | (?P<vulgar> [½¼¾⅓⅔⅛] )
    | (?P<op> \*\* | \\(?:times|cdot|div)(?![A-Za-z]) | [+*·⋅×÷−–²³] | \^(?!\{{?\\circ) | -(?![{_LETTER}])
            | /(?!\s?(?:[{_LETTER}]|\\(?:text|mathrm)\{{)) | (?<![{_LETTER}]){_TIMES_X}
            | (?:times|multiplied\ by|plus|minus|divided\ by)\b{_OPERAND} )
    | (?P<of> of\b )
    | (?P<pct> \\?% | percent\b )
    | (?P<other> [<>!:]= | =[=>]+ )
    | (?P<eq> = )
    | (?P<word> (?:-|/\s?)?{_WORD} (?:(?:\s?/\s?|[ ])(?!{_TIMES_X}|{_OPERATOR_WORD}){_WORD})* (?:\^[0-9]|[²³])?
              | (?:/\s?)?\\(?:text|mathrm|mbox|textbf)\{{[^{{}}]*\}} | \^\{{?\\circ\}}? | [°¢] )
    | (?P<frac> \\[dt]?frac(?![A-Za-z]) )
    | (?P<lp> (?:\\left\s*)?[(\[{{] ) | (?P<rp> (?:\\right\s*)?[)\]}}] )
    | (?P<stop> [.,;:?—→•"“”|] | \\\\ | \\quad )
    | (?P<unknown> \\[A-Za-z]+ | [0-9][0-9.,:]* | . )
    """,
    re.VERBOSE,
)
OPERATORS = dict.fromkeys(("\\times", "\\cdot", "·", "⋅", "×", "x", "X", "times", "multiplied by"), "*")
OPERATORS |= dict.fromkeys(("\\div", "÷", "divided by"), "/") | dict.fromkeys(("–", "−", "minus"), "-")
OPERATORS |= {"plus": "+", "**": "^"}
_STARTS = frozenset(("num", "lp", "frac", "vulgar"))  # kinds of token that begin an operand

# Words of at most three letters that may follow a number; any other may be a variable or a product of variables.
_SHORT_WORDS = (
    "km kg cm mm ml mg oz lb lbs ft in min mins hr hrs sec secs mph gal yd sq pt qt mi of by an no up do go my us me tv or"
    " so is to on at as he it we if be TV GB MB TB Mr Ms Dr"
)
_SHORT = frozenset(_SHORT_WORDS.split())
_ORDINAL = re.compile(r"(?:st|nd|rd|th|am|pm)\b", re.IGNORECASE)  # ordinals and times of day are no quantities
_UNKNOWN = re.compile(rf"/\s?(?![aI]\b)[{_LETTER}]\b")  # 6 jars / T minutes: a proportion with an unknown
# A phrase with one of these words belongs to the sentence and is no unit: the expression ends before it.
_SENTENCE = re.compile(
    r"\b(?:and|or|so|then|is|are|was|were|be|has|have|had|because|since|which|that|this|these|if|when|while|for|to|in|on|at|from|by|with|than"
    r"|as|the|he|she|they|it|we|you|I|but|equals?|gives?|makes?|costs?|means|therefore|thus)\b"
)


@lru_cache(maxsize=8192)
def role(phrase: str, tight: bool, latex: bool) -> Literal["unit", "sentence", "variable"]:
    """What a phrase after a number is. `tight`: no blank between the two. `latex`: the line has LaTeX commands."""
    if len(phrase) > 80:
        return "sentence"
    if "/" in phrase and _UNKNOWN.search(phrase):
        return "variable"
    if phrase[0] in "\\^°¢":
        return "unit"
    bare = phrase.lstrip("-/ ")
    if bare[0] == "\\":
        return "unit"
    head = re.split(r"[ /'’^²³-]", bare, maxsplit=1)[0]
    if _ORDINAL.match(bare) or (phrase[0] == "/" and phrase[-1] == "s"):
        return "variable"
    if len(head) == 1 and (tight or latex or head not in "aI"):
        return "variable"
    if len(head) > 1 and _SENTENCE.fullmatch(head):
        return "sentence"
    glued = tight and bare == phrase
    if glued and len(head) > 3 and head[0].isupper():
        return "variable"  # 3/4Papillon = 12
    if len(head) > 1 and len(head) <= (3 if glued or latex else 2) and head not in _SHORT:
        return "variable"
    if _SENTENCE.search(bare):
        return "sentence"
    return "variable" if single_letter(bare) else "unit"


def single_letter(phrase: str) -> bool:
    """Whether the last word of a phrase is one letter, so probably a variable."""
    return phrase[-2:-1] in ("", " ", "/", "-") and phrase[-1] not in "aI"


class Token(NamedTuple):
    kind: str
    text: str
    start: int
    end: int


def tokenize(line: str) -> list[Token]:
    """The tokens of one line, given without its line end. Leaves out blanks, `$` and bold marks."""
    return [Token(m.lastgroup or "", m[0], m.start(), m.end()) for m in _TOKEN.finditer(line) if m.lastgroup != "skip"]


MAX_DIGITS = 40  # of one number; with MAX_OPERANDS it bounds a value to about 2,500 digits
MAX_OPERANDS = 64  # of one side
MAX_NESTING = 16  # of brackets and signs; far below Python's recursion limit
MAX_REREAD = 4  # reads per token of a line, plus 1,000: keeps unclosed brackets linear
MAX_POWER_BITS = 128  # of a power, checked before computing it; about the size of the largest number

_VULGAR = {"½": (1, 2), "¼": (1, 4), "¾": (3, 4), "⅓": (1, 3), "⅔": (2, 3), "⅛": (1, 8)}
_PLAIN_OPERATOR = re.compile(r"([-+*/÷x×])")


class Side(NamedTuple):
    """One side of an equation: its value, its tokens (indices), and how it was read."""

    value: Number
    first: int
    last: int
    after: int  # the token after the side and its unit
    operators: int
    decimals: int  # of the last number; meaningful only if operators == 0
    ambiguous: bool  # has a part with two common readings


class Reader:
    """Parses one line's tokens. A method returns None if it cannot read; the position `at` is then undefined."""

    def __init__(
        self, tokens: list[Token], latex: bool, *, percent: int = 100, fractions: bool = False, scales: bool = False
    ) -> None:
        """With `percent` 1, 20% is 20. With `fractions`, `1/2` is one number, so 14 ÷ 1/2 is 28. With `scales`, 2 dozen is 24."""
        self.tokens, self.latex, self.percent, self.fractions, self.scales = tokens, latex, percent, fractions, scales
        self.read = 0
        self.kinds = [token.kind for token in tokens] + ["end"] * 4

    def side(self, first: int) -> Side | None:
        """The longest expression that starts at token `first`; None if none does."""
        if first >= len(self.tokens):
            return None
        if self.kinds[first] not in _STARTS and self.tokens[first].text not in ("-", "–", "−"):
            return None
        if self.read > MAX_REREAD * len(self.tokens) + 1000:
            return None
        self.at, self.last, self.depth, self.operands, self.operators = first, first, 0, 0, 0
        self.decimals, self.ambiguous = 0, False
        try:
            value = self._sum()
        except (ZeroDivisionError, OverflowError):
            return None
        if value is None:
            return None
        return Side(value, first, self.last, self.at, self.operators, self.decimals, self.ambiguous)

    def _operator(self, among: str) -> str | None:
        if self.kinds[self.at] != "op":
            return None
        text = self.tokens[self.at].text
        text = OPERATORS.get(text, text)
        return text if text in among else None

    def tight(self, at: int) -> bool:
        return 0 < at < len(self.tokens) and self.tokens[at - 1].end == self.tokens[at].start

    def _sum(self) -> Number | None:
        value = self._product()
        while value is not None and (operator := self._operator("+-")):
            mark, last = self.at, self.last
            self.at += 1
            right = self._product()
            if right is None:
                self.at, self.last = mark, last
                break
            self.operators += 1
            value = value + right if operator == "+" else value - right
        return value

    def _product(self) -> Number | None:
        value, divided = self._signed(), False
        while value is not None:
            mark, last = self.at, self.last
            operator = self._operator("*/")
            if operator:
                # A second division by a rate: 150 minutes / 5 minutes/100 meters.
                self.ambiguous |= divided and operator == "/" and self.kinds[mark - 1] == "word" and self.tight(mark)
                divided |= operator == "/"
                self.at += 1
            elif self.kinds[mark] == "of" and (self.kinds[mark - 1] == "pct" or self._operator_before_last() == "/"):
                self.at += 1
            elif not (self.kinds[mark] == "lp" and self.tight(mark)):
                break
            else:
                self.ambiguous |= self._operator_before_last() == "/"
            right = self._signed()
            if right is None:
                self.at, self.last = mark, last
                break
            self.operators += 1
            value = _divide(value, right) if operator == "/" else value * right
        return value

    def _operator_before_last(self) -> str:
        text = self.tokens[self.last - 1].text if self.last else ""
        return OPERATORS.get(text, text)

    def _signed(self) -> Number | None:
        if not (self._operator("-") and self.tight(self.at + 1)):
            return self._power()
        self.at += 1
        self.depth += 1
        value = self._power() if self.depth <= MAX_NESTING else None
        self.depth -= 1
        return None if value is None else -value

    def _power(self) -> Number | None:
        value = self._atom()
        if value is None:
            return None
        operator = self._operator("^²³")
        if operator:
            self.at += 1
            exponent = self._atom() if operator == "^" else {"²": 2, "³": 3}[operator]
            if exponent is None:
                return None
            self.operators += 1
            self.last = self.at - 1
            value = _raise(value, exponent)
        if self.kinds[self.at] == "pct":
            self.at += 1
            self.last = self.at - 1
            if self.percent != 1:
                value, self.decimals = _divide(value, self.percent), self.decimals + 2
        unit_at = self.at
        if not self._unit():
            return None
        return value * scale_of(self.tokens[unit_at].text) if self.scales and self.at > unit_at else value

    def _unit(self) -> bool:
        """Skips a unit after an operand. Returns False if the word is a variable or an ordinal."""
        if self.kinds[self.at] != "word":
            return True
        follows = role(self.tokens[self.at].text, self.tight(self.at), self.latex)
        self.at += follows == "unit"
        return follows != "variable"

    def _atom(self) -> Number | None:
        self.operands += 1
        self.read += 1
        kind, token_at = self.kinds[self.at], self.at
        if self.operands > MAX_OPERANDS:
            return None
        self.at += 1
        if self.fractions and (value := self._tight_fraction(token_at)) is not None:
            self.at, self.operators = token_at + 3, self.operators + 1
        elif kind == "num":
            value = self._number(self.tokens[token_at].text)
        elif kind == "vulgar":
            value = Fraction(*_VULGAR[self.tokens[token_at].text])
        elif kind == "lp":
            value = self._bracket()
        elif kind == "frac":
            value = self._fraction()
        else:
            return None
        self.last = self.at - 1
        return value

    def _bracket(self) -> Number | None:
        self.depth += 1
        value = self._sum() if self.depth <= MAX_NESTING else None
        self.depth -= 1
        if value is None or self.kinds[self.at] != "rp":
            return None
        self.at += 1
        return value

    def _fraction(self) -> Number | None:
        top = self._atom() if self.kinds[self.at] == "lp" else None
        bottom = self._atom() if top is not None and self.kinds[self.at] == "lp" else None
        self.operators += 1
        return None if bottom is None else _divide(top, bottom)

    def _number(self, text: str) -> Number | None:
        whole, _, decimals = text.rstrip(".…").partition(".")
        if not whole.isdigit():
            whole = "".join(filter(str.isdigit, whole))
        if len(whole) + len(decimals) > MAX_DIGITS or (whole[:1] == "0" and len(whole) > 1):
            return None  # 0900 is a time of day or a code
        self.decimals = len(decimals)
        return _plain_number(f"{whole}.{decimals}") if decimals else int(whole) + self._mixed_part()

    def _mixed_part(self) -> Number:
        """The fraction of a mixed number (`2 1/2`, `2½`, `2\\frac{1}{2}`) whose integer was just read; 0 if there is none."""
        at, kind = self.at, self.kinds[self.at]
        if kind == "vulgar":
            self.at += 1
            return Fraction(*_VULGAR[self.tokens[at].text])
        if kind == "frac" and self.tight(at):
            self.at, self.ambiguous = at + 1, True
            return self._fraction() or 0
        joined = kind == "word" and self.tokens[at].text == "and"
        if (part := self._tight_fraction(at + joined)) is not None and part < 1:
            self.at, self.ambiguous = at + joined + 3, self.ambiguous or joined
            return part
        return 0

    def _tight_fraction(self, at: int) -> Fraction | None:
        """The value of `1/2` at tokens `at` to `at + 2`; None if it is not there. Without `fractions`, it has no blanks."""
        if self.kinds[at : at + 3] != ["num", "op", "num"]:
            return None
        if not (self.tight(at + 1) and self.tight(at + 2)) and not (
            self.fractions and at and self.tokens[at - 1].text == "/"
        ):
            return None
        top, slash, bottom = (token.text for token in self.tokens[at : at + 3])
        if slash != "/" or not (top.isdigit() and bottom.isdigit()) or len(top + bottom) > 6 or not int(bottom):
            return None
        return Fraction(int(top), int(bottom))


def _divide(top: Number, bottom: Number) -> Number:
    if type(top) is int and type(bottom) is int and bottom and not top % bottom:
        return top // bottom
    return Fraction(top, bottom)


def _raise(base: Number, exponent: Number) -> Number:
    if exponent != int(exponent) or abs(exponent) > MAX_POWER_BITS:
        raise OverflowError
    size = max(base.numerator.bit_length(), base.denominator.bit_length())
    if size * abs(int(exponent)) > MAX_POWER_BITS:
        raise OverflowError
    return Fraction(base) ** int(exponent)


@lru_cache(maxsize=16_384)  # a solution repeats its numbers and its calculator marks
def plain_value(text: str) -> Number | None:
    """The exact value of numbers joined by + - * / ÷ x without blanks (`1200+2*3`); None for a division by zero."""
    parts = _PLAIN_OPERATOR.split(text)
    total: Number = 0
    term = _plain_number(parts[0])
    for operator, operand in zip(parts[1::2], parts[2::2], strict=True):
        value = _plain_number(operand)
        if operator == "+" or operator == "-":
            total, term = total + term, (value if operator == "+" else -value)
        elif operator in "/÷":
            if not value:
                return None
            term = _divide(term, value)
        else:
            term = term * value
    return total + term


def _plain_number(text: str) -> Number:
    whole, _, decimals = text.partition(".")
    return _divide(int(whole + decimals), 10 ** len(decimals)) if decimals else int(whole)
