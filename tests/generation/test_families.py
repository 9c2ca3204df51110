"""Every decoder family that transformers offers is either equal to the library's `generate` or refused by name."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from cotkit.core.errors import UserError
from cotkit.generation.backends import families, kv_slots
from cotkit.generation.backends import transformers_backend as backend
from cotkit.generation.backends.continuous_batching import Decoder
from cotkit.generation.chat_model import ActiveRow
from cotkit.generation.options import EngineOptions
from cotkit.generation.types import Request, Sampling

study = runpy.run_path(str(ROOT / "scripts/dev/study_families.py"))


@pytest.mark.slow
def test_every_family_is_equal_to_generate_or_refused():
    page = (ROOT / "docs/FAMILIES.md").read_text(encoding="utf-8").split("\n")
    rows = {line.split(" | ")[0].removeprefix("| "): line for line in page if line.startswith("| ")}
    known = study["all_families"]()
    assert set(known) == set(rows) - {"family", "---"}
    wrong = []
    for family in known:
        result = study["study"](family, number=17)  # one more than the largest batch
        if not result.text.startswith(("equal", "refused", "not compared")):
            wrong.append(f"{family}: {result.text}")
        elif "| " + " | ".join(result.cells()) + " |" != rows[family]:
            wrong.append(f"{family}: docs/FAMILIES.md says {rows[family]}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("family", ["mistral", "gemma3_text"])
def test_a_window_smaller_than_the_shared_beginning_changes_no_text(family: str):
    assert study["study"](family, windows=[24], number=17).text == "equal"


def test_the_comparison_notices_a_lost_token(monkeypatch: pytest.MonkeyPatch):
    model = study["tiny_model"](study["tiny_config"]("llama", 8))
    monkeypatch.setattr(ActiveRow, "prefix", property(lambda row: row.prompt[1:-1]))
    assert len(study["differences"](model, 4)) == 6


@pytest.mark.parametrize(
    ("family", "reason"),
    [
        ("mamba", "a state"),
        ("qwen3_next", "a state"),
        ("lfm2", "a state"),
        ("llama4_text", "chunked"),
        ("doge", "depends on the values"),
        ("xlnet", "no cache"),
        ("bart", "encoder"),
        ("roformer", "position"),
    ],
)
def test_a_family_that_the_loop_cannot_hold_is_refused_before_its_weights_are_read(
    family: str, reason: str, tmp_path: Path
):
    config = study["default_config"](family)
    if family == "lfm2":
        config = type(config)(full_attn_idxs=[1])
    config.save_pretrained(tmp_path)
    options = EngineOptions("transformers", str(tmp_path), device="cpu")
    for start in (lambda: backend.load(options, Sampling(8)), lambda: backend.preview(options, [], Sampling(8))):
        with pytest.raises(
            UserError, match=f"type {family}: .*{reason}.*--backend vllm, or --backend openai"
        ) as refused:
            start()
        assert "\n" not in str(refused.value)


def test_a_model_that_reads_in_both_directions_is_refused():
    from transformers import BertConfig, GPTNeoXConfig

    assert "both directions" in (families.refusal(BertConfig()) or "")
    assert families.refusal(BertConfig(is_decoder=True)) is None
    assert families.refusal(GPTNeoXConfig()) is None


def test_the_context_is_that_of_the_text_model():
    from transformers import Gemma3Config, Gemma3TextConfig, MptConfig, Phi3Config, Qwen2Config

    assert families.context_limit(Qwen2Config(max_position_embeddings=512)) == (512, "the model's context of 512")
    nested = Gemma3Config(text_config=Gemma3TextConfig(max_position_embeddings=1024).to_dict())
    assert families.context_limit(nested)[0] == 1024
    assert families.context_limit(MptConfig(max_seq_len=640))[0] == 640
    rope = {"rope_type": "longrope", "short_factor": [1.0] * 48, "long_factor": [2.0] * 48}
    long = Phi3Config(
        rope_parameters={**rope, "rope_theta": 10000.0, "original_max_position_embeddings": 4096},
        original_max_position_embeddings=4096,
        max_position_embeddings=131072,
    )
    limit, words = families.context_limit(long)
    assert limit == 4096
    assert words.startswith("4096 tokens, beyond which its long-rope changes")


def decode(model: Any, requests: list[Request]) -> dict[str, Any]:
    decoder = Decoder(model, study["NumberTokenizer"](), Sampling(12, stop_at_answer=False), 16, 1 << 20, 0)
    return {request.id: completion for request, completion in decoder.generate(requests)}


def test_long_rope_rows_beyond_the_switch_fail_and_the_others_are_right():
    config = study["tiny_config"]("phi3", 512)
    config.rope_parameters = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "partial_rotary_factor": 1.0,
        "short_factor": [1.0] * 4,
        "long_factor": [9.0] * 4,
        "original_max_position_embeddings": 48,
    }
    config.original_max_position_embeddings = 48
    model = study["tiny_model"](config)
    requests = study["requests_of"](17, False)
    expected = {request.id: study["expected"](model, request) for request in requests}
    found = decode(model, requests)
    long = {one.id for one in requests if len(one.messages[0]["content"].split()) + one.max_new_tokens > 48}
    assert 0 < len(long) < len(requests)
    for request in requests:
        if request.id in long:
            assert "over 48 tokens, beyond which its long-rope" in found[request.id].error
        else:
            assert found[request.id].text == expected[request.id]


def test_soft_capped_attention_is_computed():
    config = study["tiny_config"]("gemma2", 24)
    config.attn_logit_softcapping = 0.5
    model = study["tiny_model"](config)
    requests = study["requests_of"](6, True)
    capped = [study["expected"](model, request) for request in requests]
    model.set_attn_implementation("sdpa")
    assert capped != [study["expected"](model, request) for request in requests]
    found = decode(model, requests)
    assert [found[request.id].text for request in requests] == capped


@pytest.mark.parametrize(
    ("family", "numbers"),
    [("llama", 4 * 2 * (8 + 8)), ("deepseek_v3", 4 * 4 * (16 + 8)), ("gemma3n_text", 2 * 2 * (8 + 8))],
    ids=["grouped heads", "keys wider than values", "layers that share keys and values"],
)
def test_the_bytes_of_a_token_are_those_of_its_cache(family: str, numbers: int):
    model = study["tiny_model"](study["tiny_config"](family, 8))
    assert kv_slots.token_bytes(model) == 4 * numbers


@pytest.mark.parametrize("family", ["gpt_neo", "mpt", "llama"])
def test_a_row_may_fill_the_context(family: str):
    """Some models have masks and biases for as many columns as their context, and rows of other lengths run beside."""
    model = study["tiny_model"](study["tiny_config"](family, 8))
    short = study["requests_of"](3, False)
    prompt = " ".join(str(3 + number % 90) for number in range(244))
    requests = [*short, Request("long", 0, [{"role": "user", "content": prompt}], 12)]
    found = decode(model, requests)
    assert [found[one.id].text for one in requests] == [study["expected"](model, one) for one in requests]
