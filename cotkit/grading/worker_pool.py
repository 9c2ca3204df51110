"""Killable worker processes for the comparisons that need computer algebra.

A worker is `python -m cotkit.grading.math_verify_worker`: one JSON text a line in, one out. It says when it starts on an answer, and
from then on it has BUDGET_S of wall time before it is killed and replaced: that costs this one answer, whatever it was
doing. Nothing is unpickled and the program's main module is never imported again, so the pool works from threads,
notebooks and piped scripts.
"""

from __future__ import annotations

import json
import os
import queue
import select
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from pathlib import Path

from cotkit.grading.truth import Decision

BUDGET_S = 1.0  # wall time of one comparison; ordinary ones take 1 to 50 ms
STARTUP_S = 60.0  # importing sympy and warming the parser up takes about 2 s on an idle core
MAX_KNOWN = 65_536  # outcomes kept, about 300 bytes each
MAX_REPLY = 4096  # bytes; a reply is about 60

_ROOT = Path(__file__).resolve().parents[2]
# What a worker needs of the environment; tokens and keys stay behind. gmpy2 is switched off: its huge powers and
# factorials cannot be interrupted.
_ENVIRONMENT = ("PATH", "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "SYSTEMROOT", "TMPDIR", "VIRTUAL_ENV")
_FIXED = {"MPMATH_NOGMPY": "1", "SYMPY_GROUND_TYPES": "python", "PYTHONHASHSEED": "0", "PYTHONUTF8": "1"}


class WorkerError(RuntimeError):
    """A worker cannot be started at all (for example because math-verify is not installed)."""


class _Lost(Exception):
    """The worker is silent or gone; the message is the rule reported for the item."""


class _Worker:
    """One parent process that forks the process which serves, and the pipes to it. Not shared between threads."""

    def __init__(self) -> None:
        path = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
        environment = {key: os.environ[key] for key in _ENVIRONMENT if key in os.environ} | _FIXED
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "cotkit.grading.math_verify_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment | {"PYTHONPATH": os.pathsep.join([str(_ROOT), *path])},
            start_new_session=True,  # an interrupt from the keyboard is the parent's to handle
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        self._poll = select.poll()
        self._poll.register(self._stdout, select.POLLIN)
        self._buffer = b""
        self.pid: int | None = None  # of the process that serves; None while it has not reported
        self.gone = False

    def ask(self, gold: str, answer: str, dataset: str) -> Decision:
        """The outcome of one comparison; a process that dies or outlives the budget is replaced by the next call."""
        try:
            if self.pid is None:
                self._await_ready()
            self._stdin.write(json.dumps([gold, answer, dataset]).encode() + b"\n")
            self._stdin.flush()
            message = self._line(STARTUP_S)
            if "ready" in message:  # the process had served its time when the request arrived
                self.pid, message = int(str(message["pid"])), self._line(STARTUP_S)
            message = self._line(BUDGET_S)
        except (_Lost, BrokenPipeError) as loss:
            self._replace()
            self.gone = not isinstance(loss, _Lost) or str(loss) == "worker_died"  # both processes, or one would report
            return Decision("grader_timeout", "worker_died" if self.gone else str(loss))
        if "ready" in message:
            self.pid = int(str(message["pid"]))
            return Decision("grader_timeout", "worker_died")
        return Decision(str(message["verdict"]), str(message["rule"]))

    def _await_ready(self) -> None:
        message: dict[str, object] = {}
        while "ready" not in message:  # a process that was killed may have left a reply
            try:
                message = self._line(STARTUP_S)
            except _Lost as loss:
                raise WorkerError(
                    f"a grader worker did not start ({loss}); try: python -m cotkit.grading.math_verify_worker"
                ) from None
            if "error" in message:
                raise WorkerError(f"a grader worker did not start: {message['error']}")
        self.pid = int(str(message["pid"]))

    def _replace(self) -> None:
        """Kills the process that serves; its parent forks the next one."""
        if self.pid is not None:
            try:
                os.kill(self.pid, signal.SIGKILL)
            except ProcessLookupError:  # it died by itself
                pass
        self.pid = None

    def _line(self, seconds: float) -> dict[str, object]:
        deadline = time.monotonic() + seconds
        while b"\n" not in self._buffer:
            ready = self._poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
            chunk = os.read(self._stdout.fileno(), MAX_REPLY) if ready else b""
            if not chunk:
                raise _Lost("worker_died" if ready else "time_budget")
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        message: dict[str, object] = json.loads(line)
        return message

    def close(self) -> None:
        """Ends both processes: at the end of its input a process stops, and its parent with it."""
        try:
            self._stdin.close()
        except OSError:  # unsent bytes for a process that is gone
            pass
        self._replace()
        try:
            self._process.wait(timeout=BUDGET_S)
        except subprocess.TimeoutExpired:  # still starting
            self._process.kill()
            self._process.wait()
        self._stdout.close()


def available_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class GraderPool:
    """Up to `workers` processes (default: one for each core this process may use), started as work arrives."""

    def __init__(self, workers: int | None = None) -> None:
        if workers is not None and workers < 1:
            raise ValueError(f"workers must be at least 1, not {workers}")
        self._limit = workers or available_cores()
        self._tasks: queue.SimpleQueue[tuple[tuple[str, str, str], Future[Decision]] | None] = queue.SimpleQueue()
        self._known: dict[tuple[str, str, str], Future[Decision]] = {}
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._pending = 0
        self._workers: list[_Worker] = []
        self._closed = False

    def submit(self, gold: str, answer: str, dataset: str) -> Future[Decision]:
        """A future of the outcome; the same question is asked once."""
        key = (gold, answer, dataset)
        with self._lock:
            if self._closed:
                raise RuntimeError("the grader pool is closed")
            if key in self._known:
                return self._known[key]
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            future = self._known[key] = Future()
            self._pending += 1
            if len(self._threads) < min(self._limit, self._pending):
                thread = threading.Thread(target=self._serve, name=f"grader-{len(self._threads)}", daemon=True)
                self._threads.append(thread)
                thread.start()
        self._tasks.put((key, future))
        return future

    def pids(self) -> list[int]:
        """Ids of the processes that serve now."""
        return [worker.pid for worker in self._workers if worker.pid is not None]

    def close(self) -> None:
        """Stops the workers; idempotent. Comparisons under way end within their budget."""
        with self._lock:
            self._closed = True
            threads, self._threads = self._threads, []
        for _ in threads:
            self._tasks.put(None)
        for thread in threads:
            thread.join()

    def _serve(self) -> None:
        """Body of a worker's thread: one comparison at a time."""
        worker: _Worker | None = None
        while (task := self._tasks.get()) is not None:
            key, future = task
            if not self._closed:
                worker = self._answer(worker, key, future)
            else:
                future.cancel()
            with self._lock:
                self._pending -= 1
        if worker is not None:
            worker.close()

    def _answer(self, worker: _Worker | None, key: tuple[str, str, str], future: Future[Decision]) -> _Worker | None:
        """Settles `future`; returns the worker to go on with, None when it is of no use any more."""
        try:
            worker = worker or self._start()
            future.set_result(worker.ask(*key))
            return self._retire(worker) if worker.gone else worker
        except Exception as error:  # noqa: BLE001  the caller's future has to see whatever went wrong
            future.set_exception(error)
            return self._retire(worker) if worker else None

    def _retire(self, worker: _Worker) -> None:
        worker.close()
        self._workers.remove(worker)

    def _start(self) -> _Worker:
        worker = _Worker()
        self._workers.append(worker)
        return worker
