"""Copies what a run has found, without texts and models, so that its tables can be committed and made again anywhere.

Reads   RUN: scores, summaries, comparison, the filter's report and every manifest, as far as they exist
Writes  FOLDER, with the same paths; a file that the run does not have any more is removed there

    python scripts/dev/save_results.py outputs/smollm2_study-fast configs/smollm2_study/results
    python scripts/compare.py configs/smollm2_study/results          makes comparison.json and .md again, byte for byte
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from cotkit.core import cli
from cotkit.core.errors import UserError
from cotkit.core.files import require_folder
from cotkit.core.manifest import SUFFIX

REPORT = f"report.html{SUFFIX}"  # of a page that is not copied
KEPT = (
    f"*{SUFFIX}",
    f"train/*{SUFFIX}",
    f"datasets/*/*{SUFFIX}",
    f"predictions/*/*{SUFFIX}",
    "predictions/*/*.scores.jsonl",
    "predictions/*/*.summary.json",
    "kept*.report.json",
    "comparison.*",
)


def found_in(folder: Path) -> set[Path]:
    """The files to keep, relative to the folder."""
    return {path.relative_to(folder) for pattern in KEPT for path in folder.glob(pattern) if path.name != REPORT}


def main(argv: list[str] | None = None) -> int:
    parser = cli.StageParser(__doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="where to copy its results")
    args = parser.parse(argv)
    require_folder(args.run)
    names = found_in(args.run)
    if not any(name.suffix == ".jsonl" for name in names):
        raise UserError(f"{args.run}: holds no scores yet; run score.py first")
    if any(args.folder.glob("train/*/")) or any(args.folder.glob("teacher*.jsonl")):
        raise UserError(f"{args.folder}: is a run, whose results would be replaced; name another folder")
    for name in found_in(args.folder) - names:
        (args.folder / name).unlink()
    for name in sorted(names):
        (args.folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(args.run / name, args.folder / name)
    size = sum((args.folder / name).stat().st_size for name in names)
    print(f"{args.folder}: {len(names)} files of {args.run}, {size / 2**20:.1f} MiB")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
