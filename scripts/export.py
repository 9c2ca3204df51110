"""Makes of a trained method a model that other programs load, and of a training set a data set, each with its card.

Reads   <run>/train/<method>, comparison.json, manifests        or, with --data, <run>/datasets/<set>.jsonl, or
                                                                <run>/datasets/<method>/<set>.jsonl
Writes  <run>/export/<method>/          model.safetensors, tokenizer, chat template, generation_config, Modelfile, README.md
                                        with --gguf also <method>.gguf, made by llama.cpp's converter
        <run>/export/adapter-<method>/  with --adapter: the adapter alone, tokenizer, chat template, README.md
        <run>/export/data-<set>/        <set>.jsonl with its rows as they are, {"system": "...", "instruction": "...",
                                        "input": "", "output": "..."}, and README.md

    python scripts/export.py outputs/smollm2_cpu distilled
    LLAMA_CPP=~/llama.cpp python scripts/export.py outputs/smollm2_cpu distilled --gguf
    python scripts/export.py outputs/smollm2_cpu distilled --push_to_hub OWNER/NAME --private
    python scripts/export.py outputs/smollm2_cpu distilled --adapter --base_model_name HuggingFaceTB/SmolLM2-135M-Instruct
    python scripts/export.py outputs/smollm2_cpu --data distilled

The adapter is used after a check that it and its merge into the base model's weights write the same text. A folder appears
complete or not at all. --gguf and --push_to_hub take a folder that is there already as it is.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cotkit.core import cli
from cotkit.core.errors import UserError
from cotkit.core.files import make_folder
from cotkit.core.manifest import command
from cotkit.publishing import cards, gguf_file, hub, model_folder
from cotkit.publishing.run_facts import MethodFacts, read_method
from cotkit.publishing.set_facts import SetFacts, read_set

CARD = "README.md"


@dataclass(frozen=True)
class Export:
    """A folder to be made.

    Attributes:
        name: of the folder in <run>/export.
        kind: of its repository on the hub.
        fill: writes all its files but the card.
    """

    name: str
    kind: hub.Kind
    card: str
    fill: Callable[[Path], None]


def fill_method(facts: MethodFacts, folder: Path, adapter_alone: bool) -> None:
    """Checks the adapter and writes the files of the model, or of the adapter alone."""
    from cotkit.training.adapter_parity import adapter_problem

    if problem := adapter_problem(facts.base.name, facts.adapter):
        raise UserError(f"{facts.adapter}: {problem}; train it again")
    write = model_folder.write_adapter if adapter_alone else model_folder.write
    write(facts, folder)


def fill_data(facts: SetFacts, folder: Path) -> None:
    shutil.copyfile(facts.path, folder / facts.path.name)


def write_folder(target: Path, export: Export) -> None:
    """Writes a folder all or nothing. An older one stays until the new one is complete."""
    make_folder(target.parent)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".export-") as temporary:
        new = Path(temporary) / "new"
        new.mkdir()
        export.fill(new)
        (new / CARD).write_text(export.card, encoding="utf-8")
        if target.exists():
            target.rename(Path(temporary) / "old")
        new.rename(target)


def build_parser() -> cli.StageParser:
    parser = cli.StageParser(__doc__, "dry_run", "overwrite")
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="a folder under outputs/")
    add("method", nargs="?", metavar="METHOD", help="a trained method, such as distilled")
    add("--data", metavar="SET", help="export this training set, a method's own too, and no method")
    add("--adapter", action="store_true", help="export the adapter alone, not merged into the base model")
    add("--gguf", action="store_true", help="also convert it, with llama.cpp on PATH or in the folder $LLAMA_CPP")
    add("--quantize", metavar="TYPE", help="let llama-quantize make the GGUF file smaller; Q4_K_M is usual")
    add("--base_model_name", metavar="OWNER/NAME", help="the hub's name of a base model that is a folder, for the card")
    add("--license", metavar="NAME", help="the hub's short name of the license, such as apache-2.0, for the card")
    add("--push_to_hub", metavar="OWNER/NAME", help="also upload it; needs `hf auth login` or HF_TOKEN")
    add("--private", action="store_true", help="a new repository on the hub is private")
    return parser


def parse(argv: list[str] | None) -> Namespace:
    """The flags. Ends the program, or raises UserError, if they contradict one another or a name cannot be one."""
    parser = build_parser()
    args = parser.parse(argv)
    if (args.method is None) == (args.data is None):
        parser.error("give either METHOD or --data SET")
    if args.data and (args.adapter or args.base_model_name):
        parser.error("--adapter and --base_model_name belong to METHOD, not to --data SET")
    if args.gguf and (args.data or args.adapter):
        parser.error("--gguf makes a file of a complete model, so neither --data nor --adapter goes with it")
    if args.quantize is not None and not args.gguf:
        parser.error("--quantize TYPE needs --gguf")
    if args.private and not args.push_to_hub:
        parser.error("--private needs --push_to_hub OWNER/NAME")
    if args.base_model_name is not None:
        hub.check_name("--base_model_name", args.base_model_name)
    if args.license is not None:
        hub.check_license(args.license)
    if args.push_to_hub is not None:
        hub.check(args.push_to_hub)
    return args


def plan(args: Namespace) -> Export:
    """What the flags ask for. Raises UserError if the run does not have it complete."""
    if args.data:
        facts = read_set(args.run, args.data)
        card = cards.dataset_card(facts, command(), args.license)
        return Export(f"data-{args.data.replace('/', '-')}", "dataset", card, lambda folder: fill_data(facts, folder))
    method = read_method(args.run, args.method, args.base_model_name, args.license)
    name, write_card = args.method, cards.model_card
    if args.adapter:
        name, write_card = f"adapter-{args.method}", cards.adapter_card
    return Export(
        name, "model", write_card(method, command()), lambda folder: fill_method(method, folder, args.adapter)
    )


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    gguf = gguf_file.find(args.quantize, command()) if args.gguf else None
    export = plan(args)
    target = args.run / "export" / export.name
    if args.dry_run:
        print(f"{export.card}\ndry run: {target} would be written with this card")
        return 0
    if args.overwrite or not target.exists():
        write_folder(target, export)
        print(f"{target}: complete; {CARD} is its card")
    elif not (gguf or args.push_to_hub):
        raise UserError(f"{target}: exists; --overwrite makes it anew, --push_to_hub OWNER/NAME uploads it")
    else:
        cards.check(target / CARD, args.base_model_name, args.license)
    if gguf:
        print(f"{gguf_file.write(target, gguf)}: complete; Modelfile points at it")
    if args.push_to_hub:
        print(hub.push(target, args.push_to_hub, export.kind, args.private))
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
