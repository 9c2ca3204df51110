"""Which decoder families the decoding loop can run. The config of a model says it, before any weights are loaded.

The loop holds keys and values, one column per token; the rows of a batch start at different columns. So a model must keep
nothing else between tokens, and must take a token's position from `position_ids` or from distances between columns. All
families that transformers offers are compared with its `generate`: see docs/FAMILIES.md.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from cotkit.core.errors import UserError

WAY_OUT = "take --backend vllm, or --backend openai with a server that runs it"
# These take no `position_ids`: a bias for the distance of two columns stands for positions.
BIASED_BY_DISTANCE = {"bloom", "mpt"}
# What neither the config nor the model's signature tells.
EXCEPTIONS = {
    "blt": "it works on patches of bytes",
    "cpmant": "it puts prompt tokens of its own before every text",
    "doge": "its attention mask depends on the values in the cache",
    "emu3": "transformers cannot build its decoder from its config",
    "git": "its texts differ from those of `generate`",
    "glm_moe_dsa": "its indexer keeps a cache inside the model",
    "mllama": "its cross-attention layers hold no keys without an image",
    "moshi": "its texts differ from those of `generate`",
    "musicgen": "it writes sound",
    "musicgen_melody": "it writes sound",
    "prophetnet": "it predicts several tokens at once",
    "xmod": "it needs a language for every text",
}
# Their configs have a key `is_decoder`, which they ignore: they always are.
ALWAYS_DECODERS = {"gpt_neox", "gpt_neox_japanese"}
STATE_LAYERS = {"mamba", "conv", "linear_attention", "hybrid", "recurrent"}


def read_config(name: str) -> Any:
    """The config of a model, which is enough to refuse it. Raises UserError if it cannot be read."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise UserError(f"{name}: has no config that can be read ({str(error).splitlines()[0]})") from None


def require_supported(config: Any, name: str) -> None:
    """Raises UserError, with the way out, if the decoding loop cannot run models with this config."""
    if reason := refusal(config):
        kind = f"a model of type {config.model_type}"
        raise UserError(f"{name}: --backend transformers cannot run {kind}: {reason}; {WAY_OUT}")


def refusal(config: Any) -> str | None:
    """The reason why the decoding loop cannot run models with this config; None if it can."""
    from transformers import AutoModelForCausalLM

    text = config.get_text_config()
    for known in (config.model_type, text.model_type):
        if known in EXCEPTIONS:
            return EXCEPTIONS[known]
    if type(config) not in AutoModelForCausalLM._model_mapping:
        return "transformers has no decoder of this type"
    model = AutoModelForCausalLM._model_mapping[type(config)]
    layers = {*(getattr(text, "layer_types", None) or ()), *(getattr(text, "block_types", None) or ())}
    takes = inspect.signature(model.forward).parameters
    if model._is_stateful or layers & STATE_LAYERS:
        return "it keeps a state instead of keys and values"
    if "past_key_values" not in takes:
        return "it has no cache of keys and values"
    if "chunked_attention" in layers or getattr(text, "attention_chunk_size", None):
        return "its attention is chunked, which counts from the start of a batch"
    if getattr(config, "is_encoder_decoder", False):
        return "it reads its input with an encoder"
    decodes = getattr(config, "is_decoder", True) or config.model_type in ALWAYS_DECODERS
    if not decodes or getattr(text, "is_causal", True) is False:
        return "its config says that it reads in both directions (is_decoder, is_causal)"
    if getattr(text, "attention_type", None) == "block_sparse":
        return "its attention is sparse by blocks, which count from the start of a batch"
    if "position_ids" not in takes and config.model_type not in BIASED_BY_DISTANCE:
        return "it takes a token's position from the length of the batch"
    return None


def context_limit(config: Any) -> tuple[int, str]:
    """The most tokens that a row may have, prompt included, and the limit in words."""
    text = config.get_text_config()
    length = getattr(text, "max_position_embeddings", None) or getattr(text, "max_seq_len", None) or 1 << 30
    switch = min(_long_rope_switches(text), default=length)
    if switch < length:
        return switch, f"{switch} tokens, beyond which its long-rope changes for all rows of a batch; {WAY_OUT}"
    return length, f"the model's context of {length}"


def _long_rope_switches(text: Any) -> Iterator[int]:
    """The lengths after which rotary embeddings of the type `longrope` change their frequencies for the whole batch."""
    rope = getattr(text, "rope_parameters", None) or {}
    for parameters in (rope, *rope.values()):  # one for the model, or one per layer type
        if isinstance(parameters, dict) and parameters.get("rope_type") == "longrope":
            yield parameters["original_max_position_embeddings"]


def soft_capped(config: Any) -> bool:
    """Whether the model caps its attention scores, which torch's own attention cannot do."""
    return getattr(config.get_text_config(), "attn_logit_softcapping", None) is not None
