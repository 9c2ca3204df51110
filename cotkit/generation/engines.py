"""Finds a backend by its name. Only this module imports backends/.

A backend is a module backends/<name>_backend.py that offers:

    reads_model_files   False if a server has the model, or if there is none
    manifest_settings   settings recorded with its texts, so that made-up texts never mix with a model's
    ends_loops          whether it can end a text that loops (`Sampling.stop_at_loop`)
    sampler             how it draws tokens: recorded with sampled texts, which another sampler would write differently
    check(options)      raises UserError, within a moment, if the backend cannot run with these `EngineOptions`
    preview(options, messages, sampling)    the prompt as the model reads it; loads a tokenizer at most
    load(options, sampling)                 a `Backend`
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from importlib import import_module
from typing import Any

from cotkit.core.errors import UserError
from cotkit.core.model_identity import fingerprint
from cotkit.generation.options import EngineOptions
from cotkit.generation.types import Backend, Request, Sampling


def _module(options: EngineOptions) -> Any:
    return import_module(f"cotkit.generation.backends.{options.backend}_backend")


def check(options: EngineOptions, sampling: Sampling) -> None:
    """Raises UserError, within a moment, if the backend cannot run with these options."""
    backend = _module(options)
    if sampling.stop_at_loop and not backend.ends_loops:
        raise UserError(f"--backend {options.backend} sees no tokens, so it cannot end loops; add --no-stop_at_loop")
    backend.check(options)


def preview(options: EngineOptions, request: Request, sampling: Sampling) -> str:
    """The prompt of a request exactly as the model reads it."""
    return f"--- prompt of {request.id}\n{_module(options).preview(options, request.messages, sampling)}\n---"


def load(options: EngineOptions, sampling: Sampling) -> Backend:
    """Loads the model. This is slow, so everything else must be checked before."""
    return _module(options).load(options, sampling)


@dataclass
class Loader:
    """Loads engines one after another and keeps the last one, which jobs with the same model and adapter share.

    Another adapter is merged into weights that are read anew. They come from the page cache, which was faster than to copy
    weights that are kept (0.05 s against 0.16 s for a 135M model), and no model lies in memory twice.
    """

    _options: EngineOptions | None = None
    _backend: Backend | None = None

    def load(self, options: EngineOptions, sampling: Sampling) -> Backend:
        """The engine for these options, which decodes with this sampling."""
        if self._backend is not None and self._options != options:
            self._backend.close()
            self._backend = None  # so that its memory is free before the next model takes some
        if self._backend is None:
            self._options, self._backend = options, load(options, sampling)
        self._backend.sampling = sampling
        return self._backend


def model_with_files(options: EngineOptions) -> str | None:
    """The model if this process reads its files; None if a server has it or there is none."""
    return options.model if _module(options).reads_model_files else None


def describe(options: EngineOptions, sampling: Sampling) -> dict[str, Any]:
    """The part of a manifest's settings that identifies model and sampling.

    A local model is identified by its files, a served one by its name. The backend is left out, because the same model
    writes the same greedy texts on all of them. The dtype is recorded if it was chosen, since rounding changes texts;
    stop_at_loop if it is on. Seed and sampler are recorded only if tokens are sampled.
    """
    files = fingerprint(options.model) if model_with_files(options) else options.model
    backend = _module(options)
    settings = {"model": options.model, "model_files": files, **asdict(sampling), **backend.manifest_settings}
    if not sampling.stop_at_loop:
        del settings["stop_at_loop"]
    if options.dtype != "auto" and model_with_files(options):
        settings["dtype"] = options.dtype
    return {**settings, "seed": options.seed, "sampler": backend.sampler} if sampling.temperature > 0 else settings
