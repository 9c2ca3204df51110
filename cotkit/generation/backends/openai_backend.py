"""Any OpenAI-compatible server (vLLM, SGLang, `transformers serve`, hosted ones), or a pool of them.

    python teacher_cot.py --backend openai --base_url http://host1:8000/v1 http://host2:8000/v1 --model_name NAME ...

The key comes from OPENAI_API_KEY and from nowhere else; servers of one's own need none. To stop at the answer, a text is
streamed and the stream closed when its answer line is complete, which makes the server stop writing. Greedy texts are the
server's own; sampled ones repeat as far as it keeps to a request's seed.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from cotkit.core.errors import UserError
from cotkit.generation.backends.server_pool import AttemptError, Blame, Pool
from cotkit.generation.options import EngineOptions
from cotkit.generation.prompts import Message
from cotkit.generation.types import Completion, Request, Sampling
from cotkit.grading.grader import answer_line_end

log = logging.getLogger(__name__)

CONNECT_SECONDS = 10.0
ERROR_CHARACTERS = 200
SEED_MASK = 2**31 - 1  # what every server takes: some keep seeds in 32 bits

# Not every server knows these and no text needs them; left out for a server whose refusal names one.
OPTIONAL = ("continuous_usage_stats", "stream_options", "chat_template_kwargs", "seed")
# Newer hosted models refuse `max_tokens` and want this instead, which `transformers serve` would ignore.
NEW_LIMIT = "max_completion_tokens"

# Of all other HTTP errors either side may be the cause.
BLAME = {400: Blame.ITEM, 413: Blame.ITEM, 422: Blame.ITEM, 401: Blame.SERVER, 404: Blame.SERVER, 429: Blame.SERVER}
BLAME |= {502: Blame.SERVER, 503: Blame.SERVER}
HOPELESS = (401, 404)  # a wrong key, a wrong model or path


reads_model_files = False
manifest_settings: dict[str, Any] = {}


def check(options: EngineOptions) -> None:
    """Raises UserError if the options cannot work; asks no server."""
    if options.adapter is not None:
        raise UserError(
            f"{options.adapter}: --backend openai cannot load an adapter; serve it under a model name of its own "
            "(vllm serve --enable-lora --lora-modules NAME=DIR) and give that name instead of --lora_path"
        )
    if not options.base_url:
        raise UserError("--backend openai needs --base_url, such as http://localhost:8000/v1")
    for number, url in enumerate(options.base_url, 1):
        parts = urlsplit(url)
        if parts.username or parts.password or parts.query or parts.fragment:  # not shown: it may hold a secret
            raise UserError(
                f"--base_url number {number} holds more than an address; keys are read from OPENAI_API_KEY only"
            )
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UserError(f"--base_url {url}: an address such as http://localhost:8000/v1 is expected")


def load(options: EngineOptions, sampling: Sampling) -> OpenAIBackend:
    """The pool of servers that the options describe; asks no server yet."""
    for noisy in ("httpx2", "httpcore2", "openai"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    urls = list(dict.fromkeys(url.rstrip("/") for url in options.base_url))
    pool: Pool[Request, Completion] = Pool(urls, options.concurrency, options.max_retries)
    return OpenAIBackend(
        pool,
        options.model,
        sampling,
        options.seed,
        options.request_timeout,
        os.environ.get("OPENAI_API_KEY", "").strip(),
    )


def preview(options: EngineOptions, messages: list[Message], sampling: Sampling) -> str:
    """The messages as they are sent; the server applies the model's template."""
    return "\n".join(f"{message['role']}: {message['content']}" for message in messages)


@dataclass
class OpenAIBackend:
    """A model behind one or more servers; `timeout` in seconds."""

    pool: Pool[Request, Completion]
    model: str
    sampling: Sampling
    seed: int
    timeout: float
    key: str = field(repr=False)
    left_out: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))  # by server

    def generate(self, requests: Sequence[Request]) -> Iterator[tuple[Request, Completion]]:
        import httpx2
        from openai import AsyncOpenAI

        # Retries and time limits are the pool's and `_attempt`'s. A client wants a key, servers of one's own do not.
        limits = httpx2.Timeout(None, connect=min(CONNECT_SECONDS, self.timeout))
        client = AsyncOpenAI(
            api_key=self.key or "none", base_url=self.pool.servers[0].url, timeout=limits, max_retries=0
        )
        for request, result in self.pool.run(requests, partial(self._attempt, client), client.close):
            failed = isinstance(result, AttemptError)
            yield request, Completion("", "error", 0, 0, str(result)) if failed else result

    def body(self, request: Request, left_out: set[str]) -> dict[str, Any]:
        """What is asked of a server. Values that would be its default are sent too: defaults are often the model's."""
        sampling = self.sampling
        limit = NEW_LIMIT if "max_tokens" in left_out else "max_tokens"
        body: dict[str, Any] = {"model": self.model, "messages": request.messages, limit: request.budget(sampling)}
        body["temperature"] = sampling.temperature
        if sampling.temperature > 0:
            body |= {"top_p": sampling.top_p, "seed": request.seed(self.seed) & SEED_MASK}
        if sampling.temperature > 0 and sampling.top_k:
            body["top_k"] = sampling.top_k
        body["chat_template_kwargs"] = {"enable_thinking": sampling.thinking}
        if sampling.stop_at_answer:
            counts = {"include_usage": True, "continuous_usage_stats": True}
            body |= {"stream": True, "stream_options": {key: counts[key] for key in counts if key not in left_out}}
        return {name: value for name, value in body.items() if name not in left_out}

    async def _attempt(self, client: Any, url: str, request: Request) -> Completion:
        """One completion by one server. Raises AttemptError, whatever the server does."""
        import httpx2
        from openai import APIConnectionError, APIError, APIStatusError

        try:
            async with asyncio.timeout(self.timeout) as limit:
                return await self._ask(client, url, request, limit)
        except TimeoutError:
            raise AttemptError(f"silent for {self.timeout:g} s", silent=True) from None
        except APIStatusError as error:
            raise self._status_error(error, url) from None
        except APIConnectionError as error:
            cause = error.__cause__ or error
            if isinstance(cause, httpx2.ConnectError | httpx2.ConnectTimeout):
                raise AttemptError(f"cannot be reached ({self._clean(str(cause))})", Blame.SERVER) from None
            raise AttemptError(f"connection cut ({type(cause).__name__})") from None
        except APIError as error:
            text = error.body if isinstance(error.body, str) else _message(error.body)
            raise AttemptError(f"the server reports: {self._clean(text or error.message)}") from None
        except (httpx2.HTTPError, OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            raise AttemptError(f"what came is no chat completion ({type(error).__name__})") from None

    async def _ask(self, client: Any, url: str, request: Request, limit: asyncio.Timeout) -> Completion:
        """Asks once more where the server refuses something that is optional."""
        from openai import APIStatusError

        while True:
            body = self.body(request, self.left_out[url])
            try:
                return await self._complete(client, f"{url}/chat/completions", body, limit)
            except APIStatusError as error:
                name = _refused(error, body)
                if name is None:
                    raise
                if name not in self.left_out[url]:
                    log.info("%s: refuses %s, which is left out", url, name)
                self.left_out[url].add(name)

    async def _complete(self, client: Any, url: str, body: dict[str, Any], limit: asyncio.Timeout) -> Completion:
        """Plain dicts instead of the client's typed chunks: building those takes four times as long (0.2 ms a token)."""
        from openai import AsyncStream

        reply = Reply()
        if "stream" not in body:
            answer = await client.post(url, body=body, cast_to=object)
            if not answer["choices"]:
                raise AttemptError("the answer has no choices")
            reply.add(answer["choices"][0], "message", answer.get("usage"))
            return reply.completion()
        stream = await client.post(url, body=body, cast_to=object, stream=True, stream_cls=AsyncStream[object])
        try:
            async for chunk in stream:
                limit.reschedule(asyncio.get_running_loop().time() + self.timeout)
                for choice in chunk.get("choices") or [{}]:
                    if reply.add(choice, "delta", chunk.get("usage")):
                        return reply.completion()
        finally:
            await stream.close()  # before its end: the server stops writing
        return reply.completion()

    def _status_error(self, error: Any, url: str) -> AttemptError:
        code, blame = error.status_code, BLAME.get(error.status_code, Blame.EITHER)
        text = f"HTTP {code}: {self._clean(_message(error.body))}".rstrip(": ")
        text += " (does the address end in /v1?)" if code == 404 and not url.endswith("/v1") else ""
        wait = retry_after(error.response.headers.get("retry-after"))
        return AttemptError(text, blame, hopeless=code in HOPELESS, retry_after=wait)

    def _clean(self, text: str) -> str:
        """Foreign text for an error: one short line without the key."""
        line = " ".join(whole(text).split())
        line = line.replace(self.key, "***") if self.key else line
        return re.sub(r"\bsk-[\w*-]+", "***", line)[:ERROR_CHARACTERS]


class Reply:
    """A text as it arrives, whole or in pieces."""

    def __init__(self) -> None:
        self.text, self.thinking, self.reason = "", "", ""
        self.pieces = 0
        self.usage: dict[str, Any] = {}

    def add(self, choice: dict[str, Any], part: str, usage: dict[str, Any] | None) -> bool:
        """Takes the message or delta of a choice; True if its answer line is complete in a stream."""
        message = choice.get(part) or {}
        # vLLM has renamed the first to the second and sends both for a while.
        thought = message.get("reasoning_content") or message.get("reasoning") or ""
        piece = message.get("content") or ""
        self.thinking += thought
        self.text += piece
        self.pieces += bool(thought or piece)
        self.usage = usage or self.usage
        self.reason = choice.get("finish_reason") or self.reason
        if part == "delta" and "\n" in piece and (end := answer_line_end(self.text)) is not None:
            self.text, self.reason = self.text[:end], "answer"
        return self.reason == "answer"

    def completion(self) -> Completion:
        """The finished text. Raises AttemptError where there is none.

        Tokens are the server's count; where it sends none, as most do not when a stream is closed, those written are the
        pieces of the stream (on most servers one a token) and those of the prompt are 0.
        """
        if not self.reason:
            raise AttemptError("the text ended without a finish reason")
        if self.reason not in ("stop", "length", "answer"):
            blame = Blame.ITEM if self.reason == "content_filter" else Blame.EITHER
            raise AttemptError(f"the text ended with finish reason {self.reason[:30]!r}", blame)
        prompt, written = (_count(self.usage.get(name)) for name in ("prompt_tokens", "completion_tokens"))
        if not self.text and not self.thinking and (written is None or written > 1):  # 1: the end of the turn alone
            raise AttemptError("the answer has no content")
        text = self.text
        if self.thinking:  # back to where the model wrote it; a thought that was cut by the limit has no end
            text = f"<think>\n{self.thinking}" + (f"\n</think>\n\n{text}" if text or self.reason != "length" else "")
        return Completion(whole(text), self.reason, prompt or 0, self.pieces if written is None else written)


def _count(value: Any) -> int | None:
    return value if type(value) is int and value >= 0 else None


def _message(body: Any) -> str:
    """What an error's body says: OpenAI's `message`, FastAPI's `detail`; nothing of what is no JSON object."""
    return str(body.get("message") or body.get("detail") or "") if isinstance(body, dict) else ""


def _refused(error: Any, body: dict[str, Any]) -> str | None:
    """The option that this refusal names and a server can do without, if it was sent."""
    if error.status_code not in (400, 422):
        return None
    said, sent = str(error.body), {*body, *body.get("stream_options", {})}
    if "max_tokens" in sent and re.search(rf"\buse '{NEW_LIMIT}'", said, re.IGNORECASE):
        return "max_tokens"
    return next((name for name in OPTIONAL if name in sent and re.search(rf"\b{name}\b", said)), None)


def whole(text: str) -> str:
    """Joins the halves of surrogate pairs and replaces lone ones, which no file could hold."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def retry_after(value: str | None) -> float:
    """Seconds that a Retry-After header (a number or a date) asks for; 0 where nothing readable is there."""
    try:
        return max(0.0, float(value or 0))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value or "").timestamp() - time.time())
    except ValueError:
        return 0.0
