"""The types of answers (values, words, lists, tuples, sets, intervals, unions, matrices, equations) and their parser.

`read` returns all readings of a normalized text, the most likely first: `70,110` is a number or a list.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache

from cotkit.grading.formula_parser import MAX_LENGTH, ExpressionError, parse
from cotkit.grading.normalize import ROW, balanced_end, plain_thousands, strip_decoration, without_blanks
from cotkit.grading.units import Unit, split_unit

MAX_ITEMS = 60  # elements of a list or matrix
MAX_NESTING = 6  # of structures


@dataclass(frozen=True, slots=True)
class Scalar:
    """A formula, with its unit if one is written."""

    text: str
    unit: Unit | None = None


@dataclass(frozen=True, slots=True)
class Words:
    """Words, compared as words. `opaque` marks a formula that only computer algebra may be able to read."""

    text: str
    opaque: bool = False


@dataclass(frozen=True, slots=True)
class Sequence:
    """Items between `brackets`: "" a bare list, "()" a tuple or open interval, "[)" ..., "{}" a set, "cup" a union.

    "cap" is a chain of inequalities that must all hold, and "minus" a set without the elements of another one. `name` is
    the variable of an interval that was written as an inequality.
    """

    brackets: str
    items: tuple[Value, ...]
    name: str = ""


@dataclass(frozen=True, slots=True)
class Matrix:
    """Rows of entries, all of one length."""

    rows: tuple[tuple[Value, ...], ...]


@dataclass(frozen=True, slots=True)
class Relation:
    """`left op right`; op is one of = < > <= >= != ."""

    left: str
    op: str
    right: Value


@dataclass(frozen=True, slots=True)
class Code:
    """Digits that are compared as written: a ratio or a time (`8:34`), or a number in another base (`52_8`)."""

    parts: tuple[str, ...]
    kind: str


Value = Scalar | Words | Sequence | Matrix | Relation | Code

_OPEN_CLOSE = re.compile(r"\\[{}]|[()\[\]{}]|\\begin|\\end")
_OPS = re.compile(r"\\(?:le|ge|ne)(?![a-zA-Z])|[<>=]")
_OP_NAMES = {r"\le": "<=", r"\ge": ">=", r"\ne": "!=", "<": "<", ">": ">", "=": "="}
_MATRIX = re.compile(r"\\begin\s*\{([pbB]?matrix|array)\}(?:\s*\{[lcr| ]*\})?(.*)\\end\s*\{\1\}", re.DOTALL)
_SCALED = re.compile(r"([^&]*?)\s*(\\begin\s*\{.*\\end\s*\{\w+\})\s*([*/][^&]*|)", re.DOTALL)
_BASE = re.compile(
    r"(-?)(?:\\text\{)?\s*(?:\(\s*(?=[^()]*\)))?([0-9A-Za-z]*\d[0-9A-Za-z]*)\s*\)?\s*\}?\s*_\s*\{?\s*(\d{1,2})\s*\}?"
)
_COLON = re.compile(r"(\d+(?:\s*:\s*\d+)+)\s*(?:\\text\{)?\s*([ap])?\.?\s*(?:m\.?)?\s*\}?", re.IGNORECASE)
_CONDITION = re.compile(r"\\\{\s*[a-zA-Z]\s*(?:\\mid|\\vert|\||:)\s*(.*)\\\}")
_GROUPED = re.compile(r"[-$₹\s]*(?:\d{1,3}(?:,\d{3})+|\d{1,2}(?:,\d\d)+,\d{3})(?!\d)[^,]*")
_MIXED = re.compile(r"(?<![\d.^/}])(\d+)\s+(\d+)\s*/\s*(\d+)(?![\d!^])")
_NAME = re.compile(r"[a-zA-Z](?:_\{?\w+\}?|')?|\\[a-z]+|[A-Z]{2,3}|[a-zA-Z]\s*\([a-z]\)")
_REALS = re.compile(r"(?:\\text\{)?\s*(?:all |the )*real(?: numbers|s)\s*\}?", re.IGNORECASE)
_LEAD = re.compile(r"\\text\{[^{}]*\b(?:is|are|answer)\b[^{}]*\}\s*:?", re.IGNORECASE)
_CHOICE = re.compile(r"(?:\\text\s*\{\s*)?\(?\s*([A-J])\s*(?:[).:]\s*\}?|\}\s*\)?)\s*(\S.*)", re.DOTALL)
_LETTER = re.compile(r"(?:\\text\s*\{\s*)?\(?\s*(?:\\text\s*\{\s*)?\(?([A-Z])\)?\s*\}?\s*\)?\s*\}?")


@lru_cache(maxsize=4096)
def read(text: str, depth: int = 0) -> tuple[Value, ...]:
    """The readings of a text that `normalize` has cleaned, at least one."""
    text = _LEAD.sub("", text).strip() if text.startswith("\\text") else text
    if depth > MAX_NESTING or len(text) > MAX_LENGTH:
        return (Words(text, opaque=True),)
    if "," in text and _GROUPED.fullmatch(text):
        listed = _listed(text, depth) if "$" not in text and "₹" not in text else None
        return (_single(plain_thousands(text), depth), *([listed] if listed else []))
    listed = _listed(text, depth)
    if listed is None:
        return (_single(text, depth),)
    spaced = _listed(text, depth, blank_after_comma=True) if re.search(r"\d,\d{3}", text) else None
    return (listed, spaced) if spaced and spaced != listed else (listed,)


def letter_with_value(text: str) -> tuple[str, str] | None:
    """("B", "27") for a multiple-choice answer such as `(B) 27`, `B. 27`."""
    match = _CHOICE.fullmatch(text)
    return (match[1], match[2]) if match and text[match.end(1) : match.end(1) + 1] != "" else None


def choice_letter(text: str) -> str | None:
    r"""The letter of `C`, `(C)`, `\text{(C)}`."""
    match = _LETTER.fullmatch(text)
    return match[1] if match else None


def split_top(text: str, pattern: re.Pattern[str]) -> list[str]:
    """Splits `text` at the matches of `pattern` outside brackets. Brackets need not match: `(3,4]`."""
    parts, depth, start = [], 0, 0
    for token in re.finditer(rf"{_OPEN_CLOSE.pattern}|(?P<cut>{pattern.pattern})", text):
        if token["cut"] is None:
            depth += 1 if token[0][-1] in "([{n" and token[0] != r"\end" else -1
        elif depth <= 0:
            parts.append(text[start : token.start()])
            start = token.end()
    return [*parts, text[start:]]


def _listed(text: str, depth: int, blank_after_comma: bool = False) -> Sequence | None:
    """A bare list, None if `text` is one item."""
    cut = re.compile(r",\s+|;" if blank_after_comma else r"[,;]")
    parts = [part.strip() for part in split_top(text, cut)] if "," in text or ";" in text else []
    parts = [part for part in parts if part]
    if len(parts) < 2:
        return None
    if text.startswith(r"\text{") and all(c not in text[6:] for c in "{\\"):
        parts = [part.removeprefix(r"\text{").rstrip("}") for part in parts]
    items = [item for part in parts[:MAX_ITEMS] for item in _flat(_item(part, depth))]
    return Sequence("", _interval_items(tuple(items)))


def _item(text: str, depth: int) -> Value:
    return read(plain_thousands(text.strip()), depth + 1)[0]


def _flat(value: Value) -> tuple[Value, ...]:
    return value.items if isinstance(value, Sequence) and value.brackets == "" else (value,)


def _interval_items(items: tuple[Value, ...]) -> tuple[Value, ...]:
    """Drops the name of values of one variable (x = 1, x = -2; x_1 and x_2; x = 1, -2). x = 1, y = -2 keep theirs."""
    named = [item for item in items if isinstance(item, Relation) and item.op == "="]
    names = {re.sub(r"_\{?\d\}?$", "", item.left) for item in named}
    if len(names) == 1 and (len(named) == len(items) or named == [items[0]]):
        return tuple(item.right if isinstance(item, Relation) else item for item in items)
    return items


def _single(text: str, depth: int) -> Value:
    """Reads a text that is not a bare list."""
    text = strip_decoration(text)
    if text.startswith("{") and balanced_end(text, 1) == len(text):
        return read(text[1:-1].strip(), depth + 1)[0]
    if matrix := _MATRIX.fullmatch(text):
        return _matrix(matrix[2], depth)
    if (scaled := _SCALED.fullmatch(text)) and (product := _scaled_matrix(*scaled.groups(), depth)):
        return product
    if text in (r"\emptyset", r"\{\}", r"\{ \}"):
        return Sequence("{}", ())
    if _REALS.fullmatch(text):
        return read(r"(-\infty,\infty)", depth + 1)[0]
    if text.startswith(r"\text{") and text.find("}") == len(text) - 1:
        inner = text[6:-1].strip()
        if "," in inner and (listed := _listed(inner, depth)):
            return listed
        if not _BASE.fullmatch(inner) and not _COLON.fullmatch(inner):
            return Words(inner)
    for pattern, kind in ((_BASE, "base"), (_COLON, "colon")):
        if match := pattern.fullmatch(text):
            return Code(_code_parts(match, kind), kind)
    return _set_like(text, depth) or _relation(text, depth) or _plus_minus(text, depth) or _scalar(text)


def _code_parts(match: re.Match[str], kind: str) -> tuple[str, ...]:
    if kind == "base":
        return (match[1] + match[2].upper().lstrip("0"), match[3])
    return (*(part.strip().lstrip("0") for part in match[1].split(":")), (match[2] or "").lower())


def _matrix(body: str, depth: int) -> Value:
    lines = [line for line in re.sub(r"\\hline", "", body).split(ROW) if line.strip()]
    rows = tuple(tuple(_item(cell, depth) for cell in line.split("&")) for line in lines[:MAX_ITEMS])
    if not rows or len({len(row) for row in rows}) > 1 or len(rows[0]) > MAX_ITEMS:
        return Words(body, opaque=True)
    return Matrix(rows)


def _scaled_matrix(before: str, body: str, after: str, depth: int) -> Matrix | None:
    r"""A matrix with a factor before it or after it: `\frac{1}{2} M`, `-M`, `M / 2`."""
    match = _MATRIX.fullmatch(body)
    matrix = _matrix(match[2], depth) if match else None
    factor = before.removesuffix("*").strip()
    factor = f"{factor}1" if factor in ("", "-") else factor
    if not isinstance(matrix, Matrix) or not all(isinstance(cell, Scalar) for row in matrix.rows for cell in row):
        return None
    try:
        parse(f"({factor})*1{after}")
    except ExpressionError:
        return None
    return Matrix(tuple(tuple(Scalar(f"({factor})*({_text(cell)}){after}") for cell in row) for row in matrix.rows))


def _text(value: Value) -> str:
    assert isinstance(value, Scalar)
    return value.text


def _set_like(text: str, depth: int) -> Value | None:
    """A union, a bracketed sequence, a membership `x \\in S` or a condition `\\{x : x > 0\\}`."""
    if condition := _CONDITION.fullmatch(text):
        return read(condition[1].strip(), depth + 1)[0]
    if r"\in" in text and (match := re.match(r"\s*(\S{1,12}?)\s*\\in(?![a-zA-Z])\s*", text)):
        members = read(text[match.end() :], depth + 1)[0]
        return replace(members, name=match[1]) if isinstance(members, Sequence) else members
    if r"\setminus" in text or r"-\{" in text.replace(" ", ""):
        parts = split_top(text, re.compile(r"\\setminus(?![a-zA-Z])|-(?=\s*\\\{)"))
        if len(parts) == 2 and all(part.strip() for part in parts):
            return Sequence("minus", tuple(_item(part, depth) for part in parts))
    if r"\cup" in text and len(parts := split_top(text, re.compile(r"\\cup(?![a-zA-Z])"))) > 1:
        return Sequence("cup", tuple(_item(part, depth) for part in parts[:MAX_ITEMS]))
    return _bracketed(text, depth)


def _bracketed(text: str, depth: int) -> Value | None:
    opening, closing = (r"\{", r"\}") if text.startswith(r"\{") else (text[:1], text[-1:])
    if opening not in ("(", "[", r"\{") or closing not in (")", "]", r"\}") or not text.endswith(closing):
        return None
    inner = text[len(opening) : len(text) - len(closing)]
    if _closes_early(inner):
        return None
    brackets = opening[-1] + closing[-1]
    parts = [part for part in split_top(inner, re.compile(r"[,;]")) if part.strip()]
    if len(parts) < 2 and brackets != "{}":
        return read(inner, depth + 1)[0] if inner.strip() and brackets in ("()", "[]") else None
    items = [item for part in parts[:MAX_ITEMS] for item in _flat(read(part.strip(), depth + 1)[0])]
    return Sequence(brackets, tuple(items))


def _closes_early(inner: str) -> bool:
    """Does the first bracket close inside, as in `(a+b)(c+d)`?"""
    level = 0
    for token in _OPEN_CLOSE.finditer(inner):
        level += 1 if token[0][-1] in "([{n" and token[0] != r"\end" else -1
        if level < 0:
            return True
    return False


def _relation(text: str, depth: int) -> Value | None:
    """An equation, an inequality, or the interval that inequalities describe."""
    if not _OPS.search(text):
        return None
    sides = [side.strip() for side in split_top(text, _OPS)]
    ops = [_OP_NAMES[match[0]] for match in _OPS.finditer(text)]
    if len(sides) < 2 or len(ops) != len(sides) - 1 or not all(sides):
        return Words(text, opaque=True)
    if interval := _interval(sides, ops, depth):
        return interval
    if len(sides) > 2 and set(ops) != {"="}:
        parts = zip(sides, ops, sides[1:], strict=False)
        return Sequence("cap", tuple(Relation(without_blanks(a), op, _item(b, depth)) for a, op, b in parts))
    return Relation(without_blanks(sides[0]), ops[0], read(sides[-1], depth + 1)[0])


def _interval(sides: list[str], ops: list[str], depth: int) -> Value | None:
    """`a < x <= b`, `x > a`, `a >= x` as an interval, if x is a name and the ends are not."""
    names = [bool(_NAME.fullmatch(side)) and side not in ("e", "i", r"\pi", r"\infty") for side in sides]
    if not set(ops) <= {"<", "<="} and not set(ops) <= {">", ">="}:
        return None
    if ops[0][0] == ">":
        sides, ops, names = sides[::-1], ops[::-1], names[::-1]
    brackets = {"<": ("(", ")"), "<=": ("[", "]")}
    ends = [_item(side, depth) for side in sides]
    left, right = brackets[ops[0].replace(">", "<")][0], brackets[ops[-1].replace(">", "<")][1]
    if names == [False, True, False]:
        return Sequence(left + right, (ends[0], ends[2]), sides[1])
    if names == [False, True] and _is_constant(sides[0]):
        return Sequence(left + ")", (ends[0], Scalar(r"\infty")), sides[1])
    if names == [True, False] and _is_constant(sides[1]):
        return Sequence("(" + right, (Scalar(r"-\infty"), ends[1]), sides[0])
    return None


def _is_constant(text: str) -> bool:
    return not re.search(r"[a-zA-Z]", re.sub(r"\\[a-zA-Z]+", "", text))


def _plus_minus(text: str, depth: int) -> Value | None:
    """`a \\pm b` as the list of its two values. Several signs change together."""
    if not re.search(r"\\[pm][mp](?![a-zA-Z])", text):
        return None
    values = []
    for plus, minus in (("+", "-"), ("-", "+")):
        chosen = re.sub(r"\\pm(?![a-zA-Z])", plus, re.sub(r"\\mp(?![a-zA-Z])", minus, text))
        values.append(read(chosen.strip().removeprefix("+"), depth + 1)[0])
    return Sequence("", tuple(values))


def _scalar(text: str) -> Value:
    """A formula with its unit, else words."""
    core, unit = split_unit(_MIXED.sub(r"\1\\frac{\2}{\3}", plain_thousands(text)))
    if core.replace(" ", "") in (r"\infty", r"-\infty"):
        return Scalar(core.replace(" ", ""))
    if re.fullmatch(r"[a-zA-Z]{3,}", core) and core.lower() != "pi":
        return Words(core)
    try:
        parse(core)
    except ExpressionError:
        plain = re.sub(r"\\text\s*\{([^{}]*)\}", r"\1", text)
        return Words(plain, opaque=bool(re.search(r"[\\^_=+*/|]|\d", plain)))
    return Scalar(core, unit)
