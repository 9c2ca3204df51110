"""A trained adapter beside its merged weights: the same greedy text, by inference's own decoding."""

from __future__ import annotations

from pathlib import Path

from cotkit import prompts
from cotkit.backends.local_model import encode, load_tokenizer, turn_end_ids
from cotkit.generate import Request, Sampling

QUESTION = "Tom has 3 apples and buys 4 more. How many apples does he have?"
NEW_TOKENS = 48


def compare(model_name: str, adapter: Path) -> str | None:
    """What is wrong with an adapter, or None.

    Its tokenizer, which training saved, must write the served prompt and end turns where inference stops; attached to
    the base model it must write the text that inference writes with its weights merged (greedy, float32).
    """
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from cotkit.backends.decoding import Decoder

    messages = prompts.student_messages(QUESTION)
    serving, saved = load_tokenizer(model_name), load_tokenizer(str(adapter))
    if encode(serving, messages, False) != encode(saved, messages, False):
        return f"writes another prompt by its own tokenizer, {adapter}/chat_template.jinja, than the base model's"
    model = AutoModelForCausalLM.from_pretrained(model_name, dtype=torch.float32).eval()
    if saved.eos_token_id not in turn_end_ids(serving, model.generation_config):
        return f"ends turns with {saved.eos_token!r}, at which inference does not stop"
    attached = PeftModel.from_pretrained(model, str(adapter)).eval()
    texts = []
    for variant in (lambda: attached, attached.merge_and_unload):
        backend = Decoder(variant(), serving, Sampling(NEW_TOKENS), batch_size=1, batch_tokens=1, seed=0)
        [(_, completion)] = backend.generate([Request("probe", 0, messages)])
        texts.append(completion.text)
    if texts[0] != texts[1]:
        return f"and merged weights write different texts:\n    adapter {texts[0]!r}\n    merged  {texts[1]!r}"
    return None
