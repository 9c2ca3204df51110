"""Reads the one number of an answer in prose, and the words around it (docs/GRADING.md, "Words around a number").

Nothing beside a number is dropped unread. A unit, a thing counted or a comment may stand there. A sign or a scale word is
part of the value. A second quantity, a bound, a denial, a doubt or a portion (`half of`) makes it another answer.
"""

from __future__ import annotations

import re
from fractions import Fraction

from cotkit.core import number_words
from cotkit.grading.normalize import plain_number, plain_thousands, same_number, strip_decoration

MAX_LINE = 400  # characters that are read of an answer line, a box or a statement; gold answers have 200 at most

_CURRENCY = r"(?:US\$|[ACS]\$|[$€£¥₹₩₽]|(?:USD|EUR|GBP|INR|Rs\.?)(?=\s?-?[\d.]))"
_NUMBER = re.compile(
    rf"(?<![\w.])(?<!\w\^)[-+]?{_CURRENCY}?\s?[-+]?"
    r"(?:\d+\s+\d+/\d+|\d+\s*/\s*\d+|\d+(?:\.\d+)?(?:e[-+]?\d+)?|\.\d+)(?!\d)(?:\s?%)?",
    re.IGNORECASE,
)
_SIGNS = re.compile(rf"{_CURRENCY}\s*", re.IGNORECASE)
_BEFORE_DIGITS = r"[-+$€£¥₹₩₽A-Z\s.]"  # signs and currencies

# Marks without a meaning: what wraps words, begins a line, or ends it.
_WRAPS = re.compile(
    r"<<[^<>]*>>|\\(?:text(?:bf|rm|it|normal)?|mbox|math(?:rm|bf|it))\s*\{([^{}]*)\}|\\[,;:> ()\[\]]"
    r"|</?(?:final_?)?answer>|\*\*|__|`|~(?=[a-z])",
    re.IGNORECASE,
)
_BEGINS = re.compile(r"(?:(?:[-=]+>|[→⇒✓✔✅☑]|\\[rR]ightarrow(?![a-z]))\s*)+")
_ENDS = re.compile(r"(?:\s|<\|\w+\|>|</?s>|\\\\|[!✓✔✅☑←⇐\U0001f300-\U0001faff])+$")
_APPROXIMATELY = re.compile(
    r"(?:\\approx|~|≈|(?:about|approximately|approx\.?|around|roughly)(?![a-z]))\s*", re.IGNORECASE
)

_DEGREES = re.compile(r"(?<=\d)\s*\^\s*\{?\s*\\circ\s*\}?\s*(?:[CF](?![a-z]))?")

# Letters after digits that stand for a scale. A small m or b is one only after a currency: 18m are metres.
_SCALES = {"k": 10**3, "grand": 10**3, "m": 10**6, "mn": 10**6, "mil": 10**6, "b": 10**9, "bn": 10**9, "tn": 10**12}
_SCALES |= {"百": 100, "千": 10**3, "万": 10**4, "萬": 10**4, "亿": 10**8, "億": 10**8}
_SCALED = re.compile(
    rf"(?<![\w.])(?:({_CURRENCY}\s?)?(\d+(?:\.\d+)?)(?:([MB])|\s?([kK]|grand(?=\W*$)|mn|mil|bn|tn|[百千万萬亿億]))"
    rf"|({_CURRENCY}\s?)(\d+(?:\.\d+)?)\s?([mMbB]))(?![a-zA-Z^&²³])"
)
_SIGN = re.compile(
    rf"(?:\bnegative|((?:^|\b(?:is|are|be|of|to|at|about|equals)\s|[:=])\s*)minus)\s+(?={_BEFORE_DIGITS}*\d)",
    re.IGNORECASE,
)
_CENTS = re.compile(r"(?:\$\s?(\d+)(?: dollars?)?|(\d+) dollars?)(?:,? and|,)? (\d\d?) cents?", re.IGNORECASE)
_AND_PART = re.compile(r"(?<![\d.])(\d+) and (\d+/\d+)(?!\d)")
_PERCENT = re.compile(r"(?<=\d)\s*(?:percent|per cent|pct)\b(?! points?)", re.IGNORECASE)

# Words that make the number beside them another answer.
_NOT = r"not(?! (?:counting|including))|cannot|never|(?:is|are|was|were|does|do|did|ca|could|would|should|wo)n['’]?t"
_WRONG = r"wrong|incorrect|impossible|false|mistaken?"
_AT_MOST = r"at (?:the )?(?:very )?(?:least|most)"
_OR_MORE = r"or (?:more|less|so|fewer|above|below|greater|lower|higher|over|under)"
_TOO = r"too (?:high|low|many|few|much|big|small|large)"
_THAN = r"(?:more|less|fewer|greater|lower|larger|smaller|bigger|higher|other|rather) than"
_DOUBTS = r"maybe|perhaps|possibly|probably|might|unsure|unless|depending"
_PORTIONS = (
    r"(?:half|(?:third|quarter|fourth|fifth)s?|percent|[\d.]+%|\d+/\d+) of|twice|double|triple|thrice"
    r"|(?:root|square|cube) of"
)
_SUMS = (
    r"\d+ (?:squared|cubed|factorial|half)|and (?:an?|some|half|several) [a-z]{3,}|plus|minus|negative|remainder"
    r"|(?:divided|multiplied) by|below zero"
)
_SCALE = "|".join(number_words.SCALES)
_CHANGES = (
    rf"{_NOT}|{_WRONG}|far from|anything but|instead of|{_AT_MOST}|{_OR_MORE}|{_TOO}|{_THAN}|up to|almost|nearly|between"
    rf"|{_DOUBTS}|{_PORTIONS}|{_SUMS}"
)
_CHANGED = re.compile(rf"(?<![\w\\])(?:{_CHANGES}|{_SCALE})(?!\w)", re.IGNORECASE)
_CHANGED_BEFORE = re.compile(
    rf"(?<![\w\\])(?:{_CHANGES}|or|either|times)(?!\w)|(?<!\w)(?:less|over|under|above|below)\s*$"
    r"|(?:[<>^√±]|\\(?:l[et]|g[et]|ne|sqrt|pm)[\s{]*)$",
    re.IGNORECASE,
)
# `18 students are not in the club` counts students, and `18 more than Tom` compares: neither denies the number.
_CHANGED_AFTER = re.compile(
    rf"(?<!\w)(?:{_WRONG}|{_AT_MOST}|{_OR_MORE}|too (?:high|low|big|small|large)|{_DOUBTS}|{_SUMS}|no|ish"
    rf"|and (?:some|half|several|change)|(?:{_NOT})(?: be| even)? (?:the|right|correct|true|possible|enough|work|fit))(?!\w)"
    rf"|^\W*(?:(?:is|was|would be) )?(?:{_NOT})\b|^\W*(?:{_SCALE})(?!\w)"
    r"|^\s*(?:squared|cubed|factorial|half|or|either|r\s?\d|[<>√^±+]|\\pm)",
    re.IGNORECASE,
)
# In a remark or a later sentence.
_WITHDRAWN = re.compile(
    rf"\b(?:{_WRONG}|wait|actually|oops|sorry|{_AT_MOST}|{_DOUBTS}|or(?=\s+\W?\d)"
    r"|not (?:the|right|correct|sure|quite)|(?:is|was)(?:n['’]t| not))(?!\w)|^\W*(?:or|no)\b",
    re.IGNORECASE,
)
_COMMENT = re.compile(
    r"[.;:!?—](?=\s|$)|\s-{1,2}\s(?=[a-z]{3})|,(?!\s*(?:and|or)\b)"
    r"|\b(?:because|since|as|so|which|where|when|after|i\.e\.)(?!\w)",
    re.IGNORECASE,
)
_REASON = re.compile(r"[.;!?]\s+(?=[A-Z])|,?\s+(?:because|since)\s|,\s+as\s", re.IGNORECASE)
_GLOSS = re.compile(r"(?<=[\w%$*}.)])\s*[(\[]([^()\[\]]*)[)\]]")
_SCALE_NAME = re.compile(rf"\b(?:{_SCALE})s?\b", re.IGNORECASE)
_SCALE_ALONE = re.compile(rf"\s*(?:in\s+)?{_SCALE_NAME.pattern}", re.IGNORECASE)
# A further number after one of these is no second quantity: `18 eggs in 3 days`, `18 of the 20 students`.
_MAY_FOLLOW = re.compile(
    r"(?<!%) (?:in|after|for|within|during|at|until|on|of|to [a-z]{2,}|(?:over|between)(?= the))\s+"
    r"(?:(?:the|those|these|each of|all|first|last|next|other|past|remaining)\s+)*$",
    re.IGNORECASE,
)
_TIMES = re.compile(r"(?<=\d)\s*x\s*(?=[\d(])", re.IGNORECASE)
_TIME_AWAY = re.compile(r"(?:\s[a-z]+){1,2} (?:from now|ago|later|earlier|sooner)\b", re.IGNORECASE)
# If this follows the first number, it is part of a calculation, a list or a range.
_CONTINUES = re.compile(
    r"\s*(?:(?:\b(?:or|and|to|by|times|over|through)\b|[,;:x&])\s*[-$\\({]*\d|[(\[]?\s*[-+*/^=×](?!\s*[a-z]{3})"
    r"|!(?=\S)|['\"]\s*(?:x\b|\d)|[([{]\s*\d+\s*[)\]}]|\\(?!text|mbox|mathrm|[,;!% ]))",
    re.IGNORECASE,
)

# In formulas.
_WORDS = re.compile(r"\\(?:text|mbox|mathrm)|(?<![\\a-zA-Z])[a-zA-Z]{2,}")
_SCALE_WORD = re.compile(
    r"(?<![\w.])(\d+(?:,\d{3})*(?:\.\d+)?)((?:\s|\\[,;: ]|[~$])*(?:\\(?:text(?:rm)?|mbox|mathrm)\s*\{\s*)?)"
    rf"(?:({_SCALE})(?![a-zA-Z])|k(?=\s*\}}))",
    re.IGNORECASE,
)
_SIGN_FIRST = re.compile(r"^\s*(?:\\text\{\s*(?:minus|negative)\s*\}|(?:minus|negative)\s)\s*(?=[\d\\])", re.IGNORECASE)
_COUNTED = re.compile(r"\\text\s*\{\s*([-+]?[\d.,]+)\s+([a-zA-Z ]+)\}")
# A number, words and another number: `5 hours 30 minutes`. Commands are no words.
_COMPOUND = re.compile(r"\d\s*((?<![\\a-zA-Z])[a-zA-Z]{2,})[a-zA-Z .]*\s\d")


def number_answer(text: str) -> str | None:
    """The one number that the answer of a word problem states, in plain digits if possible; None if there is none.

    `$1,234.50 per day` -> `1234.50`, `3 + 5 = 8` -> `8`, `18 eggs (2 dozen)` -> `18`, `two million` -> `2000000`. A text
    that says anything else about its number (`42 or 43`, `not 18`, `18 and a bit`) is returned as it stands.
    """
    text = text.strip()
    if plain := plain_number(text, True):
        return plain
    if len(text) > MAX_LINE:
        return text if any(char.isdigit() for char in text) else None
    whole = _without_marks(text)
    glosses = [match[1] for match in _GLOSS.finditer(whole)]
    head, comment = _without_reason(_GLOSS.sub(" ", whole) if glosses else whole)
    head = _in_digits(_result(head))
    numbers = list(_NUMBER.finditer(head))
    if not numbers:
        return whole if any(char.isdigit() for char in whole) else None
    first = numbers[0]
    before, after = head[: first.start()].strip(), head[first.end() :]
    if (
        _CHANGED_BEFORE.search(re.split(r"[,;.]\s", before)[-1])
        or first[0].endswith("%")
        and re.match(r"\s*of\s+\W?\d", after)
    ):
        return whole
    if before and (len(numbers) > 1 or re.search(r"[\\^_*/+(){}]", head)):
        return whole if "\\" in whole else None
    if _CONTINUES.match(after):
        return _TIMES.sub("*", head)
    if changes(after) or _WITHDRAWN.search(comment) or any(_changed_by(gloss, first[0]) for gloss in glosses):
        return whole
    number = _SIGNS.sub("", first[0]).strip()
    return number if " " in number.replace(" %", "") and "/" in number else re.sub(r"\s+", "", number)


def _without_marks(text: str) -> str:
    """`text` without emphasis, arrows, ticks and text commands; one blank between words; numbers without thousands marks."""
    text = strip_decoration(text).replace(r"\$", "$").replace(r"\%", "%")
    text = _WRAPS.sub(lambda m: f" {m[1]} " if m[1] else " " if m[0][0] in "\\~" else "", text)
    text = " ".join(_ENDS.sub("", _BEGINS.sub("", text.strip(), count=1)).split())
    text = _DEGREES.sub(" degrees", text)
    text = plain_thousands(_APPROXIMATELY.sub("", strip_decoration(text), count=1))
    inner = text[1:-1].strip()
    wrapped = text[:1] + text[-1:] in ("()", "[]", "{}", "<>") and not re.search(r"[()\[\]{}<>,]", inner)
    return inner if wrapped else text


def _without_reason(text: str) -> tuple[str, str]:
    """(`18`, `because 9*2=18`): what follows a leading number as its reason is no part of an equation."""
    match = _REASON.search(text)
    if match is None or "=" in text[: match.start()] or not _NUMBER.match(text):
        return text, ""
    return text[: match.start()], text[match.start() :]


def _result(text: str) -> str:
    """The last side of an equation that has a number."""
    if not re.search(r"=|\bequals\b", text) or re.search(r"[<>≤≥≠!]|\\[lgn]eq?(?![a-z])", text):
        return text
    sides = [strip_decoration(side) for side in re.split(r"=|\bequals\b", text)]
    return next((side for side in reversed(sides) if re.search(r"\d", side) or any(number_words.find(side))), text)


def _in_digits(text: str) -> str:
    """`text` with digits for number words, scale words, signs in words, and dollars with cents."""
    text = _PERCENT.sub("%", _AND_PART.sub(r"\1 \2", _SCALED.sub(_scaled, text)))
    first = _NUMBER.search(text)
    done, parts = 0, []
    for spelled in number_words.find(text):
        words, before = text[spelled.start : spelled.end].lower(), text[: spelled.start].rstrip().lower()
        # `one` is a pronoun too, and words before a numeral (`the two of them have 18`) state no quantity.
        pronoun = (
            words == "one" and before and not re.search(r"(?:\b(?:and|or|is|are|to|minus|negative)|[,:])$", before)
        )
        if not pronoun and (
            first is None or spelled.end > first.start() or re.match(r"\s*(?:or|to|and)\b", text[spelled.end :])
        ):
            parts += [text[done : spelled.start], number_words.in_digits(spelled.value)]
            done = spelled.end
    return _SIGN.sub(lambda m: (m[1] or "") + "-", _CENTS.sub(_with_cents, "".join(parts) + text[done:]))


def _scaled(match: re.Match[str]) -> str:
    currency, digits, letters = match[1] or match[5] or "", match[2] or match[6], match[3] or match[4] or match[7]
    return currency + number_words.in_digits(Fraction(digits) * _SCALES[letters.lower()])


def _with_cents(match: re.Match[str]) -> str:
    return f"${match[1] or match[2]}.{int(match[3]):02d}"


def changes(after: str) -> bool:
    """Do the words after a number say that it is not the answer, or not all of it?"""
    stop = _COMMENT.search(after)
    clause, comment = (after[: stop.start()], after[stop.start() :]) if stop else (after, "")
    if _CHANGED_AFTER.search(clause) or _WITHDRAWN.search(comment) or re.match(r"\W*\d", comment):
        return True
    return not all(
        _MAY_FOLLOW.search(clause[: number.start()]) or _TIME_AWAY.match(clause, number.end())
        for number in _NUMBER.finditer(clause)
    )


def _changed_by(gloss: str, number: str) -> bool:
    """Does a remark in brackets give the number another value? Its scale, a doubt, or another number alone."""
    alone = plain_number(strip_decoration(_in_digits(gloss)), True)
    other = (
        alone is not None and not _SCALE_NAME.search(gloss) and not same_number(alone, plain_number(number, True) or "")
    )
    return other or bool(_SCALE_ALONE.match(gloss) or _WITHDRAWN.search(gloss))


def in_digits(text: str) -> str:
    r"""A formula with its scale words as digits, or a number in words alone: `2 \text{ million}`, `\text{twenty-one}`."""
    if not _WORDS.search(text):
        return text
    text = _SIGN_FIRST.sub("-", text)
    words = " ".join(_WRAPS.sub(lambda m: m[1] or " ", text).split()).strip(".")
    spelled = next(number_words.find(words), None)
    if spelled and words and spelled.end - spelled.start == len(words) and not any(char.isdigit() for char in words):
        return number_words.in_digits(spelled.value)
    return _SCALE_WORD.sub(_times_scale, text)


def _times_scale(match: re.Match[str]) -> str:
    scale = number_words.SCALES[match[3].lower()] if match[3] else 1000
    return number_words.in_digits(Fraction(match[1].replace(",", "")) * scale) + match[2]


def without_counted(answer: str, gold: str) -> str:
    r"""`18` for `\text{18 ways}`, if the gold answer is written without words."""
    match = None if _WORDS.search(gold) else _COUNTED.fullmatch(answer)
    return rf"{match[1]} \text{{{match[2]}}}" if match else answer


def changing_words(text: str) -> list[str]:
    r"""The words of an answer that make its number another one, in order: `\text{not } 5`, `5 \text{ ft } 6 \text{ in}`."""
    if not _WORDS.search(text):
        return []
    text = " ".join(_WRAPS.sub(lambda m: f" {m[1]} " if m[1] else " ", text).split())
    compound = _COMPOUND.search(text)
    return [match[0].lower() for match in _CHANGED.finditer(text)] + ([compound[1].lower()] if compound else [])
