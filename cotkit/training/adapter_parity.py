"""Checks that a trained adapter is served as it was trained."""

from __future__ import annotations

from pathlib import Path

from cotkit.generation import prompts
from cotkit.generation.chat_model import encode, load_tokenizer, merge_adapter, turn_end_ids
from cotkit.generation.types import Request, Sampling

QUESTION = "Tom has 3 apples and buys 4 more. How many apples does he have?"
NEW_TOKENS = 48


def adapter_problem(model_name: str, adapter: Path) -> str | None:
    """Says what is wrong with an adapter; None if nothing is.

    The tokenizer that training saved must write the served prompt and end turns with a token at which inference stops.
    The base model must write the same text with the adapter attached as with the adapter merged into its weights, which
    is what inference does (greedy, float32).
    """
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from cotkit.generation.backends.continuous_batching import Decoder

    messages = prompts.student_messages(QUESTION)
    serving, saved = load_tokenizer(model_name), load_tokenizer(str(adapter))
    if encode(serving, messages, False) != encode(saved, messages, False):
        return f"its own tokenizer ({adapter}/chat_template.jinja) writes another prompt than the base model's"
    model = AutoModelForCausalLM.from_pretrained(model_name, dtype=torch.float32).eval()
    if saved.eos_token_id not in turn_end_ids(serving, model.generation_config):
        return f"it ends turns with {saved.eos_token!r}, at which inference does not stop"
    attached = PeftModel.from_pretrained(model, str(adapter)).eval()
    texts = []
    for variant in (lambda: attached, lambda: merge_adapter(attached)):
        backend = Decoder(variant(), serving, Sampling(NEW_TOKENS), batch_size=1, batch_tokens=1, seed=0)
        [(_, completion)] = backend.generate([Request("probe", 0, messages)])
        texts.append(completion.text)
    if texts[0] != texts[1]:
        return f"merged into the weights it writes another text:\n    attached {texts[0]!r}\n    merged   {texts[1]!r}"
    return None
