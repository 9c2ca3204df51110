"""Makes a GGUF file of an exported model with the programs of llama.cpp, if they are on this machine.

`convert_hf_to_gguf.py` is in a checkout of https://github.com/ggml-org/llama.cpp, and on PATH where a package manager
installed it; the package gguf of PyPI does not have it. It needs torch, transformers and gguf, so this Python runs it.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from cotkit.core.errors import UserError
from cotkit.core.files import write_bytes_atomic
from cotkit.publishing.model_folder import MODELFILE, correct_byte_fallback

CONVERTER, QUANTIZER = "convert_hf_to_gguf.py", "llama-quantize"
CHECKOUT = "LLAMA_CPP"  # names a checkout of llama.cpp
PLACES = ("", "build/bin", "bin")  # below it
STORED = "f16"


@dataclass(frozen=True)
class Gguf:
    """How to make a GGUF file.

    Attributes:
        quantizer: None to keep 16 bits.
        quantization: as llama-quantize calls it, such as Q4_K_M; None to keep 16 bits.
    """

    converter: Path
    quantizer: Path | None = None
    quantization: str | None = None


def find(quantization: str | None, command: str) -> Gguf:
    """The programs that are needed.

    Args:
        command: the running command line, which the remedies repeat.

    Raises:
        UserError: one of them is not on this machine; with the two commands that help.
    """
    converter, quantizer = program(CONVERTER), program(QUANTIZER) if quantization else None
    checkout = os.environ.get(CHECKOUT)
    where = f"on PATH or below {CHECKOUT}={checkout}" if checkout else f"on PATH, and {CHECKOUT} names no checkout"
    if converter is None:
        raise UserError(
            f"--gguf: no convert_hf_to_gguf.py {where}; run git clone --depth 1 https://github.com/ggml-org/llama.cpp, then "
            f"{CHECKOUT}=llama.cpp {command}"
        )
    if quantization and quantizer is None:
        source = shlex.quote(checkout or str(converter.parent))
        raise UserError(
            f"--quantize: no llama-quantize {where}; run cmake -S {source} -B {source}/build && "
            f"make -C {source}/build llama-quantize, then {CHECKOUT}={source} {command}"
        )
    return Gguf(converter, quantizer, quantization)


def program(name: str) -> Path | None:
    """A program on PATH or below the checkout."""
    if found := shutil.which(name):
        return Path(found)
    checkout = os.environ.get(CHECKOUT)
    places = [Path(checkout) / place / name for place in PLACES] if checkout else []
    return next((path.resolve() for path in places if path.is_file()), None)


def write(folder: Path, gguf: Gguf) -> Path:
    """Writes <folder>/<name>.gguf, or <name>-<quantization>.gguf, and lets the Modelfile point at it. Raises UserError.

    An older file stays until the new one is complete.
    """
    correct_byte_fallback(folder)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".export-") as temporary:
        made = Path(temporary) / f"{folder.name}.gguf"
        convert = [sys.executable, str(gguf.converter), str(folder), "--outtype", STORED, "--outfile"]
        _run([*convert, str(made)], made)
        if gguf.quantizer:
            stored, made = made, made.with_name(f"{folder.name}-{gguf.quantization}.gguf")
            _run([str(gguf.quantizer), str(stored), str(made), str(gguf.quantization)], made)
        modelfile = folder / MODELFILE
        lines = modelfile.read_text(encoding="utf-8").split("\n")
        target = folder / made.name
        made.replace(target)
    write_bytes_atomic(modelfile, ["\n".join([f"FROM ./{target.name}", *lines[1:]]).encode()])
    return target


def _run(words: list[str], output: Path) -> None:
    """Runs a program that must write `output`."""
    done = subprocess.run(words, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode or not output.is_file():
        said = [line for line in (done.stdout + done.stderr).split("\n") if line.strip()]
        shown = shlex.join(words)
        raise UserError(
            f"llama.cpp failed with exit code {done.returncode} ({said[-1] if said else 'no word'}): {shown}"
        )
