r"""Repairs LaTeX commands that a JSON or Python reader took for escapes, and finds the control characters that stay.

A file that holds ``"\frac{1}{2}"`` with one backslash is read as a form feed and ``rac{1}{2}``. The command is restored
where no other reading is possible. Form feeds, backspaces, vertical tabs and bells never belong into a problem, so the
letters after them decide; they must be the rest of a command to its last letter. Tabs, newlines and carriage returns
are mostly white space. They are repaired only if the letters after them are no word and no variable.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

# Character -> the escape's letter, and the commands that begin with it.
_NEVER_WHITE = {
    "\a": "alpha amalg angle approx arccos arcsin arctan arg ast asymp",
    "\b": "backslash bar because begin beta bf big Big bigcap bigcup bigg biggl biggr bigl bigr binom blacksquare bmod"
    " boldsymbol bot boxed bullet",
    "\f": "fbox forall frac",
    "\v": "varepsilon varnothing varphi varpi varrho varsigma vartheta vdots vec vee vert",
}
_WHITE = {
    "\t": "tbinom tfrac therefore theta tilde times triangle",
    "\r": "rho right rightarrow rightharpoonup rvert",
    "\n": "nabla notin",
}
# Rests that are certain only with what follows: a word or variable otherwise.
_WHITE_BEFORE = {
    "\t": (r"ext(?:bf|it|normal|rm|sf|tt)?(?=\s*\{)", r"au(?=[_^\\{}$=])", r"anh?(?=[\^\\{(])"),
    "\r": (r"angle(?=\s*[,$.=)])", r"(?:ceil|floor)(?=\s*[$=+\-^)\\])"),
    "\n": (r"eq(?=\s*(?:-?\d|[\\{]|[a-zA-Z]\b))",),
}
_LETTERS = {"\a": "a", "\b": "b", "\f": "f", "\v": "v", "\t": "t", "\r": "r", "\n": "n"}


def _alternatives() -> Iterable[str]:
    for table in (_NEVER_WHITE, _WHITE):
        for character, commands in table.items():
            rests = "|".join(command[1:] for command in sorted(commands.split(), key=len, reverse=True))
            yield f"{re.escape(character)}(?=(?:{rests})(?![a-zA-Z]))"
    for character, patterns in _WHITE_BEFORE.items():
        yield f"{re.escape(character)}(?={'|'.join(patterns)})"


_EATEN = re.compile("|".join(_alternatives()))
_MATH = re.compile(r"(?<!\\)\$\$?|\\[()\[\]]")

# C0 and C1 control characters without tab, newline and U+0085 (next line). A carriage return is white space unless a
# letter follows: then it may have been the beginning of a command.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f]|\r(?=[a-zA-Z])")


def repaired(text: str, formula: bool = False) -> str:
    r"""The text with its certain damage repaired: form feed + ``rac{1}{2}`` becomes ``\frac{1}{2}``.

    Args:
        formula: the whole text is a formula without delimiters, as answers are.
    """
    while (better := _EATEN.sub(lambda match: _restored(match, formula), text)) != text:
        text = better  # a restored command may make the one before it certain
    return text


def _restored(match: re.Match[str], formula: bool) -> str:
    """The backslash and letter that became a control character, or that character if this is not certain."""
    character = match[0]
    is_inequality = character == "\n" and match.string.startswith("eq", match.end())
    if is_inequality and not formula and not _in_formula(match.string, match.start()):
        return character
    return "\\" + _LETTERS[character]


def _in_formula(text: str, position: int) -> bool:
    """Whether a formula that began before `position` is still open."""
    opened = ""
    for mark in _MATH.findall(text, 0, position):
        if mark in ("$", "$$"):
            opened = "" if opened else mark
        else:
            opened = mark if mark in (r"\(", r"\[") else ""
    return bool(opened)


def control_character(text: str) -> str | None:
    """What to say about the first control character of a text; None if it has none. White space is none."""
    found = _CONTROL.search(text)
    if found is None:
        return None
    after = text[found.end() : found.end() + 12]
    return f"the control character U+{ord(found[0]):04X} before {after!r}"
