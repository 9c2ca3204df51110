"""Shows the few lines of a training's output that a person waits for; the complete output belongs in a log file.

Reads   what LLaMA-Factory or transformers' Trainer prints, from stdin
Prints  every 30 seconds, and after every evaluation, the step and the loss; errors, and what train.sh itself says

    LOG=train.log bash scripts/train.sh CONFIG 2>&1 | python scripts/internal/train_lines.py
"""

from __future__ import annotations

import io
import re
import sys
import time
from collections.abc import Iterable, Iterator

from cotkit.core import cli
from cotkit.generation.progress import LIFE_SIGN_SECONDS

TOTAL = re.compile(r"Total optimization steps = ([\d,]+)")
BAR = re.compile(r"\| (\d+)/(\d+) \[[\d:]+<([\d:]+)")  # of tqdm: step, number of steps, time left
LOSS = re.compile(r"'(eval_)?loss': '?([-+.\de]+)")
SHOWN = re.compile(r"rror|arning: the|memory|trained already|resuming|set aside|offline|accuracy on| trained in ")


def shown(lines: Iterable[str], pause: float = LIFE_SIGN_SECONDS) -> Iterator[str]:
    """The lines to show; `pause` seconds pass between two reports of the training loss."""
    total = step = left = ""
    last = -pause
    for line in lines:
        if found := TOTAL.search(line):
            total = found[1].replace(",", "")
        for bar in BAR.finditer(line):
            if bar[2] == total:  # an evaluation has a bar of its own
                step, left = bar[1], bar[3]
        if found := LOSS.search(line):
            at = f"  step {step or 0} of {total}, " if total else "  "
            if found[1]:
                yield f"{at}held-out loss {found[2]}"
            elif time.monotonic() - last >= pause:
                last = time.monotonic()
                yield f"{at}loss {found[2]}" + (f", {left} left" if left else "")
        elif SHOWN.search(line) and "UserWarning" not in line:
            yield line


def main() -> int:
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(f"usage: {sys.argv[0]} <TEXT\n\n{__doc__}")
        return 0
    # Bars end with a carriage return, which universal newlines take for the end of a line.
    text = io.TextIOWrapper(sys.stdin.buffer, encoding="utf-8", errors="replace", newline=None)
    for line in shown(line.rstrip("\n") for line in text):
        print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
