"""What goes into an engine and what comes out: a `Request` with its `Sampling`, and a `Completion`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from cotkit.generation.prompts import Message


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen. Temperature 0 is greedy; top_p 1 and top_k 0 are off."""

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    thinking: bool = False
    stop_at_answer: bool = True
    stop_at_loop: bool = False


@dataclass(frozen=True)
class Request:
    """One wanted completion. (id, sample) is its key everywhere.

    `max_new_tokens` replaces the run's limit, for a problem that needs more tokens than the others.
    """

    id: str
    sample: int
    messages: list[Message]
    max_new_tokens: int | None = None

    def budget(self, sampling: Sampling) -> int:
        """The most tokens that the completion may have; every backend asks here."""
        return self.max_new_tokens or sampling.max_new_tokens

    @property
    def key(self) -> tuple[str, int]:
        return self.id, self.sample

    def seed(self, run_seed: int) -> int:
        """This request's own seed (63 bits), so that a sampled text does not depend on its batch."""
        digest = hashlib.sha256(f"{run_seed}\n{self.id}\n{self.sample}".encode()).digest()
        return int.from_bytes(digest[:8], "big") >> 1


@dataclass(frozen=True)
class Completion:
    """What a model wrote, without the prompt and without the end-of-turn token.

    finish_reason is `stop` (the model ended its turn), `answer` (stopped after the first complete answer line), `loop`
    (stopped in a loop), `length` (truncated at the token limit) or `error` (no text; `error` gives the reason). Token counts
    are the engine's own.
    """

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    error: str | None = None
    opened: str = ""  # the mark of a thought that the prompt left open, such as "<think>\n"

    @property
    def response(self) -> str:
        """The text as rows keep it: a thought that the prompt opened begins with its mark, so that readers know it."""
        return self.opened + self.text

    def record(self, **more: Any) -> dict[str, Any]:
        """The fields of this completion that every record has, then `more`, then `error` if there is one."""
        counts = {"prompt_tokens": self.prompt_tokens, "completion_tokens": self.completion_tokens}
        row = {"finish_reason": self.finish_reason, **counts, **more}
        return {**row, "error": self.error} if self.error else row


class Backend(Protocol):
    """A loaded model. `sampling` may be replaced between two calls of `generate`."""

    sampling: Sampling

    def close(self) -> None:
        """Ends its processes, if it has any, before another model is loaded; memory is freed with the object."""

    def generate(self, requests: Sequence[Request]) -> Iterator[tuple[Request, Completion]]:
        """Yields every request exactly once, in the order in which they finish."""
