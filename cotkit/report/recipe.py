"""The report's sections on how a run was made: its recipe, and which file was made from which."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Any

from cotkit.core.jsonl import Row
from cotkit.core.markdown import Table
from cotkit.generation import prompts
from cotkit.report.page import Part, Section, Verbatim

# Settings that differ between outputs of one recipe, or that the section on lineage shows.
OF_ONE_OUTPUT = {
    "adapter",
    "adapter_files",
    "dataset_dir",
    "first_sample",
    "model_files",
    "student",
    "prompt",
    "schema",
}
HASH_DIGITS = 12  # of a sha256, enough to tell files apart


def recipe_section(preset: str, manifests: dict[str, Row], adapters: dict[str, Row]) -> Section:
    """Hyperparameters, prompts, commands and versions of a run, from its manifests and its adapters' own files."""
    commands = dict.fromkeys(record["command"] for record in manifests.values() if "command" in record)
    # A version that changed between stages is listed with both values.
    versions = sorted({item for manifest in manifests.values() for item in manifest["versions"].items()})
    trainings = {
        name.removeprefix("train/"): record for name, record in manifests.items() if record["stage"] == "train"
    }
    parts: list[Part] = []
    if any(record["settings"].get("model") or record["stage"] == "train" for record in manifests.values()):
        parts.append(f"Made by: bash scripts/pipeline.sh configs/{preset}")  # other runs hold foreign predictions
    if trainings:
        parts += _hyperparameters(
            {
                name: {**record["settings"], "processes": record.get("processes"), **adapters.get(name, {})}
                for name, record in trainings.items()
            }
        )
    if others := _settings(record for record in manifests.values() if record["stage"] not in ("train", "score")):
        parts.append(others)
    parts += _prompts(manifests)
    parts.append(Verbatim("The single commands", "\n".join(commands)))
    parts.append("Versions: " + ", ".join(f"{name} {version}" for name, version in versions))
    return Section("The recipe: hyperparameters, prompts, commands, versions", parts)


def _hyperparameters(trainings: dict[str, Row]) -> list[Part]:
    """What all trainings share as one table, and what differs between them as another."""
    keys = [key for key in dict.fromkeys(key for one in trainings.values() for key in one) if key not in OF_ONE_OUTPUT]
    values = {key: [_shown(settings.get(key)) for settings in trainings.values()] for key in keys}
    shared = [[key, found[0]] for key, found in values.items() if len({*found}) == 1 and found[0]]
    different = [key for key, found in values.items() if len({*found}) > 1]
    parts: list[Part] = [Table(["hyperparameter of all trainings", "value"], shared)]
    if different:
        rows = [[name, *(values[key][at] for key in different)] for at, name in enumerate(trainings)]
        parts.append(Table(["training", *different], rows))
    return parts


def _settings(records: Iterable[Row]) -> Table | None:
    """The settings of the other stages; a setting with several values in a stage shows all of them."""
    found: dict[tuple[str, str], dict[str, None]] = {}
    for record in records:
        for key, value in record["settings"].items():
            if key not in OF_ONE_OUTPUT and value not in (None, [], ""):
                found.setdefault((record["stage"], key), {})[_shown(value)] = None
    rows = [[stage, key, "; ".join(values)] for (stage, key), values in found.items()]
    return Table(["stage", "setting", "value"], rows) if rows else None


def _shown(value: Any) -> str:
    if value is None:
        return ""
    text = json.dumps(value, ensure_ascii=False)
    return value if isinstance(value, str) else text[1:-1] if isinstance(value, list) else text


def _prompts(manifests: dict[str, Row]) -> list[Part]:
    """The prompts whose wording the manifests name, with placeholders for a problem; none of another version's."""
    chats = {
        "The student's prompt, in training and in tests": prompts.student_messages(prompts.PROBE["question"]),
        "The teacher's prompt, which reads the reference solution": prompts.teacher_messages(prompts.PROBE, "rewrite"),
    }
    used = {record["settings"].get("prompt") for record in manifests.values()}
    return [
        Verbatim(title, prompts.plain_text(chat)) for title, chat in chats.items() if prompts.wording_hash(chat) in used
    ]


def lineage_section(manifests: dict[str, Row]) -> Section:
    """Every output with what it was made from, the models, and the data that no stage of the run wrote."""
    models = _models_table(manifests)
    return Section(
        "The lineage: every file, what it was made from, and its hash",
        [_outputs_table(manifests), *([models] if models.rows else []), _data_table(manifests)],
    )


def _outputs_table(manifests: dict[str, Row]) -> Table:
    """One row per output with its seconds and tokens; the last row is the total."""
    rows, total = [], Counter[str]()
    for name, manifest in manifests.items():
        counts = manifest["counts"]
        spent = {
            "seconds": manifest.get("seconds", counts.get("train_runtime", 0)),
            "prompt tokens": counts.get("prompt_tokens", 0),
            "completion tokens": counts.get("completion_tokens", 0),
        }
        total.update(spent)
        sha256 = next((one["sha256"] for one in manifest["outputs"].values()), "")
        rows.append(
            [name, manifest["stage"], _made_from(manifest), sha256[:HASH_DIGITS], *_amounts(spent), manifest["written"]]
        )
    header = [
        "output",
        "stage",
        "made from",
        "sha256",
        "seconds",
        "prompt tokens",
        "completion tokens",
        "written (UTC)",
    ]
    explanations = {
        "made from": "The files and the adapter that the stage read.",
        "sha256": "The first digits of the hash of the output (of an adapter: of its weights).",
    }
    return Table(header, [*rows, ["total", "", "", "", *_amounts(total), ""]], explanations)


def _made_from(manifest: Row) -> str:
    inputs = [PurePosixPath(entry["path"]).name for entry in manifest["inputs"].values()]
    adapter = manifest["settings"].get("adapter")
    return ", ".join([*inputs, *([f"adapter {PurePosixPath(adapter).name}"] if adapter else [])])


def _amounts(spent: dict[str, float]) -> list[str]:
    return [f"{spent[key]:,.0f}" if spent[key] else "" for key in ("seconds", "prompt tokens", "completion tokens")]


def _models_table(manifests: dict[str, Row]) -> Table:
    found: dict[tuple[str, str], dict[str, None]] = {}
    for manifest in manifests.values():
        settings = manifest["settings"]
        if name := settings.get("model") or settings.get("model_name_or_path"):
            found.setdefault((name, settings["model_files"]), {})[manifest["stage"]] = None
    rows = [[name, mark, ", ".join(stages)] for (name, mark), stages in found.items()]
    return Table(["model", "fingerprint of its files, or its name on the hub", "used by"], rows)


def _data_table(manifests: dict[str, Row]) -> Table:
    """The inputs that no stage of this run wrote."""
    written = {PurePosixPath(output).name for manifest in manifests.values() for output in manifest["outputs"]}
    found: dict[tuple[str, Any], str] = {}
    for manifest in manifests.values():
        for entry in manifest["inputs"].values():
            if PurePosixPath(entry["path"]).name not in written:
                found[entry["path"], entry.get("rows")] = entry["sha256"]
    entries = sorted(found.items(), key=str)
    rows = [[path, "" if count is None else str(count), sha256] for (path, count), sha256 in entries]
    return Table(["data", "rows used", "sha256 of these rows"], rows)
