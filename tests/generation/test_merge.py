"""A merged adapter is the model that was trained, also where embedding and head share a tensor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from cotkit.generation.chat_model import load_model

IDS = torch.arange(1, 9)[None]


def scores(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


@pytest.mark.filterwarnings(
    "ignore:Model with `tie_word_embeddings=True`", "ignore:Model has `tie_word_embeddings=True`"
)
@pytest.mark.parametrize(
    ("layers", "whole", "shared"),
    [
        (["q_proj"], None, True),
        (["q_proj", "lm_head"], None, False),
        (["q_proj", "embed_tokens"], None, False),
        (["q_proj"], ["lm_head"], False),
        (["q_proj"], ["embed_tokens", "lm_head"], False),
    ],
)
def test_a_merged_adapter_scores_as_it_did_in_training(
    tiny_model: Path, tmp_path: Path, layers: list[str], whole: list[str] | None, shared: bool
):
    torch.manual_seed(0)
    config = LoraConfig(
        r=4, target_modules=layers, modules_to_save=whole, init_lora_weights=False, task_type="CAUSAL_LM"
    )
    trained = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32), config).eval()
    for name, weights in trained.named_parameters():
        if "modules_to_save" in name:
            weights.data += 0.1 * torch.randn(weights.shape)
    expected = scores(trained)
    trained.save_pretrained(tmp_path / "adapter")

    merged = load_model(str(tiny_model), str(tmp_path / "adapter"), torch.float32)
    torch.testing.assert_close(scores(merged), expected, rtol=1e-4, atol=1e-5)
    # A program that goes by the configuration reads no head of its own where this is true.
    assert merged.config.tie_word_embeddings is shared
    merged.save_pretrained(tmp_path / "model")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    torch.testing.assert_close(scores(loaded), expected, rtol=1e-4, atol=1e-5)
