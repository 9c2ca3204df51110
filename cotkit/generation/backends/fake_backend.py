"""Makes texts up from the request, for trying the pipeline and for tests. Needs no model, package or GPU.

    python teacher_cot.py --backend fake --model_name fake ...
    python teacher_cot.py --backend fake --model_name fake:seconds=0.05,bytes=20000 ...

Any model name works. The second form waits so many seconds before each row and pads each text to about so many bytes.
The same request always gets the same text. Three of four texts repeat the answer line of a rewriting prompt; the others
have another answer.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cotkit.core.errors import UserError
from cotkit.generation.options import EngineOptions
from cotkit.generation.prompts import Message
from cotkit.generation.types import Completion, Request, Sampling

_SHOWN_ANSWER = re.compile(r"#### (-?\d[\d.,/]*)\s*$")
_PADDING = "The next number follows from the one before it → so it is kept. "


@dataclass(frozen=True)
class FakeBackend:
    """`seconds` to wait for a row, `size` of its text in bytes (0: as short as it comes)."""

    seconds: float = 0.0
    size: int = 0

    def generate(self, requests: Sequence[Request]) -> Iterator[tuple[Request, Completion]]:
        """Yields the requests in their order, one by one."""
        for request in requests:
            time.sleep(self.seconds)
            yield request, self.complete(request)

    def complete(self, request: Request) -> Completion:
        """The text of one request."""
        number = int.from_bytes(hashlib.sha256(f"{request.id}\n{request.sample}".encode()).digest()[:4], "big")
        shown = _SHOWN_ANSWER.search(request.messages[-1]["content"])
        answer = shown[1] if shown and number % 4 else str(number % 1000)
        text = f"This text of {request.id} comes from no model, sample {request.sample}. "
        missing = self.size - len(text.encode("utf-8"))
        text += _PADDING * max(0, -(-missing // len(_PADDING.encode("utf-8"))))
        text += f"So the answer is {answer}.\n#### {answer}"
        prompt = sum(len(message["content"].split()) for message in request.messages)
        return Completion(text, "stop", prompt, len(text.split()))


reads_model_files = False
manifest_settings = {"backend": "fake"}


def check(options: EngineOptions) -> None:
    """Raises UserError for an unknown option in the model's name."""
    load(options)


def load(options: EngineOptions, sampling: Sampling | None = None) -> FakeBackend:
    """Reads seconds and bytes from the model's name. Raises UserError for an unknown option."""
    model = options.model
    if not model.startswith("fake:"):
        return FakeBackend()
    values = dict.fromkeys(("seconds", "bytes"), "0")
    for pair in model.removeprefix("fake:").split(","):
        name, _, value = pair.partition("=")
        if name not in values or not re.fullmatch(r"\d+(\.\d+)?" if name == "seconds" else r"\d+", value):
            raise UserError(f"{model}: {pair!r} is no option of the fake model; write fake:seconds=0.05,bytes=20000")
        values[name] = value
    return FakeBackend(float(values["seconds"]), int(values["bytes"]))


def preview(options: EngineOptions, messages: list[Message], sampling: Sampling) -> str:
    """The messages as they are: there is no chat template."""
    return "\n".join(f"{message['role']}: {message['content']}" for message in messages)
