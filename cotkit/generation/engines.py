"""Finds a backend by its name: checks it, previews a prompt, loads the model. Only this module imports backends/.

Every module backends/<name>_backend.py offers the functions and constants of `BackendModule`.
"""

from __future__ import annotations

from dataclasses import asdict
from importlib import import_module
from typing import Any, Protocol, cast

from cotkit.core.model_identity import fingerprint
from cotkit.generation.options import EngineOptions
from cotkit.generation.prompts import Message
from cotkit.generation.types import Backend, Request, Sampling


class BackendModule(Protocol):
    """What a backend's module offers."""

    reads_model_files: bool  # False if a server has the model, or there is none
    manifest_settings: dict[str, Any]  # recorded with every text, so that made-up texts never mix with a model's

    def check(self, options: EngineOptions) -> None:
        """Raises UserError, within a moment, if the backend cannot run with these options."""

    def preview(self, options: EngineOptions, messages: list[Message], sampling: Sampling) -> str:
        """The prompt exactly as the model reads it; loads a tokenizer at most."""

    def load(self, options: EngineOptions, sampling: Sampling) -> Backend:
        """Loads the model. Slow: everything else must be checked before."""


def _module(options: EngineOptions) -> BackendModule:
    return cast(BackendModule, import_module(f"cotkit.generation.backends.{options.backend}_backend"))


def check(options: EngineOptions) -> None:
    """Raises UserError, within a moment, if the backend cannot run with these options."""
    _module(options).check(options)


def preview(options: EngineOptions, request: Request, sampling: Sampling) -> str:
    """The prompt of a request exactly as the model reads it."""
    return f"--- prompt of {request.id}\n{_module(options).preview(options, request.messages, sampling)}\n---"


def load(options: EngineOptions, sampling: Sampling) -> Backend:
    """Loads the model. Slow: everything else must be checked before."""
    return _module(options).load(options, sampling)


def model_with_files(options: EngineOptions) -> str | None:
    """The model if this process reads its files; None if a server has it or there is none."""
    return options.model if _module(options).reads_model_files else None


def describe(options: EngineOptions, sampling: Sampling) -> dict[str, Any]:
    """The part of a manifest's settings that identifies model and sampling.

    A local model is identified by its files, a served one by its name. The backend is left out, because the same model
    writes the same texts on all of them. The seed is left out of greedy runs.
    """
    settings = {
        "model": options.model,
        "model_files": fingerprint(options.model) if model_with_files(options) else options.model,
        **asdict(sampling),
        **_module(options).manifest_settings,
    }
    return {**settings, "seed": options.seed} if sampling.temperature > 0 else settings
