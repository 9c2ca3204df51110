"""Finds candidate answers in a text: answer lines, boxes, `<answer>` tags, statements, and a text that is only an answer.

Which of the candidates counts is decided in extraction.py.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

from cotkit.grading.normalize import strip_decoration, unify_characters
from cotkit.grading.wording import MAX_LINE, changes, changing_words, in_digits, number_answer

MAX_CANDIDATES = 1000  # answer lines or boxes that are read in one response
MAX_COPULAS = 3  # words such as "is" of one sentence after which a value is looked for, from the end
MAX_JOINT = 60  # characters between two boxes of one list

_MARKER = re.compile(
    r"(?<!#)####(?!#)[ \t:]*(?:(?:\**(?:the )?(?:final )?answer\**:?\**[ \t]*)?\n{1,2}[ \t]*)?([^\n#]*)", re.IGNORECASE
)
_HEADING = re.compile(
    r"(?:step|part|case|problem|question|solution|explanation|reasoning|calculat\w*|verif\w*|check\w*|conclusion|"
    r"summary|example|exercise|method|approach|note|given|analysis|proof|thought\w*|final|answers?)s?\b"
    r"(?!\s*(?:is|are|:|=)?\s*[-$\\]?\s*\d)"
    r"|(?:step|part|case|problem|question|example|exercise|method)\s*\d|[a-z]{3,}\s+\d+\s*[.):]\s+\S|\d+\s*[.):]\s+\D",
    re.IGNORECASE,
)
_ANSWER_IS = re.compile(
    r"(?:so |thus |hence |therefore |and )?,?"
    r"(?:the |my |our )?(?:final |correct )?answer(?: (?:is|are)(?![\w'’]))?\s*[:=]?\s*(?=\S)",
    re.IGNORECASE,
)
_FORMULA = re.compile(r"[\d\\=+^]|[(\[].*,")
_PROSE = re.compile(r"[a-z]{4,}", re.IGNORECASE)
_COMMAND = re.compile(
    r"\\(?:text|mbox|textbf|mathrm|textnormal|operatorname)\s*\{[^{}]*\}|\\[a-zA-Z]+|\{[pbvB]?matrix\}|\{array\}"
)
_AROUND = r"[\s\"'`.,;:<>\[\](){}*_$\\#-]*"
_PLACEHOLDER = re.compile(
    _AROUND + r"(?:(?:the |your |final |correct |numeric(?:al)? )*"
    r"(?:answer|number|result|value|solution|integer)(?: here)?|x|\?+|…)?" + _AROUND,
    re.IGNORECASE,
)
_SUBSTANCE = re.compile(r"\w|\\[{]")

# The explicit statement of an answer. `each correct answer is worth 5` and `right answers: 4` state none.
_VALUE = r"(?=(?P<answer>\\\[(?s:(?!\\\]).){1,400}\\\]|\$\$[^$]{1,400}\$\$|[^\n]{1,400}))"
_ANSWER = r"(?:(?:final|correct|right|exact|required|numerical)\s)*answer"
_OF = r"(?:\s?\([^()\n]{1,40}\)|,?\s(?:to|for|of|in|rounded|expressed)\s[^.?!\n:=]{1,60}?)"
_SENTENCE = re.compile(
    rf"""(?:\b(?:the|my|our)\s{_ANSWER}s?|\b(?:so|thus|hence|therefore),?\s{_ANSWER}|^[ \t>*_]*{_ANSWER}|\b(?P<result>result))[*_]*
    (?: (?:{_OF}|\s(?:(?:that|which)\s)?(?:I|we)\s(?:get|want|need|seek|found|obtain(?:ed)?|are\slooking\sfor))?
        ,?(?:\s(?:therefore|then|thus|hence))?
        \s(?:is|are|would\sbe|must\sbe|should\sbe|will\sbe|equals|comes\s(?:out\s)?to|turns\sout\sto\sbe)\b
        (?:\s(?:therefore|then|thus|clearly|simply|just|equal\sto|that))*\s*:?
      | (?(result)(?!)){_OF}?[*_]*\s?[:=]
    )[\s*_]*{_VALUE}""",
    re.IGNORECASE | re.MULTILINE | re.VERBOSE,
)
_LABEL = re.compile(
    rf"""^[ \t>#*_-]*(?:(?:the|my|our)\s)?(?:{_ANSWER}|ans)\b\.?{_OF}?[*_ \t]*
    (?:(?:[:：]|(?<=\s)-(?=\s))[*_ \t]*(?=\S)|(?P<below>[:：]?[*_ \t]*\n\s*(?:[-•][ ]+)?))[>*_ \t]*{_VALUE}""",
    re.IGNORECASE | re.MULTILINE | re.VERBOSE,
)
_SHORT_LABEL = re.compile(rf"^[ \t*_]*A[*_]*[ \t]*(?P<below>[:：])[*_ \t]*(?=\S){_VALUE}", re.MULTILINE)
_NEXT_OPTION = re.compile(r"\s*[*_]*B[*_]*[ \t]*[:：.)]")
_TAG = re.compile(
    r"<(?:final_?)?answer>[*_\s]*(?P<answer>[^<]{1,400}?)\s*(?P<closed></(?:final_?)?answer>|\Z)", re.IGNORECASE
)
_NOT_STATED = re.compile(
    r"(?:not|correct|wrong|incorrect|the same|given|that|obviously|clearly|found|obtained|either|worth|unknown)\b"
    r"|(?:a|an|in|as)\s+[a-z]{2}",
    re.IGNORECASE,
)
# One formula, or several that are joined: `$2$ and $3$`.
_DELIMITED = re.compile(
    r"\$\$[^$]+\$\$|\\\((?:(?!\\\)).)+\\\)|\\\[(?:(?!\\\]).)+\\\]|\*\*[^*]+\*\*"
    r"|\$(?:\\.|[^$\\])+\$(?:(?:,| and| or|, and|, or)\s*\$(?:\\.|[^$\\])+\$)*",
    re.DOTALL,
)
_PRICE = re.compile(r"\$\d[^$]*\$\d")
_SENTENCE_END = re.compile(r"(?<!\b[a-zA-Z])(?<!\\)[.!?;](?=\s|$|<)|<\|")
_COMMENT = re.compile(r",\s(?!(?:and|or)\b)(?=(?-i:[a-z]{2}))|\s(?:because|since|so|which)\b", re.IGNORECASE)
_COPULA = re.compile(r"(?:\b(?:is|are|was|equals|equal to|be)\b|[:=])\s*(?=\S)", re.IGNORECASE)

_PLAIN_BOX = re.compile(
    r"\\(?:boxed|fbox)\s*(?:(-?\s?\d+(?:[.,/]\d+)*)|([a-zA-Z])(?=\s*(?:[$.,;)\\]|$)))", re.MULTILINE
)
_BOX_OPENING = re.compile(r"\\(?:boxed|fbox)\s*\{")
_BRACE = re.compile(r"\\[a-z]+\s*\{|\\.|[{}]")
_FENCE = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)
_CODE = re.compile(r"^\s*f?[\"']\s*\+|\+\s*f?[\"']\s*$")
_JOINT_MARKS = re.compile(r"[\s$*]+|\\[()\[\],;: ]|\\q?quad(?![a-z])|\\text\s*\{([^{}]*)\}")
_JOINT = re.compile(r"(?:[,;]|[,;]?\s*(?:and|or|&)\s)\s*(?:(?:[a-zA-Z](?:_\{?\w\}?)?|\([a-z](?:,\s?[a-z])*\))\s*=)?\s*")
_BOX_NAME = re.compile(r"(?<![\w}^*/+-])([a-zA-Z](?:_\{?\w\}?)?|\([a-z](?:,\s?[a-z])*\))\s*=[\s$\\(\[]*$")


class Found(NamedTuple):
    """A candidate answer in a text: the answer, and the span it was read from."""

    answer: str
    start: int
    end: int
    complete: bool = False  # it ends with a mark of its own, so no further text can belong to it


def answer_lines(text: str, numeric: bool) -> Iterator[Found]:
    """The well-formed answer lines of `text`, in order."""
    position = text.find("####")
    for _ in range(MAX_CANDIDATES):
        if position < 0:
            return
        match = _MARKER.match(text, position) if position == 0 or text[position - 1] != "#" else None
        # Prose may follow a number in its line, but a formula of that length is no answer.
        content = match[1].strip() if match else ""
        if len(content) > MAX_LINE:
            content = content[:MAX_LINE] if numeric else ""
        if match and (answer := _well_formed(content, numeric)):
            yield Found(answer, position, match.start(1) + len(match[1].rstrip()))
        position = text.find("####", max(position + 4, match.end() if match and match[1].strip() else 0))


def _well_formed(content: str, numeric: bool) -> str | None:
    """The cleaned answer of an answer line; None for an echo of the instruction or a heading."""
    text = strip_decoration(content)
    if not text or _PLACEHOLDER.fullmatch(text[:MAX_LINE]) or _HEADING.match(text):
        return None
    said = _ANSWER_IS.match(text)
    text = strip_decoration(text[said.end() :]) if said and said.end() < len(text) else text
    if tagged := _TAG.fullmatch(text):
        text = strip_decoration(tagged["answer"])
    if numeric:
        return number_answer(text)
    return text if _looks_mathematical(text) or len(text.split()) == 1 else None


def _looks_mathematical(text: str) -> bool:
    """Is `text` a number or a formula rather than prose? Words around one number are allowed."""
    if _PROSE.search(_COMMAND.sub(" ", text)):
        return any(char.isdigit() for char in text) and number_answer(text) is not None
    return bool(_FORMULA.search(text)) or len(text.split()) <= 3


def statements(text: str, numeric: bool) -> Iterator[Found]:
    """The explicit statements of `text`, in the order of their ends: "The answer is 42.", "Final answer: 42", a heading, a tag, "A: 42"."""
    found = [_stated(match, numeric) for match in islice(_SENTENCE.finditer(text), MAX_CANDIDATES)]
    for pattern in (_LABEL, _SHORT_LABEL):
        found += [_labelled(match, numeric) for match in islice(pattern.finditer(text), MAX_CANDIDATES)]
    for match in islice(_TAG.finditer(text), MAX_CANDIDATES):
        if "\n" not in match["answer"] and (answer := _well_formed(_value(match["answer"], numeric), numeric)):
            found.append(Found(answer, match.start(), match.end(), bool(match["closed"])))
    yield from sorted((item for item in found if item), key=lambda item: (item.end, item.start))


def _stated(match: re.Match[str], numeric: bool) -> Found | None:
    """The answer of a statement; None if it states none."""
    piece = _first_piece(match["answer"], numeric)
    if _NOT_STATED.match(piece):
        return None
    answer = _well_formed(_value(piece, numeric), numeric)
    return Found(answer, match.start(), match.start("answer") + len(piece.rstrip())) if answer else None


def _labelled(match: re.Match[str], numeric: bool) -> Found | None:
    """The answer after a label. Below a heading, and after `A:`, prose is an answer only if nothing follows it."""
    value = match["answer"]
    text = match.string[match.end() + len(value) :]
    if match.re is _SHORT_LABEL and _NEXT_OPTION.match(text):
        return None
    if match["below"] and _is_prose(value) and not re.match(r"[^a-z]*\d", value) and re.match(r"\s*\w", text):
        return None
    return _stated(match, numeric)


def _first_piece(line: str, numeric: bool) -> str:
    """The answer that begins a line of prose: delimited formulas, or the text up to the end of the sentence or clause."""
    stop = _SENTENCE_END.search(line)
    sentence = line[: stop.start()] if stop else line
    if numeric:
        return sentence  # wording.py reads the words after the number
    if (formula := _DELIMITED.match(line)) and not _PRICE.match(line):
        return formula[0] if formula.end() >= len(sentence) or not changes(sentence[formula.end() :]) else sentence
    comment = _COMMENT.search(sentence)
    return sentence[: comment.start()] if comment and not changes(sentence[comment.start() :]) else sentence


def _value(piece: str, numeric: bool) -> str:
    """What a sentence such as `the largest $n$ is 34` gives: the words after its last "is", its only formula or number."""
    if numeric or not _is_prose(piece):
        return piece
    for copula in list(_COPULA.finditer(piece))[: -MAX_COPULAS - 1 : -1]:
        value = _first_piece(piece[copula.end() :], numeric)
        if changing_words(value):
            return piece
        if not _is_prose(value) and (_FORMULA.search(value) or copula[0][0].isalpha()):
            return value
    formulas = _DELIMITED.findall(piece)
    if len(formulas) == 1:
        before, _, after = piece.partition(formulas[0])
        return piece if changing_words(before) or changes(after) else formulas[0]
    number = number_answer(piece) if any(char.isdigit() for char in piece) else in_digits(piece)
    return number or piece


def _is_prose(text: str) -> bool:
    words = _COMMAND.sub(" ", _DELIMITED.sub("1", text)).split()
    return len(words) > 1 and any(re.search(r"[a-zA-Z]{3}", word) for word in words)


def bare(text: str, numeric: bool) -> Found | None:
    """A response that is only an answer: one short line without prose, or a matrix of several lines."""
    stripped = text.strip()
    if (
        not _SUBSTANCE.search(unify_characters(stripped[: MAX_LINE + 1]))
        or len(stripped) > MAX_LINE
        or re.search(r"#|\\(?:boxed|fbox)", stripped)
        or "\n" in stripped
        and "\\begin" not in stripped
    ):
        return None
    start = text.index(stripped)
    if numeric:
        answer = number_answer(stripped) if not re.match(r"[\W_]*[a-z]+ ", stripped, re.IGNORECASE) else None
    else:
        words = _COMMAND.sub(" ", stripped).replace(",", " ").split()
        is_list = stripped.count(",") >= len(words) - 1
        prose = bool(_PROSE.search(_COMMAND.sub(" ", stripped))) and len(words) > (2 if words[0][0].isalpha() else 4)
        answer = None if prose and not is_list or _is_echo(stripped) else strip_decoration(stripped)
    return Found(answer, start, start + len(stripped)) if answer else None


def _is_echo(text: str) -> bool:
    """Is a box or a bare answer only a placeholder? The variable x can be an answer there."""
    if not _SUBSTANCE.search(unify_characters(text[:MAX_LINE])):
        return True
    return _PLACEHOLDER.fullmatch(text[:MAX_LINE]) is not None and strip_decoration(text) not in ("x", "X", r"\{\}")


def boxes(text: str, numeric: bool) -> list[Found]:
    r"""The boxes of `text` in order: balanced, not empty, of nested ones the innermost: `\boxed{...}`, `\boxed 5`.

    Boxes that are joined in one sentence are one list. Boxes in code count only if there are no others.
    """
    if "\\boxed" not in text and "\\fbox" not in text:
        return []
    plain = [Found(match[1] or match[2], match.start(), match.end()) for match in _PLAIN_BOX.finditer(text)]
    found = sorted(plain + _braced_boxes(text), key=lambda item: item.end)
    if "```" in text:
        found = _outside_code(text, found) or found
    if numeric:
        numbers = [(box, number_answer(box.answer)) for box in found[-MAX_CANDIDATES:]]
        found = [box._replace(answer=number) for box, number in numbers if number]
    return _joined(text, found) if len(found) > 1 else found


def _outside_code(text: str, found: list[Found]) -> list[Found]:
    """The boxes that do not begin in a fenced block of code."""
    edges = [edge for match in _FENCE.finditer(text) for edge in match.span()]
    return [box for box in found if bisect_right(edges, box.start) % 2 == 0]


def _braced_boxes(text: str) -> list[Found]:
    openings = {match.end(): match.start() for match in _BOX_OPENING.finditer(text)}
    found: list[Found] = []
    stack: list[tuple[int, int | None, int]] = []  # start of the content, start of the box, boxes found before it
    for token in _BRACE.finditer(text, min(openings.values(), default=len(text))):
        if token[0].endswith("{") and token[0] != r"\{":
            stack.append((token.end(), openings.get(token.end()), len(found)))
        elif token[0] == "}" and stack:
            start, box, before = stack.pop()
            if box is None or len(found) > before:
                continue
            content = strip_decoration(text[start : token.start()])
            if content and not _is_echo(content) and not _CODE.search(text[start : token.start()]):
                found.append(Found(content, box, token.end()))
    return found


def _joined(text: str, found: list[Found]) -> list[Found]:
    r"""`\boxed{1}$ and $\boxed{-2}` as one answer, `1, -2`. A name before a box is kept: `a = \boxed{1}, b = \boxed{2}`."""
    groups: list[list[Found]] = []
    for box in found:
        between = text[groups[-1][-1].end : box.start] if groups else ""
        joint = _JOINT_MARKS.sub(lambda m: f" {m[1] or ''} ", between) if 0 < len(between) <= MAX_JOINT else ""
        if "\n\n" not in between and _JOINT.fullmatch(" ".join(joint.split()) + " "):
            groups[-1].append(box)
        else:
            groups.append([box])
    return [_listed(text, group) if len({box.answer for box in group}) > 1 else group[-1] for group in groups]


def _listed(text: str, group: list[Found]) -> Found:
    """The boxes of one list as one answer."""
    parts = []
    for box in group:
        name = _BOX_NAME.search(text[max(0, box.start - 30) : box.start])
        parts.append(f"{name[1]}={box.answer}" if name and "=" not in box.answer else box.answer)
    return Found(", ".join(parts), group[0].start, group[-1].end)
