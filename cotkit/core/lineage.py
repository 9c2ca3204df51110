"""The chain model -> training set -> adapter -> predictions: what each was made from, by content and not by path.

A training's manifest names its model and its training sets. The manifest of an adapter's predictions repeats both, with the
hash of the weights, as `adapter_training`. So scores, comparison and scripts/verify.py can tell whether predictions are those
of the adapter that lies in the run. Predictions without a manifest are of another program, and nothing is known of them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from cotkit.core import model_identity
from cotkit.core.errors import UserError
from cotkit.core.files import sha256_file
from cotkit.core.jsonl import Row, read_json
from cotkit.core.manifest import PIPELINE, SUFFIX, path_for

BASELINE = "baseline"  # the method that is the run's base model itself
WEIGHTS = "adapter_model.safetensors"


def training_of(adapter: Path) -> Row | None:
    """``{"manifest", "model", "weights_sha256", "data"}`` of an adapter; None if this toolkit did not train it.

    `model` is the base model as manifests describe it, `data` maps the name of each training set to its SHA-256.

    Raises:
        UserError: the training is not finished.
    """
    manifest = path_for(adapter)
    record = read_json(manifest) if manifest.is_file() else {}
    if record.get("stage") != "train":
        return None
    if record["status"] != "done":
        raise UserError(f"{adapter}: its training is not finished; run scripts/train.sh again, which continues it")
    return {
        "manifest": str(manifest),
        "model": record["model"],
        "weights_sha256": record["outputs"][f"{adapter.name}/{WEIGHTS}"]["sha256"],
        "data": {name: found["sha256"] for name, found in record["inputs"].items()},
    }


def check_weights(adapter: Path) -> None:
    """Raises UserError if an adapter of this toolkit holds other weights than its training wrote."""
    trained = training_of(adapter)
    if trained and sha256_file(adapter / WEIGHTS) != trained["weights_sha256"]:
        raise UserError(
            f"{adapter / WEIGHTS}: was changed after its training; run scripts/train.sh again with --overwrite, or copy the "
            "adapter to a folder of its own if the change is meant"
        )


def base_of(predictions: Path) -> Row | None:
    """The model whose training the predictions show: an adapter's base, or the baseline's own; None if it is not known.

    A method without an adapter under another name, such as the teacher's own answers, may be of any model.
    """
    record = _record_of(predictions)
    if trained := record.get("adapter_training"):
        return trained["model"]
    if record.get("settings", {}).get("adapter") or predictions.stem == BASELINE:
        return record.get("model")
    return None


def breaks(predictions: Path) -> Iterator[str]:
    """Every break between predictions of a run and what they were made from; none without a manifest beside them."""
    record = _record_of(predictions)
    model, trained, base = record.get("model"), record.get("adapter_training"), base_of(predictions)
    if model and trained and model_identity.is_same_record(trained["model"], model) is False:
        yield (
            f"{predictions}: its adapter was trained on {_named(trained['model'])}, but the texts are those of "
            f"{_named(model)}; {_answer_again('--base_model ' + trained['model']['name'])}"
        )
    if not record or predictions.parent.parent.name != "predictions":
        return
    trainings = predictions.parents[2] / "train"
    own = trainings / predictions.stem
    try:
        here = training_of(own)
    except UserError as error:
        yield str(error)
        return
    if here and (fault := _other_adapter(record, own, here)):
        yield f"{predictions}: {fault}; {_answer_again(f'--lora_path {own} --output_path {predictions}')}"
    others = (one for one in _models_of(trainings) if base and model_identity.is_same_record(one, base) is False)
    for other in others:
        yield (
            f"{predictions}: is based on {_named(base)}, but the methods of this run were trained on {_named(other)}; "
            f"{_answer_again('--base_model ' + other['name'])}"
        )
        return


def _answer_again(flags: str) -> str:
    if PIPELINE in os.environ:
        return "repeat stage 4 with --from infer"
    return f"run infer_parallel.py again with {flags} --overwrite"


def _record_of(predictions: Path) -> Row:
    """The manifest of predictions; {} without one."""
    manifest = path_for(predictions)
    record = read_json(manifest) if manifest.is_file() else {}
    return record if record.get("stage") == "infer_parallel" else {}


def check(predictions: Path) -> None:
    """Raises UserError for the first break between predictions and what they were made from."""
    for found in breaks(predictions):
        raise UserError(found)


def _other_adapter(record: Row, own: Path, here: Row) -> str | None:
    """How predictions contradict the adapter `own` of their name in the run; None if they are that adapter's."""
    trained, settings = record.get("adapter_training"), record["settings"]
    if not settings.get("adapter"):
        # A server may have the adapter under the model's name, and then has its files too.
        return f"is the base model's, without an adapter, but {own} holds one" if record.get("model") else None
    if trained is None:  # of a version that did not record it, or not from a training of this toolkit
        same = settings.get("adapter_files") == model_identity.fingerprint(str(own))
    else:
        same = all(trained[key] == here[key] for key in ("weights_sha256", "data"))
    return None if same else f"was made with another adapter ({settings['adapter']}) than {own} holds"


def _models_of(trainings: Path) -> Iterator[Row]:
    """The base models of a run's trainings, as their manifests describe them."""
    for path in sorted(trainings.glob(f"*{SUFFIX}")):
        record = read_json(path)
        if record.get("stage") == "train" and record.get("model"):
            yield record["model"]


def _named(model: Row) -> str:
    return f"{model['name']} ({model['revision'] or 'unknown revision'})"
