"""What the rules judge: a teacher row with its grade, and the parameters that `filter.yaml` sets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from cotkit.core.datasets import kind_of
from cotkit.core.jsonl import Row
from cotkit.equations.checker import Step, find_steps
from cotkit.filtering.contamination import TestQuestions
from cotkit.filtering.target import Target, make_target, reasoning
from cotkit.grading.grader import Item, grade

# Thinking aloud. None of these phrases occurs in the 7,473 official GSM8K training solutions. They are matched as whole
# words, since `ok,` is a part of "book,".
_BANNED = (
    "wait,|hmm|ok,|okay|let me|let's see|double-check|as an ai|i think|i need to|sorry|the user"
    "|reference solution|original solution"
)
# Talk about the task or the reference solution, which the student never sees.
_TASK_TALK = (
    "the user wants|the user asks|the user is asking|the original solution|the reference solution|the given solution"
    "|the provided solution|the solution provided|the reference answer|the prompt|rewritten solution|rewritten version"
    "|corrected version|corrected wording|here is the solution|here's the solution|here is a clear|here is a concise"
    "|as instructed|as requested"
)


@dataclass(frozen=True)
class Parameters:
    """The rules' parameters; the help of filter_teacher_cot.py says what each means."""

    banned: tuple[str, ...] = tuple(_BANNED.split("|"))
    task_talk: tuple[str, ...] = tuple(_TASK_TALK.split("|"))
    min_words: int = 3  # nine of the 7,473 official solutions have fewer than 5 words: `Pregnant: 22(.50)=11 cows`
    max_words: int = 300
    max_tokens: int | None = None
    max_repeats: int = 2
    max_compression: float = 5.0
    max_foreign: float = 0.02
    max_overlap: float = 0.5
    max_similarity: float = 0.9
    reject_running_totals: bool = False
    keep_thinking: bool = False


@dataclass(frozen=True)
class Rejection:
    """Why a row is not kept: the rule's name and what it found."""

    reason: str
    detail: str


def folded(text: str) -> str:
    """The text in lower case, with each run of white space as one blank."""
    return " ".join(text.lower().split())


@dataclass
class Record:
    """A teacher row and what the rules look at. Computed once; what takes time is computed when it is first read."""

    row: Row
    parameters: Parameters = field(default_factory=Parameters)
    count_tokens: Callable[[Row, str], int] | None = None
    tests: TestQuestions | None = None
    kept_targets: Sequence[str] = ()  # of the samples of this question that are kept already

    def __post_init__(self) -> None:
        row = self.row
        self.kind = kind_of(row, row["id"])
        self.grade = grade(Item(row["id"], self.kind, row["answer"], row["response"], row["finish_reason"]))
        self.text = reasoning(row["response"], self.grade)
        self.folded = folded(self.text)
        self.words = len(self.text.split())

    @cached_property
    def steps(self) -> list[Step]:
        return find_steps(self.text)

    @cached_property
    def target(self) -> Target:
        return make_target(self.row, self.grade, self.text, self.parameters.keep_thinking)

    @cached_property
    def tokens(self) -> int | None:
        """Tokens of the whole training row: prompt, target and end of turn. None without a tokenizer."""
        return self.count_tokens(self.row, self.target.text) if self.count_tokens else None
