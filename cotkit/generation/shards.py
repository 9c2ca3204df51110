"""Ranks and their files: which rank does which request, and a merge that checks that nothing is missing or extra.

Generation needs no process group: ranks finish at different times, and a collective operation would only wait. Each rank
appends to ``<output>.rank<N>``; the rank that finishes last finds every key there and merges. A request's rank follows
from its position in the input alone, so all ranks agree without communication. Finished results are read from all rank
files, so a resumed run may use another number of ranks.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from cotkit.core.errors import UserError
from cotkit.core.files import write_bytes_atomic
from cotkit.core.jsonl import Row, loads

Key = tuple[str, int]
SHOWN_IDS = 10


def rank_and_world() -> tuple[int, int]:
    """(rank, number of ranks) as torchrun sets them; (0, 1) without torchrun. Raises UserError if they are invalid."""
    try:
        rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    except ValueError:
        raise UserError("RANK and WORLD_SIZE must be whole numbers; torchrun sets them") from None
    if not 0 <= rank < world:
        raise UserError(f"RANK {rank} does not fit WORLD_SIZE {world}; torchrun sets them")
    return rank, world


def launch_id() -> str:
    """The same for all ranks of one torchrun launch, different for the next; ``alone`` without torchrun."""
    names = ("TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RESTART_COUNT")
    return "/".join(os.environ[name] for name in names if name in os.environ) or "alone"


def prepares(rank: int, separate_folders: bool) -> bool:
    """Whether this rank checks and clears the output's folder for the others: rank 0, or the first rank of each node."""
    return os.environ.get("LOCAL_RANK", "0") == "0" if separate_folders else rank == 0


def rank_file(output: Path, rank: int) -> Path:
    """The file that a rank appends its results to."""
    return output.with_name(f"{output.name}.rank{rank}")


def rank_files(output: Path) -> list[Path]:
    """All existing rank files in rank order, of any number of ranks."""
    pattern = re.compile(re.escape(output.name) + r"\.rank(\d+)")
    if not output.parent.is_dir():
        return []
    found = [(int(match[1]), path) for path in output.parent.iterdir() if (match := pattern.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


class Records:
    """Finds the record of each (id, sample) in several files.

    A result replaces an error. Identical copies are one record, and `copies` counts the others. Two different results of
    one key are refused, because only one of them can belong to the run. Memory holds an offset per record, not the record.
    """

    def __init__(self) -> None:
        self.copies = 0
        self.failed: set[Key] = set()  # keys that have only errors
        self._found: dict[Key, tuple[Path, int, int]] = {}  # file, offset in bytes, line number
        self._open: dict[Path, BinaryIO] = {}

    def add_file(self, path: Path) -> None:
        """Indexes one file, except an unterminated last line, which its rank has not counted as written."""
        with open(path, "rb") as file:
            offset = 0
            for number, line in enumerate(file, 1):
                if line.endswith(b"\n") and line.strip():
                    self._add(path, offset, number, line)
                offset += len(line)

    def _add(self, path: Path, offset: int, number: int, line: bytes) -> None:
        where = f"{path}:{number}"
        row = loads(line, where)
        if not isinstance(row.get("id"), str) or type(row.get("sample")) is not int:
            raise UserError(f"{where}: not a generated record (id and sample are missing); move the file away")
        key = (row["id"], row["sample"])
        is_error = row.get("finish_reason") == "error"
        if key not in self._found or key in self.failed:
            self._found[key] = (path, offset, number)
            (self.failed.add if is_error else self.failed.discard)(key)
        elif not is_error:
            if self.line(key) != line:
                known, _, at = self._found[key]
                raise UserError(f"{where}: {show(key)} has another result in {known}:{at}; remove one of the two")
            self.copies += 1

    def line(self, key: Key) -> bytes:
        """The record's bytes, with the newline."""
        path, offset, _ = self._found[key]
        if path not in self._open:
            self._open[path] = open(path, "rb")  # noqa: SIM115  kept for the next record; closed with the process
        self._open[path].seek(offset)
        return self._open[path].readline()

    @property
    def done(self) -> set[Key]:
        """Keys with a result; errors are not results."""
        return self._found.keys() - self.failed

    def missing(self, keys: Iterable[Key]) -> list[Key]:
        """Those of `keys`, in their order, that have neither a result nor an error."""
        return [key for key in keys if key not in self._found]

    def extra(self, keys: Iterable[Key]) -> list[Key]:
        """Keys with a record that are not among `keys`."""
        return sorted(self._found.keys() - set(keys))

    def rows(self, keys: Iterable[Key]) -> Iterator[Row]:
        """The records of these keys, in that order."""
        for key in keys:
            yield loads(self.line(key), str(self._found[key][0]))


def merge(output: Path, records: Records, keys: Sequence[Key]) -> None:
    """Writes the records of `keys` in that order, all or nothing.

    Raises:
        UserError: keys are missing or extra. It names the first ten and their number; nothing is written.
    """
    if missing := records.missing(keys):
        raise UserError(f"{output}: not merged, {len(missing)} of {len(keys)} results are missing: {show(*missing)}")
    if extra := records.extra(keys):
        raise UserError(f"{output}: not merged, {len(extra)} results are not of this input: {show(*extra)}")
    write_bytes_atomic(output, map(records.line, keys))


def show(*keys: Key) -> str:
    """The first ten keys for a message; the sample number is shown if it is not 0."""
    names = [f"{name}" if sample == 0 else f"{name} sample {sample}" for name, sample in keys[:SHOWN_IDS]]
    return ", ".join(names) + (", ..." if len(keys) > SHOWN_IDS else "")
