"""Re-checks a run folder against its manifests: hashes, counts, left-over files. Changes nothing.

Reads   every *.manifest.json below RUN, the outputs it names, and its inputs where they still exist
Prints  one line a finding; exit code 1 if there is any

    python scripts/verify.py outputs/smollm2_cpu
"""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from cotkit import cli
from cotkit.files import DataError, sha256_file
from cotkit.jsonl import Row, dumps, read, read_json
from cotkit.problems import with_id

SUFFIX = ".manifest.json"
LEFT_OVER = re.compile(r".*\.rank\d+|\..*\.tmp")


def check_outputs(folder: Path, outputs: Row) -> Iterator[str]:
    """What is wrong with the files that a manifest calls its own."""
    for name, was in outputs.items():
        path = folder / name
        if not path.is_file():
            yield f"{path}: is missing"
        elif sha256_file(path) != was["sha256"]:
            yield f"{path}: was changed after it was written ({was['bytes']} bytes then, {path.stat().st_size} now)"


def check_inputs(manifest: Path, inputs: Row) -> Iterator[str]:
    """Which inputs no longer are what was read; those that are gone cannot be checked."""
    for name, was in inputs.items():
        path = next((base / was["path"] for base in (Path(), ROOT) if (base / was["path"]).is_file()), None)
        if path is None:
            continue
        if "rows" in was:
            digest = hashlib.sha256()
            for row in islice(read(path), was["rows"]):
                digest.update(dumps(with_id(row)))
            same = digest.hexdigest() == was["sha256"]
        else:
            same = sha256_file(path) == was["sha256"]
        if not same:
            yield f"{manifest}: input {name} ({path}) is not what was read"


def expected_rows(output: Path, record: Row) -> Iterator[tuple[Path, int]]:
    """(file, number of records) for every file whose number the manifest's counts tell."""
    counts = record["counts"]
    if "rows" in counts:
        yield output, counts["rows"]
    if "n" in counts:
        yield from ((output.parent / name, counts["n"]) for name in record["outputs"] if name.endswith(".scores.jsonl"))
    if "kept" in counts:
        yield output, counts["kept"]
        yield output.with_suffix(".rejected.jsonl"), sum(counts["rejected"].values())
        sets = {f"{name}.jsonl": size for name, size in counts["training_sets"].items()}
        for name in record["outputs"]:
            if Path(name).name in sets:
                yield output.parent / name, sets[Path(name).name]


def check_manifest(manifest: Path) -> Iterator[str]:
    """All findings about one manifest."""
    record = read_json(manifest)
    if record.get("status") != "done":
        yield f"{manifest}: status is {record.get('status')!r}; run the stage again"
        return
    output = manifest.with_name(manifest.name.removesuffix(SUFFIX))
    yield from check_outputs(manifest.parent, record["outputs"])
    yield from check_inputs(manifest, record["inputs"])
    for path, expected in expected_rows(output, record):
        found = sum(1 for _ in read(path)) if path.is_file() else 0
        if found != expected:
            yield f"{path}: holds {found} records, its manifest says {expected}"


def findings(run: Path) -> Iterator[str]:
    """Every finding in a run folder. Raises DataError if it holds no manifest."""
    manifests = sorted(run.rglob(f"*{SUFFIX}"))
    if not manifests:
        raise DataError(f"{run}: holds no {SUFFIX[1:]} files; is it the folder of a run?")
    for manifest in manifests:
        try:
            yield from check_manifest(manifest)
        except DataError as error:
            yield str(error)
    for path in sorted(run.rglob("*")):
        if LEFT_OVER.fullmatch(path.name):
            yield f"{path}: left over from a run that did not finish"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a run, such as outputs/smollm2_cpu")
    run = parser.parse_args(argv).run
    found = list(findings(run))
    print("\n".join(found or [f"{run}: every manifest, hash and count is right"]))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
