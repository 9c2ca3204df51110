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
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
from cotkit.core import cli
from cotkit.core.errors import UserError
from cotkit.core.files import sha256_file
from cotkit.core.jsonl import Row, dumps, read, read_json
from cotkit.core.manifest import difference
from cotkit.core.problems import with_id
from cotkit.generation.runner import count

SUFFIX = ".manifest.json"
RESULT = re.compile(r".*(\.jsonl|\.summary\.json)")
GENERATED = ("teacher_cot", "infer_parallel", "critic")  # stages whose counts are those of cotkit.runner
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


def recounted(output: Path, record: Row) -> Iterator[tuple[Path, Row, Row]]:
    """(file, what the manifest says of it, what is found in it) for every file whose counts the manifest tells."""
    counts = record["counts"]
    files = {Path(name).name: output.parent / name for name in record["outputs"]}
    if record["stage"] in GENERATED:
        found = count(read(output))
        yield output, {key: counts.get(key) for key in {**found, **counts} if key != "identical_copies"}, found
    elif "rows" in counts and output.is_file():
        yield output, {"rows": counts["rows"]}, {"rows": rows_in(output)}
    for name, path in files.items():
        if name.endswith(".scores.jsonl"):
            yield path, nonzero(counts["verdicts"]), Counter(row["verdict"] for row in read(path))
        elif name.endswith(".rejected.jsonl"):
            yield path, nonzero(counts["rejected"]), Counter(row["reason"] for row in read(path))
            read_rows = counts["kept"] + sum(counts["rejected"].values())
            yield output, {"kept": counts["kept"], "read": counts["read"]}, {"kept": rows_in(output), "read": read_rows}
        elif (size := counts.get("training_sets", {}).get(path.stem)) is not None:
            yield path, {"rows": size}, {"rows": rows_in(path)}


def nonzero(counts: Row) -> Row:
    return {name: number for name, number in counts.items() if number}


def rows_in(path: Path) -> int:
    return sum(1 for _ in read(path))


def check_manifest(manifest: Path) -> Iterator[str]:
    """All findings about one manifest."""
    record = read_json(manifest)
    if record.get("status") != "done":
        yield f"{manifest}: status is {record.get('status')!r}; run the stage again"
        return
    output = manifest.with_name(manifest.name.removesuffix(SUFFIX))
    yield from check_outputs(manifest.parent, record["outputs"])
    yield from check_inputs(manifest, record["inputs"])
    for path, says, found in recounted(output, record):
        if changes := difference(says, found):
            yield f"{path}: its manifest and its records differ ({'; '.join(changes)})"


def unclaimed(run: Path, claimed: set[Path]) -> Iterator[str]:
    """Results that no manifest names, and what a kill left behind; LLaMA-Factory's own files are not looked at."""
    for path in sorted(run.rglob("*")):
        if LEFT_OVER.fullmatch(path.name):
            yield f"{path}: left over from a run that did not finish"
        elif (
            RESULT.fullmatch(path.name) and "train" not in path.relative_to(run).parts and path.resolve() not in claimed
        ):
            yield f"{path}: no manifest says how it was made"


def findings(run: Path) -> Iterator[str]:
    """Every finding in a run folder. Raises UserError if it holds no manifest."""
    manifests = sorted(run.rglob(f"*{SUFFIX}"))
    if not manifests:
        raise UserError(f"{run}: holds no {SUFFIX[1:]} files; is it the folder of a run?")
    claimed: set[Path] = set()
    for manifest in manifests:
        try:
            claimed |= {(manifest.parent / name).resolve() for name in read_json(manifest).get("outputs", {})}
            yield from check_manifest(manifest)
        except UserError as error:
            yield str(error)
    yield from unclaimed(run, claimed)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a run, such as outputs/smollm2_cpu")
    run = parser.parse_args(argv).run
    found = list(findings(run))
    print("\n".join(found or [f"{run}: every manifest, hash and count is right"]))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
