"""What a backend receives and returns: `Request` and `Sampling` in, `Completion` out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from cotkit.generation.prompts import Message

FINISH_REASONS = ("stop", "answer", "length", "error")


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen. Temperature 0 is greedy; top_p 1 and top_k 0 are off."""

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    thinking: bool = False
    stop_at_answer: bool = True


@dataclass(frozen=True)
class Request:
    """One completion to generate; (id, sample) is its key in all files.

    `max_new_tokens` overrides the run's limit, for a problem whose earlier text was truncated.
    """

    id: str
    sample: int
    messages: list[Message]
    max_new_tokens: int | None = None

    def budget(self, sampling: Sampling) -> int:
        """The token limit of this completion."""
        return self.max_new_tokens or sampling.max_new_tokens

    @property
    def key(self) -> tuple[str, int]:
        return self.id, self.sample

    def seed(self, run_seed: int) -> int:
        """A seed of its own, so that a sampled text does not depend on what ran beside it. 63 bits."""
        digest = hashlib.sha256(f"{run_seed}\n{self.id}\n{self.sample}".encode()).digest()
        return int.from_bytes(digest[:8], "big") >> 1


@dataclass(frozen=True)
class Completion:
    """What a model wrote, without the prompt and without the end-of-turn token.

    finish_reason is `stop` (the model ended its turn), `answer` (cut after its first complete answer line), `length`
    (the token limit) or `error` (no text; `error` says why). Token counts are the engine's own.
    """

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    error: str | None = None


class Backend(Protocol):
    """A loaded model."""

    def generate(self, requests: Sequence[Request]) -> Iterator[tuple[Request, Completion]]:
        """Yields every request exactly once, in the order in which they finish."""
