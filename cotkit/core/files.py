"""Files that survive a kill: written all or nothing, and locked by one process at a time."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import hashlib
import os
import shlex
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from cotkit.core.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
RUN_EXPECTED = "the folder of a run is expected, such as outputs/smollm2_cpu"


def elsewhere(path: str | os.PathLike[str]) -> str:
    """What to do about a relative path that is missing here but exists in the project's folder; empty otherwise."""
    if not os.path.isabs(path) and not os.path.lexists(path) and (ROOT / path).exists():
        return f"it exists in {ROOT}, and paths are looked up in the working directory: cd {shlex.quote(str(ROOT))}"
    return ""


def require_folder(folder: Path, hint: str = RUN_EXPECTED) -> None:
    """Raises UserError, with the hint, if there is no such folder; by default it is a run's."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; {elsewhere(folder) or hint}")


def open_input(path: str | os.PathLike[str]) -> BinaryIO:
    """Opens a file for reading bytes. Raises UserError."""
    try:
        return open(path, "rb")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); {elsewhere(path) or 'check the path'}") from None


def make_folder(folder: Path) -> None:
    """Makes a folder and those above it. Raises UserError if a file is in the way or it is not allowed."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"{folder}: a folder is needed here, but a file is in the way") from None
    except OSError as error:
        raise UserError(f"{folder}: the folder cannot be made ({error.strerror})") from None


@contextlib.contextmanager
def open_atomic(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A file for writing bytes that appears complete, with the end of the ``with`` block, or not at all.

    Until then it is a hidden temporary file in the same folder. An error removes it. The next writer of the same file
    removes what a killed one left.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    make_folder(path.parent)
    for stale in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        if not _alive(stale.name.rsplit(".", 2)[1]):
            stale.unlink(missing_ok=True)
    file = open(temporary, "wb")  # noqa: SIM115  closed below
    try:
        yield file
        file.flush()
        os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    finally:
        with contextlib.suppress(OSError):  # closing flushes, which fails once more on a full disk
            file.close()
        temporary.unlink(missing_ok=True)


def _alive(pid: str) -> bool:
    """Whether there is a process with that number, of any user."""
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, ValueError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _sync_folder(folder: Path) -> None:
    """Writes the folder's list of names to the disk, so that a new name survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes_atomic(path: str | os.PathLike[str], chunks: Iterable[bytes]) -> None:
    """Writes a file, all or nothing."""
    with open_atomic(path) as file:
        file.writelines(chunks)


def write_if_changed(path: Path, data: bytes) -> bool:
    """Writes a small file, all or nothing, and returns True. Leaves it untouched if it has the same bytes already."""
    if path.is_file() and path.read_bytes() == data:
        return False
    write_bytes_atomic(path, [data])
    return True


def sha256_file(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's bytes, read in pieces."""
    digest = hashlib.sha256()
    with open_input(path) as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


@contextlib.contextmanager
def locked(path: Path, patience_seconds: float = 0.0) -> Iterator[None]:
    """Holds an output for one process. Waits up to `patience_seconds` for another holder first.

    It is an flock on ``.<name>.lock`` beside the file. The kernel drops it when the process dies, however it dies, so a
    lock file that is left behind blocks nobody. The lock file stays: removing it would let two processes in.

    Raises:
        UserError: with the number of the process that holds it.
    """
    lock_path = path.with_name(f".{path.name}.lock")
    make_folder(lock_path.parent)
    descriptor = os.open(lock_path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        deadline = time.monotonic() + patience_seconds
        while not _flock(descriptor):
            if time.monotonic() >= deadline:
                holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
                raise UserError(f"{path}: process {holder} is writing this output; wait for it or stop it")
            time.sleep(0.05)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _flock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
