"""Other ways to read an equation that is false as written. If one of them is true, people mean that one.

`14 ÷ 1/2 = 28`, `4 dozen + 2 = 50`, `3 boxes of 12 + 4 = 40` and `1.200 + 300 = 1.500` are true in one reading.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple

from cotkit.core.number_words import NUMBER_WORDS
from cotkit.equations.arithmetic import OPERATORS, Number, Reader, Side, Token, role
from cotkit.equations.scale_words import SCALES, scale_of

# Relative and absolute error allowed: sums of floats printed with 16 digits (8.499999999999998) are no wrong steps.
NOISE, LARGEST_NOISE = Fraction(1, 10**12), Fraction(1, 10**6)

_DOT_THOUSANDS = re.compile(r"[0-9]{1,3}(?:\.[0-9]{3})+")
# The last word before an expression and how it joins an earlier quantity to it: the quantity multiplies it (3 boxes of),
# is added to or subtracted from it (5 more than), divides or is divided by it, or stands for its first operand (90 litres in).
_JOINS = dict.fromkeys("of with on at as times containing holding".split(), "*")
_JOINS |= dict.fromkeys("and plus to from than minus".split(), "+") | {"into": "/", "by": "/+"}
_JOINS |= dict.fromkeys("in for per over".split(), "1")
_JOIN = re.compile(
    r"\b([a-z]+)(?: (?:the|a|an|his|her|their|its|those|these|another|all|every|each))*[\s}]*$", re.IGNORECASE
)
_TIMES_AS = re.compile(r"\btimes as (?:many|much) as$")  # counts as one word
_LATER_JOIN = re.compile(r"(?:^|\s)(of|than|with|at)$", re.IGNORECASE)
_QUANTITY_WORDS = {word: Fraction(number) for number, word in enumerate(NUMBER_WORDS) if number}
_QUANTITY_WORDS |= {"twice": Fraction(2), "double": Fraction(2), "thrice": Fraction(3), "triple": Fraction(3)} | SCALES
_MOST_QUANTITIES = 4  # that are tried
_MOST_LATER = 3  # words between an expression and a later quantity
_MOST_TOKENS = 40  # that are searched for them
_LONGEST_PHRASE = 60  # characters
_MOST_BETWEEN = 3  # words between a quantity and the expression that it is joined to


class EquationLine(NamedTuple):
    """One line, or the inside of one calculator mark, and how to read it."""

    text: str
    reader: Reader
    mark: bool  # it is the inside of a calculator mark
    continues: bool  # its expression may continue in the next line
    following: str  # the next line
    context: str  # the whole reasoning text


def agree(left: Side, right: Side) -> bool:
    """Whether the values are equal or one side is the other one rounded."""
    return same(left.value, right.value) or _rounds_to(left.value, right) or _rounds_to(right.value, left)


def same(a: Number, b: Number) -> bool:
    """Whether two values are equal but for the noise of floats."""
    return a == b or abs(a - b) <= min(LARGEST_NOISE, NOISE * max(abs(a), abs(b)))


def _rounds_to(exact: Number, written: Side) -> bool:
    """Whether `written`, one number with d > 0 decimals, is `exact` rounded or truncated to d decimals."""
    if written.operators or not written.decimals or exact == int(exact):
        return False
    gap, unit = abs(exact - written.value), Fraction(1, 10**written.decimals)
    return 2 * gap <= unit or (gap < unit and abs(written.value) < abs(exact))


def true_in_another_reading(line: EquationLine, left: Side, right: Side) -> bool:
    """Whether another common reading makes the equation true."""
    if any(agree(*sides) for sides in _other_readings(line, left, right)):
        return True
    a, b = left.value, right.value
    return any(same(value, b) for value in _with_earlier(line, left)) or any(
        same(value, a) for value in _with_later(line, right)
    )


def products_with_earlier(reader: Reader, side: Side) -> Iterator[Number]:
    """A side's value times a quantity that is joined to it: half of 46, 3 boxes of 12."""
    if side.first and "*" in _joins(reader, side.first):
        yield from (quantity * side.value for quantity in _quantities_before(reader, side.first))


def is_running_total(line: EquationLine, left: Side, right: Side) -> bool:
    """Whether the right side starts with the left side's value and goes on: 12 - 3 = 9 × 5 of 12 - 3 = 9 × 5 = 45."""
    reader = line.reader
    if not left.operators:
        return False
    after = reader.kinds[right.after]
    if after != "eq" and not (after == "end" and line.following.lstrip(" \t&$").startswith("=")):
        return False
    for at in _operators(reader, right):
        start = _part(reader, right.first, at)
        if start and (same(left.value, start.value) or (start.decimals > 1 and _rounds_to(left.value, start))):
            return True
    return False


def _part(reader: Reader, first: int, end: int) -> Side | None:
    """What tokens `first` to `end - 1` say, if they are one expression. Its token numbers count from `first`."""
    side = Reader(reader.tokens[first:end], reader.latex).side(0)
    return side if side and side.after == end - first else None


def _operators(reader: Reader, side: Side, among: str = "+-*/") -> Iterator[int]:
    """The positions of the operators of a side that are outside brackets."""
    depth = 0
    for at in range(side.first, side.last + 1):
        kind, text = reader.kinds[at], reader.tokens[at].text
        depth += (kind == "lp") - (kind == "rp")
        if kind == "op" and depth == 0 and at > side.first and OPERATORS.get(text, text) in among:
            yield at


def _other_readings(line: EquationLine, left: Side, right: Side) -> Iterator[tuple[Side, Side]]:
    """Both sides under every other reading of single tokens: percent signs, `a / b/c`, `dozen`, a leading dash, the end."""
    tokens = line.reader.tokens[left.first : right.after]  # only these: a line may hold many false equations
    kinds, latex = [token.kind for token in tokens], line.reader.latex
    equals, first, ends = left.after - left.first, right.first - left.first, [len(tokens)]
    if line.reader.kinds[right.after] != "eq":
        inside = (at for at in range(first + 1, len(tokens)) if kinds[at] in ("word", "of", "op"))
        apart = (at for at in inside if tokens[at].text not in "+*/^²³×·" and tokens[at - 1].end < tokens[at].start)
        ends += list(apart)[:1]
    variants: list[dict[str, int]] = [{}, {"fractions": True}] + [{"percent": 1}] * ("pct" in kinds)
    if any(token.kind == "word" and scale_of(token.text) != 1 for token in tokens):
        variants.append({"scales": True})
    lefts, rights = [], []
    for read in (tokens, *_without_dots(tokens)):
        for variant in variants:
            reader = Reader(read[:equals], latex, **variant)
            lefts += [s for at in range(1 + (kinds[0] == "op")) if (s := reader.side(at)) and s.after == equals]
            for end in ends:
                side = Reader(read[:end], latex, **variant).side(first)
                rights += [side] if side and side.after == end else []
    yield from ((a, b) for a in lefts for b in rights)


def _without_dots(tokens: list[Token]) -> Iterator[list[Token]]:
    """The tokens with 1.200 read as 1200, if at least two numbers are of this form."""
    dotted = [token.kind == "num" and _DOT_THOUSANDS.fullmatch(token.text) is not None for token in tokens]
    if sum(dotted) > 1:
        pairs = zip(tokens, dotted, strict=True)
        yield [token._replace(text=token.text.replace(".", "")) if dots else token for token, dots in pairs]


def _with_earlier(line: EquationLine, left: Side) -> Iterator[Number]:
    """The left side's values if a quantity before it in the same clause belongs to it: 3 boxes of 12 + 4, 2 rooms (6x6)."""
    reader, value = line.reader, left.value
    joins = _joins(reader, left.first) if left.first else ""
    if not joins:
        return
    term, operand = _until(reader, left, "+-"), _until(reader, left, "+-*/")
    if term is None or not operand:
        return
    # In place of the first operand: only a bracket, or a divisor of itself (in 3 hours / 3 hours), is no quantity of its own.
    replaces = "1" in joins and value != operand and (term == 1 or reader.kinds[left.first] == "lp")
    for quantity in _quantities_before(reader, left.first):
        if "+" in joins:
            yield from (quantity + value, quantity - value, value - quantity)
        if "/" in joins and quantity and value:
            yield from (value / Fraction(quantity), quantity / Fraction(value))
        if "*" in joins:  # the complete expression or its first operand
            yield from (quantity * value, value - term + term * quantity)
        if replaces:
            yield value - term + term * quantity / Fraction(operand)


def _joins(reader: Reader, first: int) -> str:
    """How the token before `first` joins an earlier quantity to the expression there; see `_JOINS`."""
    kind, text = reader.kinds[first - 1], reader.tokens[first - 1].text
    if kind == "of":
        return "*"
    if kind != "word":
        return ""
    if reader.kinds[first] == "lp":
        return "*1" if role(text, False, reader.latex) == "unit" else ""
    word = _JOIN.search(text[-_LONGEST_PHRASE:])
    name = word[1].lower() if word else ""
    return "*" if name in _QUANTITY_WORDS else _JOINS.get(name, "")


def _until(reader: Reader, side: Side, among: str) -> Number | None:
    """The value of a side up to its first operator of `among`."""
    part = _part(reader, side.first, next(_operators(reader, side, among), side.after))
    return part.value if part else None


def _quantities_before(reader: Reader, first: int) -> list[Number]:
    """The quantities, in digits or in words, that at most `_MOST_BETWEEN` words part from token `first`."""
    found: list[Number] = []
    words, end = 0, first
    for at in range(first - 1, max(-1, first - _MOST_TOKENS), -1):
        kind, text = reader.kinds[at], reader.tokens[at].text
        if kind in ("stop", "eq", "other", "unknown") or len(found) >= _MOST_QUANTITIES or words > _MOST_BETWEEN:
            break
        if kind in ("num", "vulgar"):
            side = Reader(reader.tokens[at:first], reader.latex).side(0)
            after = at + side.after if side else at
            end = end if found else after
            if side and after == end:  # 20 + 10 of adds 20 + 10 cards to the
                found.append(side.value)
        elif kind in ("word", "of") and at < end:
            phrase = _TIMES_AS.sub("as", text[-_LONGEST_PHRASE:].lower())
            here = re.findall(r"[a-z]+", phrase)[::-1]
            numbers = [_QUANTITY_WORDS[word] for word in here[: _MOST_BETWEEN + 1 - words] if word in _QUANTITY_WORDS]
            if numbers and not found:
                return [numbers[0]]
            words += 0 if found else len(here)
    return found


def _with_later(line: EquationLine, right: Side) -> Iterator[Number]:
    """The right side's values if the next quantity belongs to it: 24 + 12 = 3 packs of 12, 12 + 8 = 5 more than 15."""
    reader, at, value = line.reader, right.after, right.value
    while reader.kinds[at] in ("word", "of") and at < right.after + 2:
        at += 1
    phrase = " ".join(token.text for token in reader.tokens[right.last + 1 : at])
    join = _LATER_JOIN.search(phrase)
    later = reader.side(at) if join and phrase.count(" ") < _MOST_LATER else None
    if later and join:
        yield from (value + later.value, later.value - value) if join[1] == "than" else (value * later.value,)
