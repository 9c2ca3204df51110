"""Reports to Weights and Biases if a YAML says `report_to: wandb`: online with a key, offline without one."""

from __future__ import annotations

import netrc
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cotkit.core.errors import UserError
from cotkit.core.jsonl import Row

PROJECT = "cot-distill"
HOST = "api.wandb.ai"


def mode() -> str:
    """The value of WANDB_MODE. If it is not set, `online` with a key (WANDB_API_KEY or `wandb login`), else `offline`.

    Online without a key, wandb would ask for one at a terminal and fail elsewhere.
    """
    if chosen := os.environ.get("WANDB_MODE"):
        return chosen
    if os.environ.get("WANDB_API_KEY"):
        return "online"
    try:
        return "online" if netrc.netrc(os.environ.get("NETRC")).authenticators(HOST) else "offline"
    except (OSError, netrc.NetrcParseError):
        return "offline"


def report(summary: Row, name: str, folder: Path) -> str:
    """Sends the numbers of a summary as one run. Returns a line about it. Offline runs are written to `folder`/wandb.

    Raises UserError if wandb is not installed or refuses.
    """
    numbers = {key: x for key, x in summary.items() if isinstance(x, int | float) and not isinstance(x, bool)}
    with _started(name, folder, {key: summary[key] for key in ("dataset", "protocol")}) as run:
        run.summary.update(numbers)
    return _where(name, folder)


def report_comparison(rows: list[Row], files: Iterable[Path], name: str, folder: Path) -> str:
    """Sends a comparison as one run: the rows, which have the same keys, as a table, and the files as an artifact.

    Returns and raises as `report` does.
    """
    with _started(name, folder, {}) as run:
        import wandb

        table = wandb.Table(columns=list(rows[0]), data=[list(row.values()) for row in rows])
        run.log({"comparison": table})
        artifact = wandb.Artifact(re.sub(r"[^\w.-]", "_", name, flags=re.ASCII), type="report")
        for path in files:
            artifact.add_file(str(path))
        run.log_artifact(artifact)
    return _where(name, folder)


@contextmanager
def _started(name: str, folder: Path, config: Row) -> Iterator[Any]:
    """A run of wandb that is going on."""
    try:
        import wandb
    except ImportError:
        raise UserError("report_to wandb: the package wandb is not installed; run scripts/setup.sh") from None
    settings = {
        "project": os.environ.get("WANDB_PROJECT", PROJECT),
        "name": name,
        "dir": folder,
        "mode": mode(),
        "config": config,
    }
    try:
        with wandb.init(**settings, settings=wandb.Settings(silent=True)) as run:
            yield run
    except wandb.Error as error:
        raise UserError(f"report_to wandb: {str(error).splitlines()[0]}") from None


def _where(name: str, folder: Path) -> str:
    if mode() != "offline":
        return f"Weights and Biases: reported {name}"
    return f"Weights and Biases: no key, so {name} is recorded offline in {folder}/wandb; `wandb sync` uploads it later"
