"""The methods of a run as stage 4 asked them: model, adapter and sampling, read from the manifests of their predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from cotkit.core import lineage
from cotkit.core.cli import nearest
from cotkit.core.errors import UserError
from cotkit.core.files import RUN_EXPECTED, require_folder
from cotkit.core.jsonl import Row, read_json
from cotkit.core.manifest import SUFFIX, difference
from cotkit.generation import engines, prompts
from cotkit.generation.options import EngineOptions
from cotkit.generation.types import Sampling


@dataclass(frozen=True)
class RunMethod:
    """A method with the engine and sampling of its predictions.

    Args:
        problems: path, number of rows and hash of its test set, as the manifest has them.
        identity: hash of the model's files and of the prompt's wording, as the manifest has them.
    """

    name: str
    problems: Row
    engine: EngineOptions
    sampling: Sampling
    identity: Row


def read_run_methods(run: Path, names: Sequence[str], dataset: str | None = None) -> list[RunMethod]:
    """The methods `names` of a run, all with the settings of one test set.

    Args:
        dataset: that test set; by default the one with the highest token limit, which truncates none of their texts.

    Raises:
        UserError: a method is not of the run, is not trained to its end or has no predictions, or its adapter is not the
            one that wrote them.
    """
    runs = [str(folder.parent) for folder in run.parent.glob("*/predictions")]
    require_folder(run, nearest(str(run), runs).removeprefix("; ") if runs else RUN_EXPECTED)
    records: dict[str, dict[str, Row]] = {}  # test set -> method -> manifest of the predictions
    for path in sorted(run.glob(f"predictions/*/*.jsonl{SUFFIX}")):
        record = read_json(path)
        if record.get("stage") == "infer_parallel":
            records.setdefault(path.parent.name, {})[path.name.removesuffix(f".jsonl{SUFFIX}")] = record
    for name in names:
        _require_predictions(run, name, {method for methods in records.values() for method in methods})
    shared = {found: methods for found, methods in records.items() if all(name in methods for name in names)}
    if not shared:
        raise UserError(f"{run}: no test set has predictions of all of {', '.join(names)}; ask them one at a time")
    if dataset is not None and dataset not in shared:
        raise UserError(f"{run}: has no predictions of {', '.join(names)} on {dataset!r}{nearest(dataset, shared)}")
    chosen = dataset or max(shared, key=lambda found: shared[found][names[0]]["settings"]["max_new_tokens"])
    return [_method(run, run / f"predictions/{chosen}/{name}.jsonl", shared[chosen][name]) for name in names]


def _require_predictions(run: Path, name: str, predicted: set[str]) -> None:
    if name in predicted:
        return
    adapter = run / "train" / name
    if adapter.is_dir():
        lineage.training_of(adapter)  # refuses one that is not finished
        raise UserError(
            f"{run}: {name} has no predictions, whose settings are needed; run infer_parallel.py --lora_path {adapter} "
            f"--output_path {run}/predictions/DATASET/{name}.jsonl"
        )
    if not predicted:
        raise UserError(f"{run}: has no predictions with a manifest; run infer_parallel.py first")
    raise UserError(f"{run}: has no method {name!r}{nearest(name, predicted)}")


def _method(run: Path, predictions: Path, record: Row) -> RunMethod:
    lineage.check(predictions)
    settings, name = record["settings"], predictions.stem
    trained = run / "train" / name
    # The run may have been moved since; `lineage.check` has made sure that its adapter wrote the predictions.
    adapter = str(trained if trained.is_dir() else settings["adapter"]) if settings["adapter"] else None
    local = "transformers" if record["model"] else "openai"  # a server has the model's files, so none are recorded
    engine = EngineOptions(
        backend=settings.get("backend", local),
        model=settings["model"],
        adapter=adapter,
        seed=record["seed"],
        dtype=settings.get("dtype", "auto"),
    )
    known = {field.name for field in fields(Sampling)} & settings.keys()
    sampling = Sampling(**{key: settings[key] for key in known})
    identity = {key: settings[key] for key in ("model_files", "prompt")}
    return RunMethod(name, record["inputs"]["problems"], engine, sampling, identity)


def check(method: RunMethod) -> None:
    """Raises UserError, within a moment, if the engine cannot run or would not be asked as for the predictions."""
    engines.check(method.engine, method.sampling)
    here = {
        "model_files": engines.describe(method.engine, method.sampling)["model_files"],
        "prompt": prompts.wording_hash(prompts.student_messages(prompts.PROBE["question"])),
    }
    if changed := difference(method.identity, here):
        raise UserError(
            f"{method.engine.model}: is not what wrote the predictions of {method.name} ({'; '.join(changed)}); run "
            "infer_parallel.py again with --overwrite"
        )
