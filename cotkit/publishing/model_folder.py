"""Writes a trained method as a model folder that other programs load and stop as inference did."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cotkit.generation import prompts
from cotkit.generation.chat_model import load_model, load_tokenizer, turn_end_ids
from cotkit.generation.types import Sampling

PROBES = ("SYSTEM-PROBE", "QUESTION-PROBE")  # found again in a rendered prompt


def write(model_name: str, adapter: Path, sampling: Sampling, folder: Path) -> None:
    """Writes weights, tokenizer, chat template, generation config and Modelfile.

    The weights are float32, in which attached and merged adapters are compared.
    """
    import torch
    from transformers import GenerationConfig

    tokenizer = load_tokenizer(model_name)
    model = load_model(model_name, str(adapter), torch.float32)
    ends = sorted(turn_end_ids(tokenizer, model.generation_config))
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else ends[0]
    # The base's own config may sample or penalise repetitions, which inference here did not.
    drawn = {key: getattr(sampling, key) for key in ("temperature", "top_p", "top_k") if sampling.temperature > 0}
    model.generation_config = GenerationConfig(
        eos_token_id=ends,
        pad_token_id=pad,
        bos_token_id=tokenizer.bos_token_id,
        do_sample=bool(drawn),
        max_new_tokens=sampling.max_new_tokens,
        **drawn,
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    text = modelfile(tokenizer, tokenizer.convert_ids_to_tokens(ends), sampling)
    (folder / "Modelfile").write_text(text, encoding="utf-8")


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
