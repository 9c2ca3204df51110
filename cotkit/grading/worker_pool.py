"""Worker processes that can be killed, for the comparisons that need computer algebra.

A worker is `python -m cotkit.grading.math_verify_worker`: one line of JSON in, one line of JSON out. It bounds the CPU time
of each comparison, so that the load of the machine and the number of workers change no verdict. The pool only replaces a
worker that is gone, or stuck for STUCK_S. The pool works from threads, notebooks, forked processes and programs on
standard input.

The library pebble is not used: its workers run the main program again, inherit the tokens in its environment, and send
pickles, which must not be read from a process that has worked on a model's text.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from cotkit.grading.equivalence import Decision

BUDGET_S = 2.0  # CPU time of one comparison. Ordinary ones take 5 to 50 ms; between 1 and 3 s there are hardly any
STUCK_S = 120.0  # wall time of one comparison; reached only if a worker gets no CPU time
STARTUP_S = 120.0  # importing sympy and building the parser's tables takes about 3 s on an idle core
CLOSE_S = 1.0  # for an idle worker to end by itself
MAX_KNOWN = 65_536  # outcomes kept, about 300 bytes each
MAX_REPLY = 4096  # bytes; a reply has about 60

_ROOT = Path(__file__).resolve().parents[2]
# The variables that a worker gets; tokens and keys stay behind. gmpy2 is off since its huge powers and factorials
# cannot be interrupted.
_ENVIRONMENT = "PATH HOME LANG LC_ALL LD_LIBRARY_PATH SYSTEMROOT TMPDIR VIRTUAL_ENV".split()
_FIXED = {"MPMATH_NOGMPY": "1", "SYMPY_GROUND_TYPES": "python", "PYTHONHASHSEED": "0", "PYTHONUTF8": "1"}

Question = tuple[str, str, str]  # gold, answer, kind


class WorkerError(RuntimeError):
    """A worker cannot be started at all, for example because math-verify is not installed."""


class _Lost(Exception):
    """The worker is silent or gone."""


class _Worker:
    """A worker process with the children that it forks, and the pipes to it. One thread at a time may use it."""

    def __init__(self) -> None:
        path = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
        environment = {key: os.environ[key] for key in _ENVIRONMENT if key in os.environ} | _FIXED
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "cotkit.grading.math_verify_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment | {"PYTHONPATH": os.pathsep.join([str(_ROOT), *path])},
            start_new_session=True,  # Ctrl-C reaches the main program only, and a kill its children too
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        self._poll = select.poll()
        self._poll.register(self._stdout, select.POLLIN)
        self._buffer = b""
        self._ready = False
        self.pid = self._process.pid
        self.gone = False

    def ask(self, question: Question) -> Decision:
        """The outcome of one comparison. A worker that is `gone` after it must be replaced."""
        if not self._ready:
            self._await_ready()
        try:
            self._stdin.write(json.dumps(question).encode() + b"\n")
            self._stdin.flush()
            message = self._line(STUCK_S)
        except (_Lost, BrokenPipeError):
            self.gone = True
            return Decision("grader_timeout", "worker_died")
        return Decision(str(message["verdict"]), str(message["rule"]))

    def _await_ready(self) -> None:
        try:
            message = self._line(STARTUP_S)
        except _Lost as loss:
            raise WorkerError(
                f"a grader worker did not start ({loss}); try: python -m cotkit.grading.math_verify_worker"
            ) from None
        if "error" in message:
            raise WorkerError(f"a grader worker did not start: {message['error']}")
        self._ready = True

    def _line(self, seconds: float) -> dict[str, object]:
        deadline = time.monotonic() + seconds
        while b"\n" not in self._buffer:
            ready = self._poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
            chunk = os.read(self._stdout.fileno(), MAX_REPLY) if ready else b""
            if not chunk:
                raise _Lost("it died" if ready else f"no answer in {seconds:.0f} s")
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        message: dict[str, object] = json.loads(line)
        return message

    def close(self) -> None:
        """Ends the worker: it stops at the end of its input, and is killed with its child if it does not."""
        with contextlib.suppress(OSError):  # unsent bytes for a process that is gone
            self._stdin.close()
        if not self.gone:
            try:
                self._process.wait(timeout=CLOSE_S)
            except subprocess.TimeoutExpired:  # still starting, or at work
                self.gone = True
        if self.gone:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            self._process.wait()
        self._stdout.close()


def available_cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class GraderPool:
    """At most `workers` workers (default: one for each core that this process may use), started as work arrives."""

    def __init__(self, workers: int | None = None) -> None:
        if workers is not None and workers < 1:
            raise ValueError(f"workers must be at least 1, not {workers}")
        self._threads = ThreadPoolExecutor(workers or available_cores(), thread_name_prefix="grader")
        self._lock = threading.Lock()
        self._known: dict[Question, Future[Decision]] = {}
        self._workers: list[_Worker] = []
        self._idle: list[_Worker] = []
        self._owner = os.getpid()

    def submit(self, gold: str, answer: str, kind: str) -> Future[Decision]:
        """A future of the outcome. The same question is asked once.

        Raises RuntimeError if the pool is closed. The future raises WorkerError if no worker can be started.
        """
        question = (gold, answer, kind)
        with self._lock:
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            if question not in self._known:
                self._known[question] = self._threads.submit(self._answer, question)
            return self._known[question]

    def pids(self) -> list[int]:
        """The process ids of the workers."""
        return [worker.pid for worker in self._workers]

    def close(self) -> None:
        """Stops the workers. Waits for comparisons under way, which end within their budget. May be called twice."""
        if os.getpid() != self._owner:  # a forked process must not stop the workers of its parent
            return
        self._threads.shutdown(cancel_futures=True)
        for worker in self._idle:
            self._retire(worker)
        self._idle = []

    def _answer(self, question: Question) -> Decision:
        with self._lock:
            worker = self._idle.pop() if self._idle else None
        if worker is None:
            worker = _Worker()
            self._workers.append(worker)
        try:
            outcome = worker.ask(question)
        except Exception:
            self._retire(worker)
            raise
        if worker.gone:
            self._retire(worker)
        else:
            with self._lock:
                self._idle.append(worker)
        return outcome

    def _retire(self, worker: _Worker) -> None:
        worker.close()
        self._workers.remove(worker)
