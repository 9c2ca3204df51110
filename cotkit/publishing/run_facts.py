"""What a run's files say about one method, checked before anything is made of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cotkit.core import lineage
from cotkit.core.cli import nearest
from cotkit.core.errors import UserError
from cotkit.core.jsonl import Row, read_json
from cotkit.core.manifest import path_for
from cotkit.core.model_identity import folder_of
from cotkit.evaluation.comparison import COMPARISON_SCHEMA
from cotkit.evaluation.scored_runs import method_and_seed
from cotkit.generation.chat_model import check_model
from cotkit.generation.run_methods import read_run_methods
from cotkit.generation.types import Sampling
from cotkit.report.run_data import read_manifests


@dataclass(frozen=True)
class BaseFacts:
    """What a card says of the base model.

    Attributes:
        name: as the training was given it, a folder or a name on the hub.
        on_hub: its name on the hub; None if that is not known.
        license: the hub's short name of its license; None if that is not known.
    """

    name: str
    on_hub: str | None
    license: str | None

    @property
    def shown(self) -> str:
        return self.on_hub or self.name


def read_base(model: str, on_hub: str | None, license_name: str | None) -> BaseFacts:
    """Facts of a base model, where `on_hub` and `license_name` say what its files do not. Raises UserError."""
    check_model(model)
    if not Path(model).is_dir():
        if on_hub not in (None, model):
            raise UserError(f"--base_model_name {on_hub}: the method was trained on {model}; leave the flag out")
        on_hub = model
    return BaseFacts(model, on_hub, license_name or license_of(model))


def license_of(model: str) -> str | None:
    """The license that a model's own card names; None if it names none or is not on this machine."""
    from huggingface_hub import ModelCard

    folder = folder_of(model)
    card = folder / "README.md" if folder else None
    return ModelCard(card.read_text(encoding="utf-8")).data.get("license") if card and card.is_file() else None


@dataclass(frozen=True)
class MethodFacts:
    """A trained method: its adapter, the manifest of its training, the settings of its predictions, the comparison."""

    run: Path
    name: str
    adapter: Path
    base: BaseFacts
    training: Row
    sampling: Sampling
    comparison: Row
    manifests: dict[str, Row]  # of the run, by output

    @property
    def method(self) -> str:
        """The name without a seed."""
        return method_and_seed(self.name)[0]


def read_method(run: Path, name: str, base_name: str | None = None, license_name: str | None = None) -> MethodFacts:
    """Reads what a card says of a method.

    Args:
        base_name, license_name: as in `read_base`.

    Raises:
        UserError: with the command that helps, if the method is not trained, predicted and compared.
    """
    adapter = run / "train" / name
    if not (adapter / lineage.WEIGHTS).is_file():
        trained = [path.parent.name for path in run.glob(f"train/*/{lineage.WEIGHTS}")]
        hint = nearest(name, trained) if trained else "; bash scripts/train.sh CONFIG trains one"
        raise UserError(f"{run}: has no trained method {name!r}{hint}")
    training = _finished(path_for(adapter), "bash scripts/train.sh makes it")
    lineage.check_weights(adapter)
    comparison = read_json(run / "comparison.json") if (run / "comparison.json").is_file() else {}
    again = f"run python scripts/compare.py {run}"
    if comparison.get("schema") != COMPARISON_SCHEMA:
        raise UserError(f"{run}: has no comparison.json of this version, which the card shows; {again}")
    method = method_and_seed(name)[0]
    if all(method != row["method"] for dataset in comparison["datasets"] for row in dataset["methods"]):
        raise UserError(f"{run}/comparison.json: does not have {method}; predict it, score it and {again}")
    (predicted,) = read_run_methods(run, [name])
    base = read_base(str(training["settings"]["model_name_or_path"]), base_name, license_name)
    return MethodFacts(run, name, adapter, base, training, predicted.sampling, comparison, read_manifests(run))


def _finished(manifest: Path, remedy: str) -> Row:
    record = read_json(manifest) if manifest.is_file() else {}
    if record.get("status") != "done":
        raise UserError(f"{manifest}: missing or unfinished; {remedy}")
    return record
