"""Identifies the model behind a name by the hash of its files, its revision on the hub and its chat template."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from cotkit.core.files import sha256_file
from cotkit.core.jsonl import Row, read_json

# Larger files (weights) are identified by their size and both ends: a finished stage must notice at once that there is
# nothing to do.
FULL_HASH_BYTES = 64 * 2**20
END_BYTES = 2**20
FINGERPRINT_DIGITS = 16


def fingerprint(model: str) -> str:
    """A hash of the files of a model or adapter in a local folder. A hub name is returned as it is."""
    folder = Path(model)
    if not folder.is_dir():
        return model
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.suffix in (".json", ".jinja", ".safetensors", ".model", ".txt") and file.stat().st_size:
            digest.update(f"{file.name} {_file_mark(file)}\n".encode())
    return digest.hexdigest()[:FINGERPRINT_DIGITS]


def _file_mark(file: Path) -> str:
    size = file.stat().st_size
    if size <= FULL_HASH_BYTES:
        return sha256_file(file)
    with open(file, "rb") as handle:
        head = handle.read(END_BYTES)
        handle.seek(-END_BYTES, 2)
        return hashlib.sha256(head + handle.read()).hexdigest() + f" {size}"


def folder_of(model: str) -> Path | None:
    """The folder of a model on this machine: its own, or the hub cache's; None if it is not here."""
    folder = Path(model) if Path(model).is_dir() else _cached_snapshot(model)
    return folder if folder and (folder / "config.json").is_file() else None


def is_same(one: str, other: str) -> bool | None:
    """Whether two names mean the same model; None if they differ and the files of one are not on this machine."""
    if one.rstrip("/") == other.rstrip("/"):
        return True
    folders = [folder_of(name) for name in (one, other)]
    if None in folders:
        return None
    return fingerprint(str(folders[0])) == fingerprint(str(folders[1]))


def is_same_record(one: Row, other: Row) -> bool | None:
    """Whether two records of `describe` are of one model; None as in `is_same`."""
    revisions = [str(record["revision"] or "") for record in (one, other)]
    if all(len(revision) == FINGERPRINT_DIGITS for revision in revisions) or revisions[0] == revisions[1] != "":
        return revisions[0] == revisions[1]
    return is_same(one["name"], other["name"])


def describe(model: str) -> Row:
    """``{"name", "revision", "chat_template"}`` for a manifest.

    The revision of a folder is its fingerprint. That of a hub model is the commit of its branch `main` in the local
    cache. The template is hashed to 16 hexadecimal digits. Both are None if the files are not on this machine.
    """
    local = Path(model).is_dir()
    folder = Path(model) if local else _cached_snapshot(model)
    revision = fingerprint(model) if local else folder and folder.name
    return {"name": model, "revision": revision, "chat_template": folder and _template_hash(folder)}


def _cached_snapshot(model: str) -> Path | None:
    """The folder ``<cache>/models--<owner>--<name>/snapshots/<commit>`` of the Hugging Face cache, if it exists."""
    from huggingface_hub import constants

    repository = Path(constants.HF_HUB_CACHE) / f"models--{model.replace('/', '--')}"
    branch = repository / "refs/main"
    return repository / "snapshots" / branch.read_text(encoding="ascii").strip() if branch.is_file() else None


def _template_hash(folder: Path) -> str | None:
    """Hashes the chat template: a file in newer models, a key of the tokenizer's configuration in older ones."""
    template: Any = None
    if (folder / "chat_template.jinja").is_file():
        template = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    elif (folder / "tokenizer_config.json").is_file():
        template = read_json(folder / "tokenizer_config.json").get("chat_template")
    return hashlib.sha256(str(template).encode("utf-8")).hexdigest()[:16] if template else None
