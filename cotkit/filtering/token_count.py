"""Counts the student's tokens of a rendered training row: prompt, target and end of turn.

transformers, which renders the chat template, imports torch: seconds and 800 MB for a process that only counts. A
template nearly always puts the question into the same frame, though, so the frame and the tokenizer are read once and
handed on as texts; counting with them needs only the package tokenizers.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from cotkit.core.jsonl import Row
from cotkit.generation import prompts

Counter = Callable[[Row, str], int]

PROBE = "Which question stands here?"


@dataclass(frozen=True)
class Frame:
    """What a question stands in: ``head + before + question + after + tail + target``.

    `before` and `tail` begin with a special token such as ``<|im_start|>``. A tokenizer cuts these out of a text first,
    so that what stands before one is encoded by itself and its tokens can be counted once.
    """

    tokenizer: str  # the fast tokenizer as JSON
    head: str
    before: str
    after: str
    tail: str
    strips: bool  # whether the template takes blanks from the start of a message


def token_counter(student_model: str | None, frame: Frame | None = None) -> Counter | None:
    """A function that counts the tokens of (row, target); None without a model. `frame` is the model's, read before."""
    if student_model is None:
        return None
    frame = frame or read_frame(student_model)
    return _whole_counter(student_model) if frame is None else _framed_counter(frame)


def read_frame(student_model: str) -> Frame | None:
    """The frame of a model's chat template; None if there is none, or the tokenizer is of another kind."""
    from cotkit.generation.chat_model import load_tokenizer

    tokenizer = load_tokenizer(student_model)
    before, _, after = _rendered(tokenizer, PROBE).partition(PROBE)
    blanks = {question: _rendered(tokenizer, question) for question in (f"{PROBE}\nHow many? ", f" \n{PROBE} ")}
    strips = all(text == before + question.lstrip() + after for question, text in blanks.items())
    keeps = all(text == before + question + after for question, text in blanks.items())
    start, end = (_last_mark(tokenizer, text) for text in (before, after))
    fast = getattr(tokenizer, "backend_tokenizer", None)
    if fast is None or start is None or end is None or not (strips or keeps):
        return None
    return Frame(fast.to_str(), before[:start], before[start:], after[:end], after[end:], strips)


def read_frame_alone(student_model: str) -> Frame | None:
    """`read_frame`, for a process that does nothing else: torch stays out of it, which is most of the time it takes."""
    if "torch" not in sys.modules:
        sys.modules["torch"] = None  # type: ignore[assignment]  # for importlib: there is none
        os.environ["TRANSFORMERS_NO_ADVISORY_WARNINGS"] = "1"  # that models need it
    return read_frame(student_model)


def _framed_counter(frame: Frame) -> Counter:
    from tokenizers import Tokenizer

    fast = Tokenizer.from_str(frame.tokenizer)
    fast.no_truncation()
    fast.no_padding()

    def tokens_of(text: str) -> int:
        return len(fast.encode_batch_fast([text], add_special_tokens=False)[0])

    @lru_cache(maxsize=1)  # the samples of one question stand together
    def prompt_tokens(question: str) -> int:
        return tokens_of(frame.before + (question.lstrip() if frame.strips else question) + frame.after)

    head_and_end = tokens_of(frame.head) + 1
    return lambda row, target: head_and_end + prompt_tokens(row["question"]) + tokens_of(frame.tail + target)


def _whole_counter(student_model: str) -> Counter:
    """Renders and encodes every row as a whole."""
    from cotkit.generation.chat_model import load_tokenizer

    tokenizer = load_tokenizer(student_model)

    def count(row: Row, target: str) -> int:
        text = _rendered(tokenizer, row["question"]) + target
        return len(tokenizer(text, add_special_tokens=False)["input_ids"]) + 1

    return count


def _rendered(tokenizer: Any, question: str) -> str:
    return prompts.render(tokenizer, prompts.student_messages(question), thinking=False)


def _last_mark(tokenizer: Any, text: str) -> int | None:
    """Where the last special token of a text starts, if it is one that takes no blanks from its left; else None."""
    marks = [token for token in tokenizer.added_tokens_decoder.values() if token.special and token.content in text]
    if any(token.lstrip or token.normalized for token in marks):
        return None
    return max((text.rindex(token.content) for token in marks), default=None)
