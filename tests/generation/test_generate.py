"""The transformers backend on a tiny random model, and the seam in front of it."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import save_tiny_qwen2

from cotkit.core.errors import UserError
from cotkit.generation import adapters, chat_model, engines, options
from cotkit.generation.backends import continuous_batching, kv_slots
from cotkit.generation.backends import transformers_backend as backend
from cotkit.generation.backends.fake_backend import FakeBackend
from cotkit.generation.options import EngineOptions
from cotkit.generation.types import Completion, Request, Sampling

REQUESTS = [
    Request(f"q{number}", 0, [{"role": "user", "content": "apples " * (1 + 5 * (number % 4)) + str(number)}])
    for number in range(9)
]


def load(
    model: Path,
    sampling: Sampling,
    batch_size: int = 4,
    adapter: Path | None = None,
    seed: int = 1,
    tokens: int | None = None,
) -> Any:
    return backend.load(
        EngineOptions(
            "transformers",
            str(model),
            str(adapter) if adapter else None,
            device="cpu",
            batch_size=batch_size,
            max_batch_tokens=tokens,
            seed=seed,
        ),
        sampling,
    )


def texts(model: Path, sampling: Sampling, **options: Any) -> dict[str, Completion]:
    engine = load(model, sampling, **options)
    results = list(engine.generate(REQUESTS))
    assert len(results) == len(REQUESTS)
    return {request.id: completion for request, completion in results}


@pytest.mark.parametrize("batch_size", [2, 7, 32])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_text_does_not_depend_on_the_batch_it_ran_in(tiny_model: Path, batch_size: int, temperature: float):
    sampling = Sampling(12, temperature=temperature, top_p=0.95 if temperature else 1.0)
    assert texts(tiny_model, sampling, batch_size=batch_size) == texts(tiny_model, sampling, batch_size=1)


@pytest.mark.parametrize(
    "system", ["", "You are a careful math tutor. " * 5], ids=["own prompts", "a shared beginning"]
)
def test_the_same_as_the_librarys_own_generate(tiny_model: Path, system: str):
    import torch

    engine = load(tiny_model, Sampling(12))
    head = [{"role": "system", "content": system}] if system else []
    requests = [Request(request.id, 0, head + request.messages) for request in REQUESTS]
    ours = {request.id: completion for request, completion in engine.generate(requests)}
    assert (len(engine._shared) >= continuous_batching.MIN_SHARED_TOKENS) == bool(system)
    for request in requests:
        prompt = engine.tokenizer.apply_chat_template(request.messages, add_generation_prompt=True, return_tensors="pt")
        ids = prompt["input_ids"]
        with torch.inference_mode():
            out = engine.model.generate(
                ids, max_new_tokens=12, do_sample=False, eos_token_id=sorted(engine.turn_ends), pad_token_id=0
            )
        expected = engine.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
        assert ours[request.id].text == expected
        assert ours[request.id].prompt_tokens == ids.shape[1]


def test_samples_differ_by_seed_and_number_and_repeat_exactly(tiny_model: Path):
    sampling = Sampling(12, temperature=1.0, top_k=50)
    first, second = texts(tiny_model, sampling), texts(tiny_model, sampling)
    assert first == second
    assert first != texts(tiny_model, sampling, seed=2)
    assert Request("a", 0, []).seed(1) != Request("a", 1, []).seed(1)


@pytest.mark.parametrize("ending", ["<|im_end|>", "<|endoftext|>", "<|im_start|>"])
def test_every_end_of_turn_token_ends_a_text(tiny_model: Path, ending: str):
    engine = load(tiny_model, Sampling(12))
    row = chat_model.ActiveRow(REQUESTS[0], [0], engine.sampling)
    assert engine._advance(row, engine.tokenizer.encode("x")[0]) is None
    done = engine._advance(row, engine.tokenizer.convert_tokens_to_ids(ending))
    assert done == Completion("x", "stop", 1, 2)


@pytest.mark.parametrize("stop", [True, False])
def test_a_text_ends_after_its_answer_line(tiny_model: Path, stop: bool):
    engine = load(tiny_model, Sampling(200, stop_at_answer=stop))
    row = chat_model.ActiveRow(REQUESTS[0], [0], engine.sampling)
    tokens = engine.tokenizer.encode("#### x\n3+4=7\n#### 7\nNext problem: a b c d\n#### 8\n")
    ended = [number for number, token in enumerate(tokens) if engine._advance(row, token)]
    if not stop:
        assert not ended
        return
    assert ended
    row = chat_model.ActiveRow(REQUESTS[0], [0], engine.sampling)
    done = next(filter(None, (engine._advance(row, token) for token in tokens)))
    assert (done.finish_reason, done.text.rstrip("\n")) == ("answer", "#### x\n3+4=7\n#### 7")


OPENS_A_THOUGHT = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}{{ 'assistant\n<think>\n' }}"


def test_no_text_ends_at_an_answer_line_inside_a_thought_that_the_prompt_opened(tiny_model: Path):
    engine = load(tiny_model, Sampling(200))
    engine.tokenizer.chat_template = OPENS_A_THOUGHT
    prompt = chat_model.encode(engine.tokenizer, REQUESTS[0].messages, thinking=True)
    row = engine._fresh(REQUESTS[0], prompt)
    tokens = engine.tokenizer.encode("maybe\n#### 17\nno</think>\n#### 18\nmore\n")
    done = next(filter(None, (engine._advance(row, token) for token in tokens)))
    assert done.text.rstrip("\n") == "maybe\n#### 17\nno</think>\n#### 18"
    assert (done.finish_reason, done.response) == ("answer", "<think>\n" + done.text)
    row = engine._fresh(REQUESTS[0], prompt)
    assert not any(engine._advance(row, token) for token in engine.tokenizer.encode("maybe\n#### 17\nno\n"))
    assert engine._fresh(REQUESTS[0], engine.tokenizer.encode("<think>\n\n</think>\n\n")).opened == ""


def test_special_tokens_that_mark_a_thought_stay_in_the_text(tiny_model: Path):
    tokenizer = chat_model.load_tokenizer(str(tiny_model))
    tokenizer.add_special_tokens({"additional_special_tokens": ["[THINK]", "[/THINK]"]})
    tokens = tokenizer.encode("[THINK]a[/THINK]b<|im_end|>")
    assert chat_model.decode(tokenizer, tokens) == "[THINK]a[/THINK]b"
    assert chat_model.decode(tokenizer, tokenizer.encode("b<|im_end|>")) == "b"


def test_a_prompt_longer_than_the_context_fails_alone(tiny_model: Path):
    long = Request("long", 0, [{"role": "user", "content": "7 " * 1100}])
    results = {request.id: result for request, result in load(tiny_model, Sampling(8)).generate([long, *REQUESTS])}
    assert results["long"].finish_reason == "error"
    assert "the model's context of 1024" in (results["long"].error or "")
    assert all(results[request.id].finish_reason != "error" for request in REQUESTS)


def test_a_request_can_have_a_larger_budget_of_its_own(tiny_model: Path):
    engine = load(tiny_model, Sampling(5))
    wide = [
        Request(request.id, 0, request.messages, 15 if number % 2 else None) for number, request in enumerate(REQUESTS)
    ]
    usual = {request.id: completion for request, completion in engine.generate(REQUESTS)}
    found = {request.id: completion for request, completion in engine.generate(wide)}
    truncated = [request.id for request in REQUESTS if usual[request.id].finish_reason == "length"]
    for request in wide:
        if request.max_new_tokens is None:
            assert found[request.id] == usual[request.id]
        elif request.id in truncated:
            assert usual[request.id].completion_tokens == 5 < found[request.id].completion_tokens <= 15
    assert {request.id for request in wide if request.max_new_tokens} & set(truncated)


def test_memory_trouble_halves_the_batch_and_loses_nothing(tiny_model: Path, monkeypatch: pytest.MonkeyPatch):
    import torch

    engine = load(tiny_model, Sampling(8), batch_size=9)
    expected = {request.id: completion for request, completion in engine.generate(REQUESTS)}
    real, sizes = engine.model.forward, []

    def small_memory(input_ids: Any, **options: Any) -> Any:
        sizes.append(len(input_ids))
        if len(input_ids) > 2:
            raise torch.OutOfMemoryError("fake")
        return real(input_ids=input_ids, **options)

    monkeypatch.setattr(engine.model, "forward", small_memory)
    assert {request.id: completion for request, completion in engine.generate(REQUESTS)} == expected
    assert max(sizes) == 9
    assert sizes.count(2) > 3


def test_a_row_that_does_not_fit_alone_fails_alone(tiny_model: Path, monkeypatch: pytest.MonkeyPatch):
    import torch

    engine = load(tiny_model, Sampling(8), batch_size=3)
    long = Request("long", 0, [{"role": "user", "content": "7 " * 300}])
    real = engine.model.forward

    def small_memory(input_ids: Any, **options: Any) -> Any:
        if input_ids.shape[1] > 200:
            raise torch.OutOfMemoryError("fake")
        return real(input_ids=input_ids, **options)

    expected = {request.id: completion for request, completion in engine.generate(REQUESTS)}
    monkeypatch.setattr(engine.model, "forward", small_memory)
    results = {request.id: completion for request, completion in engine.generate([*REQUESTS, long])}
    assert "out of memory" in (results.pop("long").error or "")
    assert results == expected


def test_tokens_bound_the_rows_in_flight(tiny_model: Path, monkeypatch: pytest.MonkeyPatch):
    engine = load(tiny_model, Sampling(8), batch_size=9)
    expected = {request.id: completion for request, completion in engine.generate(REQUESTS)}
    needs = [len(chat_model.encode(engine.tokenizer, request.messages, False)) + 8 for request in REQUESTS]
    engine.batch_tokens = 2 * max(needs)
    real, flight = kv_slots.Slots.step, []

    def watched(slots: Any, model: Any) -> Any:
        flight.append([row.need for row in slots.live])
        return real(slots, model)

    monkeypatch.setattr(kv_slots.Slots, "step", watched)
    assert {request.id: completion for request, completion in engine.generate(REQUESTS)} == expected
    assert all(len(rows) * max(rows) <= engine.batch_tokens for rows in flight)
    assert max(map(len, flight)) > 2  # shorter prompts later on: more of them fit


def test_a_prompt_of_several_samples_is_computed_once(tiny_model: Path):
    engine = load(tiny_model, Sampling(8, temperature=1.0), batch_size=9)
    alone = {request.key: completion for request, completion in engine.generate(REQUESTS)}
    tokens = engine.stats.prefill_tokens
    samples = [Request(request.id, sample, request.messages) for request in REQUESTS for sample in range(3)]
    results = {request.key: completion for request, completion in engine.generate(samples)}
    assert {key: results[key] for key in alone} == alone
    assert engine.stats.prefill_tokens <= 1.5 * tokens


def test_an_adapter_is_loaded_and_changes_the_texts(tiny_model: Path, tiny_adapter: Path):
    assert texts(tiny_model, Sampling(12)) != texts(tiny_model, Sampling(12), adapter=tiny_adapter)


def test_a_misfit_adapter_is_refused_by_name(tiny_adapter: Path, tmp_path: Path):
    save_tiny_qwen2(tmp_path, 64, hidden_size=16, num_attention_heads=2)
    with pytest.raises(
        UserError, match=r"does not fit .*layers\.0\.self_attn\.q_proj takes 32 inputs, the model has 16"
    ):
        adapters.check(str(tmp_path), tiny_adapter)


@pytest.mark.parametrize(
    ("name", "says"),
    [("no/such/folder", "no such model folder"), ("./none", "no such model folder"), ("tests", "holds no config.json")],
)
def test_a_wrong_model_name_is_refused_at_once(name: str, says: str):
    with pytest.raises(UserError, match=says):
        chat_model.check_model(name)


def sampling_of(*flags: str) -> Sampling:
    parser = argparse.ArgumentParser()
    options.add_arguments(parser, max_new_tokens=512)
    return options.sampling_from(parser.parse_args(flags))


def test_greedy_samples_that_would_all_be_the_same_are_refused():
    with pytest.raises(UserError, match="needs --temperature"):
        sampling_of("--num_samples", "2")


def test_thinking_is_warned_about_where_it_cannot_work(caplog: pytest.LogCaptureFixture):
    sampling_of("--thinking", "--temperature", "0.6", "--top_p", "0.95", "--top_k", "20", "--max_new_tokens", "32768")
    assert sampling_of() == Sampling(512)
    assert not caplog.text
    sampling_of("--thinking")
    assert "--temperature 0.6 --top_p 0.95 --top_k 20" in caplog.text
    assert "--max_new_tokens 512 truncates thinking" in caplog.text


@pytest.mark.parametrize(
    ("tokens", "ends"),
    [
        ([7] * 64, 64),
        ([*range(100), *range(200, 220), *list(range(16)) * 4], 184),
        ([1, *list(range(40)) * 3, 1], 121),
        (list(range(40)) * 2 + list(range(39)) + [99], None),  # the third copy differs in its last token
        ([*range(40), *range(40)], None),  # two copies
        ([*list(range(21)) * 3], None),  # three copies that are too short
        ([token for number in range(40) for token in (1, 2, 3, number)], None),  # a counter: no two copies are equal
        (list(range(129)) * 4, None),  # a longer run than is looked for
    ],
)
def test_a_loop_is_an_exact_repeat_of_a_run_of_tokens(tokens: list[int], ends: int | None):
    found = (size for size in range(1, len(tokens) + 1) if chat_model.looped(tokens[:size]))
    assert next(found, None) == ends


def test_a_text_that_loops_ends_there_and_the_others_stay_as_they_are(tiny_model: Path):
    """The tiny model loops soon, as greedy decoding of a random model does. The end does not depend on the batch."""
    plain, stopped = Sampling(120), Sampling(120, stop_at_loop=True)
    before, after = texts(tiny_model, plain), texts(tiny_model, stopped)
    assert after == texts(tiny_model, stopped, batch_size=1)
    reasons = {name: (before[name].finish_reason, after[name].finish_reason) for name in before}
    assert ("length", "loop") in reasons.values()
    for name, completion in after.items():
        if completion.finish_reason == "loop":
            assert completion.completion_tokens < 120
            assert before[name].text.startswith(completion.text)
        else:
            assert completion == before[name]


def test_only_a_run_that_stops_loops_records_it_and_a_server_cannot(tiny_model: Path):
    engine = EngineOptions("transformers", str(tiny_model))
    assert "stop_at_loop" not in engines.describe(engine, Sampling(8))
    assert engines.describe(engine, Sampling(8, stop_at_loop=True))["stop_at_loop"] is True
    server = EngineOptions("openai", "m", base_url=("http://127.0.0.1:9/v1",))
    engines.check(server, Sampling(8))
    with pytest.raises(UserError, match="--no-stop_at_loop"):
        engines.check(server, Sampling(8, stop_at_loop=True))


def test_weights_go_straight_to_their_device(tiny_model: Path):
    """On the device `meta` nothing is stored, so a weight that was loaded on the CPU first would still be there."""
    model = chat_model.load_model(str(tiny_model), None, "float32", "meta")
    assert {weights.device.type for weights in model.parameters()} == {"meta"}


def test_an_engine_is_closed_before_another_one_loads_and_shared_by_neighbours(monkeypatch: pytest.MonkeyPatch):
    events: list[str] = []

    class Engine(FakeBackend):
        def close(self) -> None:
            events.append("closed")

    monkeypatch.setattr(engines, "load", lambda engine, sampling: events.append(str(engine.adapter)) or Engine())
    loader, base = engines.Loader(), EngineOptions("fake", "fake")
    first = loader.load(base, Sampling(8))
    assert loader.load(base, Sampling(9)) is first and first.sampling == Sampling(9)
    loader.load(replace(base, adapter="tuned"), Sampling(8))
    assert events == ["None", "closed", "tuned"]
