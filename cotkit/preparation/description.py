"""Describes problems outside the table: the flags of scripts/prepare_data.py, or an entry of a preset's data.yaml."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from cotkit.core.cli import nearest
from cotkit.core.datasets import BOXED, DATASETS, DESCRIPTION_FILE, AnswerKind, Columns
from cotkit.core.errors import UserError
from cotkit.core.jsonl import Row, read_json
from cotkit.core.yaml_file import listed, read_yaml

# Keys of a description in data.yaml, and flags of the same names.
OWN_KEYS = tuple(
    "name input config revision question answer solution id kind split seed answer_pattern drop_repeated".split()
)

# How to prepare what is no data set of the table; the end of a message.
OWN_DATA = "for problems of your own give --name NAME --input FILE"


@dataclass(frozen=True)
class Description:
    """A set of problems outside the table: where it is, what its columns hold, how it is divided.

    Args:
        input: a file, a folder or a hub id; `config` and `revision` are the hub's.
        shares: split -> share of the rows, which sum to 1; empty to keep the source's own splits.
        seed: of the random division.
        drop_repeated: keep the first of several rows with the same question instead of refusing them.
    """

    name: str
    input: str
    kind: AnswerKind
    columns: Columns
    config: str | None = None
    revision: str | None = None
    shares: dict[str, str] = field(default_factory=dict)
    seed: int = 42
    drop_repeated: bool = False


def described(values: Row, where: str, beside: Path | None) -> Description:
    """The description that flags or an entry of data.yaml give.

    Args:
        values: by the names of the flags; None or no key where one is not given.
        where: the beginning of messages.
        beside: the folder of data.yaml, where a relative input is looked up first.

    Raises:
        UserError: for a missing or impossible value.
    """
    given = {key: value for key, value in values.items() if value is not None}
    for key in ("name", "input", "kind"):
        if key not in given:
            raise UserError(f"{where}: no {key} is given; problems of your own need name, input and kind")
    _check_name(given["name"], where)
    pattern = given.get("answer_pattern")
    if pattern not in (None, BOXED):
        _check_pattern(pattern, where)
    source = given["input"]
    if beside and (beside / source).exists():
        source = str(beside / source)
    question = tuple(given.get("question", ("question",)))
    return Description(
        given["name"],
        source,
        given["kind"],
        Columns(question, given.get("answer"), given.get("solution"), given.get("id"), pattern),
        config=str(given["config"]) if "config" in given else None,
        revision=given.get("revision"),
        shares=read_shares(",".join(given["split"]), where) if "split" in given else {},
        seed=given["seed"],
        drop_repeated=given.get("drop_repeated", False),
    )


def _check_name(name: str, where: str) -> None:
    """Raises UserError for a name that is no plain file name or means something else."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise UserError(
            f"{where}: the name {name!r} must begin with a letter or digit and have only those, '.', '_', '-'"
        )
    if name in (*DATASETS, "models"):
        raise UserError(f"{where}: the name {name!r} has a meaning already; choose another")


def _check_pattern(pattern: str, where: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        raise UserError(f"{where}: answer_pattern {pattern!r} is no regular expression ({error})") from None


def read_shares(text: str, where: str) -> dict[str, str]:
    """The shares of ``train:0.8,dev:0.1,test:0.1``. Raises UserError, which begins with `where`."""
    shares: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, colon, share = (piece.strip() for piece in part.partition(":"))
        try:
            fits = bool(colon) and 0 < Fraction(share) <= 1
        except (ValueError, ZeroDivisionError):
            fits = False
        if not fits or not re.fullmatch(r"[A-Za-z0-9_]+", name) or name in shares:
            raise UserError(
                f"{where}: split {part!r}: a name and a share are expected, as in train:0.8,dev:0.1,test:0.1"
            )
        shares[name] = share
    if not shares or sum(map(Fraction, shares.values())) != 1:
        raise UserError(f"{where}: split {text!r}: the shares must add up to 1, as in train:0.8,dev:0.1,test:0.1")
    return shares


DEFAULT_SHARES = {"train": "0.8", "dev": "0.1", "test": "0.1"}


def datasets_of(config: Path) -> list[str]:
    """The names of the data sets of a data.yaml, which lists names and descriptions.

    Raises:
        UserError: with file and line, for a name that is not in the table or a description without a name.
    """
    names = []
    for item, where in listed(config, "dataset"):
        name = item.get("name") if isinstance(item, dict) else item
        if name is None:
            raise UserError(f"{where}: a description needs a name, as in - {{name: bakery, input: bakery.csv, ...}}")
        if not isinstance(item, dict) and name not in DATASETS:
            raise UserError(f"{where}: no data set {name!r}{nearest(str(name), DATASETS)}")
        names.append(str(name))
    return names


def test_sets_of(config: Path) -> list[str]:
    """The data sets of a data.yaml without those that are prepared and have no test split, which only train.

    Raises:
        UserError: as `datasets_of` does, or if none is left.
    """
    root = data_root_of(config)
    names = [name for name in datasets_of(config) if "test" in _splits_of(root / name / DESCRIPTION_FILE)]
    if not names:
        again = f"python scripts/prepare_data.py --config {config} --overwrite"
        raise UserError(f"{config}: no data set has a test split; add one to test on, or prepare them anew: {again}")
    return names


def data_root_of(config: Path) -> Path:
    """Where the data sets of a data.yaml are prepared."""
    return Path(read_yaml(config).get("data_root", ("data", 1))[0])


def _splits_of(description: Path) -> Iterable[str]:
    """The splits of a prepared set; only test if it is not prepared."""
    return read_json(description).get("splits", ()) if description.is_file() else ("test",)
