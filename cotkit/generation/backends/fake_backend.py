"""Made-up texts without any model, for trying a pipeline and for tests.

    python teacher_cot.py --backend fake --model_name fake ...
    python teacher_cot.py --backend fake --model_name fake:seconds=0.05,bytes=20000 ...

Any model name will do. The second form waits 0.05 s before each row and pads its text to about 20,000 bytes. The same
request always gives the same text. Three of four texts repeat the answer line of the prompt, if it has one; the others
answer with a number of their own.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cotkit.core.errors import UserError
from cotkit.generation.options import EngineOptions
from cotkit.generation.prompts import Message, plain_text
from cotkit.generation.types import Completion, Request, Sampling

reads_model_files = False
manifest_settings = {"backend": "fake"}  # made-up texts never mix with a model's
ends_loops = True  # they never loop
sampler = "fake"

_SHOWN_ANSWER = re.compile(r"#### (-?\d[\d.,/]*)\s*$")
_PADDING = "The next number follows from the one before it → so it is kept. "


@dataclass
class FakeBackend:
    """`seconds` to wait before a row; `size` of its text in bytes (0: unpadded)."""

    seconds: float = 0.0
    size: int = 0
    sampling: Sampling | None = None  # has no effect on made-up texts

    def close(self) -> None:
        """Has nothing to end."""

    def generate(self, requests: Sequence[Request]) -> Iterator[tuple[Request, Completion]]:
        for request in requests:
            time.sleep(self.seconds)
            yield request, self.complete(request)

    def complete(self, request: Request) -> Completion:
        number = int.from_bytes(hashlib.sha256(f"{request.id}\n{request.sample}".encode()).digest()[:4], "big")
        shown = _SHOWN_ANSWER.search(request.messages[-1]["content"])
        answer = shown[1] if shown and number % 4 else str(number % 1000)
        text = f"This text of {request.id} comes from no model, sample {request.sample}. "
        missing = self.size - len(text.encode("utf-8"))
        text += _PADDING * max(0, -(-missing // len(_PADDING.encode("utf-8"))))
        text += f"So the answer is {answer}.\n#### {answer}"
        prompt = sum(len(message["content"].split()) for message in request.messages)
        return Completion(text, "stop", prompt, len(text.split()))


def check(options: EngineOptions) -> None:
    """Raises UserError for an unknown option in the model's name."""
    load(options)


def preview(options: EngineOptions, messages: list[Message], sampling: Sampling) -> str:
    return plain_text(messages)


def load(options: EngineOptions, sampling: Sampling | None = None) -> FakeBackend:
    if not options.model.startswith("fake:"):
        return FakeBackend()
    found = dict.fromkeys(("seconds", "bytes"), "0")
    for pair in options.model.removeprefix("fake:").split(","):
        name, _, value = pair.partition("=")
        if name not in found or not re.fullmatch(r"\d+(\.\d+)?" if name == "seconds" else r"\d+", value):
            raise UserError(
                f"{options.model}: {pair!r} is no option of the fake model; write fake:seconds=0.05,bytes=20000"
            )
        found[name] = value
    return FakeBackend(float(found["seconds"]), int(found["bytes"]))
