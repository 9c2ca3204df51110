from __future__ import annotations

import pytest

from cotkit.core.finish_reasons import canonical, is_looped, is_truncated


@pytest.mark.parametrize(
    ("name", "spellings"),
    [
        ("stop", "stop STOP eos eos_token end_turn EndTurn stop_sequence COMPLETE finish FinishReason.STOP"),
        ("length", "length LENGTH max_tokens MAX_TOKENS maxTokens model_length max_new_tokens max-output-tokens limit"),
        ("length", "FinishReason.MAX_TOKENS model_context_window_exceeded"),
        ("answer", "answer"),
        ("loop", "loop repetition"),
        ("error", "error abort timeout"),
        ("filtered", "content_filter SAFETY RECITATION refusal"),
    ],
)
def test_spellings_of_other_engines(name: str, spellings: str) -> None:
    assert {spelling: canonical(spelling) for spelling in spellings.split()} == dict.fromkeys(spellings.split(), name)
    assert all(is_truncated(spelling) == (name == "length") for spelling in spellings.split())
    assert all(is_looped(spelling) == (name == "loop") for spelling in spellings.split())


@pytest.mark.parametrize("name", ["", "tool_calls", "missing", "unknown", "lengthy", "?"])
def test_an_unknown_reason_is_none_of_ours(name: str) -> None:
    assert canonical(name) is None and not is_truncated(name)
