"""Reports to Weights and Biases if a YAML says `report_to: wandb`: online with a key, offline without one."""

from __future__ import annotations

import netrc
import os
from pathlib import Path

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
    try:
        import wandb
    except ImportError:
        raise UserError("report_to wandb: the package wandb is not installed; run scripts/setup.sh") from None
    numbers = {key: x for key, x in summary.items() if isinstance(x, int | float) and not isinstance(x, bool)}
    settings = {
        "project": os.environ.get("WANDB_PROJECT", PROJECT),
        "name": name,
        "dir": folder,
        "mode": mode(),
        "config": {key: summary[key] for key in ("dataset", "protocol")},
    }
    try:
        with wandb.init(**settings, settings=wandb.Settings(silent=True)) as run:
            run.summary.update(numbers)
    except wandb.Error as error:
        raise UserError(f"report_to wandb: {str(error).splitlines()[0]}") from None
    if mode() != "offline":
        return f"Weights and Biases: reported {name}"
    return f"Weights and Biases: no key, so {name} is recorded offline in {folder}/wandb; `wandb sync` uploads it later"
