"""The filter's rules: small pure functions ``(record, its parameters) -> what was found, or None`` in one ordered table.

The first rule that objects gives the reason; a record without an objection is kept. A rule never changes a record. Each
rule stands with texts that it must keep and texts that it must reject; `check_rules` tries them all when the filter
starts. A rule's keyword arguments are its parameters: fields of `Parameters`, which `filter.yaml` sets.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property, lru_cache, partial
from typing import Any

from cotkit.core.cli import nearest
from cotkit.core.datasets import NUMBER_DATASETS
from cotkit.core.errors import UserError
from cotkit.core.jsonl import Row
from cotkit.equations.coverage import answer_occurs
from cotkit.filtering import text_quality
from cotkit.filtering.contamination import TestQuestions, ngrams
from cotkit.filtering.records import Parameters, Record, Rejection, folded
from cotkit.filtering.target import has_answer
from cotkit.grading.grader import Item, answer_line_end, grade

Objection = Callable[[Record], str | None]


@dataclass(frozen=True)
class Example:
    """A response that a rule must keep or reject; `given` sets fields of the row, of `Parameters` or of `Record`."""

    response: str
    keep: bool
    given: Row


def keep(response: str, **given: Any) -> Example:
    return Example(response, True, given)


def reject(response: str, **given: Any) -> Example:
    return Example(response, False, given)


@dataclass(frozen=True)
class Rule:
    """One row of the table."""

    function: Callable[..., str | None]
    examples: tuple[Example, ...]

    @property
    def place(self) -> str:
        code = self.function.__code__
        return f"{code.co_filename}:{code.co_firstlineno}"

    @cached_property
    def parameters(self) -> tuple[str, ...]:
        return tuple(inspect.signature(self.function).parameters)[1:]

    def bound(self, parameters: Parameters) -> Objection:
        """The rule with its parameters: gives what it found in a record, None if it has no objection."""
        return partial(self.function, **{name: getattr(parameters, name) for name in self.parameters})


def failed(record: Record) -> str | None:
    """The teacher gave no text."""
    return str(record.row.get("error", "no text")) if record.row["finish_reason"] == "error" else None


def truncated(record: Record) -> str | None:
    """The text was cut at the token limit."""
    cut = record.row["finish_reason"] == "length"
    return f"cut after {record.row['completion_tokens']} tokens" if cut else None


def unclosed_think(record: Record) -> str | None:
    """A think block never ended."""
    return "think block without an end" if record.grade.how == "unclosed_think" else None


def garbled(record: Record, max_foreign: float) -> str | None:
    """Control tokens, broken characters, glued words, another script."""
    return text_quality.garbled(record.text, record.row["question"], max_foreign)


def task_talk(record: Record, task_talk: tuple[str, ...]) -> str | None:
    """The text speaks of the task or of the reference solution."""
    return _phrase(record, task_talk)


def banned(record: Record, banned: tuple[str, ...]) -> str | None:
    """A banned phrase stands in the text."""
    return _phrase(record, banned)


def _phrase(record: Record, phrases: tuple[str, ...]) -> str | None:
    # Nearly always no phrase is there at all: plain search tells so much faster. (Other scripts fold case in more ways.)
    if record.text.isascii() and not any(map(record.folded.__contains__, _folded(phrases))):
        return None
    pattern = phrase_pattern(phrases)
    match = pattern.search(record.text) if pattern else None
    return repr(match[0]) if match else None


@lru_cache(maxsize=16)
def _folded(phrases: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(map(folded, phrases))


@lru_cache(maxsize=16)
def phrase_pattern(phrases: tuple[str, ...]) -> re.Pattern[str] | None:
    """Finds any of the phrases as whole words, whatever the case and the width of blanks."""
    if not phrases:
        return None
    words = (r"\s+".join(map(re.escape, phrase.split())) for phrase in sorted(phrases, key=len, reverse=True))
    # \b would fail beside a phrase that begins or ends with punctuation.
    return re.compile(rf"(?<!\w)(?:{'|'.join(words)})(?!\w)", re.IGNORECASE)


def looping(record: Record, max_repeats: int, max_compression: float) -> str | None:
    """A sentence or a run of words stands again and again, or the text is hardly more than its repetitions."""
    if found := text_quality.loop(record.text, max_repeats) or text_quality.repeated_sentence(record.text, max_repeats):
        return f"{found[1]} times {found[0][:80]!r}"
    ratio = text_quality.compression(record.text)
    return f"shrinks {ratio:.1f} times, allowed {max_compression:g}" if ratio > max_compression else None


def no_answer_line(record: Record) -> str | None:
    """There is no answer where it has to stand, and nothing that looks like an answer line."""
    if has_answer(record.row, record.grade) or "####" in record.row["response"]:
        return None
    return f"answer found: {record.grade.how}"


def malformed_answer_line(record: Record) -> str | None:
    """There is a line ``####``, but not with one answer on it; or several of them that take each other back."""
    if not has_answer(record.row, record.grade):
        line = record.row["response"].rpartition("####")[2].strip()
        return f"#### {line[:40]!r}"
    return "an earlier answer line was taken back" if answer_line_end(record.text + "\n") is not None else None


def length(record: Record, min_words: int, max_words: int) -> str | None:
    """The reasoning has too few or too many words."""
    words = record.words
    return None if min_words <= words <= max_words else f"{words} words, allowed are {min_words} to {max_words}"


def wrong_answer(record: Record) -> str | None:
    """The answer is not the gold answer."""
    verdict = record.grade
    gold = record.row["answer"]
    return None if verdict.verdict == "correct" else f"{verdict.verdict}: {verdict.extracted!r}, gold {gold!r}"


def wrong_steps(record: Record) -> str | None:
    """An equation that is written in the reasoning is false."""
    return "; ".join(step.text for step in record.steps if not step.holds)[:300] or None


def unreached_answer(record: Record) -> str | None:
    """The answer stands nowhere in the reasoning: whatever leads to it is not written down."""
    answer = record.row["answer"]
    reached = record.row["dataset"] not in NUMBER_DATASETS or answer_occurs(answer, record.text)
    return f"{answer} stands only on the answer line" if reached is False else None


def contaminated(record: Record, max_overlap: float) -> str | None:
    """A test set asks the question too."""
    found = record.tests.closest(record.row["question"]) if record.tests else None
    if found is None or found.share < max_overlap:
        return None
    return f"{record.row['id']} shares {found.share:.0%} of its n-grams with {found.test_id}"


def too_many_tokens(record: Record, max_tokens: int | None) -> str | None:
    """The rendered training row would be cut by the training."""
    if max_tokens is None or record.tokens is None or record.tokens <= max_tokens:
        return None
    return f"{record.tokens}, allowed {max_tokens}"


def near_duplicate(record: Record, max_similarity: float) -> str | None:
    """Another sample of the question that is kept says nearly the same."""
    return near_duplicate_of(record.canonical[0], record.others, max_similarity) if record.others else None


def near_duplicate_of(text: str, others: Sequence[str], max_similarity: float) -> str | None:
    """The largest Jaccard similarity of the sets of runs of 3 words, if it is at least `max_similarity`."""
    own, similarity = _trigrams(text), 0.0
    for its in map(_trigrams, others):
        if min(len(own), len(its)) >= max_similarity * max(len(own), len(its)):  # else it cannot be so large
            common = len(own & its)
            similarity = max(similarity, common / max(1, len(own) + len(its) - common))
    return f"similarity {similarity:.2f} with a kept sample" if similarity >= max_similarity else None


@lru_cache(maxsize=64)  # the samples of one question, which stand together
def _trigrams(text: str) -> set[tuple[str, ...]]:
    return ngrams(text, 3)


TEXT = "Tom starts with 4 apples.\nThen he has 4+1=5 apples."
GOOD = TEXT + "\n#### 5"
_LOOP = "Then he buys one more apple. " * 6
_TESTS = TestQuestions([("test-1", "Tom has 4 apples and buys 1 more. How many does he have in all?")], 8)

RULES: dict[str, Rule] = {
    "failed": Rule(failed, (keep(GOOD), reject("", finish_reason="error", error="server gone"))),
    "truncated": Rule(truncated, (keep(GOOD), reject(TEXT, finish_reason="length"))),
    "unclosed_think": Rule(unclosed_think, (keep("<think>4+1</think>" + GOOD), reject("<think>4+1=5, so #### 5"))),
    "garbled": Rule(
        garbled,
        (
            keep("The angle is α=5°, naïvely.\n" + GOOD),
            keep(GOOD, question="苹果?"),
            reject("苹果有五个。\n" + GOOD),
            reject("<|im_start|>" + GOOD),
            reject("4\ufffd5\n" + GOOD),
            reject("apples" * 9 + GOOD),
        ),
    ),
    "task_talk": Rule(
        task_talk,
        (
            keep("The user of the car pays.\n" + GOOD),
            reject("The user wants it short.\n" + GOOD),
            reject("As in the original  solution, " + GOOD),
        ),
    ),
    "banned_phrase": Rule(
        banned,
        (
            keep("They read a book, then wait.\n" + GOOD),
            keep(GOOD + "\nWait, let me see."),
            keep("Okafor smokes.\n" + GOOD),
            reject("Let me think. " + GOOD),
            reject("WAIT, no. " + GOOD),
        ),
    ),
    "repetition": Rule(
        looping,
        (
            keep("2 apples + 2 apples + 2 apples + 2 apples = 8 apples.\n" + GOOD),
            reject(_LOOP + GOOD),
            reject("1 2 3 4 5 six\n" * 3 + "so\n" + GOOD),
            keep("1 2 3 4 5 six\n" * 3 + GOOD, max_repeats=3),
        ),
    ),
    "no_answer_line": Rule(
        no_answer_line, (keep(GOOD), keep("\\boxed{5}", dataset="math500"), reject(TEXT), reject(TEXT + " \\boxed{5}"))
    ),
    "malformed_answer_line": Rule(
        malformed_answer_line,
        (
            keep(GOOD),
            keep(GOOD + "\n#### x"),
            keep("#### Step 1: add\n" + GOOD),
            reject(TEXT + "\n#### x"),
            reject(TEXT + "\n#### 4\nWait, that is wrong.\n#### 5"),
        ),
    ),
    "length": Rule(
        length, (keep(GOOD), reject("#### 5"), reject(GOOD, max_words=3), keep("Five.\n#### 5", min_words=1))
    ),
    "wrong_answer": Rule(wrong_answer, (keep(GOOD), keep(TEXT + "\n#### **$5.00**"), reject(TEXT + "\n#### 6"))),
    "wrong_steps": Rule(
        wrong_steps,
        (
            keep(GOOD),
            keep("<<10/4=2.5>>\n" + GOOD),
            keep("10/3 = 3.33\n" + GOOD),
            reject("He has 3+1=5 apples.\n#### 5"),
            reject("20% of 50 = 20\n" + GOOD),
            reject("17/2 = 8\n" + GOOD),
            keep("17/2 = 8\n" + GOOD, step_tolerance=0.1),
        ),
    ),
    "unreached_answer": Rule(
        unreached_answer,
        (
            keep(GOOD),
            keep("He has five in the end.\n#### 5"),
            keep("Each costs $0.05.\n#### 5"),
            keep("x\n#### 1/2", answer="1/2"),
            keep("It is 80 000 + 1 000 = 81 000.\n#### 81000", answer="81000"),
            reject("He has 2+2=4 apples.\n#### 5"),
            reject("He has 15 apples.\n#### 5"),
        ),
    ),
    "contaminated": Rule(
        contaminated,
        (
            keep(GOOD),
            keep(GOOD, tests=_TESTS, question="How many pears are 3 pears?"),
            reject(GOOD, tests=_TESTS),
            keep(GOOD, tests=_TESTS, max_overlap=1.1),
        ),
    ),
    "too_many_tokens": Rule(
        too_many_tokens,
        (
            keep(GOOD, max_tokens=9, count_tokens=lambda row, target: 9),
            reject(GOOD, max_tokens=8, count_tokens=lambda row, target: 9),
        ),
    ),
    "near_duplicate": Rule(
        near_duplicate,
        (
            keep(GOOD, others=("He adds: 1+4 makes 5 of them.\n#### 5",)),
            reject(GOOD, others=("", GOOD)),
            keep(GOOD, others=(GOOD,), max_similarity=1.1),
        ),
    ),
}
REASONS = tuple(RULES)


def judge(record: Record, rules: dict[str, Objection]) -> Rejection | None:
    """The first objection of rules that are bound to their parameters, or None."""
    for name, objection in rules.items():
        detail = objection(record)
        if detail is not None:
            return Rejection(name, detail)
    return None


EXAMPLE_ROW: Row = {
    "id": "example",
    "dataset": "gsm8k",
    "question": "Tom has 4 apples and buys 1 more. How many does he have?",
    "answer": "5",
    "finish_reason": "stop",
    "completion_tokens": 9,
}


def record_of(example: Example, parameters: Parameters) -> Record:
    """The record that an example stands for."""
    names = {item.name for item in fields(Parameters)}
    own = {name: value for name, value in example.given.items() if name in ("tests", "others", "count_tokens")}
    changed = {name: value for name, value in example.given.items() if name in names}
    rest = {name: value for name, value in example.given.items() if name not in {*own, *changed}}
    row = {**EXAMPLE_ROW, **rest, "response": example.response}
    verdict = grade(Item(row["id"], row["dataset"], row["answer"], row["response"], row["finish_reason"]))
    return Record(row, verdict, replace(parameters, **changed), **own)


def check_example(name: str, example: Example, parameters: Parameters, place: str) -> None:
    """Raises UserError where a rule contradicts an example of its own."""
    record = record_of(example, parameters)
    found = RULES[name].bound(record.parameters)(record)
    if (found is None) != example.keep:
        wanted = "keep" if example.keep else "reject"
        raise UserError(
            f"{place}: rule {name} must {wanted} {example.response[:60]!r}, but finds {found}; mend one of them"
        )


def check_rules(rules: dict[str, Rule] = RULES) -> None:
    """Tries every rule's examples with the default parameters. Raises UserError naming file and line."""
    known = [item.name for item in fields(Parameters)]
    for name, rule in rules.items():
        for parameter in rule.parameters:
            if parameter not in known:
                raise UserError(
                    f"{rule.place}: rule {name}: unknown parameter {parameter!r}{nearest(parameter, known)}"
                )
        for example in rule.examples:
            check_example(name, example, Parameters(), rule.place)
