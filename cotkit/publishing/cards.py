"""The cards of an exported model and data set, in the hub's format (https://huggingface.co/docs/hub/model-cards)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cotkit.core.errors import UserError
from cotkit.core.jsonl import Row
from cotkit.core.manifest import versions
from cotkit.core.markdown import Table
from cotkit.evaluation.comparison_tables import as_markdown, reading_help, uncertain, verdicts_table
from cotkit.generation import prompts
from cotkit.publishing.run_facts import MethodFacts
from cotkit.publishing.set_facts import SetFacts, source_repository

MODEL = """from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "."  # this folder, or its name on the hub
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")"""

ADAPTER = """from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

folder = "."  # this folder, or its name on the hub
tokenizer = AutoTokenizer.from_pretrained(folder)
base = AutoModelForCausalLM.from_pretrained({base!r}, dtype="float32")
model = PeftModel.from_pretrained(base, folder)
model.generation_config = GenerationConfig.from_pretrained(folder)"""

USE = """```python
{load}
question = "Tom has 3 apples and buys 4 more. How many apples does he have?"
messages = [
    {{"role": "system", "content": {system!r}}},
    {{"role": "user", "content": question + "\\n\\n" + {instruction!r}}},
]
text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, enable_thinking={thinking})
inputs = tokenizer(text, add_special_tokens=False, return_tensors="pt")
output = model.generate(**inputs)
print(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
```"""


def model_card(facts: MethodFacts, command: str) -> str:
    """The text of the README.md of a complete model."""
    return _method_card(facts, command, (code(facts.base.shown), MODEL), library_name="transformers")


def adapter_card(facts: MethodFacts, command: str) -> str:
    """The text of the README.md of an adapter alone."""
    name = facts.base.shown
    what = (f"A LoRA adapter for {code(name)}", ADAPTER.format(base=name))
    return _method_card(facts, command, what, library_name="peft", base_model_relation="adapter")


def _method_card(facts: MethodFacts, command: str, what: tuple[str, str], **kind: str) -> str:
    """A card of a method.

    Args:
        what: what it is in words, and the Python lines that load it.
        kind: the fields of the card's head that differ between a model and an adapter.
    """
    from huggingface_hub import ModelCardData

    data = ModelCardData(
        base_model=facts.base.on_hub,
        datasets=source_repository(facts.manifests.get("kept.jsonl", {})),
        language="en",
        license=facts.base.license,
        metrics=["accuracy"],
        pipeline_tag="text-generation",
        tags=["math", "chain-of-thought", "distillation"],
        **kind,
    )
    return _card(data, list(_method_blocks(facts, command, *what)))


def _card(data: Any, blocks: list[str | Table]) -> str:
    return f"---\n{data.to_yaml()}\n---\n\n{as_markdown(blocks)}"


def check(card: Path, base_model: str | None, license_name: str | None) -> None:
    """Raises UserError if a card that is there already lacks what the flags say of base model and license."""
    from huggingface_hub import ModelCard

    head = ModelCard(card.read_text(encoding="utf-8")).data
    for flag, key, wanted in (("base_model_name", "base_model", base_model), ("license", "license", license_name)):
        if wanted is not None and (found := head.get(key)) != wanted:
            says = f"names {found}" if found else "names none"
            raise UserError(f"{card}: {says} as its {key}, not --{flag} {wanted}; --overwrite makes the folder anew")


def unknown(facts: MethodFacts) -> Iterator[str]:
    """One sentence for each fact of the base model that the card lacks."""
    if facts.base.on_hub is None:
        yield "Base model: a folder of the machine that trained this; its name on the hub is not known."
    if facts.base.license is None:
        yield "License: that of the base model, whose files here do not name it. Look it up before you share this."


def _method_blocks(facts: MethodFacts, command: str, what: str, load: str) -> Iterator[str | Table]:
    comparison = facts.comparison
    yield f"# {facts.run.name}: {facts.name}"
    yield f"{what}, trained by the method {facts.name} to solve math word problems step by step."
    yield from unknown(facts)
    yield "## Results"
    yield comparison["finding"]
    for dataset in comparison["datasets"]:
        yield f"{dataset['dataset']}, {dataset['questions']} questions, protocol {dataset['protocol']}:"
        yield verdicts_table(dataset, comparison["reference"])
    yield reading_help(comparison)
    yield "## What was not shown"
    yield "\n".join(f"- {line}" for line in not_shown(facts))
    yield "## Use"
    yield USE.format(
        load=load, system=prompts.SYSTEM, instruction=prompts.INSTRUCTION, thinking=facts.sampling.thinking
    )
    if facts.sampling.stop_at_answer:
        yield (
            "The results count texts up to the first complete line `#### answer`. This code ends at an end-of-turn token "
            "and may write more."
        )
    yield "## Training"
    settings = {key: value for key, value in facts.training["settings"].items() if not key.endswith("_files")}
    yield Table(["key", "value"], [[key, code(str(value))] for key, value in settings.items()], figures=False)
    counts = facts.training["counts"]
    yield f"{counts['rows']} rows, {counts['steps']} steps, {counts['trained_tokens']} trained tokens."
    yield "## How it was made"
    yield "\n".join(["```bash", *commands(facts.manifests), command, "```"])
    made_with = sorted({item for record in facts.manifests.values() for item in record["versions"].items()})
    yield "Versions: " + ", ".join(f"{name} {version}" for name, version in made_with)
    yield Table(["file", "SHA-256"], list(lineage(facts.training)), figures=False)


def not_shown(facts: MethodFacts) -> Iterator[str]:
    """One sentence for each pair of this method without a verdict `better` or `worse`, and the limits of the test."""
    for dataset in facts.comparison["datasets"]:
        for pair in dataset["pairs"]:
            if facts.method in (pair["method"], pair["reference"]) and pair["verdict"] not in ("better", "worse"):
                names = f"{pair['method']} against {pair['reference']} on {dataset['dataset']}"
                yield f"{names}: {uncertain(pair)}, {pair['verdict']}."
        runs = next((len(row["runs"]) for row in dataset["methods"] if row["method"] == facts.method), 0)
        if runs == 1:
            yield f"{dataset['dataset']}: one training run, which says nothing about other seeds."
    names = ", ".join(dataset["dataset"] for dataset in facts.comparison["datasets"])
    yield f"Only {names} was tested: nothing is known about other tasks, other languages or harmful texts."


def code(text: str) -> str:
    """A text as code in Markdown, which shows its signs and does not read them. It has no line break."""
    fence = "`" * (max(map(len, re.findall("`+", text)), default=0) + 1)
    space = " " if "`" in text else ""
    return f"{fence}{space}{text or ' '}{space}{fence}"


def commands(manifests: dict[str, Row]) -> list[str]:
    """The commands that made the run, each once."""
    return list(dict.fromkeys(record["command"] for record in manifests.values() if "command" in record))


def lineage(manifest: Row) -> Iterator[list[str]]:
    """File and hash of every input and output of a stage."""
    for entry in manifest["inputs"].values():
        yield [code(entry["path"]), code(entry["sha256"])]
    for name, entry in manifest["outputs"].items():
        yield [code(name), code(entry["sha256"])]


def dataset_card(facts: SetFacts, command: str, license_name: str | None) -> str:
    """The text of a data set's README.md."""
    from huggingface_hub import DatasetCardData

    repository = source_repository(facts.made)
    data = DatasetCardData(
        language="en",
        license=license_name,
        task_categories=["text-generation"],
        pretty_name=f"{facts.run.name}: {facts.name}",
        source_datasets=[repository] if repository else None,
        configs=[{"config_name": "default", "data_files": [{"split": "train", "path": facts.path.name}]}],
    )
    return _card(data, list(_dataset_blocks(facts, command, license_name)))


def _dataset_blocks(facts: SetFacts, command: str, license_name: str | None) -> Iterator[str | Table]:
    yield f"# {facts.run.name}: {facts.name}"
    yield f"{facts.rows} training rows with the columns {', '.join(facts.entry['columns'].values())}."
    yield from _gold_blocks(facts) if facts.account is None else _filter_blocks(facts, facts.account)
    if license_name is None:
        texts = "problems" if facts.account is None else "problems and of the teacher's texts"
        yield f"License: that of the {texts}. Look it up before you share these rows."
    yield "## How it was made"
    votes = [facts.vote["command"]] if facts.vote else []
    yield "\n".join(["```bash", *votes, facts.made["command"], command, "```"])
    yield "Versions: " + ", ".join(f"{name} {version}" for name, version in versions().items())
    yield Table(["file", "SHA-256"], list(lineage(facts.made)), figures=False)


def _gold_blocks(facts: SetFacts) -> Iterator[str]:
    """What is said of published solutions."""
    yield f"The solutions are those of {code(facts.made['inputs']['problems']['path'])}, as they were published."
    others = ", ".join(map(code, facts.made["compared_with"]))
    yield f"Contamination: none of the questions is in {others or 'another file: none was compared'}."


def _filter_blocks(facts: SetFacts, account: Row) -> Iterator[str | Table]:
    """What is said of a teacher's texts."""
    settings, short = facts.made["settings"], facts.name.rpartition("/")[2]
    read, kept = account["read"], account["kept"]
    declared = next((line for line in settings["sets"] if line.split(" = ")[0] == short), short)
    yield f"How it is made of the teacher's rows and the reference solutions: {code(declared)}."
    if facts.vote:
        counts = facts.vote["counts"]
        yield (
            f"The answers are those on which the teacher's samples agree, not given ones: of {counts['questions']} questions "
            f"{counts['voted']} have one."
        )
    yield "## The filter"
    rejected_share = f"{1 - kept / read:.1%}" if read else "none"
    yield f"Of {read} teacher rows {kept} were kept and {rejected_share} were rejected. A set may use only some of them."
    rejected = sorted(account["rejected"].items(), key=lambda item: -item[1])
    yield Table(["rule", "rejected rows"], [[rule, str(count)] for rule, count in rejected])
    yield contamination(settings, facts.made["inputs"], account)
    limits = {key: settings[key] for key in ("min_words", "max_words", "max_tokens", "max_overlap", "max_similarity")}
    yield "Limits: " + ", ".join(f"{key} {value}" for key, value in limits.items())


def contamination(settings: Row, inputs: Row, account: Row) -> str:
    """What the filter did about training questions that a test set also asks."""
    tests = [name.removeprefix("test ") for name in inputs if name.startswith("test ")]
    if not tests or "contaminated" in (settings["skip_rules"] or []):
        return "Contamination: the questions were not compared with those of a test set."
    return (
        f"Contamination: {account['rejected']['contaminated']} rows were rejected because their question shares more "
        f"than {settings['max_overlap']:.0%} of its {settings['ngram']}-word runs with a question of {', '.join(map(code, tests))}."
    )
