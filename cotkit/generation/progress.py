"""Life signs of a run, its speed and its share of truncated texts: while it runs, then in summary and manifest."""

from __future__ import annotations

import calendar
import logging
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cotkit.core.jsonl import Row
from cotkit.core.quantities import clock
from cotkit.generation.options import THINKING_TOKENS
from cotkit.generation.types import Completion, Sampling

log = logging.getLogger(__name__)

TRUNCATED_WARNING_SHARE = 0.01
LIFE_SIGN_SECONDS = 30.0  # between two lines where the output is not a terminal


class Progress:
    """Shows on stderr that one rank is alive: a bar on a terminal, elsewhere a line every `LIFE_SIGN_SECONDS`.

    It is a context manager. Enter it before the model is loaded, so that a long load gives signs too; call `loaded` then.

    Args:
        total: number of this rank's results, including the `done` ones of earlier launches.
        silent: shows nothing, for the ranks besides the first.
    """

    def __init__(self, name: str, total: int, done: int, silent: bool) -> None:
        self._name, self._total, self._done, self._silent = name, total, done, silent
        self._begun, self._is_loaded, self._rows, self._tokens, self._truncated = time.monotonic(), False, 0, 0, 0
        self._on_terminal = sys.stderr.isatty()
        self._bar: Any = None
        self._ended = threading.Event()

    def __enter__(self) -> Self:
        if not self._silent and not self._on_terminal:
            threading.Thread(target=self._give_signs, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ended.set()
        if self._bar is not None:
            self._bar.close()

    def loaded(self) -> None:
        """The model is there; speed is measured from here on."""
        from tqdm import tqdm

        self._begun, self._is_loaded = time.monotonic(), True
        if not self._silent and self._on_terminal:
            self._bar = tqdm(total=self._total, initial=self._done, unit="row", desc=self._name)

    def add(self, completion: Completion) -> None:
        """Counts one more result."""
        self._rows += 1
        self._tokens += completion.completion_tokens
        self._truncated += completion.finish_reason == "length"
        if self._bar is not None:
            self._bar.set_postfix_str(self._speed(), refresh=False)
            self._bar.update()

    def _speed(self) -> str:
        return f"{self._tokens / self._seconds:.0f} tokens/s, {self._truncated / self._rows:.1%} truncated"

    def _give_signs(self) -> None:
        while not self._ended.wait(LIFE_SIGN_SECONDS):
            log.info("%s", self.sign())

    def sign(self) -> str:
        """One line: the rows that are done, speed, share of truncated texts, and the time that is left at this speed."""
        if not self._is_loaded:
            return f"{self._name}: loading the model, {clock(self._seconds)} so far"
        rows = f"{self._name}: {self._done + self._rows} of {self._total} rows"
        if not self._rows:
            return f"{rows}, none in {clock(self._seconds)}; the time left is not known yet"
        left = (self._total - self._done - self._rows) * self._seconds / self._rows
        return f"{rows}, {self._speed()}, about {clock(left)} left"

    @property
    def _seconds(self) -> float:
        return max(1e-6, time.monotonic() - self._begun)

    def summary(self) -> str:
        """This rank's results and speed since the model was loaded."""
        return (
            f"{self._rows} results, {self._tokens} tokens in {self._seconds:.0f} s "
            f"({self._tokens / self._seconds:.0f} tokens/s, {self._rows / self._seconds:.2f} rows/s)"
        )


def earlier_seconds(manifest: Row, rank_files: Iterable[Path]) -> float:
    """Seconds that earlier launches spent on an output. A killed launch counts up to its last result."""
    if manifest["status"] != "running":
        return manifest.get("seconds", 0.0)
    started = calendar.timegm(time.strptime(manifest["started"], "%Y-%m-%dT%H:%M:%SZ"))
    last = max((path.stat().st_mtime for path in rank_files), default=0.0)
    return round(manifest.get("earlier_seconds", 0.0) + max(0.0, last - started), 1)


def count(rows: Iterable[Row]) -> Row:
    """Number of generated records, their finish reasons, token sums and share of truncated texts."""
    reasons: Counter[str] = Counter()
    tokens = {"prompt_tokens": 0, "completion_tokens": 0}
    for row in rows:
        reasons[row["finish_reason"]] += 1
        for name in tokens:
            tokens[name] += row[name]
    total = reasons.total()
    truncated = {"truncated_share": round(reasons["length"] / total, 4) if total else 0.0}
    return {"rows": total, **dict(sorted(reasons.items())), **truncated, **tokens}


def speed(counts: Row, seconds: float) -> Row:
    """Rates of a whole run: all its records over the seconds of all launches, loading included."""
    seconds = max(seconds, 0.1)
    return {
        "tokens_per_second": round(counts["completion_tokens"] / seconds, 1),
        "rows_per_second": round(counts["rows"] / seconds, 3),
    }


# How a summary names the finish reasons of `Completion`, in its order.
ENDS = {
    "stop": "ended with EOS",
    "answer": "stopped at the answer",
    "loop": "stopped in a loop",
    "length": "truncated",
    "error": "failed",
}


def summary(counts: Row, seconds: float, seconds_of_last_launch: float) -> str:
    """A finished run in one line, from the results of `count` and the seconds of all launches and of the last one."""
    ends = [f"{counts[reason]} {words}" for reason, words in ENDS.items() if reason in counts]
    if counts["truncated_share"]:
        ends = [f"{end} ({counts['truncated_share']:.1%})" if "truncated" in end else end for end in ends]
    took = f"{seconds:.0f} s"
    if seconds > seconds_of_last_launch:
        took += f" ({seconds_of_last_launch:.0f} s of them in this launch)"
    rate = speed(counts, seconds)["tokens_per_second"]
    texts = "text" if counts["rows"] == 1 else "texts"
    return f"{counts['rows']} {texts}: {', '.join(ends)}; {took} with loading, {rate:.0f} tokens/s"


def truncation_warning(share: float, sampling: Sampling) -> str | None:
    """Advice if more than 1 % of the texts were truncated; `share` is from 0 to 1."""
    if share <= TRUNCATED_WARNING_SHARE:
        return None
    limit = sampling.max_new_tokens
    far_too_low = sampling.thinking and limit < THINKING_TOKENS
    advice = (
        f"raise it to {THINKING_TOKENS}, as Qwen3's model card recommends for thinking" if far_too_low else "raise it"
    )
    return f"warning: {share:.1%} of the texts were truncated at --max_new_tokens {limit}; {advice}"
