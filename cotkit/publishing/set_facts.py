"""What a run's files say about one training set, checked before anything is made of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cotkit.core.cli import nearest
from cotkit.core.datasets import DATASETS
from cotkit.core.errors import UserError
from cotkit.core.files import sha256_file
from cotkit.core.jsonl import Row, read_json
from cotkit.core.manifest import SUFFIX, path_for

INDEX = "dataset_info.json"


@dataclass(frozen=True)
class SetFacts:
    """A training set.

    Attributes:
        entry: its entry in dataset_info.json.
        made: the manifest of filter_teacher_cot.py or scripts/gold_set.py that wrote it.
        account: the filter's report; None of a set of scripts/gold_set.py, which rejects nothing.
        vote: the manifest of scripts/vote.py, where the answers are those of a vote.
    """

    run: Path
    name: str
    path: Path
    rows: int
    entry: Row
    made: Row
    account: Row | None = None
    vote: Row | None = None


def read_set(run: Path, name: str) -> SetFacts:
    """Reads what a card says of a training set.

    Args:
        name: of a set in <run>/datasets, or of one that a method has for itself in <run>/datasets/<method>; `method/set`
            means the latter where both have the name.

    Raises:
        UserError: the run has no such set, or it was changed after it was written.
    """
    indexes = _indexes(run)
    if name not in indexes:
        hint = nearest(name, indexes) if indexes else "; filter_teacher_cot.py makes training sets"
        raise UserError(f"{run}: has no training set {name!r}{hint}")
    short = name.rpartition("/")[2]
    entry = read_json(indexes[name])[short]
    path = indexes[name].with_name(entry["file_name"])
    manifest, written = next(_writers(run, path), (None, ""))
    if manifest is None:
        raise UserError(f"{path}: no finished manifest says how it was made; run filter_teacher_cot.py first")
    made = read_json(manifest)
    remake = "filter_teacher_cot.py" if made["stage"] == "filter" else "scripts/gold_set.py"
    if written != sha256_file(path):
        raise UserError(f"{path}: is not what {remake} wrote; run {remake} again with --overwrite")
    if made["stage"] != "filter":
        return SetFacts(run, name, path, made["counts"]["training_sets"][short], entry, made)
    output = manifest.name.removesuffix(f".jsonl{SUFFIX}")
    account = read_json(manifest.with_name(f"{output}.report.json"))
    return SetFacts(run, name, path, account["training_sets"][short], entry, made, account, _vote_of(made))


def _indexes(run: Path) -> dict[str, Path]:
    """Name of a set -> the dataset_info.json that lists it."""
    found = {}
    for index in (run / "datasets" / INDEX, *sorted(run.glob(f"datasets/*/{INDEX}"))):
        method = index.parent.name if index.parent.parent.name == "datasets" else ""
        for name in read_json(index) if index.is_file() else ():
            found.setdefault(name, index)
            if method:
                found[f"{method}/{name}"] = index
    return found


def _writers(run: Path, path: Path) -> Iterator[tuple[Path, str]]:
    """(manifest, SHA-256) of every finished stage that wrote the file."""
    for manifest in (*sorted(path.parent.glob(f"*{SUFFIX}")), *sorted(run.glob(f"*{SUFFIX}"))):
        for name, entry in read_json(manifest)["outputs"].items():
            if (manifest.parent / name).resolve() == path.resolve():
                yield manifest, entry["sha256"]


def _vote_of(filtering: Row) -> Row | None:
    """The manifest of the vote whose rows the filter read; None if they are the teacher's own."""
    read = filtering["inputs"].get("teacher")
    manifest = path_for(Path(read["path"])) if read else None
    record = read_json(manifest) if manifest and manifest.is_file() else {}
    return record if record.get("stage") == "vote" else None


def source_repository(manifest: Row) -> str | None:
    """The hub's name of the data set that the problems of a stage come from; None if it is on no hub."""
    found = manifest.get("inputs", {}).get("problems")
    splits = DATASETS[name].splits if found and (name := Path(found["path"]).parent.name) in DATASETS else {}
    return splits["train"].repository if "train" in splits else None
