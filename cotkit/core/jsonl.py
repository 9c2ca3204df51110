"""Reads and writes all JSON Lines of the project.

A file is UTF-8 with one JSON object per line. Only ``\\n`` ends a line: U+2028 and U+0085 are legal inside a string, so
``str.splitlines`` would split records. A byte-order mark, CRLF line ends, blank lines and a missing last newline are
accepted. Everything else that is not plain JSON is refused with ``file:line``.

A killed run loses no record: appended files are synced after each batch, and only a last line without an end is repaired
(`repair_tail`). Finished files appear complete or not at all (`write_atomic`).
"""

from __future__ import annotations

import contextlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from decimal import Decimal
from functools import partial
from itertools import compress
from pathlib import Path
from typing import Any, NoReturn, Self

from cotkit.core.errors import UserError
from cotkit.core.files import make_folder, open_input, write_bytes_atomic

Row = dict[str, Any]

# A record has some kilobytes. A longer line means a wrong file, and parsing it takes several times its size in memory.
MAX_LINE_BYTES = 16 * 2**20


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _unique_pairs(pairs: list[tuple[str, Any]]) -> Row:
    row = dict(pairs)
    if len(row) != len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"key {twice!r} appears twice in one object")
    return row


_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False)
_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, object_pairs_hook=_unique_pairs)
# For files from elsewhere: a number with a point or exponent keeps its digits (3.10 is not 3.1).
EXACT = json.JSONDecoder(parse_constant=_refuse_constant, object_pairs_hook=_unique_pairs, parse_float=Decimal)


def loads(line: bytes, where: str, decoder: json.JSONDecoder = _DECODER) -> Row:
    """Parses one line strictly.

    Args:
        line: the bytes of one line, with or without its line end.
        where: ``file:line``, the start of the message.
        decoder: `EXACT` makes a `Decimal` of numbers with a point or exponent.

    Raises:
        UserError: bad UTF-8, bad JSON, NaN or Infinity, a repeated key, a lone surrogate, too long a number, too deep
            nesting, or anything but an object.
    """
    try:
        text = line.decode("utf-8")
        row = decoder.decode(text)
        if "\\u" in text:
            json.dumps(row, ensure_ascii=False, default=str).encode("utf-8")  # a lone surrogate cannot be written back
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not UTF-8 (byte {error.start} of the line); convert the file to UTF-8") from None
    except UnicodeEncodeError:
        raise UserError(f"{where}: holds a lone surrogate (half of a \\ud800 pair); remove it") from None
    except RecursionError:
        raise UserError(f"{where}: nested too deeply to be a record; is this the right file?") from None
    except ValueError as error:
        raise UserError(f"{where}: not a JSON record ({error}); correct or remove this line") from None
    if not isinstance(row, dict):
        raise UserError(f"{where}: a JSON object is expected, found {type(row).__name__}; one record per line")
    return row


def dumps(row: Row) -> bytes:
    """One record as one line with its ``\\n``. Keys keep their order. NaN and lone surrogates raise ValueError."""
    return _ENCODER.encode(row).encode("utf-8") + b"\n"


def read_lines(path: str | os.PathLike[str]) -> Iterator[tuple[int, bytes]]:
    """Yields ``(line number from 1, bytes of a record)``. Skips blank lines but counts them. Raises UserError."""
    with open_input(path) as file:
        for number, line in enumerate(iter(partial(file.readline, MAX_LINE_BYTES + 1), b""), 1):
            if len(line) > MAX_LINE_BYTES:
                raise UserError(f"{path}:{number}: the line is longer than {MAX_LINE_BYTES >> 20} MiB; a wrong file?")
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if line and not line.isspace():
                yield number, line


def read_numbered(path: str | os.PathLike[str]) -> Iterator[tuple[int, Row]]:
    """Yields ``(line number from 1, record)``. Raises UserError."""
    for number, line in read_lines(path):
        yield number, loads(line, f"{path}:{number}")


def read(path: str | os.PathLike[str]) -> Iterator[Row]:
    """Yields the records of a file in order. Raises UserError with ``file:line``."""
    for _, row in read_numbered(path):
        yield row


def read_chosen(path: str | os.PathLike[str], chosen: Iterable[bool]) -> Iterator[Row]:
    """Yields the records where `chosen` is true. The others are not parsed."""
    for number, line in compress(read_lines(path), chosen):
        yield loads(line, f"{path}:{number}")


def require(row: Row, fields: dict[str, type], where: str) -> None:
    """Raises UserError if `row` lacks a field or a field has not exactly that type."""
    for name, kind in fields.items():
        if name not in row:
            raise UserError(f"{where}: field {name!r} is missing; it has {', '.join(map(repr, row)) or 'no fields'}")
        if type(row[name]) is not kind:
            found = type(row[name]).__name__
            raise UserError(f"{where}: field {name!r} must be {kind.__name__}, found {found}")


def repair_tail(path: Path) -> int:
    """Makes an appended file end in a complete line again. Returns how many bytes it removed (nearly always 0).

    A kill can leave a last line without a newline. If it is a complete record, the newline is added. If not, nobody
    relies on the record: its bytes move to ``<file>.torn``. The end may be inside a character, so it looks at bytes. A
    bad line that has a newline is other damage, and the reader refuses it.
    """
    with open(path, "r+b") as file:
        size = file.seek(0, os.SEEK_END)
        start, tail = size, b""
        while start > 0 and b"\n" not in tail:
            step = min(1 << 16, start)
            start -= step
            file.seek(start)
            tail = file.read(step) + tail
        torn = tail[tail.rfind(b"\n") + 1 :]
        if not torn:
            return 0
        with contextlib.suppress(UserError):
            loads(torn, str(path))
            file.seek(0, os.SEEK_END)
            file.write(b"\n")
            return 0
        with open(f"{path}.torn", "ab") as aside:
            aside.write(torn + b"\n")
        file.truncate(size - len(torn))
        os.fsync(file.fileno())
        return len(torn)


class Appender:
    """Appends batches of records. They are on the disk when `append` returns. Opening repairs the file's last line."""

    def __init__(self, path: Path) -> None:
        make_folder(path.parent)
        self.torn_bytes = repair_tail(path) if path.exists() else 0
        self._file = open(path, "ab")  # noqa: SIM115  closed by __exit__

    def append(self, rows: Iterable[Row]) -> None:
        self._file.write(b"".join(map(dumps, rows)))
        self._file.flush()
        os.fsync(self._file.fileno())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def write_atomic(path: str | os.PathLike[str], rows: Iterable[Row]) -> None:
    """Writes all records of a file, all or nothing."""
    write_bytes_atomic(path, map(dumps, rows))


def write_json_atomic(path: str | os.PathLike[str], value: Any) -> None:
    """Writes an indented JSON document, all or nothing."""
    write_bytes_atomic(path, [json_bytes(value)])


def json_bytes(value: Any) -> bytes:
    """An indented JSON document. NaN raises ValueError."""
    return (json.dumps(value, ensure_ascii=False, allow_nan=False, indent=2) + "\n").encode("utf-8")


def read_json(path: str | os.PathLike[str]) -> Row:
    """Reads a JSON document that must be an object. Raises UserError."""
    with open_input(path) as file:
        return loads(file.read(), str(path))
