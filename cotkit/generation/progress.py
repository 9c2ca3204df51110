"""Speed of a run and its share of truncated texts: on the terminal while it runs, then in summary and manifest."""

from __future__ import annotations

import calendar
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from cotkit.core.jsonl import Row
from cotkit.generation.options import THINKING_TOKENS
from cotkit.generation.types import Completion, Sampling

TRUNCATED_WARNING_SHARE = 0.01


class Progress:
    """The progress bar of one rank; hidden where the output is not a terminal.

    Args:
        total: number of this rank's results, including the `done` ones of earlier launches.
    """

    def __init__(self, name: str, total: int, done: int, silent: bool) -> None:
        from tqdm import tqdm

        self._begun, self._rows, self._tokens, self._truncated = time.monotonic(), 0, 0, 0
        # disable=None shows the bar only on a terminal.
        self._bar = tqdm(total=total, initial=done, unit="row", desc=name, disable=True if silent else None)

    def add(self, completion: Completion) -> None:
        """Counts one more result."""
        self._rows += 1
        self._tokens += completion.completion_tokens
        self._truncated += completion.finish_reason == "length"
        share = self._truncated / self._rows
        advice = " (raise --max_new_tokens)" if share > TRUNCATED_WARNING_SHARE else ""
        self._bar.set_postfix_str(f"{self._tokens / self._seconds:.0f} tokens/s, {share:.1%} truncated{advice}", False)
        self._bar.update()

    @property
    def _seconds(self) -> float:
        return max(1e-6, time.monotonic() - self._begun)

    def close(self) -> str:
        """Ends the bar; returns this rank's results and speed since the model was loaded."""
        self._bar.close()
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
