"""Reads problems as they come: JSON Lines, JSON, CSV, TSV, Parquet, a folder laid out like a hub data set, the hub itself.

The package `datasets` finds the files of a folder or hub data set and reads Parquet. Text files are read here, because
its readers guess types: a column of dates becomes timestamps and an answer 007 becomes 7. Here every value is the text
that stands in the file, and every row knows its file and line.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from cotkit.core.cli import nearest
from cotkit.core.errors import UserError
from cotkit.core.files import open_input
from cotkit.core.jsonl import EXACT, Row, loads, read_lines

_HUB_ID = re.compile(r"[\w.-]+(?:/[\w.-]+)?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
ONLY = ""  # the name of the only split of a source that has no splits


class SourceRow(NamedTuple):
    """A row of a source: its place (``file:line``), its values by column, and why it cannot be read if it cannot."""

    where: str
    values: Row
    fault: str = ""


class Source(NamedTuple):
    """The rows of a source by its own splits (`ONLY` if it has none), the local files, and the hub's commit if any."""

    splits: dict[str, list[SourceRow]]
    files: list[Path]
    revision: str | None = None


def read_source(name: str, config: str | None, revision: str | None) -> Source:
    """Reads a file, a folder or a hub data set.

    Args:
        name: a path or a hub id.
        config: which configuration of a hub data set or of a folder laid out like one.
        revision: which commit, branch or tag of a hub data set.

    Raises:
        UserError: nothing is there, the format is unknown, or a row is damaged so that no later one can be found.
    """
    path = Path(name)
    if path.is_file():
        for flag, value in (("config", config), ("revision", revision)):
            if value is not None:
                raise UserError(f"{name}: is one file, so it has no --{flag}; leave it out")
        return Source({ONLY: list(read_file(path, name))}, [path])
    if path.is_dir():
        if revision is not None:
            raise UserError(f"{name}: is a folder, so it has no --revision; leave it out")
        return _read_dataset(name, config, None)
    if path.suffix.lower() in _READERS or not _HUB_ID.fullmatch(name):
        raise UserError(f"{name}: not found; a file, a folder or a hub id such as openai/gsm8k is expected")
    return _read_dataset(name, config, revision)


def read_file(path: Path, shown: str, delimiter: str | None = None) -> Iterator[SourceRow]:
    """Yields the rows of one file. `shown` is its name in messages, and its suffix there gives the format."""
    suffix = Path(shown).suffix.lower()
    if suffix not in _READERS:
        raise UserError(f"{shown}: the format {suffix or 'without a suffix'} is unknown{nearest(suffix, _READERS)}")
    if delimiter is not None:
        return _csv(path, shown, delimiter)
    return _READERS[suffix](path, shown)


def _json_lines(path: Path, shown: str) -> Iterator[SourceRow]:
    for number, line in read_lines(path):
        where = f"{shown}:{number}"
        yield SourceRow(where, loads(line, where, EXACT))


def _json(path: Path, shown: str) -> Iterator[SourceRow]:
    """A list of objects, or one object per line as in JSON Lines."""
    text = _text(path, shown)
    at = _past_blanks(text, 0)
    if not text.startswith("[", at):
        first = text[at:].partition("\n")[0]
        if at < len(text) and not (first.startswith("{") and first.rstrip().endswith("}")):
            raise UserError(f"{shown}:1: a list of records, or one record per line, is expected")
        yield from _json_lines(path, shown)
        return
    line, counted, at = 1, 0, _past_blanks(text, at + 1)
    while not text.startswith("]", at):
        line, counted = line + text.count("\n", counted, at), at
        where = f"{shown}:{line}"
        try:
            row, at = EXACT.raw_decode(text, at)
            json.dumps(row, ensure_ascii=False, default=str).encode("utf-8")
        except UnicodeEncodeError:
            raise UserError(f"{where}: holds a lone surrogate (half of a \\ud800 pair); remove it") from None
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where}: not a JSON record ({error}); correct the file") from None
        if not isinstance(row, dict):
            raise UserError(f"{where}: a JSON object is expected, found {type(row).__name__}")
        yield SourceRow(where, row)
        at = _past_blanks(text, at)
        if text.startswith(",", at):
            at = _past_blanks(text, at + 1)
        elif not text.startswith("]", at):
            raise UserError(f"{where}: no comma or ] after this record; correct the file")


def _past_blanks(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


def _csv(path: Path, shown: str, delimiter: str = ",") -> Iterator[SourceRow]:
    """Rows below a header line. A quoted field may hold line ends; a row's line is the one that it begins on."""
    reader = csv.reader(io.StringIO(_text(path, shown), newline=""), delimiter=delimiter, strict=True)
    csv.field_size_limit(1 << 24)
    names: list[str] | None = None
    while True:
        where = f"{shown}:{reader.line_num + 1}"
        try:
            fields = next(reader, None)
        except csv.Error as error:
            raise UserError(f"{where}: not valid CSV ({error}); quote fields, and double the quotes in them") from None
        if fields is None:
            return
        if not fields:
            continue
        if names is None:
            names = _header(fields, where, delimiter)
        elif len(fields) != len(names):
            more = f"{len(fields)} fields, but the header names {len(names)}; quote fields that hold {delimiter!r}"
            yield SourceRow(where, {}, more)
        else:
            yield SourceRow(where, dict(zip(names, fields, strict=True)))


def _header(fields: list[str], where: str, delimiter: str) -> list[str]:
    names = [name.strip() for name in fields]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"{where}: two columns are called {twice!r}; rename one")
    other = next((mark for mark in ";\t," if mark != delimiter and mark in names[0]), None)
    if len(names) == 1 and other:
        raise UserError(f"{where}: the header seems to be separated by {other!r}; save the file with {delimiter!r}")
    return names


def _tsv(path: Path, shown: str) -> Iterator[SourceRow]:
    return _csv(path, shown, "\t")


def _parquet(path: Path, shown: str) -> Iterator[SourceRow]:
    with TemporaryDirectory() as cache:
        rows = _by_datasets(
            shown, lambda package: package.Dataset.from_parquet(str(path), cache_dir=cache, keep_in_memory=True)
        )
        yield from _numbered(rows, shown)


_READERS: dict[str, Callable[[Path, str], Iterator[SourceRow]]] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json,
    ".csv": _csv,
    ".tsv": _tsv,
    ".parquet": _parquet,
}


def _text(path: Path, shown: str) -> str:
    with open_input(path) as file:
        data = file.read()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{shown}:{line}: not UTF-8; convert the file to UTF-8") from None


def _numbered(rows: Any, shown: str) -> Iterator[SourceRow]:
    """Rows without lines, which are numbered from 1."""
    for number, row in enumerate(rows, 1):
        yield SourceRow(f"{shown}: row {number}", dict(row))


def _by_datasets(shown: str, call: Callable[[Any], Any]) -> Any:
    """What `call` gets from the package `datasets`. Raises UserError for all that it raises."""
    import datasets

    datasets.disable_progress_bars()
    try:
        return call(datasets)
    except Exception as error:  # noqa: BLE001  it raises many kinds; all mean the same to the user
        reason = " ".join(str(error).split("\n")[:2]) or type(error).__name__
        raise UserError(f"{shown}: cannot be read ({reason}); check the name, or give a file") from None


def _read_dataset(name: str, config: str | None, revision: str | None) -> Source:
    """A folder or a hub data set: `datasets` finds the splits and their files."""
    with TemporaryDirectory() as cache:
        builder = _by_datasets(
            name, lambda package: package.load_dataset_builder(name, config, revision=revision, cache_dir=cache)
        )
        found = builder.config.data_files or {}
        urls = {str(split): [str(url) for url in listed] for split, listed in found.items()}
        paths = _by_datasets(name, lambda package: package.DownloadManager().download(urls))
        if _are_text_or_parquet(builder, urls):
            delimiter = builder.config.sep if builder.name == "csv" else None
            splits = {
                split: [
                    row
                    for url, path in zip(listed, paths[split], strict=True)
                    for row in read_file(Path(path), _shown(url, name), delimiter)
                ]
                for split, listed in urls.items()
            }
        else:
            _by_datasets(name, lambda _: builder.download_and_prepare())
            read = _by_datasets(name, lambda _: builder.as_dataset())
            splits = {str(split): list(_numbered(rows, f"{name}, {split}")) for split, rows in read.items()}
    files = [Path(path) for listed in paths.values() for path in listed] if Path(name).is_dir() else []
    return Source(splits, files, builder.hash if not files and _COMMIT.fullmatch(builder.hash or "") else None)


def _are_text_or_parquet(builder: Any, urls: dict[str, list[str]]) -> bool:
    """Whether every file of a data set has a reader here."""
    known = all(Path(url).suffix.lower() in _READERS for listed in urls.values() for url in listed)
    return known and bool(urls) and getattr(builder.config, "field", None) is None


def _shown(url: str, name: str) -> str:
    """A file's name in messages: below the folder as it was given, or below the hub id."""
    inside = (
        url.rpartition("@")[2].partition("/")[2]
        if url.startswith("hf:")
        else Path(url).relative_to(Path(name).resolve())
    )
    return f"{name.rstrip('/')}/{inside}"
