"""Checks a run folder against its manifests: hashes, counts, lineage, left-over files. Changes nothing.

Reads   every *.manifest.json below RUN, the outputs it names, and its inputs if they still exist
Prints  one line per finding; the exit code is 1 if there is any

It follows the chain model -> training set -> adapter -> predictions -> scores -> comparison -> report and names every link
that does not hold.

    python scripts/verify.py outputs/smollm2_cpu
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from cotkit.core import cli, lineage, model_identity
from cotkit.core.errors import UserError
from cotkit.core.files import require_folder, sha256_file
from cotkit.core.jsonl import Row, read, read_json
from cotkit.core.manifest import FORMAT, SUFFIX, Input, difference
from cotkit.core.problems import as_problem
from cotkit.generation.progress import count

ROOT = Path(__file__).resolve().parents[1]
RESULT = re.compile(r".*(\.jsonl|\.summary\.json)")
GENERATED = ("teacher_cot", "infer_parallel", "critic")  # stages with the counts of generation/progress.py
LEFT_OVER = re.compile(r".*\.rank\d+|\..*\.tmp")


def check_outputs(folder: Path, outputs: Row) -> Iterator[str]:
    """Outputs of a manifest that are missing or were changed."""
    for name, was in outputs.items():
        path = folder / name
        if not path.is_file():
            yield f"{path}: is missing"
        elif sha256_file(path) != was["sha256"]:
            yield f"{path}: was changed after it was written ({was['bytes']} bytes then, {path.stat().st_size} now)"


def check_inputs(manifest: Path, inputs: Row) -> Iterator[str]:
    """Inputs of a manifest that were changed. Inputs that do not exist any more cannot be checked.

    The files of the toolkit itself, such as the report's style, change with its versions, and no figure depends on them.
    """
    for name, was in inputs.items():
        path = next((base / was["path"] for base in (Path(), ROOT) if (base / was["path"]).is_file()), None)
        if path is None or path.resolve().is_relative_to(ROOT / "cotkit"):
            continue
        found = Input(path, map(as_problem, read(path)) if "rows" in was else None).describe(was.get("rows"))
        if found["sha256"] != was["sha256"]:
            yield f"{manifest}: input {name} ({path}) was changed after it was read"


def check_model(manifest: Path, record: Row) -> Iterator[str]:
    """The model of a manifest, if its files were changed. A score repeats the model of its predictions."""
    model = record.get("model")
    folder = (
        next((base / model["name"] for base in (Path(), ROOT) if (base / model["name"]).is_dir()), None)
        if model
        else None
    )
    if folder is None or record["stage"] == "score":
        return
    now = model_identity.describe(str(folder))
    if model_identity.is_same_record(model, now) is False:
        yield f"{manifest}: its model {model['name']} was changed since ({model['revision']} -> {now['revision']})"


def check_compared(run: Path, inputs: Row) -> Iterator[str]:
    """Scores of a run that its comparison leaves out."""
    for path in sorted(run.glob("predictions/*/*.summary.json")):
        if (name := path.relative_to(run / "predictions").as_posix()) not in inputs:
            yield f"{run / 'comparison.json'}: leaves out {name}; run scripts/compare.py {run}"


def recounted(output: Path, record: Row) -> Iterator[tuple[Path, Row, Row]]:
    """(file, counts in the manifest, counts in the file) for every file that the manifest has counts of."""
    counts = record["counts"]
    files = {Path(name).name: output.parent / name for name in record["outputs"]}
    if record["stage"] in GENERATED:
        found = count(read(output))
        yield output, {key: counts.get(key) for key in {**found, **counts} if key != "identical_copies"}, found
    elif "rows" in counts and output.is_file():
        yield output, {"rows": counts["rows"]}, {"rows": rows_in(output)}
    for name, path in files.items():  # +Counter(...) leaves out the zeros
        if name.endswith(".scores.jsonl"):
            yield path, +Counter(counts["verdicts"]), Counter(row["verdict"] for row in read(path))
        elif name.endswith(".rejected.jsonl"):
            yield path, +Counter(counts["rejected"]), Counter(row["reason"] for row in read(path))
            read_rows = counts["kept"] + sum(counts["rejected"].values())
            yield output, {"kept": counts["kept"], "read": counts["read"]}, {"kept": rows_in(output), "read": read_rows}
        elif (size := counts.get("training_sets", {}).get(path.stem)) is not None:
            yield path, {"rows": size}, {"rows": rows_in(path)}


def rows_in(path: Path) -> int:
    return sum(1 for _ in read(path))


def check_manifest(manifest: Path) -> Iterator[str]:
    """All findings about one manifest."""
    record = read_json(manifest)
    if record.get("format") != FORMAT:
        yield f"{manifest}: was written by another version of this toolkit"
        return
    if record.get("status") != "done":
        yield f"{manifest}: status is {record.get('status')!r}; run the stage again"
        return
    output = manifest.with_name(manifest.name.removesuffix(SUFFIX))
    yield from check_outputs(manifest.parent, record["outputs"])
    yield from check_inputs(manifest, record["inputs"])
    yield from check_model(manifest, record)
    yield from lineage.breaks(output)
    if record["stage"] == "compare":
        yield from check_compared(manifest.parent, record["inputs"])
    for path, stated, found in recounted(output, record):
        if changes := difference(stated, found):
            yield f"{path}: its manifest and its records differ ({'; '.join(changes)})"


def unclaimed(run: Path, claimed: set[Path]) -> Iterator[str]:
    """Results that no manifest names, and files that a kill left.

    Skips LLaMA-Factory's own files in train/, and the copies in export/, whose cards name the hashes.
    """
    for path in sorted(run.rglob("*")):
        if LEFT_OVER.fullmatch(path.name):
            yield f"{path}: left over from a run that did not finish"
        elif not {"train", "export"}.isdisjoint(path.relative_to(run).parts):
            continue
        elif RESULT.fullmatch(path.name) and path.resolve() not in claimed:
            yield f"{path}: no manifest describes how it was made"


def findings(run: Path) -> Iterator[str]:
    """Every finding in a run folder. Raises UserError if it holds no manifest."""
    require_folder(run)
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
    parser = cli.StageParser(__doc__)
    parser.add_argument("run", type=Path, help="folder of a run, such as outputs/smollm2_cpu")
    run = parser.parse(argv).run
    found = list(findings(run))
    print("\n".join(found or [f"{run}: every manifest, hash and count is right"]))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
