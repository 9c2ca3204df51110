r"""Letters of multiple-choice answers: `B`, `(b)`, `B) 27`, and the sentences that name one.

A small letter names an option only where it stands alone or in brackets, since `a` is a word.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

LETTERS = "A-J"

_DECORATION = r"[\s*_`$]*"
_NAMED = rf"(?:(?i:option|choice|letter|answer){_DECORATION}:?{_DECORATION})?"
_LETTER = rf"(?:\({_DECORATION}([{LETTERS}a-j]){_DECORATION}\)|([{LETTERS}]))"
# Behind a letter that answers: the end of a sentence, the option's text, or a word that goes on. `A dog` is no answer.
_ENDS = r"(?=[\s*_`$]*(?:[).,;:!?\n]|$|(?:because|since|as|which|with|is|for)\b))"
_ALONE = re.compile(rf"{_DECORATION}{_NAMED}(?:\(?([{LETTERS}a-j])\)?[.:)]?|([{LETTERS}])){_DECORATION}")
_WITH_TEXT = re.compile(rf"{_DECORATION}{_NAMED}(?:\(([{LETTERS}a-j])\)|([{LETTERS}])[).:])\s*\S.*", re.DOTALL)
_SAID = re.compile(
    rf"(?:(?i:answer|option|choice|letter|solution)\s+(?i:is|would\s+be|must\s+be|will\s+be)"
    rf"|(?i:i(?:\s+would|'d)?\s+(?:choose|pick|select)|so\s+i\s+(?:choose|pick|select)))"
    rf":?{_DECORATION}{_NAMED}{_LETTER}{_ENDS}"
    rf"|(?:(?i:option|choice|answer)\s+)?(?<![A-Za-z]){_LETTER}{_DECORATION}(?i:\s+is\s+(?:the\s+)?"
    r"(?:correct|right|best)(?:\s+(?:answer|option|choice))?)\b(?!\s+(?i:if|only|unless))"
)
_TEXT = re.compile(r"\\(?:text|textbf|mathrm|mathbf|textit)\s*\{\s*([^{}]*)\}")


def option_letter(text: str) -> str | None:
    r"""The capital letter of an answer that is an option: `C`, `(c)`, `Option C`, `\text{(C)}`, `C) 27`; else None."""
    plain = _TEXT.sub(r"\1", text).strip().removesuffix("\\")
    match = _ALONE.fullmatch(plain) or _WITH_TEXT.fullmatch(plain)
    return _letter_of(match) if match else None


def stated_options(text: str) -> Iterator[tuple[str, int, int]]:
    """(letter, start, end) of every sentence that names an option as the answer, in order."""
    for match in _SAID.finditer(text):
        yield _letter_of(match), match.start(), match.end()


def _letter_of(match: re.Match[str]) -> str:
    return next(filter(None, match.groups())).upper()
