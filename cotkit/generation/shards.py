"""Ranks and their files: which rank does which request, and a merge that proves itself.

No process group is needed to generate: ranks finish at different times, and a collective would only wait. Each rank
appends to ``<output>.rank<N>``; whichever rank finishes last finds every key there and merges. Work is assigned by the
request's place in the input, whatever has been done already, so all ranks agree without speaking to each other; what
is done is read from all rank files, so a resume may use another number of ranks.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from cotkit.core.errors import UserError
from cotkit.core.files import write_bytes_atomic
from cotkit.core.jsonl import Row, loads

Key = tuple[str, int]
SHOWN_IDS = 10


def rank_and_world() -> tuple[int, int]:
    """(rank, number of ranks) as torchrun sets them; (0, 1) without it. Raises UserError if they make no sense."""
    try:
        rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    except ValueError:
        raise UserError("RANK and WORLD_SIZE must be whole numbers; torchrun sets them") from None
    if not 0 <= rank < world:
        raise UserError(f"RANK {rank} does not fit WORLD_SIZE {world}; torchrun sets them")
    return rank, world


def launch_id() -> str:
    """The same for all ranks of one torchrun launch, another for the next; ``alone`` without torchrun."""
    names = ("TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RESTART_COUNT")
    return "/".join(os.environ[name] for name in names if name in os.environ) or "alone"


def prepares(rank: int, separate_folders: bool) -> bool:
    """Whether this rank checks and clears the output's folder for the others: rank 0, or each node's first one."""
    return os.environ.get("LOCAL_RANK", "0") == "0" if separate_folders else rank == 0


def rank_file(output: Path, rank: int) -> Path:
    """Where a rank writes."""
    return output.with_name(f"{output.name}.rank{rank}")


def rank_files(output: Path) -> list[Path]:
    """Every rank file that exists, in rank order, from however many ranks."""
    pattern = re.compile(re.escape(output.name) + r"\.rank(\d+)")
    if not output.parent.is_dir():
        return []
    found = [(int(match[1]), path) for path in output.parent.iterdir() if (match := pattern.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


class Records:
    """An index of generated records over several files: where the last word on each key stands.

    Holds an offset a record, not the records, so a million of them stay small. Error records give way to any other;
    identical copies are one, and `copies` counts them; two different results for one key are refused, since only one
    of them can be the run's.
    """

    def __init__(self) -> None:
        self.copies = 0
        self._places: dict[Key, tuple[Path, int, int]] = {}
        self._errors: set[Key] = set()
        self._open: dict[Path, BinaryIO] = {}

    def add_file(self, path: Path) -> None:
        """Indexes one file; an unterminated last line is left out, since its rank has not acknowledged it."""
        with open(path, "rb") as file:
            offset = 0
            for number, line in enumerate(file, 1):
                if line.endswith(b"\n") and line.strip():
                    self._add(path, number, offset, line)
                offset += len(line)

    def _add(self, path: Path, number: int, offset: int, line: bytes) -> None:
        where = f"{path}:{number}"
        row = loads(line, where)
        if not isinstance(row.get("id"), str) or type(row.get("sample")) is not int:
            raise UserError(f"{where}: not a generated record (id and sample are missing); move the file away")
        key = (row["id"], row["sample"])
        failed = row.get("finish_reason") == "error"
        known = key in self._places and key not in self._errors
        if known and not failed and self.line(key) != line:
            raise UserError(f"{where}: {show(key)} has another result in {self._where(key)}; remove one of the two")
        if known:
            self.copies += not failed
            return
        self._places[key] = (path, offset, len(line))
        (self._errors.add if failed else self._errors.discard)(key)

    def line(self, key: Key) -> bytes:
        """The record's bytes, with the newline."""
        path, offset, length = self._places[key]
        if path not in self._open:
            self._open[path] = open(path, "rb")  # noqa: SIM115  kept for the next record; closed with the process
        file = self._open[path]
        file.seek(offset)
        return file.read(length)

    def _where(self, key: Key) -> str:
        """``file:line`` of a record."""
        path, offset, _ = self._places[key]
        with open(path, "rb") as file:
            lines_before = file.read(offset).count(b"\n")
        return f"{path}:{lines_before + 1}"

    @property
    def done(self) -> set[Key]:
        """Keys with a result; errors are not results."""
        return self._places.keys() - self._errors

    @property
    def failed(self) -> set[Key]:
        return self._errors

    def missing(self, keys: Iterable[Key]) -> list[Key]:
        """Keys of which there is nothing at all, in the order given."""
        return [key for key in keys if key not in self._places]

    def extra(self, keys: Iterable[Key]) -> list[Key]:
        """Keys that nobody asked for."""
        return sorted(self._places.keys() - set(keys))

    def rows(self, keys: Iterable[Key]) -> Iterator[Row]:
        """The records of these keys, in that order."""
        for key in keys:
            yield loads(self.line(key), str(self._places[key][0]))


def share_of(requests: Sequence[Any], rank: int, world: int) -> list[Any]:
    """A rank's requests: every world-th, so that all ranks get problems of all kinds."""
    return list(requests[rank::world])


def merge(output: Path, records: Records, keys: Sequence[Key]) -> None:
    """Writes the output in input order, all or nothing.

    Raises:
        UserError: keys are missing or superfluous; the first ten and their number are named, nothing is written.
    """
    if missing := records.missing(keys):
        raise UserError(f"{output}: not merged, {len(missing)} of {len(keys)} results are missing: {show(*missing)}")
    if extra := records.extra(keys):
        raise UserError(f"{output}: not merged, {len(extra)} results are not of this input: {show(*extra)}")
    write_bytes_atomic(output, map(records.line, keys))


def show(*keys: Key) -> str:
    """The first ten keys for a message; the sample is named where it is not the first."""
    names = [f"{name}" if sample == 0 else f"{name} sample {sample}" for name, sample in keys[:SHOWN_IDS]]
    return ", ".join(names) + (", ..." if len(keys) > SHOWN_IDS else "")
