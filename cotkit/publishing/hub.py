"""Pushes a folder to the Hugging Face hub. The token comes from HF_TOKEN or `hf auth login`, never from a flag."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from cotkit.core.errors import UserError

Kind = Literal["model", "dataset"]  # of a repository


def check(repository: str) -> None:
    """Raises UserError without a token or for a name that is none. Asks no server."""
    from huggingface_hub import get_token

    check_name("--push_to_hub", repository)
    if not get_token():
        raise UserError("--push_to_hub: no token; run `hf auth login` once, or set HF_TOKEN")


def check_name(flag: str, name: str) -> None:
    """Raises UserError if the value of a flag cannot be a name on the hub."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(name)
        reason = "" if name.count("/") == 1 else "it has no owner"
    except HFValidationError as error:
        reason = str(error).splitlines()[0]
    if reason:
        raise UserError(f"{flag} {name}: OWNER/NAME is expected, as in HuggingFaceTB/SmolLM2-135M-Instruct ({reason})")


def check_license(name: str) -> None:
    """Raises UserError if the value of --license cannot be one of the hub's short names."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", name):
        raise UserError(
            f"--license {name}: the hub's short name is expected, such as apache-2.0 or cc-by-sa-4.0; "
            "https://huggingface.co/docs/hub/repositories-licenses lists them"
        )


def push(folder: Path, repository: str, kind: Kind, private: bool) -> str:
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
