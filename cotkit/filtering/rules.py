"""The filter's rules: small pure functions ``(record, its parameters) -> what was found, or None``, with examples.

The rules are applied in the order of this file. The first one that finds something gives the reason; a record in which
none does is kept. A rule never changes a record. Its arguments after the record are fields of `Parameters`, which
`filter.yaml` sets. The decorator lists texts that the rule must keep and must reject; `check_rules` tries them all when
the filter starts.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache, partial
from typing import Any

from cotkit.core.errors import UserError
from cotkit.core.finish_reasons import is_failed, is_looped, is_truncated
from cotkit.core.jsonl import Row
from cotkit.equations.coverage import answer_occurs
from cotkit.filtering import text_quality
from cotkit.filtering.contamination import TestQuestions, ngram_hashes
from cotkit.filtering.records import Parameters, Record, Rejection, folded
from cotkit.filtering.target import has_answer
from cotkit.grading.extraction import answer_line_end

Finding = Callable[[Record], str | None]


@dataclass(frozen=True)
class Example:
    """A response that a rule must keep or reject. `given` sets fields of the row, of `Parameters` or of `Record`."""

    response: str
    keep: bool
    given: Row


def keep(response: str, **given: Any) -> Example:
    return Example(response, True, given)


def reject(response: str, **given: Any) -> Example:
    return Example(response, False, given)


@dataclass(frozen=True)
class Rule:
    """A rule's function and its examples."""

    function: Callable[..., str | None]
    examples: tuple[Example, ...]

    @property
    def parameters(self) -> list[str]:
        """The names of the fields of `Parameters` that the rule reads."""
        return list(inspect.signature(self.function).parameters)[1:]

    def bound(self, parameters: Parameters) -> Finding:
        """The rule as a function of the record alone."""
        return partial(self.function, **{name: getattr(parameters, name) for name in self.parameters})


RULES: dict[str, Rule] = {}


def rule(*examples: Example) -> Callable[[Callable[..., str | None]], Callable[..., str | None]]:
    """Adds a function to `RULES` under its own name, which is the reason of the rows that it rejects."""

    def add(function: Callable[..., str | None]) -> Callable[..., str | None]:
        RULES[function.__name__] = Rule(function, examples)
        return function

    return add


TEXT = "Tom starts with 4 apples.\nThen he has 4+1=5 apples."
GOOD = TEXT + "\n#### 5"
_TESTS = TestQuestions([("test-1", "Tom has 4 apples and buys 1 more. How many does he have in all?")], 8)


@rule(keep(GOOD), reject("", finish_reason="error", error="server gone"), reject("", finish_reason="ABORTED"))
def failed(record: Record) -> str | None:
    """The teacher gave no text."""
    return str(record.row.get("error", "no text")) if is_failed(record.row["finish_reason"]) else None


@rule(keep(GOOD), reject(TEXT, finish_reason="length"))
def truncated(record: Record) -> str | None:
    """The text was truncated at the token limit."""
    limit_reached = is_truncated(record.row["finish_reason"])
    return f"truncated after {record.row['completion_tokens']} tokens" if limit_reached else None


@rule(keep(GOOD), reject(GOOD, finish_reason="loop"))
def looped(record: Record) -> str | None:
    """The text was stopped in a loop. More tokens would not help, so another round does not ask for more."""
    return f"loops after {record.row['completion_tokens']} tokens" if is_looped(record.row["finish_reason"]) else None


@rule(keep("<think>4+1</think>" + GOOD), reject("<think>4+1=5, so #### 5"))
def unclosed_think(record: Record) -> str | None:
    """A think block has no end."""
    return "think block without an end" if record.grade.how == "unclosed_think" else None


@rule(
    keep("The angle is α=5°, naïvely.\n" + GOOD),
    keep(GOOD, question="苹果?"),
    reject("苹果有五个。\n" + GOOD),
    reject("<|im_start|>" + GOOD),
    reject("4\ufffd5\n" + GOOD),
    reject("apples" * 9 + GOOD),
)
def garbled(record: Record, max_foreign: float) -> str | None:
    """The text has control tokens, broken characters, glued words or letters of another script."""
    return text_quality.garbled(record.text, record.row["question"], max_foreign)


@rule(
    keep("The user of the car pays.\n" + GOOD),
    keep("As requested, he has 5.\n" + GOOD, question="He gives 5 as requested. How many?"),
    reject("The user wants it short.\n" + GOOD),
    reject("As in the original  solution, " + GOOD),
)
def task_talk(record: Record, task_talk: tuple[str, ...]) -> str | None:
    """The text speaks of the task or of the reference solution, in a phrase that the question does not use."""
    return _find_phrase(record, task_talk)


@rule(
    keep("They read a book, then wait.\n" + GOOD),
    keep(GOOD + "\nWait, let me see."),
    keep("Okafor smokes.\n" + GOOD),
    keep("Alternatively, 1+4=5.\n" + GOOD),
    keep("After a wait, he has 5.\n" + GOOD, question="How long does he wait?"),
    reject("Let me think. " + GOOD),
    reject("WAIT, no. " + GOOD),
)
def banned_phrase(record: Record, banned: tuple[str, ...]) -> str | None:
    """The text has a banned phrase that the question does not use."""
    return _find_phrase(record, banned)


def _find_phrase(record: Record, phrases: tuple[str, ...]) -> str | None:
    # Plain search is much faster and nearly always finds nothing. It fits ASCII only: others fold case in more ways.
    if record.text.isascii() and not any(map(record.folded.__contains__, _all_folded(phrases))):
        return None
    pattern = phrase_pattern(phrases)
    for match in pattern.finditer(record.text) if pattern else ():
        if _bare_words(match[0]) not in _bare_words(record.row["question"]):
            return repr(match[0])
    return None


def _bare_words(text: str) -> str:
    """The words without punctuation, in lower case, each between blanks."""
    words = re.findall(r"[^\W_]+(?:['’][^\W_]+)*", text.lower())
    return f" {' '.join(words)} "


@lru_cache(maxsize=16)
def _all_folded(phrases: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(map(folded, phrases))


@lru_cache(maxsize=16)
def phrase_pattern(phrases: tuple[str, ...]) -> re.Pattern[str] | None:
    """Finds any of the phrases as whole words, in any case and with any white space between words."""
    if not phrases:
        return None
    words = (r"\s+".join(map(re.escape, phrase.split())) for phrase in sorted(phrases, key=len, reverse=True))
    # \b would fail beside a phrase that begins or ends with punctuation.
    return re.compile(rf"(?<!\w)(?:{'|'.join(words)})(?!\w)", re.IGNORECASE)


@rule(
    keep("2 apples + 2 apples + 2 apples + 2 apples = 8 apples.\n" + GOOD),
    reject("Then he buys one more apple. " * 6 + GOOD),
    reject("1 2 3 4 5 six\n" * 3 + "so\n" + GOOD),
    keep("1 2 3 4 5 six\n" * 3 + GOOD, max_repeats=3),
    keep("\n".join(f"It is {n}.50 rounded to 2 decimal places." for n in (1, 2, 3, 4)) + "\n" + GOOD),
    keep("Row row row your boat now. " * 3 + GOOD, question="They sing 'Row row row your boat now.' How many?"),
)
def repetition(record: Record, max_repeats: int, max_compression: float) -> str | None:
    """A sentence or a run of words is repeated too often, or zlib shrinks the text too much."""
    text = record.text
    if text_quality.loop(text, max_repeats) or text_quality.repeated_sentence(text, max_repeats):
        known = folded(record.row["question"])
        found = text_quality.loop(text, max_repeats, known)
        if found := found or text_quality.repeated_sentence(text, max_repeats, known):
            return f"{found[1]} times {found[0][:80]!r}"
    ratio = text_quality.compression(record.text)
    return f"shrinks {ratio:.1f} times, allowed {max_compression:g}" if ratio > max_compression else None


@rule(keep(GOOD), keep("\\boxed{5}", answer_kind="latex"), reject(TEXT), reject(TEXT + " \\boxed{5}"))
def no_answer_line(record: Record) -> str | None:
    """There is no answer in the right place, and no ``####``."""
    if has_answer(record.kind, record.grade) or "####" in record.row["response"]:
        return None
    return f"answer found: {record.grade.how}"


@rule(
    keep(GOOD),
    keep(GOOD + "\n#### x"),
    keep("#### Step 1: add\n" + GOOD),
    reject(TEXT + "\n#### x"),
    reject(TEXT + "\n#### 4\nWait, that is wrong.\n#### 5"),
)
def malformed_answer_line(record: Record) -> str | None:
    """A line ``####`` does not hold exactly one answer, or a later one takes it back."""
    if not has_answer(record.kind, record.grade):
        line = record.row["response"].rpartition("####")[2].strip()
        return f"#### {line[:40]!r}"
    return "an earlier answer line was taken back" if answer_line_end(record.text + "\n") is not None else None


@rule(
    keep(GOOD),
    keep("Here 4 < 5 and 5 > 4.\n" + GOOD),
    keep("**Step 1:** add.\n#### Step 2\n" + GOOD),
    keep("Assistant: 4 hours\n" + GOOD, question="How many hours does the assistant work?"),
    keep("There are 4 rolls.\n" + GOOD, question="She bakes rolls. How many?"),
    reject("<solution>\n" + TEXT + "\n</solution>\n#### 5"),
    reject("[/INST] " + GOOD),
    reject("Assistant: " + GOOD),
    reject("Output the final answer in the format '#### x'.\n" + GOOD),
    reject("There are 9000 rolls.\n" + GOOD),
    reject("The answer has the form #### answer.\n" + GOOD),
)
def leftover_markup(record: Record) -> str | None:
    """The text has tags, turn marks, or echoes of the prompt's instruction or of its worked example."""
    row = record.row
    known = partial(folded, f"{row['question']}\n{row.get('solution', '')}")
    return text_quality.leftover(record.text, record.folded, known)


@rule(keep(GOOD), reject("#### 5"), reject(GOOD, max_words=3), keep("Five.\n#### 5", min_words=1))
def length(record: Record, min_words: int, max_words: int) -> str | None:
    """The reasoning has too few or too many words."""
    words = record.words
    return None if min_words <= words <= max_words else f"{words} words, allowed are {min_words} to {max_words}"


@rule(keep(GOOD), keep(TEXT + "\n#### **$5.00**"), reject(TEXT + "\n#### 6"))
def wrong_answer(record: Record) -> str | None:
    """The answer is not the gold answer."""
    grade, gold = record.grade, record.row["answer"]
    return None if grade.verdict == "correct" else f"{grade.verdict}: {grade.extracted!r}, gold {gold!r}"


@rule(
    keep(GOOD),
    keep("<<10/4=2.5>>\n" + GOOD),
    keep("10/3 = 3.33\n" + GOOD),
    reject("He has 3+1=5 apples.\n#### 5"),
    reject("20% of 50 = 20\n" + GOOD),
    reject("17/2 = 8\n" + GOOD),
    keep("He has 4+1=5*2=10 legs.\n" + GOOD),
    reject("He has 4+1=5*2=10 legs.\n" + GOOD, reject_running_totals=True),
)
def wrong_steps(record: Record, reject_running_totals: bool) -> str | None:
    """An equation in the reasoning is false in every common reading."""
    wrong = (step for step in record.steps if not step.holds or (step.running and reject_running_totals))
    return "; ".join(step.text for step in wrong)[:300] or None


@rule(
    keep(GOOD),
    keep("He has five in the end.\n#### 5"),
    keep("Each costs $0.05.\n#### 5"),
    keep("x\n#### 1/2", answer="1/2"),
    keep("It is 80 000 + 1 000 = 81 000.\n#### 81000", answer="81000"),
    reject("He has 2+2=4 apples.\n#### 5"),
    reject("He has 15 apples.\n#### 5"),
)
def unreached_answer(record: Record) -> str | None:
    """The reasoning never states the answer, so the steps that lead to it are missing."""
    answer = record.row["answer"]
    missing = record.kind == "number" and answer_occurs(answer, record.text) is False
    return f"{answer} appears only on the answer line" if missing else None


@rule(
    keep(GOOD),
    keep(GOOD, tests=_TESTS, question="How many pears are 3 pears?"),
    reject(GOOD, tests=_TESTS),
    keep(GOOD, tests=_TESTS, max_overlap=1.1),
)
def contaminated(record: Record, max_overlap: float) -> str | None:
    """A test set asks this question too."""
    found = record.tests.closest(record.row["question"]) if record.tests else None
    if found is None or found.share < max_overlap:
        return None
    return f"{record.row['id']} shares {found.share:.0%} of its n-grams with {found.test_id}"


@rule(
    keep(GOOD, max_tokens=9, count_tokens=lambda row, target: 9),
    reject(GOOD, max_tokens=8, count_tokens=lambda row, target: 9),
)
def too_many_tokens(record: Record, max_tokens: int | None) -> str | None:
    """The rendered training row is longer than the training allows and would be truncated."""
    if max_tokens is None or record.tokens is None or record.tokens <= max_tokens:
        return None
    return f"{record.tokens}, allowed {max_tokens}"


@rule(
    keep(GOOD, kept_targets=("He adds: 1+4 makes 5 of them.\n#### 5",)),
    reject(GOOD, kept_targets=("", GOOD)),
    keep(GOOD, kept_targets=(GOOD,), max_similarity=1.1),
)
def near_duplicate(record: Record, max_similarity: float) -> str | None:
    """A kept sample of the same question says nearly the same."""
    return find_similar(record.target.text, record.kept_targets, max_similarity) if record.kept_targets else None


def find_similar(text: str, others: Sequence[str], max_similarity: float) -> str | None:
    """States the largest Jaccard similarity of the sets of 3-word runs if it is at least `max_similarity`."""
    own, similarity = _trigrams(text), 0.0
    for other in map(_trigrams, others):
        if min(len(own), len(other)) >= max_similarity * max(len(own), len(other)):  # otherwise it cannot be reached
            common = len(own & other)
            similarity = max(similarity, common / max(1, len(own) + len(other) - common))
    return f"similarity {similarity:.2f} with a kept sample" if similarity >= max_similarity else None


@lru_cache(maxsize=64)  # the samples of one question come one after the other
def _trigrams(text: str) -> set[int]:
    return ngram_hashes(text, 3)


REASONS = tuple(RULES)

EXAMPLE_ROW: Row = {
    "id": "example",
    "dataset": "example",
    "answer_kind": "number",
    "question": "Tom has 4 apples and buys 1 more. How many does he have?",
    "answer": "5",
    "finish_reason": "stop",
    "completion_tokens": 9,
}


def judge(record: Record, rules: dict[str, Finding]) -> Rejection | None:
    """What the first rule that finds something found; None if no rule does."""
    for name, find in rules.items():
        detail = find(record)
        if detail is not None:
            return Rejection(name, detail)
    return None


def check_example(name: str, example: Example, parameters: Parameters, place: str) -> None:
    """Tries one example of a rule. Raises UserError, which starts with `place`, if the rule contradicts it."""
    given = dict(example.given)
    own = {key: given.pop(key) for key in ("tests", "kept_targets", "count_tokens") if key in given}
    changed = {item.name: given.pop(item.name) for item in fields(Parameters) if item.name in given}
    parameters = replace(parameters, **changed)
    found = RULES[name].bound(parameters)(
        Record({**EXAMPLE_ROW, **given, "response": example.response}, parameters, **own)
    )
    if (found is None) != example.keep:
        wanted = "keep" if example.keep else "reject"
        raise UserError(
            f"{place}: rule {name} must {wanted} {example.response[:60]!r}, but finds {found}; correct one of them"
        )


def check_rules() -> None:
    """Tries the examples of all rules with the default parameters. Raises UserError naming file and line."""
    for name, tried in RULES.items():
        code = tried.function.__code__
        for example in tried.examples:
            check_example(name, example, Parameters(), f"{code.co_filename}:{code.co_firstlineno}")
