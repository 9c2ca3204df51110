"""Identity of a run: one JSON file beside an output says from what and how it was made, and whether it is finished.

``<output>.manifest.json`` holds the stage, its settings, a hash of every input and output, counts, package versions and
times. It is written with status ``running`` when a stage begins and again, last of all, when it is done. A rerun is
compared with it: the same settings and inputs are a no-op, an interrupted run is resumed, more input rows continue it,
and anything else is refused as ``key: old -> new``, so that two experiments never mix in one file.
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

FORMAT = 2  # of manifests; a file of another version of this toolkit is refused by name
State = Literal["new", "resume", "done"]
PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "accelerate",
    "peft",
    "trl",
    "datasets",
    "llamafactory",
    "math-verify",
    "sympy",
    "vllm",
    "openai",
    "reasoning-gym",
)


def path_for(output: Path) -> Path:
    """Where the manifest of an output lies."""
    return output.with_name(output.name + ".manifest.json")


@dataclass(frozen=True)
class Input:
    """An input as the manifest sees it: a file by its bytes, or records by their content and number.

    Hashed once: what a run says it was made from is what it has read, even if the file changes while it runs.
    """

    path: Path
    rows: Collection[Row] | None = None
    _known: dict[int | None, Row] = field(default_factory=dict, init=False, compare=False, repr=False)

    def describe(self, first_rows: int | None = None) -> Row:
        """Its path, hash and number of records; `first_rows` describes only so many records."""
        if first_rows not in self._known:
            self._known[first_rows] = self._describe(first_rows)
        return self._known[first_rows]

    def _describe(self, first_rows: int | None) -> Row:
        if self.rows is None:
            return {"path": str(self.path), "sha256": sha256_file(self.path)}
        digest, number = hashlib.sha256(), 0
        for row in islice(self.rows, first_rows):
            digest.update(dumps(row))
            number += 1
        return {"path": str(self.path), "rows": number, "sha256": digest.hexdigest()}


@dataclass
class Manifest:
    """The manifest of one output; see the module's text.

    Args:
        stage: name of the script, for the reader.
        output: the file beside which it lies; it must be among the outputs given to `finish`.
        settings: everything that the output's content depends on, plain JSON values, nothing secret.
        inputs: name -> Input.
        model: hub name or folder of the model whose files are used here; its revision and chat template are recorded,
            and compared once both runs know them: a hub model that is not downloaded yet has none.
        seed: recorded; where the content depends on it, it stands in the settings too.
        derived: the stage only recomputes, in seconds, what its inputs say: changed inputs start it anew instead of
            being refused. Changed settings are refused all the same.
    """

    stage: str
    output: Path
    settings: Row
    inputs: dict[str, Input] = field(default_factory=dict)
    model: str | None = None
    seed: int | None = None
    derived: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        self.path = path_for(self.output)
        self.settings = json.loads(json.dumps(self.settings, default=str))
        self._started = time.time()

    def check(self) -> State:
        """Compares with what is on the disk, changing nothing. Raises UserError where a rerun would mix two runs."""
        if self.overwrite:
            return "new"
        if not self.path.exists():
            if self.output.exists():
                raise UserError(
                    f"{self.output}: exists, but {self.path.name} does not say how it was made; {TWO_WAYS_OUT}"
                )
            return "new"
        old = read_json(self.path)
        if old.get("format") != FORMAT:
            raise UserError(f"{self.path}: was written by another version of this toolkit; {TWO_WAYS_OUT}")
        changed = difference(old.get("settings", {}), self.settings) or self._changed_model(old.get("model"))
        if changed:
            raise UserError(f"{self.output}: was made with other settings ({'; '.join(changed)}); {TWO_WAYS_OUT}")
        grown, changed = self._compare_inputs(old.get("inputs", {}))
        if changed and not self.derived:
            raise UserError(f"{self.output}: was made from another input ({'; '.join(changed)}); {TWO_WAYS_OUT}")
        if changed:
            return "new"
        if old.get("status") != "done" or grown:
            return "resume"
        return "done" if self._outputs_whole(old["outputs"]) else "new"

    def _changed_model(self, old: Row | None) -> list[str]:
        """What is another model under the same name, as far as both runs know it."""
        if old is None or self.model is None:
            return []
        new = model_identity.describe(self.model)
        known = [key for key in ("revision", "chat_template") if old.get(key) and new[key]]
        return difference({f"model's {key}": old[key] for key in known}, {f"model's {key}": new[key] for key in known})

    def _compare_inputs(self, old: Row) -> tuple[bool, list[str]]:
        """Whether an input only grew at its end, and the differences otherwise."""
        grown, changed = False, []
        if set(old) != set(self.inputs):
            changed.append(f"inputs: {', '.join(old) or 'none'} -> {', '.join(self.inputs) or 'none'}")
        for name, new in self.inputs.items():
            was = old.get(name, {})
            rows = len(new.rows) if new.rows is not None else None
            same = new.describe(was.get("rows"))["sha256"] == was.get("sha256")
            if rows is not None and same and rows > was["rows"]:
                grown = True
            elif not same:
                changed.append(f"{name}: {was.get('path')} -> {new.path}, its content differs")
        return grown, changed

    def _outputs_whole(self, outputs: Row) -> bool:
        """False if an output is gone; refused if one was changed by other hands."""
        for name, was in outputs.items():
            file = self.output.parent / name
            if not file.is_file():
                return False
            if sha256_file(file) != was["sha256"]:
                raise UserError(f"{file}: was changed after it was written; {TWO_WAYS_OUT}")
        return True

    def begin(self, **extra: Any) -> None:
        """Says that the run has started; what is written afterwards belongs to it."""
        self._write("running", {}, {}, extra)

    def finish(self, outputs: Iterable[Path], counts: Row, status: str = "done", **extra: Any) -> None:
        """Says that the run is whole; must be the stage's last write. Nothing is removed or overwritten after it."""
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
        """What is on the disk."""
        return read_json(self.path)


TWO_WAYS_OUT = "give another output path, or --overwrite to start over"


def difference(old: Row, new: Row) -> list[str]:
    """``key: old -> new`` for every key whose values differ."""
    keys = [*old, *(key for key in new if key not in old)]
    return [f"{key}: {old.get(key)!r} -> {new.get(key)!r}" for key in keys if old.get(key) != new.get(key)]


def command() -> str:
    """The command line that runs, as one would type it here; secrets are never flags, so it holds none."""
    script = Path(sys.argv[0])
    shown = script.relative_to(Path.cwd()) if script.is_relative_to(Path.cwd()) else script.name
    return shlex.join(["python", str(shown), *sys.argv[1:]])


@cache
def versions() -> Row:
    """Python and the installed ones of the packages that results depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _clock(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
