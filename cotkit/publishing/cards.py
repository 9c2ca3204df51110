"""The cards of an exported model and data set, in the hub's format (https://huggingface.co/docs/hub/model-cards)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cotkit.core.jsonl import Row
from cotkit.core.manifest import versions
from cotkit.core.markdown import Table
from cotkit.evaluation.comparison_tables import as_markdown, reading_help, uncertain, verdicts_table
from cotkit.generation import prompts
from cotkit.publishing.run_facts import MethodFacts, SetFacts, source_repository

USE = """```python
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "."  # this folder, or its name on the hub
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
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
    """The text of a model's README.md."""
    from huggingface_hub import ModelCardData

    base_license = license_of(facts.base)
    on_hub = None if Path(facts.base).is_dir() else facts.base
    repository = source_repository(facts.manifests.get("kept.jsonl", {}))
    data = ModelCardData(
        base_model=on_hub,
        datasets=repository,
        language="en",
        library_name="transformers",
        license=base_license,
        metrics=["accuracy"],
        pipeline_tag="text-generation",
        tags=["math", "chain-of-thought", "distillation"],
    )
    return _card(data, list(_model_blocks(facts, command, base_license)))


def _card(data: Any, blocks: list[str | Table]) -> str:
    return f"---\n{data.to_yaml()}\n---\n\n{as_markdown(blocks)}"


def license_of(model: str) -> str | None:
    """The license that a base model's own card in its folder names; None if it names none."""
    from huggingface_hub import ModelCard

    readme = Path(model) / "README.md"
    return ModelCard(readme.read_text(encoding="utf-8")).data.get("license") if readme.is_file() else None


def _model_blocks(facts: MethodFacts, command: str, base_license: str | None) -> Iterator[str | Table]:
    comparison, thinking = facts.comparison, facts.sampling.thinking
    yield f"# {facts.run.name}: {facts.name}"
    yield f"{facts.base}, trained by the method {facts.name} to solve math word problems step by step."
    if base_license is None:
        yield "License: that of the base model, whose files here do not name it. Look it up before you share this model."
    yield "## Results"
    yield comparison["finding"]
    for dataset in comparison["datasets"]:
        yield f"{dataset['dataset']}, {dataset['questions']} questions, protocol {dataset['protocol']}:"
        yield verdicts_table(dataset, comparison["reference"])
    yield reading_help(comparison)
    yield "## What was not shown"
    yield "\n".join(f"- {line}" for line in not_shown(facts))
    yield "## Use"
    yield USE.format(system=prompts.SYSTEM, instruction=prompts.INSTRUCTION, thinking=thinking)
    if facts.sampling.stop_at_answer:
        yield (
            "The results count texts up to the first complete line `#### answer`. This code ends at an end-of-turn token "
            "and may write more."
        )
    yield "## Training"
    settings = {key: value for key, value in facts.training["settings"].items() if not key.endswith("_files")}
    yield Table(["key", "value"], [[key, str(value)] for key, value in settings.items()])
    counts = facts.training["counts"]
    yield f"{counts['rows']} rows, {counts['steps']} steps, {counts['trained_tokens']} trained tokens."
    yield "## How it was made"
    yield "\n".join(["```bash", *commands(facts.manifests), command, "```"])
    made_with = sorted({item for record in facts.manifests.values() for item in record["versions"].items()})
    yield "Versions: " + ", ".join(f"{name} {version}" for name, version in made_with)
    yield Table(["file", "SHA-256"], list(lineage(facts.training)))


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


def commands(manifests: dict[str, Row]) -> list[str]:
    """The commands that made the run, each once."""
    return list(dict.fromkeys(record["command"] for record in manifests.values() if "command" in record))


def lineage(manifest: Row) -> Iterator[list[str]]:
    """File and hash of every input and output of a stage."""
    for entry in manifest["inputs"].values():
        yield [entry["path"], entry["sha256"]]
    for name, entry in manifest["outputs"].items():
        yield [name, entry["sha256"]]


def dataset_card(facts: SetFacts, command: str) -> str:
    """The text of a data set's README.md."""
    from huggingface_hub import DatasetCardData

    repository = source_repository(facts.filtering)
    data = DatasetCardData(
        language="en",
        task_categories=["text-generation"],
        pretty_name=f"{facts.run.name}: {facts.name}",
        source_datasets=[repository] if repository else None,
        configs=[{"config_name": "default", "data_files": [{"split": "train", "path": facts.path.name}]}],
    )
    return _card(data, list(_dataset_blocks(facts, command)))


def _dataset_blocks(facts: SetFacts, command: str) -> Iterator[str | Table]:
    account, settings = facts.account, facts.filtering["settings"]
    read, kept = account["read"], account["kept"]
    declared = next((line for line in settings["sets"] if line.split(" = ")[0] == facts.name), facts.name)
    yield f"# {facts.run.name}: {facts.name}"
    yield f"{facts.rows} training rows with the columns {', '.join(facts.entry['columns'].values())}."
    yield f"How it is made of the teacher's rows and the reference solutions: `{declared}`."
    yield "License: that of the problems and of the teacher's texts. Look both up before you share these rows."
    yield "## The filter"
    rejected_share = f"{1 - kept / read:.1%}" if read else "none"
    yield f"Of {read} teacher rows {kept} were kept and {rejected_share} were rejected. A set may use only some of them."
    counts = sorted(account["rejected"].items(), key=lambda item: -item[1])
    yield Table(["rule", "rejected rows"], [[rule, str(count)] for rule, count in counts])
    yield contamination(facts)
    limits = {key: settings[key] for key in ("min_words", "max_words", "max_tokens", "max_overlap", "max_similarity")}
    yield "Limits: " + ", ".join(f"{key} {value}" for key, value in limits.items())
    yield "## How it was made"
    yield "\n".join(["```bash", facts.filtering["command"], command, "```"])
    yield "Versions: " + ", ".join(f"{name} {version}" for name, version in versions().items())
    yield Table(["file", "SHA-256"], list(lineage(facts.filtering)))


def contamination(facts: SetFacts) -> str:
    """What was done about training questions that a test set also asks."""
    settings = facts.filtering["settings"]
    tests = [name.removeprefix("test ") for name in facts.filtering["inputs"] if name.startswith("test ")]
    if not tests or "contaminated" in (settings["skip_rules"] or []):
        return "Contamination: the questions were not compared with those of a test set."
    return (
        f"Contamination: {facts.account['rejected']['contaminated']} rows were rejected because their question shares more "
        f"than {settings['max_overlap']:.0%} of its {settings['ngram']}-word runs with a question of {', '.join(tests)}."
    )
