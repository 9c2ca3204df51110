"""The one place that knows which engines there are: checks, previews and loads them by the name of `--backend`."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cotkit.core.errors import UserError
from cotkit.core.model_identity import fingerprint
from cotkit.generation.types import Backend, Request, Sampling


def settings_of(sampling: Sampling, seed: int, backend: str) -> dict[str, Any]:
    """The part of a manifest's settings that says how texts were generated; greedy texts have no seed.

    Which engine ran a model is no part of it, but made-up texts never mix with a model's.
    """
    settings = asdict(sampling)
    if backend == "fake":
        settings["backend"] = backend
    return {**settings, "seed": seed} if sampling.temperature > 0 else settings


def files_read(name: str, backend: str) -> str | None:
    """The model whose files the backend reads: none where a server has them or there is no model."""
    return None if backend in ("openai", "fake") else name


def identity(name: str, backend: str) -> str:
    """Identifies a model in a manifest: a local one by its files, a served one by its name."""
    return fingerprint(name) if files_read(name, backend) else name


def check_engine(args: argparse.Namespace, model: str, adapter: str | None = None) -> None:
    """Raises UserError, in a moment, where `--backend` cannot run the model with what the flags say."""
    if args.backend == "openai":
        from cotkit.generation.backends import openai_backend

        openai_backend.check(args, adapter)
    else:
        check_model(model, args.backend)


def check_model(name: str, backend: str = "transformers") -> None:
    """Raises UserError, in a moment, if `name` looks like a folder and is not a model's."""
    if backend == "fake":
        return
    if backend == "vllm" and find_spec("vllm") is None:
        raise UserError(
            "--backend vllm: vLLM is not installed here; it has an environment of its own, requirements-vllm.txt"
        )
    folder = Path(name)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise UserError(f"{name}: holds no config.json, so it is not a model folder")
    elif name.count("/") != 1 or name.startswith((".", "/")):
        hint = "; scripts/setup.sh makes it" if "SmolLM2" in name else ""
        raise UserError(f"{name}: no such model folder{hint}; a hub model is named owner/name")


def preview(args: argparse.Namespace, model: str, request: Request, sampling: Sampling) -> str:
    """The first prompt exactly as the model will read it; loads a tokenizer at most."""
    module = import_module(f"cotkit.generation.backends.{args.backend}_backend")
    return f"--- prompt of {request.id}\n{module.preview(model, request.messages, sampling)}\n---"


def load_backend(args: argparse.Namespace, model: str, adapter: str | None, sampling: Sampling) -> Backend:
    """Loads the engine that `--backend` names. Heavy: call it when everything else has been checked."""
    module = import_module(f"cotkit.generation.backends.{args.backend}_backend")
    return module.load(args, model, adapter, sampling)
