"""Reads what OpenAI-compatible servers reply: a text, at once or in pieces, or the server's own words about a failure.

Servers agree on the request more than on the reply, so this module takes every shape that they have been seen to send.
"""

from __future__ import annotations

import json
import re
from typing import Any

from cotkit.core import think_marks
from cotkit.core.finish_reasons import canonical
from cotkit.generation.backends.server_pool import AttemptError, Blame
from cotkit.generation.types import Completion
from cotkit.grading.extraction import answer_line_end

# Fields in which servers say what went wrong, the usual ones first: OpenAI's, FastAPI's, then those of gateways.
WORDS = ("error", "message", "detail", "errors", "msg", "error_message", "error_msg", "reason", "title", "description")
FAILURE = ("error", "message", "detail", "errors")  # those that show, in a reply without choices, that it failed
MAX_DEPTH = 5

# How templates without a system role say so: Gemma's, Mistral's, and the wording of others.
NO_SYSTEM_ROLE = re.compile(
    r"system (role|message|prompt)s?\b.{0,40}\bnot\b.{0,10}\b(supported|allowed)"
    r"|roles? must alternate|only user(,| and|/).{0,20}\bassistant\b.{0,20}\broles? (is|are) supported",
    re.IGNORECASE | re.DOTALL,
)


def server_words(body: Any, depth: int = 0) -> str:
    """What the body of a reply says about a failure; a body without known fields as it is."""
    if depth > MAX_DEPTH or body is None:
        return ""
    if isinstance(body, str):
        return re.sub(r"<[^>]*>", " ", body) if body.lstrip().startswith("<") else body
    if isinstance(body, list):
        return "; ".join(filter(None, (server_words(part, depth + 1) for part in body)))
    if not isinstance(body, dict):
        return str(body)
    found = next(filter(None, (server_words(body.get(name), depth + 1) for name in WORDS)), "")
    if found and isinstance(body.get("loc"), list):  # FastAPI: where in the request
        return f"{'.'.join(map(str, body['loc']))}: {found}"
    return found or ("" if depth or not body else json.dumps(body, ensure_ascii=False))


def status_in(body: Any) -> int | None:
    """The HTTP status that a failure reported with status 200 gives as its code."""
    for part in (body, body.get("error") if isinstance(body, dict) else None):
        for name in ("code", "status", "status_code"):
            value = part.get(name) if isinstance(part, dict) else None
            if isinstance(value, int | str) and str(value).isdecimal() and 400 <= int(value) < 600:
                return int(value)
    return None


class Failure(Exception):
    """The server replied with status 200 that it failed; `body` holds its words."""

    def __init__(self, body: Any) -> None:
        super().__init__()
        self.body = body


def choices_of(reply: Any) -> list[dict[str, Any]]:
    """The choices of a completion or of a piece of a stream. Raises Failure if it reports one, or is neither."""
    if not isinstance(reply, dict) or (not reply.get("choices") and any(map(reply.get, FAILURE))):
        raise Failure(reply)
    return reply.get("choices") or []


class Reply:
    """A text as it arrives, at once or in pieces; `asked_to_think` says whether the model was asked for a thought."""

    def __init__(self, asked_to_think: bool) -> None:
        self.asked_to_think = asked_to_think
        self.text, self.thinking, self.reason = "", "", ""
        self.pieces = 0
        self.usage: dict[str, Any] = {}

    def add(self, choice: dict[str, Any], usage: dict[str, Any] | None, stop_at_answer: bool = False) -> bool:
        """Takes the message or delta of a choice; True if the answer line is now complete and the text ends there."""
        message = choice.get("delta") or choice.get("message") or {}
        piece, thought = _parts(message.get("content"))
        # vLLM renamed the first field to the second and sends both for a while.
        thought = message.get("reasoning_content") or message.get("reasoning") or thought
        self.thinking += thought
        self.text += piece
        self.pieces += bool(thought or piece)
        self.usage = usage or self.usage
        self.reason = str(choice.get("finish_reason") or self.reason)
        return stop_at_answer and "\n" in piece and not self._may_be_thought() and self._ends_at_answer()

    def _may_be_thought(self) -> bool:
        """Is all of the text, as far as can be known, part of a thought that the prompt opened?

        Many chat templates write the opening mark themselves, and not every server takes the thought out of the text.
        """
        return self.asked_to_think and not self.thinking and next(think_marks.marks(self.text), None) is None

    def _ends_at_answer(self) -> bool:
        end = answer_line_end(self.text)
        if end is not None:
            self.text, self.reason = self.text[:end], "answer"
        return end is not None

    def take_thought_as_text(self, stop_at_answer: bool) -> bool:
        """Makes a thought that nobody asked for the text if there is no other text; returns whether it did."""
        if self.asked_to_think or self.text.strip() or not self.thinking:
            return False
        self.text, self.thinking = self.thinking, ""
        if stop_at_answer:
            self._ends_at_answer()
        return True

    def completion(self) -> Completion:
        """The finished text. Raises AttemptError if there is none.

        Token counts are the server's. Most servers send none when a stream is closed; then completion_tokens is the number
        of pieces (one token each on most servers), and prompt_tokens is 0.
        """
        if not self.reason:
            raise AttemptError("the text ended without a finish reason")
        reason = canonical(self.reason)
        if reason not in ("stop", "length", "answer"):
            blame = Blame.ITEM if reason == "filtered" else Blame.EITHER
            raise AttemptError(f"the text ended with finish reason {self.reason[:30]!r}", blame)
        prompt, written = (_count(self.usage.get(name)) for name in ("prompt_tokens", "completion_tokens"))
        # A truncated text may be empty. So may one of a single token, which is that of the end of the turn.
        if not self.text and not self.thinking and reason != "length" and (written is None or written > 1):
            raise AttemptError("the answer has no content")
        text = self.text
        if self.thinking:  # back to where the model wrote it; truncated thinking has no end
            text = f"<think>\n{self.thinking}" + (f"\n</think>\n\n{text}" if text or reason != "length" else "")
        tokens = self.pieces if written is None else written
        opened = "<think>\n" if reason == "length" and self._may_be_thought() else ""
        return Completion(without_lone_surrogates(text), reason, prompt or 0, tokens, opened=opened)


def _parts(content: Any) -> tuple[str, str]:
    """(text, thought) of a content: a text, or a list of parts that hold texts. Raises TypeError for anything else."""
    if content is None or isinstance(content, str):
        return content or "", ""
    if not isinstance(content, list):
        raise TypeError(f"content of type {type(content).__name__}")
    text, thought = "", ""
    for part in content:
        if isinstance(part, str):
            text += part
        elif "thinking" in part:  # Mistral: a list of parts again, or a text
            thought += "".join(_parts(part["thinking"]))
        elif part.get("text") is not None:
            value = part["text"]
            text += value["value"] if isinstance(value, dict) else value
    return text, thought


def _count(value: Any) -> int | None:
    return value if type(value) is int and value >= 0 else None


def without_lone_surrogates(text: str) -> str:
    """Joins the halves of surrogate pairs and replaces lone ones, which UTF-8 files cannot hold."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
