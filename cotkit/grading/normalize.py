"""Cleans the text of answers: decoration, typography, LaTeX spelling."""

from __future__ import annotations

import re

from cotkit.grading.units import named_unit

MAX_CLEANED = 2000  # characters; a longer text is no answer, and removing its layers takes quadratic time

# Typographic characters, and what the comparison reads in their place.
_COMMANDS = (
    r"× \times ⋅ \cdot · \cdot ÷ \div π \pi ∞ \infty √ \sqrt ° ^\circ º ^\circ θ \theta α \alpha β \beta ≤ \le ≥ \ge "
    r"≠ \ne ∪ \cup ∩ \cap ∈ \in ± \pm ∓ \mp ≈ \approx ∅ \emptyset ∖ \setminus … \ldots"
).split()
_CHARACTERS = {
    **{character: f"{command} " for character, command in zip(_COMMANDS[::2], _COMMANDS[1::2], strict=True)},
    "℃": r"^\circ C",
    "℉": r"^\circ F",
    **dict.fromkeys("−–—‐‑﹣－", "-"),
    **dict(zip("＋＝∗⁄∕，％（）：＄０１２３４５６７８９‘’“”", "+=*//,%():$0123456789''\"\"", strict=True)),
    **dict.fromkeys("\u00a0\u2007\u2009\u202f\u3000", " "),  # spaces of fixed width
    **dict.fromkeys("\u200b\ufeff\u2060", ""),  # of no width
    **dict(
        zip(
            "²³½⅓⅔¼¾", "^{2} ^{3} \\frac{1}{2} \\frac{1}{3} \\frac{2}{3} \\frac{1}{4} \\frac{3}{4}".split(), strict=True
        )
    ),
}
_TABLE = str.maketrans(_CHARACTERS)

_THOUSANDS = re.compile(
    r"(?<![\d.])(?:\d{1,3}(?:(?:,|\{,\}|,?\\[!,;: ]|,?\s|['_])\s?\d{3})+|\d{1,2}(?:,\d\d)+,\d{3}(?!,))(?!\d)"
    r"(?!\s?\\?frac)(?:(?<!\s\d{3})|(?!\s*/\s*\d))"  # `5 121/144` is a mixed number
)
_MARKS = re.compile(r"\{,\}|[,\s'_]|\\[!,;: ]")
_WRAPPERS = tuple(zip(r"""** __ $$ $ ` \( \[ " ' *""".split(), r"""** __ $$ $ ` \) \] " ' *""".split(), strict=True))
_BOX = re.compile(r"\\(?:boxed|fbox|framebox)\s*\{")
_STOPS = re.compile(r"(?:[\s.;:,~]|(?<!\\)\\(?:[\s,;:>!\\]|q?quad(?![a-zA-Z])|$))+$")
_CONTINUES = re.compile(r"(?:\.\d+|,)\s*\.{3}$")  # `0.333...`, `1, 2, ...`


def unify_characters(text: str) -> str:
    """`text` with ASCII or LaTeX for typographic characters (U+2212, full-width digits, pi, roots, thin spaces)."""
    return text if text.isascii() else text.translate(_TABLE)


def balanced_end(text: str, start: int) -> int | None:
    """The offset after the brace that closes the one at `text[start - 1]`; None if it is never closed."""
    depth, i = 1, start
    while i < len(text):
        char = text[i]
        if char == "\\":
            i += 1
        elif char == "{":
            depth += 1
        elif char == "}":
            depth -= 1
            if depth == 0:
                return i + 1
        i += 1
    return None


def strip_decoration(text: str) -> str:
    """An answer without bold, code ticks, delimiters, quotes or a box around it, and without a final stop."""
    if text.isalnum() and text.isascii():
        return text
    text, before = unify_characters(text).strip(), None
    if len(text) > MAX_CLEANED:
        return text
    while text != before:
        before = text
        text = _strip_stops(text)
        text = text.removeprefix("**").removesuffix("**") if text.count("**") == 1 else text
        for left, right in _WRAPPERS:
            if len(text) > len(left) + len(right) and text.startswith(left) and text.endswith(right):
                inner = text[len(left) : -len(right)]
                # `$2$ and $3$` is not one delimited text.
                if left.strip("$") and left[0] != "\\" or left not in inner and not inner.endswith("\\"):
                    text = inner.strip()
        if (box := _BOX.match(text)) and balanced_end(text, box.end()) == len(text):
            text = text[box.end() : -1].strip()
    return text


def _strip_stops(text: str) -> str:
    """`text` without trailing stops, blanks and LaTeX spacing."""
    match = _STOPS.search(text[-40:])
    if match is None or _CONTINUES.search(text[-40:]):
        return text
    return text[: len(text) - len(match[0])].rstrip()


_GROUPED_NUMBER = re.compile(r"-?\$?(?:\d+|\d{1,3}(?:,\d{3})+|\d{1,2}(?:,\d\d)+,\d{3})(?:\.\d+)?", re.ASCII)
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?", re.ASCII)


def plain_number(text: str, grouped: bool) -> str | None:
    """`text` if it is a number and nothing else. With `grouped`, a dollar sign and thousands commas are removed."""
    if (_GROUPED_NUMBER if grouped else _NUMBER).fullmatch(text) is None:
        return None
    return text.replace("$", "").replace(",", "") if grouped else text


def same_number(left: str, right: str) -> bool:
    """Are two results of `plain_number` the same value? Compares digits, so that no length matters."""
    return left == right or _digits(left) == _digits(right)


def _digits(number: str) -> tuple[bool, str, str]:
    whole, _, part = number.lstrip("-").partition(".")
    whole, part = whole.lstrip("0"), part.rstrip("0")
    return number.startswith("-") and bool(whole or part), whole, part


def without_blanks(text: str) -> str:
    """`text` without blanks, except between two letters or digits: `2 3` and `two lines` stay."""
    return re.sub(r"(?<!\w)\s+|\s+(?!\w)", "", text)


def plain_thousands(text: str) -> str:
    r"""Removes thousands marks from numbers: `1,234`, `1{,}234`, `1,\!234`, `1\,234`, `1 234`, `1'234`, `1_234` -> `1234`."""
    return _THOUSANDS.sub(lambda m: _MARKS.sub("", m[0]), text)


_FONT = re.compile(r"\\(?:mathrm|mathbf|mathit|mathsf|boldsymbol|bm|mathcal|operatorname\*?|bold)\s*\{([^{}]*)\}")
_TEXT = re.compile(r"\\(?:mbox|textbf|textnormal|textrm|textit|textup|emph|text)\s*(?=\{)")
_UPRIGHT = re.compile(r"(?<=[\d}) ,;:/])\\mathrm\s*\{[~\s]*([^{}]*?)[~\s]*\}")
_QUOTIENT = re.compile(
    r"\\text\s*\{\s*([a-zA-Z]+)\s*\}\s*/\s*\\text\s*\{\s*([a-zA-Z]+)\s*\}"
    r"|\\[dt]?frac\s*\{\s*\\text\s*\{([^{}]*)\}\s*\}\s*\{\s*\\text\s*\{([^{}]*)\}(?:\s*\^\s*\{?(\d)\}?)?\s*\}"
)
# Commands that only decorate, with their colors and options. What they decorate stays behind, in its braces.
_COLORS = re.compile(
    r"\\(?:fcolorbox\s*\{[^{}]*\}|(?:text|math)?color(?:box)?(?:\s*\[[^\]]*\])?)\s*\{[^{}]*\}|\\bbox\s*\[[^\]]*\]"
    r"|\\(?:underline|uline)(?![a-zA-Z])"
)
_DELIMITER = re.compile(r"(?<!\\)\$")
_NOTHING = re.compile(
    r"\\(?:left|right|[bB]igg?[lr]?)(?![a-zA-Z])|\\!"
    r"|\\(?:displaystyle|textstyle|limits|bf|rm|it|small|large)(?![a-zA-Z])"
    r"|\\h?phantom\s*(?:\{[^{}]*\})?"
)
_MARKED = re.compile(r"(?<=\d)(?:\{,\}|,\s?\\[!,;:]\s?|\\[!,;:]\s?)(?=\d{3}(?!\d))")
_CIRC = re.compile(r"\^\s*\{?\s*\\(?:circ|degree)(?![a-zA-Z])\s*\}?|\\degree(?![a-zA-Z])")
_SPACE = re.compile(r"\\[,;:> ]|\\q?quad(?![a-zA-Z])|~|\s+")
ROW = "\x02"  # the row break of a matrix in normalized text
_JOINED = re.compile(
    r",?\s*\\text\{\s*,?\s*(?:and|or)\s*\}|(?<![a-zA-Z\\])\s*,?\s*\b(?:and|or)\b(?![a-zA-Z])|\\(?:lor|vee)(?![a-zA-Z])"
)
_DOTS = re.compile(r"\\(?:[lch]dots|dots[cbmio]?)(?![a-zA-Z])|\.{3,}")
_RESPELLED = (
    (re.compile(r"\\[dtc]frac(?![a-zA-Z])"), r"\\frac"),
    (re.compile(r"\\[dt]binom(?![a-zA-Z])"), r"\\binom"),
    (re.compile(r"\\(?:leqslant|leqq|leq)(?![a-zA-Z])|<="), r"\\le "),
    (re.compile(r"\\(?:geqslant|geqq|geq)(?![a-zA-Z])|>="), r"\\ge "),
    (re.compile(r"\\lt(?![a-zA-Z])"), "<"),
    (re.compile(r"\\gt(?![a-zA-Z])"), ">"),
    (re.compile(r"\\(?:neq)(?![a-zA-Z])|!="), r"\\ne "),
    (re.compile(r"\\(?:lbrace|lbrack)(?![a-zA-Z])"), r"\\{"),
    (re.compile(r"\\rbrace(?![a-zA-Z])"), r"\\}"),
    (re.compile(r"\\langle(?![a-zA-Z])"), "("),
    (re.compile(r"\\rangle(?![a-zA-Z])"), ")"),
    (re.compile(r"\\[lr]?vert(?![a-zA-Z])|\\\|"), "|"),
    (re.compile(r"\\(?:times|cdot|ast)(?![a-zA-Z])|\*\*(?=\s*\S)"), lambda m: "^" if m[0] == "**" else "*"),
    (re.compile(r"\\div(?![a-zA-Z])"), "/"),
    (re.compile(r"\\(?:colon|mathbin:)(?![a-zA-Z])"), ":"),
    (re.compile(r"\\(?:simeq|thickapprox)(?![a-zA-Z])"), r"\\approx "),
    (re.compile(r"\\(?:varnothing)(?![a-zA-Z])"), r"\\emptyset "),
    (re.compile(r"\\(?:smallsetminus|backslash)(?![a-zA-Z])"), r"\\setminus "),
    (_DOTS, r"\\ldots "),
    (re.compile(r"\\mathbb\s*\{?R\}?"), r"(-\\infty,\\infty)"),
    (re.compile(r"\+\s*\\infty"), r"\\infty"),
    (re.compile(r"\{([^{}]+)\\choose([^{}]+)\}"), r"\\binom{\1}{\2}"),
    (re.compile(r"(?<=\d)\s*(?:\\text\s*\{\s*to\s*\}|to)\s*(?=\d)"), ":"),
)
_ANY_RESPELLED = re.compile("|".join(pattern.pattern for pattern, _ in _RESPELLED))


_EXPONENT = re.compile(r"(?<![\w.}])(\d+\.?\d*|\.\d+)[eE]([-+]?\d{1,4})(?!\w)")
_REPEATING = re.compile(
    r"(\d*)\.(\d{0,20}?)(?:\\(?:overline|bar)\s*\{(\d{1,20})\}"
    r"|\\dot\s*\{?(\d)\}?(?:(\d{0,20})\\dot\s*\{?(\d)\}?)?"
    r"|(?<=\.)\((\d{1,20})\))"
)
# `0.1666...` repeats what it shows at least twice, and a single digit three times.
_CONTINUED = re.compile(r"(?<![\d.])(\d*)\.(\d{0,20}?)((\d)\4\4|(\d{2,20}?)\5)((?:\4|\5){0,20})\s*\\ldots(?![a-zA-Z])")
_SHORTENED = re.compile(r"(\.\d+)\s*\\ldots(?![a-zA-Z])")


def _repeating(match: re.Match[str]) -> str:
    r"""`0.1\overline{6}` as a fraction."""
    cycle = match[3] or match[7] or match[4] + (match[5] or "") + (match[6] or "")
    return _fraction(match[1], match[2], cycle)


def _fraction(whole: str, fixed: str, cycle: str) -> str:
    """A repeating decimal: all digits minus the fixed ones, over nines and zeros."""
    difference = int(whole + fixed + cycle) - int(whole + fixed or 0)
    return rf"\frac{{{difference}}}{{{'9' * len(cycle)}{'0' * len(fixed)}}}"


def normalize(text: str) -> str:
    r"""An answer in one spelling of LaTeX, for example `\frac` for `\dfrac`, `*` for `\times`, a comma for "and" or "or".

    Font, size and spacing commands are removed.
    """
    text = strip_decoration(text)
    if text.isdecimal():
        return text
    if text.count("$") - text.count(r"\$") > 1:
        text = _DELIMITER.sub("", text)
    text = text.replace(r"\%", "%").replace(r"\$", "$")
    if "\\" in text or "~" in text:
        text = _TEXT.sub(r"\\text", _UPRIGHT.sub(_upright, _COLORS.sub("", text)).replace("\\\\", ROW))
        text = _MARKED.sub("", _FONT.sub(r"\1", text))
        text = _CIRC.sub(r"^\\circ ", _NOTHING.sub(" ", text).replace(r"\:", " "))
        text = _QUOTIENT.sub(_quotient, text)
    if "." in text:
        text = _CONTINUED.sub(lambda m: _fraction(m[1], m[2], m[4] or m[5]), _DOTS.sub(r"\\ldots ", text))
        text = _SHORTENED.sub(r"\1", _REPEATING.sub(_repeating, text))
    text = _JOINED.sub(",", _EXPONENT.sub(r"\1*10^{\2}", text))
    if _ANY_RESPELLED.search(text):
        for pattern, spelling in _RESPELLED:
            text = pattern.sub(spelling, text)
    text = strip_decoration(_SPACE.sub(" ", text))
    while text.startswith("{") and balanced_end(text, 1) == len(text):
        text = text[1:-1].strip()
    return text


def _upright(match: re.Match[str]) -> str:
    """An upright unit as text; other upright letters are variables."""
    return rf"\text{{{match[1]}}}" if named_unit(match[1]) else match[0]


def _quotient(match: re.Match[str]) -> str:
    """A quotient of two units as one unit."""
    top, bottom = match[1] or match[3], match[2] or match[4]
    return rf"\text{{{top}/{bottom}{'^' + match[5] if match[5] else ''}}}"
