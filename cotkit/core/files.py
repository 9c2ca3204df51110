"""Files that survive a kill: written all or nothing, or held by one process at a time (standard library only)."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import hashlib
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, Self

from cotkit.core.errors import UserError


def open_input(path: str | os.PathLike[str]) -> BinaryIO:
    """Opens a file for reading bytes. Raises UserError naming it."""
    try:
        return open(path, "rb")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from None


def make_folder(folder: Path) -> None:
    """Makes a folder and those above it. Raises UserError where a file is in the way or it is not allowed."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"{folder}: a folder is needed here, but a file is in the way") from None
    except OSError as error:
        raise UserError(f"{folder}: the folder cannot be made ({error.strerror})") from None


class AtomicWriter:
    """A finished file, all or nothing: what is written appears under its name when the ``with`` block ends well.

    Until then it is a hidden temporary file in the same folder; an error removes it, and what a kill left behind goes
    with the next writer of the same file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")

    def __enter__(self) -> Self:
        make_folder(self.path.parent)
        for stale in self.path.parent.glob(f".{glob.escape(self.path.name)}.*.tmp"):
            if not _alive(stale.name.rsplit(".", 2)[1]):
                stale.unlink(missing_ok=True)
        self._file = open(self._temporary, "wb")
        return self

    def write(self, data: bytes) -> None:
        self._file.write(data)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._file.flush()
                os.fsync(self._file.fileno())
                os.replace(self._temporary, self.path)
                _sync_folder(self.path.parent)
        finally:
            with contextlib.suppress(OSError):  # closing flushes, which on a full disk fails once more
                self._file.close()
            self._temporary.unlink(missing_ok=True)


def _alive(pid: str) -> bool:
    """Whether there is a process of that number, whoever owns it."""
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, ValueError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _sync_folder(folder: Path) -> None:
    """The new name itself must reach the disk too."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes_atomic(path: str | os.PathLike[str], chunks: Iterable[bytes]) -> None:
    """Writes a file so that it is either the old one or the whole new one."""
    with AtomicWriter(path) as writer:
        for chunk in chunks:
            writer.write(chunk)


def write_if_changed(path: Path, data: bytes) -> None:
    """Writes a small file, all or nothing; one that holds the same bytes already is left untouched."""
    if not path.is_file() or path.read_bytes() != data:
        write_bytes_atomic(path, [data])


def sha256_file(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's bytes, read in pieces."""
    digest = hashlib.sha256()
    with open_input(path) as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


class Lock:
    """Holds an output for one process: ``with Lock(path):``. Raises UserError naming the holder's pid.

    Waits up to `patience_seconds` for another holder first.

    An flock on ``.<name>.lock`` beside the file: the kernel drops it when the process dies, however it dies, so a lock
    file that was left behind never blocks. The lock file itself stays; removing it would let two processes in.
    """

    def __init__(self, path: Path, patience_seconds: float = 0.0) -> None:
        self.path, self._patience = path, patience_seconds
        self._lock_path = path.with_name(f".{path.name}.lock")
        self._descriptor = -1

    def __enter__(self) -> Self:
        make_folder(self._lock_path.parent)
        descriptor = os.open(self._lock_path, os.O_RDWR | os.O_CREAT, 0o644)
        deadline = time.monotonic() + self._patience
        while not self._try(descriptor) and time.monotonic() < deadline:
            time.sleep(0.05)
        if not self._try(descriptor):
            holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(descriptor)
            raise UserError(f"{self.path}: process {holder} is writing this output; wait for it or stop it")
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._descriptor = descriptor
        return self

    @staticmethod
    def _try(descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)
