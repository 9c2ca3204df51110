"""What the filter's rules judge: a teacher's row with its verdict, and the parameters that `filter.yaml` sets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from cotkit.core.jsonl import Row
from cotkit.equations.checker import Step, find_steps
from cotkit.filtering.contamination import TestQuestions
from cotkit.filtering.target import canonical, reasoning
from cotkit.grading.grader import Grade

# Talk to oneself. Matched on word boundaries: as plain substrings `ok,` hit "book," in clean text.
# None of these occurs in the 7,473 official GSM8K training solutions.
BANNED_PHRASES = (
    "wait,",
    "hmm",
    "ok,",
    "okay",
    "let me",
    "let's see",
    "alternatively",
    "double-check",
    "as an ai",
    "i think",
    "i need to",
    "sorry",
    "the user",
    "reference solution",
    "original solution",
)

# Talk about the task or the reference, which the student never sees.
TASK_TALK = (
    "the user wants",
    "the user asks",
    "the user is asking",
    "the original solution",
    "the reference solution",
    "the given solution",
    "the provided solution",
    "the solution provided",
    "the reference answer",
    "the prompt",
    "rewritten solution",
    "rewritten version",
    "corrected version",
    "corrected wording",
    "here is the solution",
    "here's the solution",
    "here is a clear",
    "here is a concise",
    "as instructed",
    "as requested",
)


@dataclass(frozen=True)
class Parameters:
    """What `filter.yaml` can set; the help of filter_teacher_cot.py says what each means."""

    banned: tuple[str, ...] = BANNED_PHRASES
    task_talk: tuple[str, ...] = TASK_TALK
    min_words: int = 3  # `Pregnant: 22(.50)=11 cows`: an official solution; nine of the 7,473 have fewer than 5 words
    max_words: int = 300
    max_tokens: int | None = None
    max_repeats: int = 2
    max_compression: float = 5.0
    max_foreign: float = 0.02
    step_tolerance: float = 0.0
    max_overlap: float = 0.5
    max_similarity: float = 0.9
    keep_thinking: bool = False


@dataclass(frozen=True)
class Rejection:
    """Why a record is not kept: a reason from the table, and what exactly was found."""

    reason: str
    detail: str


def folded(text: str) -> str:
    """The text in lower case with single blanks for all white space."""
    return " ".join(text.lower().split())


@dataclass
class Record:
    """A teacher row with its verdict, and what the rules look at, computed once; what takes time, only if it is asked for."""

    row: Row
    grade: Grade
    parameters: Parameters = field(default_factory=Parameters)
    count_tokens: Callable[[Row, str], int] | None = None
    tests: TestQuestions | None = None
    others: Sequence[str] = ()  # targets of the question's samples that are kept already

    def __post_init__(self) -> None:
        self.text = reasoning(self.row, self.grade)
        self.folded = folded(self.text)
        self.words = len(self.text.split())

    @cached_property
    def steps(self) -> list[Step]:
        return find_steps(self.text, self.parameters.step_tolerance)

    @cached_property
    def canonical(self) -> tuple[str, list[str]]:
        return canonical(self.row, self.grade, self.parameters.keep_thinking)

    @cached_property
    def tokens(self) -> int | None:
        """Of the whole training row: prompt, target and end of turn."""
        return self.count_tokens(self.row, self.canonical[0]) if self.count_tokens else None
