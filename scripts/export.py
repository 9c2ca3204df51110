"""Makes of a trained method a model that other programs load, and of a training set a data set, each with its card.

Reads   <run>/train/<method>, comparison.json, manifests        or, with --data, <run>/datasets/<set>.jsonl
Writes  <run>/export/<method>/      model.safetensors, tokenizer, chat template, generation_config.json, Modelfile, README.md
        <run>/export/data-<set>/    <set>.jsonl with its rows as they are, {"system": "...", "instruction": "...",
                                    "input": "", "output": "..."}, and README.md

    python scripts/export.py outputs/smollm2_cpu distilled
    python scripts/export.py outputs/smollm2_cpu distilled --push_to_hub OWNER/NAME --private
    python scripts/export.py outputs/smollm2_cpu --data distilled

The adapter is merged into the base model's weights after a check that both write the same text. A folder appears complete
or not at all. --push_to_hub uploads a folder that is there already as it is.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from cotkit.core import cli
from cotkit.core.errors import UserError
from cotkit.core.files import make_folder
from cotkit.core.manifest import command
from cotkit.publishing import cards, hub, model_folder
from cotkit.publishing.run_facts import MethodFacts, SetFacts, read_method, read_set


def fill_model(facts: MethodFacts, folder: Path) -> None:
    """Checks the adapter and writes the model's files and card."""
    from cotkit.training.adapter_parity import adapter_problem

    if problem := adapter_problem(facts.base, facts.adapter):
        raise UserError(f"{facts.adapter}: {problem}; train it again")
    model_folder.write(facts.base, facts.adapter, facts.sampling, folder)
    (folder / "README.md").write_text(cards.model_card(facts, command()), encoding="utf-8")


def fill_data(facts: SetFacts, folder: Path) -> None:
    shutil.copyfile(facts.path, folder / facts.path.name)
    (folder / "README.md").write_text(cards.dataset_card(facts, command()), encoding="utf-8")


def write_folder(target: Path, fill: Callable[[Path], None]) -> None:
    """Writes a folder all or nothing. An older one stays until the new one is complete."""
    make_folder(target.parent)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".export-") as temporary:
        new = Path(temporary) / "new"
        new.mkdir()
        fill(new)
        if target.exists():
            target.rename(Path(temporary) / "old")
        new.rename(target)


def main(argv: list[str] | None = None) -> int:
    parser = cli.StageParser(__doc__, "dry_run", "overwrite")
    parser.add_argument("run", type=Path, metavar="RUN", help="a folder under outputs/")
    parser.add_argument("method", nargs="?", metavar="METHOD", help="a trained method, such as distilled")
    parser.add_argument("--data", metavar="SET", help="export this training set instead of a method")
    parser.add_argument("--push_to_hub", metavar="OWNER/NAME", help="also upload it; needs `hf auth login` or HF_TOKEN")
    parser.add_argument("--private", action="store_true", help="a new repository on the hub is private")
    args = parser.parse(argv)
    if (args.method is None) == (args.data is None):
        parser.error("give either METHOD or --data SET")
    if args.private and not args.push_to_hub:
        parser.error("--private needs --push_to_hub OWNER/NAME")
    if args.push_to_hub:
        hub.check(args.push_to_hub)
    target = args.run / "export" / (args.method or f"data-{args.data}")
    facts = read_set(args.run, args.data) if args.data else read_method(args.run, args.method)
    if args.dry_run:
        card = (
            cards.dataset_card(facts, command()) if isinstance(facts, SetFacts) else cards.model_card(facts, command())
        )
        print(f"{card}\ndry run: {target} would be written with this card")
        return 0
    if target.exists() and not args.overwrite:
        if not args.push_to_hub:
            raise UserError(f"{target}: exists; --overwrite makes it anew, --push_to_hub OWNER/NAME uploads it")
    elif isinstance(facts, SetFacts):
        write_folder(target, lambda folder: fill_data(facts, folder))
    else:
        write_folder(target, lambda folder: fill_model(facts, folder))
    print(f"{target}: complete; README.md is its card")
    if args.push_to_hub:
        print(hub.push(target, args.push_to_hub, "dataset" if args.data else "model", args.private))
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
