"""Writes a trained method as a folder that other programs load and stop as inference did: a model, or the adapter alone."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from cotkit.core.jsonl import read_json, write_json_atomic
from cotkit.core.lineage import WEIGHTS
from cotkit.generation import adapters, prompts
from cotkit.generation.chat_model import load_generation_config, load_model, load_tokenizer, turn_end_ids
from cotkit.generation.types import Sampling
from cotkit.publishing.run_facts import MethodFacts

MODELFILE = "Modelfile"
PROBES = ("SYSTEM-PROBE", "QUESTION-PROBE")  # found again in a rendered prompt


def write(facts: MethodFacts, folder: Path) -> None:
    """Writes weights, tokenizer, chat template, generation config and Modelfile.

    The weights are float32, in which attached and merged adapters are compared.
    """
    import torch

    tokenizer = load_tokenizer(facts.base.name)
    model = load_model(facts.base.name, str(facts.adapter), torch.float32)
    ends = sorted(turn_end_ids(tokenizer, model.generation_config))
    model.generation_config = generation_config(tokenizer, ends, facts.sampling)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    correct_byte_fallback(folder)
    text = modelfile(tokenizer, tokenizer.convert_ids_to_tokens(ends), facts.sampling)
    (folder / MODELFILE).write_text(text, encoding="utf-8")


def write_adapter(facts: MethodFacts, folder: Path) -> None:
    """Writes the adapter as it was trained, and the tokenizer, chat template and generation config that go with it.

    Its configuration names the base model as on the hub, if that name is known.
    """
    tokenizer = load_tokenizer(facts.base.name)
    shutil.copyfile(facts.adapter / WEIGHTS, folder / WEIGHTS)
    config = read_json(facts.adapter / adapters.CONFIG)
    write_json_atomic(folder / adapters.CONFIG, {**config, "base_model_name_or_path": facts.base.shown})
    ends = sorted(turn_end_ids(tokenizer, load_generation_config(facts.base.name)))
    generation_config(tokenizer, ends, facts.sampling).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def generation_config(tokenizer: Any, ends: list[int], sampling: Sampling) -> Any:
    """The generation config with which other programs draw tokens and stop as inference did.

    Args:
        ends: ids of all tokens at which inference stopped.
    """
    from transformers import GenerationConfig

    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else ends[0]
    # The base's own config may sample or penalise repetitions, which inference here did not.
    drawn = {key: getattr(sampling, key) for key in ("temperature", "top_p", "top_k") if sampling.temperature > 0}
    return GenerationConfig(
        eos_token_id=ends,
        pad_token_id=pad,
        bos_token_id=tokenizer.bos_token_id,
        do_sample=bool(drawn),
        max_new_tokens=sampling.max_new_tokens,
        **drawn,
    )


def correct_byte_fallback(folder: Path) -> None:
    """Lets tokenizer.json say that a byte-level tokenizer has no byte fallback. It writes the same tokens either way.

    transformers says otherwise of a tokenizer that it read from a GGUF file, such as that of the CPU preset. From that,
    llama.cpp's converter concludes that it is one of SentencePiece, and the converted model cannot read a prompt.
    """
    path = folder / "tokenizer.json"
    tokenizer = read_json(path) if path.is_file() else {"model": {}}
    model = tokenizer["model"]
    has_byte_tokens = "<0x00>" in model.get("vocab", [])  # as a fallback needs them
    if model.get("byte_fallback") and not has_byte_tokens and "ByteLevel" in str(tokenizer["pre_tokenizer"]):
        write_json_atomic(path, {**tokenizer, "model": {**model, "byte_fallback": False}})


def modelfile(tokenizer: Any, ends: list[str], sampling: Sampling) -> str:
    """An Ollama Modelfile whose template writes the served prompt around a question."""
    system, question = PROBES
    messages = [{"role": "system", "content": system}, {"role": "user", "content": question}]
    text = prompts.render(tokenizer, messages, sampling.thinking)
    if tokenizer("x")["input_ids"][0] == tokenizer.bos_token_id:  # so Ollama adds it too
        text = text.removeprefix(tokenizer.bos_token)
    text = text.replace(system, "{{ .System }}").replace(question, "{{ .Prompt }}\n\n" + prompts.INSTRUCTION)
    lines = ["FROM .", f'TEMPLATE """{text}"""', f'SYSTEM """{prompts.SYSTEM}"""']
    lines += [f'PARAMETER stop "{token}"' for token in ends]
    lines += [f"PARAMETER temperature {sampling.temperature:g}", f"PARAMETER num_predict {sampling.max_new_tokens}"]
    return "\n".join(lines) + "\n"
