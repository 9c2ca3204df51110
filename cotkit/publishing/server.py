"""The command that serves an exported model, and a request that asks it as the run did."""

from __future__ import annotations

import json
import shlex
import shutil
import socket
import sys
from importlib.util import find_spec
from pathlib import Path

from cotkit.core.errors import UserError
from cotkit.generation import prompts
from cotkit.generation.types import Sampling

HIGHEST_PORT = 65535


def command(folder: Path, port: int) -> list[str]:
    """The words that serve an exported model with `transformers serve`, to this machine alone.

    Raises:
        UserError: there is no such folder, packages of the server are missing, or the port cannot be used.
    """
    if not (folder / "config.json").is_file():
        run, method = folder.parents[1], folder.name
        raise UserError(f"{folder}: not exported yet; run python scripts/export.py {shlex.quote(str(run))} {method}")
    program = shutil.which("transformers", path=Path(sys.executable).parent)
    if program is None or not all(map(find_spec, ("fastapi", "uvicorn"))):
        raise UserError("transformers serve needs more packages; run pip install 'transformers[serving]'")
    _check_port(port)
    return [program, "serve", str(folder), "--host", "localhost", "--port", str(port)]


def _check_port(port: int) -> None:
    if port > HIGHEST_PORT:
        raise UserError(f"--serve {port}: a port is at most {HIGHEST_PORT}")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does after an earlier one has ended
        try:
            probe.bind(("localhost", port))
        except OSError as error:
            raise UserError(f"--serve {port}: the port cannot be used ({error.strerror}); give another one") from None


def example(folder: Path, port: int, question: str, sampling: Sampling) -> str:
    """A curl command that asks the server with the prompt, token limit and temperature of the run."""
    body = {
        "model": str(folder),
        "messages": prompts.student_messages(question),
        "max_tokens": sampling.max_new_tokens,
        "temperature": sampling.temperature,
    }
    address = f"http://localhost:{port}/v1/chat/completions"
    data = shlex.quote(json.dumps(body, ensure_ascii=False))
    return f"curl {address} -H 'Content-Type: application/json' -d {data}"
