"""What a model's name stands for: the folder its files lie in, their fingerprint, its revision, its chat template."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from cotkit.core.files import sha256_file
from cotkit.core.jsonl import Row, read_json

# Files up to this size are hashed whole; of larger ones (weights) the size and both ends identify them well enough,
# and a finished stage must notice in a moment that there is nothing to do.
WHOLE_HASH_BYTES = 64 * 2**20
END_BYTES = 2**20


def fingerprint(model: str) -> str:
    """Identifies a model or adapter: a local folder by its files, a hub name by itself."""
    folder = Path(model)
    if not folder.is_dir():
        return model
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.suffix in (".json", ".jinja", ".safetensors", ".model", ".txt") and file.stat().st_size:
            digest.update(f"{file.name} {_file_mark(file)}\n".encode())
    return digest.hexdigest()[:16]


def _file_mark(file: Path) -> str:
    size = file.stat().st_size
    if size <= WHOLE_HASH_BYTES:
        return sha256_file(file)
    with open(file, "rb") as handle:
        head = handle.read(END_BYTES)
        handle.seek(-END_BYTES, 2)
        return hashlib.sha256(head + handle.read()).hexdigest() + f" {size}"


def describe(model: str) -> Row:
    """``{"name", "revision", "chat_template"}`` for a manifest.

    The revision of a hub model is the commit that its branch `main` has in the local cache, of a folder its
    fingerprint; the template's hash has 16 hexadecimal digits. Both are None where no files are here (yet).
    """
    if Path(model).is_dir():
        return {"name": model, "revision": fingerprint(model), "chat_template": _template_hash(Path(model))}
    snapshot = _cached_snapshot(model)
    if snapshot is None:
        return {"name": model, "revision": None, "chat_template": None}
    return {"name": model, "revision": snapshot.name, "chat_template": _template_hash(snapshot)}


def _cached_snapshot(model: str) -> Path | None:
    """``<cache>/models--<owner>--<name>/snapshots/<commit>``, the Hugging Face cache's layout."""
    from huggingface_hub import constants

    repository = Path(constants.HF_HUB_CACHE) / f"models--{model.replace('/', '--')}"
    branch = repository / "refs/main"
    return repository / "snapshots" / branch.read_text(encoding="ascii").strip() if branch.is_file() else None


def _template_hash(folder: Path) -> str | None:
    """Of the chat template, which newer models keep in a file and older ones in the tokenizer's configuration."""
    template: Any = None
    if (folder / "chat_template.jinja").is_file():
        template = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    elif (folder / "tokenizer_config.json").is_file():
        template = read_json(folder / "tokenizer_config.json").get("chat_template")
    return hashlib.sha256(str(template).encode("utf-8")).hexdigest()[:16] if template else None
