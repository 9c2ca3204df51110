"""Pushes a folder to the Hugging Face hub. The token comes from HF_TOKEN or `hf auth login`, never from a flag."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from cotkit.core.errors import UserError


def check(repository: str) -> None:
    """Raises UserError without a token or for a name that is none. Asks no server."""
    from huggingface_hub import get_token
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise UserError(f"--push_to_hub {repository}: {str(error).splitlines()[0]}") from None
    if repository.count("/") != 1:
        raise UserError(f"--push_to_hub {repository}: OWNER/NAME is expected")
    if not get_token():
        raise UserError("--push_to_hub: no token; run `hf auth login` once, or set HF_TOKEN")


def push(folder: Path, repository: str, kind: Literal["model", "dataset"], private: bool) -> str:
    """Uploads a folder, into a new repository if there is none. Returns its address. Raises UserError."""
    from httpx import HTTPError
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi()
    try:
        address = api.create_repo(repository, repo_type=kind, private=private, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder, repo_type=kind, commit_message="Export of a run")
    except (HfHubHTTPError, HTTPError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"{repository}: the hub refused ({reason}); {folder} is kept, the same command tries again"
        ) from None
    return str(address)
