"""Weights and Biases, where a YAML says `report_to: wandb`: with a key online, without one offline."""

from __future__ import annotations

import netrc
import os
from pathlib import Path

from cotkit.core.errors import UserError
from cotkit.core.jsonl import Row

PROJECT = "cot-distill"
HOST = "api.wandb.ai"


def mode() -> str:
    """`online` if a key is there (WANDB_API_KEY, or `wandb login`), else `offline`; WANDB_MODE has the last word.

    Without a key wandb would ask for one at a terminal and fail elsewhere.
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
    """Sends the numbers of a summary as one run; returns what was done. Offline runs lie below `folder`/wandb.

    Raises UserError if wandb is not installed or refuses.
    """
    try:
        import wandb
    except ImportError:
        raise UserError("report_to wandb: the package wandb is not installed; run scripts/setup.sh") from None
    numbers = {
        key: value for key, value in summary.items() if isinstance(value, int | float) and not isinstance(value, bool)
    }
    try:
        settings = wandb.Settings(silent=True)
        with wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=name,
            dir=folder,
            mode=mode(),
            config={"dataset": summary["dataset"], "protocol": summary["protocol"]},
            settings=settings,
        ) as run:
            run.summary.update(numbers)
    except wandb.Error as error:
        raise UserError(f"report_to wandb: {str(error).splitlines()[0]}") from None
    if mode() != "offline":
        return f"Weights and Biases: {name} is reported"
    return f"Weights and Biases: no key, {name} is recorded offline below {folder}/wandb; `wandb sync` uploads it later"
