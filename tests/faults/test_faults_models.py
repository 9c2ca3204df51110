"""Faults 20 to 22 and 28: training files, an adapter's EOS, batches, and out of memory."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
from conftest import problem, read_rows, write_rows
from faults.faults_tools import infer
from generation.test_generate import REQUESTS, load

import infer_parallel
from cotkit.filtering.training_sets import write_dataset_info, write_training_set
from cotkit.generation import prompts
from cotkit.generation.types import Sampling


@pytest.mark.slow
@pytest.mark.parametrize("template", ["qwen", "qwen3_nothink"])
@pytest.mark.parametrize(
    "system", [prompts.SYSTEM, "Think.", "Zähle → 𝕏.\nLine two & {braces}. " * 5], ids=["ours", "short", "long"]
)
def test_f20_what_llamafactory_loads(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, template: str, system: str
):
    """LLaMA-Factory loads all rows untruncated. Labels end with the end of turn; prompts equal those of inference."""
    from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
    from llamafactory.hparams import get_train_args
    from llamafactory.model import load_tokenizer
    from transformers import AutoTokenizer

    monkeypatch.setattr(prompts, "SYSTEM", system)
    questions = ["2024-01-01", "null", "7", "Wie → viel\u2028ist {x} & \\frac{1}{2}?", "line\nline", "q" * 300]
    rows = [prompts.training_row(question, prompts.target("1+1=2", "2")) for question in questions]
    write_training_set(tmp_path, "distilled", rows)
    write_dataset_info(tmp_path, {"distilled": False})
    values = {
        "model_name_or_path": str(tiny_model),
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "lora",
        "dataset": "distilled",
        "dataset_dir": str(tmp_path),
        "template": template,
        "cutoff_len": 1024,
        "output_dir": str(tmp_path / "o"),
        "overwrite_cache": True,
        "report_to": "none",
    }
    model_args, data_args, training_args, _, _ = get_train_args(values)
    tokenizer = load_tokenizer(model_args)
    chat = get_template_and_fix_tokenizer(tokenizer["tokenizer"], data_args)
    loaded = get_dataset(chat, model_args, data_args, training_args, stage="sft", **tokenizer)["train_dataset"]
    assert len(loaded) == len(rows)
    serving = AutoTokenizer.from_pretrained(tiny_model)
    for row, question in zip(loaded, questions, strict=True):
        served = prompts.render(serving, prompts.student_messages(question), thinking=False)
        prompt = serving(served, add_special_tokens=False)["input_ids"]
        trained = [label for label in row["labels"] if label >= 0]
        assert row["input_ids"] == prompt + trained
        assert serving.decode(trained).rstrip("\n") == "1+1=2\n#### 2<|im_end|>"


@pytest.mark.parametrize("ending", ["<|im_end|>", "<|endoftext|>"])
def test_f21_an_adapter_stops_at_both_eos_tokens(tiny_model: Path, tiny_adapter: Path, ending: str):
    """The base model's configuration names only one of the two tokens; every row of a batch stops at either."""
    engine = load(tiny_model, Sampling(12), adapter=tiny_adapter)
    token, calls = engine.tokenizer.convert_tokens_to_ids(ending), []

    def force(_module: Any, _inputs: Any, scores: Any) -> Any:
        calls.append(scores.shape)
        if len(calls) > 4:
            scores[..., token] = 1e9
        return scores

    engine.model.lm_head.register_forward_hook(force)
    done = [completion for _, completion in engine.generate(REQUESTS[:4])]
    assert {completion.finish_reason for completion in done} == {"stop"}
    assert all(completion.completion_tokens <= 5 and ending not in completion.text for completion in done)


@pytest.mark.slow
def test_f22_texts_depend_on_neither_batch_nor_ranks(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch):
    """Greedy, float32, questions of several lengths."""
    rows = [problem(number, question="apples " * (1 + 7 * (number % 4)) + f"{number}?") for number in range(9)]
    write_rows(tmp_path / "data/gsm8k/test.jsonl", rows)
    words = ["--dataset", "gsm8k", "--data_root", str(tmp_path / "data")]
    words += ["--base_model", str(tiny_model), "--max_new_tokens", "12"]
    outputs = []
    for batch, world in ((1, 1), (2, 1), (7, 1), (7, 2)):
        output = tmp_path / f"{batch}-{world}.jsonl"
        for rank in range(world):
            monkeypatch.setenv("RANK", str(rank))
            monkeypatch.setenv("WORLD_SIZE", str(world))
            assert infer_parallel.main([*words, "--batch_size", str(batch), "--output_path", str(output)]) == 0
        outputs.append(output.read_bytes())
    assert len(read_rows(output)) == 9
    assert len(set(outputs)) == 1


def test_f28_out_of_memory(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """The batch is halved until it fits. A row that does not fit alone is marked; the next run tries it again."""
    import torch
    from transformers import Qwen2ForCausalLM

    rows = [problem(number) for number in range(8)]
    rows[5]["question"] = "apples " * 200
    write_rows(tmp_path / "data/gsm8k/test.jsonl", rows)
    words = infer(tmp_path, model=str(tiny_model))[1:]
    words[words.index("--backend") + 1] = "transformers"
    real, sizes = Qwen2ForCausalLM.forward, []

    @functools.wraps(real)  # the engine looks at what it takes
    def small_memory(self: Any, input_ids: Any, **named: Any) -> Any:
        sizes.append(len(input_ids))
        if len(input_ids) > 2 or input_ids.shape[1] > 200:
            raise torch.OutOfMemoryError("raised by the test")
        return real(self, input_ids=input_ids, **named)

    monkeypatch.setattr(Qwen2ForCausalLM, "forward", small_memory)
    assert infer_parallel.main([*words, "--max_new_tokens", "6", "--batch_size", "8"]) == 3
    found = read_rows(tmp_path / "out.jsonl")
    assert [row["id"] for row in found] == [row["id"] for row in rows]
    assert [row["id"] for row in found if row["finish_reason"] == "error"] == [rows[5]["id"]]
    assert f"1 results failed: {rows[5]['id']} (out of memory" in capsys.readouterr().err
    assert max(sizes) > 2
    monkeypatch.setattr(Qwen2ForCausalLM, "forward", real)
    assert infer_parallel.main([*words, "--max_new_tokens", "6", "--batch_size", "8"]) == 0
    assert all(row["finish_reason"] != "error" for row in read_rows(tmp_path / "out.jsonl"))
