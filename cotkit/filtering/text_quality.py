"""Signs that a text repeats itself, is garbled or holds leftovers of a chat. Each is found in one linear pass."""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Callable

from cotkit.core.problems import CONTROL_TOKEN
from cotkit.core.think_marks import MARK
from cotkit.generation import prompts

# Words in the n-grams that find a loop: single words recur in any text, three in a row seldom do.
NGRAM = 3
# `2 apples + 2 apples + 2 apples` is a sum and no loop. A loop repeats a clause, or a shorter block for long.
MIN_BLOCK_WORDS = 5
MIN_LOOP_WORDS = 24
MAX_BACK = 100  # words searched back for the start of a loop, so that the pass stays linear
MIN_COMPRESSED_BYTES = 200  # the ratio of a shorter text means nothing
# The longest English word in the GSM8K training set has 17 letters. Longer runs are LaTeX commands glued together.
MAX_RUN_OF_LETTERS = 40

_KNOWN_SCRIPTS = ("GREEK", "LATIN", "MATHEMATICAL", "SCRIPT", "DOUBLE-STRUCK")  # starts of Unicode names
_PIECE = re.compile(r"[^\n.!?]+")
_SENTENCE = re.compile(r"(?:[^\n.!?]|(?<=[0-9])\.(?=[0-9]))+")  # a decimal point ends none; slower
_LETTER = re.compile(r"[a-wyz]")  # x may be the sign of multiplication
_RUN_OF_LETTERS = re.compile(rf"[^\W\d_]{{{MAX_RUN_OF_LETTERS + 1},}}")
_BAD_CHARACTER = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ufffd\ue000-\uf8ff\ufff0-\ufffc]")


def repeated_sentence(text: str, limit: int, known: str = "") -> tuple[str, int] | None:
    """The commonest sentence of at least `MIN_BLOCK_WORDS` words and its count, if it appears more than `limit` times.

    A sentence that is in `known`, the question in lower case, does not count.
    """
    for split in (_PIECE, _SENTENCE):  # the first is fast, and nearly always enough
        sentences = [" ".join(piece.split()) for piece in split.findall(text.lower())]
        if len(sentences) - len(set(sentences)) < limit:
            return None
    counts = Counter(piece for piece in sentences if piece.count(" ") >= MIN_BLOCK_WORDS - 1 and _LETTER.search(piece))
    return next((found for found in counts.most_common() if found[1] > limit and found[0] not in known), None)


def loop(text: str, limit: int, known: str = "") -> tuple[str, int] | None:
    """A block of words that appears more than `limit` times in a row, and how often; None if there is none.

    A block that is in `known`, the question in lower case, does not count.

    A repeated n-gram suggests a period. The loop is the run of words that continues with this period.
    """
    words = text.lower().split()
    grams = list(zip(*(words[at:] for at in range(NGRAM)), strict=False))
    # In a loop every n-gram after the first block is a repetition. Most texts have too few of these.
    fewest = min(MIN_BLOCK_WORDS * limit, MIN_LOOP_WORDS * limit // (limit + 1)) - NGRAM + 1
    if len(grams) - len(set(grams)) < fewest:
        return None
    last: dict[tuple[str, ...], int] = {}
    period = run = 0
    for at, gram in enumerate(grams):
        nearest = at - last.get(gram, at)
        last[gram] = at
        # Keep a period that still holds, even if the n-gram also appears nearer, inside the block.
        if period and words[at + NGRAM - 1] == words[at + NGRAM - 1 - period]:
            run += 1
        else:
            period, run = nearest, NGRAM + _matching_before(words, at, nearest)
        filled = run + period
        if period and filled >= period * (limit + 1) and (period >= MIN_BLOCK_WORDS or filled >= MIN_LOOP_WORDS):
            block = " ".join(words[at + NGRAM - period : at + NGRAM])
            if _LETTER.search(block) and block not in known:
                return block, filled // period
    return None


def _matching_before(words: list[str], at: int, period: int) -> int:
    """How many words just before `at` have the period too; a nearer repetition had hidden it."""
    for count in range(MAX_BACK):
        before = at - count - 1
        if not period or before < period or words[before] != words[before - period]:
            return count
    return MAX_BACK


def compression(text: str) -> float:
    """By what factor zlib shrinks the text; 1 for a short text. The GSM8K training solutions reach 3.2."""
    data = text.encode("utf-8")
    return len(data) / len(zlib.compress(data, 6)) if len(data) >= MIN_COMPRESSED_BYTES else 1.0


def garbled(text: str, known: str, max_foreign: float) -> str | None:
    """What makes a text unreadable: a control token, broken characters, glued words, or letters of another script.

    Letters are foreign if they are neither Latin nor Greek nor in `known` (the question); a share of them up to
    `max_foreign`, in [0, 1], is allowed.
    """
    if mark := CONTROL_TOKEN.search(text):
        return f"control token {mark[0]!r}"
    if broken := _BAD_CHARACTER.search(text):
        return f"broken character {broken[0]!r}"
    longest = max(map(len, text.split()), default=0)  # much faster than the search, and nearly always enough
    if longest > MAX_RUN_OF_LETTERS and (glued := _RUN_OF_LETTERS.search(text)):
        return f"{len(glued[0])} letters without a break: {glued[0][:30]!r}"
    if text.isascii():
        return None
    suspects = {char for char in set(text) if char > "\u02ff" and char.isalpha()}
    others = {char for char in suspects if not unicodedata.name(char, "").startswith(_KNOWN_SCRIPTS)}
    if not others.difference(known):
        return None
    letters = [char for char in text if char.isalpha()]
    foreign = [char for char in letters if char in others and char not in known]
    if len(foreign) > max_foreign * len(letters):
        return f"{len(foreign)} of {len(letters)} letters are of another script: {''.join(foreign[:10])!r}"
    return None


# Tags of HTML and of answers, turn marks of chat templates, and marks in square brackets that models
# know. `a < b` is a comparison and `[ABC]` an area.
_TAG = re.compile(
    r"</?[a-z][\w:-]+(?:\s+[\w:-]+\s*=[^<>\n]*)?\s*/?>|<s>|</[a-z]>|<</?[a-z]+>>|<[|｜][^<>\n]{1,60}[|｜]>|◁/?\w+▷"
    r"|\[/[a-z_]+\]|\[(?:inst|sys|system|user|assistant|answer|solution|reasoning|g?mask|pad|eos|bos|unk|sop|cls|sep)\]",
    re.IGNORECASE,
)
_TURN = re.compile(
    r"^[ \t*_#>]*((?:ai |math |chat )?(?:assistant|user|human|system|chatbot|tutor))[ \t*_]*[:：]"
    r"|^[ \t*_#>]*(assistant|user|human)[ \t*_]*$"
    r"|^#+[ \t]*(?:response|instruction|input|output)\b[ \t*_:]*$",
    re.IGNORECASE | re.MULTILINE,
)
_TURN_WORDS = (
    "assistant",
    "user",
    "human",
    "system",
    "chatbot",
    "tutor",
    "# response",
    "# instruction",
    "# input",
    "# output",
)
_PLACEHOLDER_LINE = re.compile(
    r"^\W*####[\s'\"`*<\[{(]*(?:the |your |final |correct )*(?:answer|x|number|result)\b\W*$",
    re.IGNORECASE | re.MULTILINE,
)
_HASHES = re.compile(r"^(?![\s*_]*####).*?####", re.MULTILINE)
# How the answer's form is asked for, in words that no solution of a problem needs. In lower case.
_REQUESTS = (
    "your final answer",
    "your answer",
    "output the final answer",
    "output the answer",
    "output only",
    "answer in the format",
    "answer in this format",
    "answer in the form '",
    "answer in the form `",
    'answer in the form "',
    "answer alone on",
    "the required format",
    "the requested format",
    "the specified format",
    "the next problem:",
    "give me its solution",
)
RUN = 5  # words of a prompt that no solution shares by chance


def _runs(text: str) -> list[str]:
    """Every run of `RUN` words inside a clause of a prompt, in lower case."""
    clauses = [clause.split() for clause in re.split(r"[.,:\n#]+", text.lower())]
    return [" ".join(words[at : at + RUN]) for words in clauses for at in range(len(words) - RUN + 1)]


_ECHOES = (*_REQUESTS, *_runs(f"{prompts.SYSTEM}\n{prompts.INSTRUCTION}\n{prompts.REWRITE_INSTRUCTION}"))
_ECHO_WORDS = frozenset(max(words.split(), key=len) for words in _ECHOES)  # no echo without one of them
_CALCULATION = re.compile(r"[\d.,]*\d(?:\s*[-+*/=]\s*[\d.,]*\d)*")
_EXAMPLE_RUN = 4  # words with the example's noun, where `#` is any number: there are # rolls


def _example_runs(text: str) -> set[str]:
    """The runs of words around the noun of the prompt's worked example."""
    words = re.findall(r"[^\W\d]+|#", _CALCULATION.sub("#", text))
    runs = (words[at : at + _EXAMPLE_RUN] for at in range(len(words) - _EXAMPLE_RUN + 1))
    return {" ".join(run) for run in runs if prompts.EXAMPLE_NOUN in run}


_EXAMPLE_RUNS = frozenset(
    _example_runs(prompts.EXAMPLE_SOLUTION.lower()) | _example_runs(prompts.EXAMPLE_REWRITE.lower())
)


def leftover(text: str, folded: str, known: Callable[[], str]) -> str | None:
    """What a chat or a prompt left in a reasoning text: a tag, a turn mark, an echo of the instruction or of its example.

    Args:
        text: the reasoning.
        folded: the same in lower case, with single blanks.
        known: gives question and reference solution in lower case. Their words are no leftovers.
    """
    if "<" in text or "[" in text or "◁" in text:
        tag = MARK.search(text) or _TAG.search(text)
        if tag and tag[0].lower() not in known():
            return f"tag {tag[0][:40]!r}"
    if any(map(folded.__contains__, _TURN_WORDS)):
        for turn in _TURN.finditer(text):
            role = turn[1] or turn[2]
            if role is None or role.lower() not in known():
                return f"turn mark {turn[0].strip()[:40]!r}"
    if any(map(folded.__contains__, _ECHO_WORDS)):
        for words in _ECHOES:
            if words in folded and words not in known():
                return f"echo of the instruction {words!r}"
    if "####" in text and (line := _PLACEHOLDER_LINE.search(text) or _HASHES.search(text)):
        return f"part of an answer line {line[0].strip()[-40:]!r}"
    noun = prompts.EXAMPLE_NOUN
    if noun in folded and noun not in known() and (runs := _EXAMPLE_RUNS & _example_runs(folded)):
        return f"echo of the prompt's example {min(runs)!r}"
    return None
