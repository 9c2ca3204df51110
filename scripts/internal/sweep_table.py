"""Writes the table of a sweep for scripts/sweep.sh, best held-out loss first.

Reads   FOLDER/*.manifest.json, the records of finished trainings
Writes  FOLDER.md

    python scripts/internal/sweep_table.py outputs/smollm2_cpu/sweep/strong_baseline
"""

from __future__ import annotations

import sys
from pathlib import Path

from cotkit.core import cli
from cotkit.core.errors import UserError
from cotkit.core.files import write_if_changed
from cotkit.core.jsonl import read_json

VARIED = ("learning_rate", "lora_rank", "num_train_epochs")


def main(argv: list[str] | None = None) -> int:
    parser = cli.StageParser(__doc__)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="<run>/sweep/<method>")
    folder = parser.parse(argv).folder
    records = [read_json(path) for path in sorted(folder.glob("*.manifest.json"))]
    finished = [record for record in records if record["status"] == "done" and "eval_loss" in record["counts"]]
    if not finished:
        raise UserError(f"{folder}: holds no finished training with a held-out loss; scripts/sweep.sh trains them")
    text = (
        "| rate | rank | epochs | steps | trained tokens | train loss | held-out loss | seconds |\n"
        + "|---" * 8
        + "|\n"
    )
    for record in sorted(finished, key=lambda record: record["counts"]["eval_loss"]):
        varied = " | ".join(f"{record['settings'][key]:g}" for key in VARIED)
        text += f"| {varied} | " + (
            "{steps} | {trained_tokens:,} | {train_loss:.3f} | {eval_loss:.3f} | {train_runtime:.0f} |\n"
        ).format_map(record["counts"])
    write_if_changed(folder.with_name(f"{folder.name}.md"), text.encode("utf-8"))
    print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
