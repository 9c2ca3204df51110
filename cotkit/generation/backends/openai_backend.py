"""Any OpenAI-compatible server (vLLM, SGLang, `transformers serve`, hosted ones), or a pool of them.

    python teacher_cot.py --backend openai --base_url http://host1:8000/v1 http://host2:8000/v1 --model_name NAME ...

The key comes only from OPENAI_API_KEY; your own servers need none. To stop at the answer, a text is streamed, and the
stream is closed when the answer line is complete, which makes the server stop writing. Greedy texts are the server's own.
Sampled texts repeat as far as the server respects a request's seed.
"""

from __future__ import annotations

import asyncio
import json
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
from urllib.parse import SplitResult, urlsplit

from cotkit.core.errors import UserError
from cotkit.generation.backends.chat_reply import (
    NO_SYSTEM_ROLE,
    Failure,
    Reply,
    choices_of,
    server_words,
    status_in,
    without_lone_surrogates,
)
from cotkit.generation.backends.proxies import check_proxies, proxy_of
from cotkit.generation.backends.server_pool import AttemptError, Blame, Pool
from cotkit.generation.options import EngineOptions
from cotkit.generation.prompts import SYSTEM_ROLE_REMEDY, Message, plain_text
from cotkit.generation.types import Completion, Request, Sampling

log = logging.getLogger(__name__)

reads_model_files = False
manifest_settings: dict[str, str] = {}
ends_loops = False  # a server sends text, not tokens
sampler = "server"

CONNECT_SECONDS = 10.0
ERROR_CHARACTERS = 200
SEED_MASK = 2**31 - 1  # some servers keep seeds in 32 bits

# Not every server knows these, and no text needs them. One is left out for a server that refuses it by name.
OPTIONAL = ("continuous_usage_stats", "stream_options", "chat_template_kwargs", "seed")
# Newer hosted models refuse `max_tokens` and require this name, which `transformers serve` would ignore.
NEW_LIMIT = "max_completion_tokens"

# Other HTTP errors may be the fault of either side.
BLAME = {**dict.fromkeys((400, 413, 422), Blame.ITEM), **dict.fromkeys((401, 404, 429, 502, 503), Blame.SERVER)}
HOPELESS = (401, 404)  # a wrong key, a wrong model or path
PROXY_CODES = (403, 407, 502, 503, 504)  # with which proxies refuse, too

# Content types of a stream. Some servers ignore `stream` and send an answer, or a page, at once.
STREAMED = re.compile(r"event-stream|text/plain|octet-stream", re.IGNORECASE)


def check(options: EngineOptions) -> None:
    """Raises UserError if the options do not fit; asks no server."""
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
            fact = f"--base_url number {number} holds more than an address"
            raise UserError(f"{fact}; keys are read from OPENAI_API_KEY only")
        if parts.scheme not in ("http", "https") or not parts.hostname or not _has_port(parts):
            raise UserError(f"--base_url {url}: an address such as http://localhost:8000/v1 is expected")
    check_proxies()


def _has_port(parts: SplitResult) -> bool:
    """Whether the port of an address is a number up to 65535, or left out."""
    try:
        return parts.port != 0
    except ValueError:
        return False


def preview(options: EngineOptions, messages: list[Message], sampling: Sampling) -> str:
    """The messages as they are sent; the server applies the model's template."""
    return plain_text(messages)


def load(options: EngineOptions, sampling: Sampling) -> OpenAIBackend:
    """Makes the pool; asks no server yet."""
    for noisy in ("httpx2", "httpcore2", "openai"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    urls = list(dict.fromkeys(url.rstrip("/") for url in options.base_url))
    for url in urls:
        if proxy := proxy_of(url):
            log.info("%s is asked through the proxy %s; NO_PROXY=%s avoids it", url, proxy, urlsplit(url).hostname)
    pool: Pool[Request, Completion] = Pool(urls, options.concurrency, options.max_retries)
    return OpenAIBackend(options, sampling, pool, os.environ.get("OPENAI_API_KEY", "").strip())


@dataclass
class OpenAIBackend:
    """A model behind one or more servers."""

    options: EngineOptions
    sampling: Sampling
    pool: Pool[Request, Completion]
    key: str = field(repr=False)
    left_out: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))  # by server
    thinks_anyway: set[str] = field(default_factory=set)  # servers that return texts as thoughts

    def close(self) -> None:
        """Has nothing to end: a client lives as long as its requests."""

    def generate(self, requests: Sequence[Request]) -> Iterator[tuple[Request, Completion]]:
        import httpx2
        from openai import AsyncOpenAI

        # The pool retries and `_attempt` limits the time, so the client does neither. It requires a key; own servers do not.
        limits = httpx2.Timeout(None, connect=min(CONNECT_SECONDS, self.options.request_timeout))
        url = self.pool.servers[0].url
        client = AsyncOpenAI(api_key=self.key or "none", base_url=url, timeout=limits, max_retries=0)
        for request, result in self.pool.run(requests, partial(self._attempt, client), client.close):
            failed = isinstance(result, AttemptError)
            yield request, Completion("", "error", 0, 0, str(result)) if failed else result

    def body(self, request: Request, left_out: set[str]) -> dict[str, Any]:
        """The body of a request. It states default values too, since a server's defaults often come from the model."""
        sampling = self.sampling
        limit = NEW_LIMIT if "max_tokens" in left_out else "max_tokens"
        body: dict[str, Any] = {"model": self.options.model, "messages": request.messages}
        body |= {limit: request.budget(sampling), "temperature": sampling.temperature}
        if sampling.temperature > 0:
            body |= {"top_p": sampling.top_p, "seed": request.seed(self.options.seed) & SEED_MASK}
            body |= {"top_k": sampling.top_k} if sampling.top_k else {}
        body["chat_template_kwargs"] = {"enable_thinking": sampling.thinking}
        if sampling.stop_at_answer:
            counts = {"include_usage": True, "continuous_usage_stats": True}
            body |= {"stream": True, "stream_options": {key: counts[key] for key in counts if key not in left_out}}
        return {name: value for name, value in body.items() if name not in left_out}

    async def _attempt(self, client: Any, url: str, request: Request) -> Completion:
        """One completion by one server. Raises AttemptError, whatever the server does."""
        import httpx2
        from openai import APIConnectionError, APIError, APIStatusError

        timeout = self.options.request_timeout
        try:
            async with asyncio.timeout(timeout) as limit:
                return await self._ask(client, url, request, limit)
        except TimeoutError:
            raise AttemptError(f"silent for {timeout:g} s", silent=True) from None
        except APIStatusError as error:
            wait = retry_after(error.response.headers.get("retry-after"))
            raise self._refusal(url, error.status_code, error.body, retry_after=wait) from None
        except APIConnectionError as error:
            cause = error.__cause__ or error
            if isinstance(cause, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.ProxyError):
                way = f" through the proxy {proxy}" if (proxy := proxy_of(url)) else ""
                raise AttemptError(f"cannot be reached{way} ({self._clean(str(cause))})", Blame.SERVER) from None
            raise AttemptError(f"connection cut ({type(cause).__name__})") from None
        except Failure as failure:
            raise self._refusal(url, status_in(failure.body), failure.body) from None
        except APIError as error:
            raise self._refusal(url, status_in(error.body), error.body or error.message) from None
        except (httpx2.HTTPError, OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            raise AttemptError(f"the reply is no chat completion ({type(error).__name__})") from None

    async def _ask(self, client: Any, url: str, request: Request, limit: asyncio.Timeout) -> Completion:
        """Asks again without an optional parameter if the server refuses it."""
        from openai import APIStatusError

        while True:
            body = self.body(request, self.left_out[url])
            try:
                return await self._complete(client, url, body, limit)
            except APIStatusError as error:
                name = _refused(error, body)
                if name is None:
                    raise
                if name not in self.left_out[url]:
                    log.info("%s: refuses %s, which is left out", url, name)
                self.left_out[url].add(name)

    async def _complete(self, client: Any, url: str, body: dict[str, Any], limit: asyncio.Timeout) -> Completion:
        """Reads plain dicts: the client's typed chunks take four times as long to build (0.2 ms per token)."""
        from openai import AsyncStream

        address = f"{url}/chat/completions"
        if "stream" not in body:
            return self._whole(await client.post(address, body=body, cast_to=object), url)
        stream = await client.post(address, body=body, cast_to=object, stream=True, stream_cls=AsyncStream[object])
        reply = Reply(self.sampling.thinking)
        try:
            if not STREAMED.search(stream.response.headers.get("content-type", "text/event-stream")):
                return self._whole(_parsed(await stream.response.aread()), url)
            async for chunk in stream:
                limit.reschedule(asyncio.get_running_loop().time() + self.options.request_timeout)
                for choice in choices_of(chunk) or [{}]:
                    if reply.add(choice, chunk.get("usage"), stop_at_answer=True):
                        return reply.completion()
        finally:
            await stream.close()  # closed early, this makes the server stop writing
        return self._finished(reply, url)

    def _whole(self, answer: Any, url: str) -> Completion:
        """The completion in an answer that came at once."""
        choices = choices_of(answer)
        if not choices:
            raise AttemptError("the answer has no choices")
        reply = Reply(self.sampling.thinking)
        reply.add(choices[0], answer.get("usage"), self.sampling.stop_at_answer)
        return self._finished(reply, url)

    def _finished(self, reply: Reply, url: str) -> Completion:
        """The completion of a text that has ended. A thought that nobody asked for is the text if there is no other."""
        if reply.take_thought_as_text(self.sampling.stop_at_answer) and url not in self.thinks_anyway:
            self.thinks_anyway.add(url)
            fact = "returns texts as reasoning_content although thinking is off; they are taken as the texts"
            log.warning("warning: %s: %s. A server without a reasoning parser would not", url, fact)
        return reply.completion()

    def _refusal(self, url: str, code: int | None, body: Any, retry_after: float = 0) -> AttemptError:
        """What a server says that it did not do, with the HTTP status if there is one."""
        words = self._clean(server_words(body))
        text = f"HTTP {code}: {words}".rstrip(": ") if code else f"the server reports: {words or 'nothing'}"
        text += " (does the address end in /v1?)" if code == 404 and not url.endswith("/v1") else ""
        text += f" (asked through the proxy {proxy})" if code in PROXY_CODES and (proxy := proxy_of(url)) else ""
        if NO_SYSTEM_ROLE.search(words):
            return AttemptError(f"{text}; {SYSTEM_ROLE_REMEDY}", Blame.SERVER, hopeless=True)
        return AttemptError(text, BLAME.get(code, Blame.EITHER), hopeless=code in HOPELESS, retry_after=retry_after)

    def _clean(self, text: str) -> str:
        """A server's text for an error message: one short line without the key."""
        line = " ".join(without_lone_surrogates(text).split())
        line = line.replace(self.key, "***") if self.key else line
        return re.sub(r"\bsk-[\w*-]+", "***", line)[:ERROR_CHARACTERS]


def _parsed(body: bytes) -> Any:
    """A JSON body, or the text of any other one."""
    text = body.decode("utf-8", "replace")
    try:
        return json.loads(text)
    except ValueError:
        return text


def _refused(error: Any, body: dict[str, Any]) -> str | None:
    """The parameter that this refusal names, if it was sent and the request can do without it."""
    if error.status_code not in (400, 422):
        return None
    reason, sent = str(error.body), {*body, *body.get("stream_options", {})}
    if "max_tokens" in sent and re.search(rf"\buse '{NEW_LIMIT}'", reason, re.IGNORECASE):
        return "max_tokens"
    return next((name for name in OPTIONAL if name in sent and re.search(rf"\b{name}\b", reason)), None)


def retry_after(value: str | None) -> float:
    """Seconds that a Retry-After header (a number or a date) asks for; 0 if it is missing or unreadable."""
    try:
        return max(0.0, float(value or 0))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value or "").timestamp() - time.time())
    except ValueError:
        return 0.0
