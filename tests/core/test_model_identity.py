from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from cotkit.core import model_identity
from cotkit.core.errors import UserError
from cotkit.core.manifest import Manifest

NAME = "owner/model"


def cache(root: Path, commit: str, template: str, old_style: bool = False) -> None:
    """Writes a hub cache with one model whose branch `main` is at `commit`."""
    repository = root / "models--owner--model"
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir(exist_ok=True)
    (repository / "refs/main").write_text(commit, encoding="ascii")
    if old_style:
        (snapshot / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}), encoding="utf-8")
    else:
        (snapshot / "chat_template.jinja").write_text(template, encoding="utf-8")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_a_hub_model_is_identified_by_its_commit_once_it_is_downloaded(hub: Path):
    assert model_identity.describe(NAME) == {"name": NAME, "revision": None, "chat_template": None}
    cache(hub, "a" * 40, "{{ messages }}")
    first = model_identity.describe(NAME)
    assert first["revision"] == "a" * 40
    cache(hub, "b" * 40, "{{ messages }}", old_style=True)
    second = model_identity.describe(NAME)
    assert second["revision"] == "b" * 40
    assert first["chat_template"] == second["chat_template"]
    cache(hub, "c" * 40, "{{ other }}")
    assert model_identity.describe(NAME)["chat_template"] != first["chat_template"]


def test_a_folder_is_identified_by_its_files(tmp_path: Path):
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}", encoding="utf-8")
    found = model_identity.describe(str(tmp_path))
    assert found["revision"] == model_identity.fingerprint(str(tmp_path))
    assert len(found["chat_template"]) == len(found["revision"]) == 16
    (tmp_path / "config.json").write_text("[]", encoding="utf-8")
    assert model_identity.describe(str(tmp_path)) == {**found, "revision": model_identity.fingerprint(str(tmp_path))}
    assert model_identity.fingerprint(str(tmp_path)) != found["revision"]


def manifest(tmp_path: Path, **changes: Any) -> Manifest:
    return Manifest("stage", tmp_path / "out.jsonl", {"model": NAME}, model=NAME, seed=7, **changes)


def test_a_model_that_moved_on_the_hub_is_refused_by_key(hub: Path, tmp_path: Path):
    """The commit is unknown before the first download. It is compared as soon as two runs know it."""
    (tmp_path / "out.jsonl").write_bytes(b"")
    manifest(tmp_path).begin()
    cache(hub, "a" * 40, "{{ messages }}")
    assert manifest(tmp_path).check() == "resume"
    manifest(tmp_path).finish([tmp_path / "out.jsonl"], {})
    assert manifest(tmp_path).check() == "done"
    record = manifest(tmp_path).read()
    assert (record["model"]["revision"], record["seed"]) == ("a" * 40, 7)
    cache(hub, "b" * 40, "{{ messages }}")
    with pytest.raises(UserError, match=f"model's revision: '{'a' * 40}' -> '{'b' * 40}'"):
        manifest(tmp_path).check()
    assert manifest(tmp_path, overwrite=True).check() == "new"
