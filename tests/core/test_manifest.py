"""What a rerun is told: what changed, in words, and a way out that exists where it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, problem

from cotkit.core.errors import UserError
from cotkit.core.manifest import PIPELINE, Input, Manifest, command


def manifest(folder: Path, rows: int = 25, rate: float = 0.1, **more: Any) -> Manifest:
    inputs = {"problems": Input(Path("p.jsonl"), [problem(number) for number in range(rows)])}
    return Manifest("try", folder / "out.jsonl", {"rate": rate}, inputs, **more)


def made(folder: Path, **more: Any) -> None:
    (folder / "out.jsonl").write_bytes(b"{}\n")
    manifest(folder, **more).finish([folder / "out.jsonl"], {})


def test_fewer_rows_than_before_are_called_that(tmp_path: Path):
    made(tmp_path)
    with pytest.raises(
        UserError, match=r"\(problems: 25 rows -> 10 \(a smaller --limit\?\)\); give another output path"
    ):
        manifest(tmp_path, rows=10).check()
    assert manifest(tmp_path, rows=30).check() == "resume"


def test_the_way_out_is_the_pipeline_s_in_the_pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    made(tmp_path)
    changed = manifest(tmp_path, rate=0.2, again="bash scripts/train.sh x.yaml --overwrite")
    with pytest.raises(UserError) as by_hand:
        changed.check()
    assert str(by_hand.value).endswith("(rate: 0.1 -> 0.2); give another output path, or --overwrite to start over")
    monkeypatch.setenv(PIPELINE, "train")
    with pytest.raises(UserError) as in_pipeline:
        changed.check()
    assert str(in_pipeline.value).endswith(
        "; repeat the stage with --from train, or give another --output_root; "
        "only this one: bash scripts/train.sh x.yaml --overwrite"
    )


def test_prepared_data_are_the_same_for_every_output_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    made(tmp_path)
    monkeypatch.setenv(PIPELINE, "data")
    with pytest.raises(UserError, match=r"repeat the stage with --from data$"):
        manifest(tmp_path, rate=0.2).check()


@pytest.mark.parametrize(("derived", "binds"), [(True, False), (False, True)])
def test_a_stage_of_seconds_that_did_not_finish_binds_nobody(tmp_path: Path, derived: bool, binds: bool):
    manifest(tmp_path).begin()
    corrected = manifest(tmp_path, rate=0.2, derived=derived)
    if binds:
        with pytest.raises(UserError, match=r"rate: 0\.1 -> 0\.2"):
            corrected.check()
    else:
        assert corrected.check() == "new"


def test_the_command_can_be_typed_again_in_this_folder(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    for typed in ("scripts/export.py", str(ROOT / "scripts/export.py")):
        monkeypatch.setattr("sys.argv", [typed, "my run", "--gguf"])
        assert command() == "python scripts/export.py 'my run' --gguf"
