"""One queue of work for several servers: a free server takes the next item, and no item is done twice.

A server that fails rests, longer each time, and is then tried with one item while the others work on. A server that keeps
failing without a success is given up. When none is left, all remaining items fail at once, so a run always ends. The pool
does not know what a server does: `Pool.run` takes a coroutine that makes one attempt.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import random
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from queue import SimpleQueue
from threading import Thread
from typing import Any, Generic, TypeVar

log = logging.getLogger(__name__)

# The first delay is doubled up to the second one, which also limits how long a Retry-After is obeyed.
FIRST_DELAY_SECONDS, MAX_DELAY_SECONDS = 1.0, 60.0
CLOSING_SECONDS = 3.0  # how long an interrupted run waits for its connections to close

Item = TypeVar("Item")
Result = TypeVar("Result")
Attempt = Callable[[str, Item], Coroutine[Any, Any, Result]]


class Blame(Enum):
    """Whose fault a failed attempt was."""

    ITEM = "item"  # no server would accept it: not repeated
    SERVER = "server"  # busy or down: the item goes to a free server and keeps all its tries
    EITHER = "either"  # counts against both


@dataclass(eq=False)
class AttemptError(Exception):
    """A failed attempt; `reason` is one short line."""

    reason: str
    blame: Blame = Blame.EITHER
    silent: bool = False  # nothing came within the time limit; two silences in a row are enough to give the server up
    hopeless: bool = False  # another try cannot help (a wrong key, model or address)
    retry_after: float = 0  # seconds for which the server asked not to be called

    def __str__(self) -> str:
        return self.reason


def delay(failures: int) -> float:
    """Seconds to wait after so many failures in a row, with jitter so that clients do not return all at once."""
    return min(MAX_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2 ** (failures - 1)) * random.uniform(0.5, 1.0)


@dataclass
class Server:
    """The state of one server. Times are those of time.monotonic."""

    url: str
    concurrency: int
    max_failures: int
    running: int = 0
    failures: int = 0  # in a row
    last_failure: float = 0.0
    rests_until: float = 0.0
    reason: str = ""  # of its last failure
    silent: bool = False  # whether its last failure was silence

    @property
    def given_up(self) -> bool:
        return self.failures > self.max_failures

    def free_slots(self, now: float) -> int:
        if self.given_up or now < self.rests_until:
            return 0
        return (1 if self.failures else self.concurrency) - self.running

    def succeeded(self) -> None:
        self.failures, self.silent = 0, False

    def failed(self, error: AttemptError, started: float) -> None:
        """Records a failure. An attempt that started before the last failure belongs to the same outage: not counted."""
        now, pause = time.monotonic(), min(error.retry_after, MAX_DELAY_SECONDS)
        self.reason = f"{self.url}: {error}"
        if started >= self.last_failure:
            at_once = error.hopeless or (error.silent and self.silent)
            self.failures = self.max_failures + 1 if at_once else self.failures + 1
            self.last_failure, self.silent = now, error.silent
            pause = max(pause, delay(self.failures))
            if self.given_up:
                log.info("given up: %s", self.reason)
            elif self.failures > 1:
                log.info("failed %d times in a row: %s", self.failures, self.reason)
        self.rests_until = max(self.rests_until, now + pause)


Running = dict[asyncio.Task[Result], tuple[int, Server, float]]  # number of the item, server, start time


class Pool(Generic[Item, Result]):
    """Servers that all do the same. An item, like a server, may fail `max_retries` times before it is given up."""

    def __init__(self, urls: Sequence[str], concurrency: int, max_retries: int) -> None:
        self.servers = [Server(url, concurrency, max_retries) for url in urls]
        self.max_retries = max_retries

    def run(
        self, items: Sequence[Item], attempt: Attempt[Item, Result], close: Callable[[], Coroutine[Any, Any, None]]
    ) -> Iterator[tuple[Item, Result | AttemptError]]:
        """Yields every item exactly once, as it finishes, with its result or its last error.

        Args:
            attempt: tries an item on the server with that URL; raises AttemptError.
            close: awaited at the end.
        """
        finished: SimpleQueue[tuple[Item, Result | AttemptError] | None] = SimpleQueue()

        async def work() -> None:
            running: Running[Result] = {}
            try:
                async for result in self._results(items, attempt, running):
                    finished.put(result)
            finally:
                for attempted in running:
                    attempted.cancel()
                await asyncio.gather(*running, return_exceptions=True)
                await close()

        # The event loop has its own thread, because signals are handled in the main thread: a signal that interrupted the
        # loop would leave it in a state in which it cannot be closed.
        loop = asyncio.new_event_loop()
        task = loop.create_task(work())
        task.add_done_callback(lambda _: finished.put(None))
        thread = Thread(target=loop.run_until_complete, args=(asyncio.wait([task]),), daemon=True)
        thread.start()
        try:
            while (result := finished.get()) is not None:
                yield result
        finally:
            loop.call_soon_threadsafe(task.cancel)
            thread.join(CLOSING_SECONDS)
        task.result()  # raises unexpected errors
        loop.close()

    async def _results(
        self, items: Sequence[Item], attempt: Attempt[Item, Result], running: Running[Result]
    ) -> AsyncIterator[tuple[Item, Result | AttemptError]]:
        waiting = [(0.0, number) for number in range(len(items))]  # a heap of (earliest start, number of the item)
        attempts = [0] * len(items)
        while waiting or running:
            now = time.monotonic()
            while waiting and waiting[0][0] <= now and (server := self._free(now)):
                number = heapq.heappop(waiting)[1]
                running[asyncio.create_task(attempt(server.url, items[number]))] = number, server, now
                server.running += 1
            if not running and all(server.given_up for server in self.servers):
                for _, number in waiting:
                    yield items[number], AttemptError(f"no server is left; {self.servers[-1].reason}")
                return
            for task in await self._ended(running, waiting, now):
                number, server, started = running.pop(task)
                server.running -= 1
                error = task.exception()
                if error is None:
                    server.succeeded()
                    yield items[number], task.result()
                elif not isinstance(error, AttemptError):
                    raise error
                elif error.blame is Blame.ITEM:
                    server.succeeded()  # the server works and has refused the item
                    yield items[number], error
                else:
                    server.failed(error, started)
                    attempts[number] += error.blame is Blame.EITHER
                    if attempts[number] > self.max_retries:
                        yield items[number], AttemptError(f"{server.reason} (attempt {attempts[number]})")
                    else:
                        pause = delay(attempts[number]) if error.blame is Blame.EITHER else 0.0
                        heapq.heappush(waiting, (time.monotonic() + pause, number))

    def _free(self, now: float) -> Server | None:
        """The server with the most free slots."""
        server = max(self.servers, key=lambda server: server.free_slots(now))
        return server if server.free_slots(now) > 0 else None

    async def _ended(
        self, running: Running[Result], waiting: list[tuple[float, int]], now: float
    ) -> set[asyncio.Task[Result]]:
        """Waits until an attempt ends or a new one may start; returns the attempts that have ended."""
        times = [server.rests_until for server in self.servers if not server.given_up]
        times += [waiting[0][0]] if waiting else []
        pause = min((moment - now for moment in times if moment > now), default=None)
        if running:
            return (await asyncio.wait(running, timeout=pause, return_when=asyncio.FIRST_COMPLETED))[0]
        await asyncio.sleep(pause or 0)
        return set()
