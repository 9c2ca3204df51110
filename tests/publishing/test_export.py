"""export.py: the folder writes in transformers what the run wrote, the card says what was and was not shown, pushes."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import pytest
from conftest import make_tokenizer, problem, read_rows, refused, run_script
from publishing.hub_server import HubServer

from cotkit.core.errors import UserError
from cotkit.core.jsonl import read_json
from cotkit.core.manifest import path_for
from cotkit.generation import prompts
from cotkit.generation.types import Sampling
from cotkit.publishing.model_folder import modelfile

export = import_module("scripts.export")

# A program that knows nothing of this project; it reads the question's messages and writes the text.
READER = """
import json, sys
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, messages = sys.argv[1], json.loads(sys.argv[2])
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
inputs = tokenizer(text, add_special_tokens=False, return_tensors="pt")
output = model.generate(**inputs)[0, inputs["input_ids"].shape[1]:]
print(json.dumps(tokenizer.decode(output, skip_special_tokens=True, clean_up_tokenization_spaces=False)))
"""


@pytest.mark.slow
def test_transformers_alone_writes_the_text_of_the_run(run: Path):
    assert export.main([str(run), "distilled"]) == 0
    folder = run / "export/distilled"
    texts = {row["id"]: row["response"] for row in read_rows(run / "predictions/gsm8k/distilled.jsonl")}
    first = problem(0)
    messages = json.dumps(prompts.student_messages(first["question"]))
    assert json.loads(run_script("-c", READER, folder, messages).stdout) == texts[first["id"]]
    tokens = make_tokenizer(run / "tokenizer").get_vocab()
    config = read_json(folder / "generation_config.json")
    assert {tokens["<|im_end|>"], tokens["<|endoftext|>"]} <= set(config["eos_token_id"])
    modelfile = (folder / "Modelfile").read_text(encoding="utf-8")
    assert 'PARAMETER stop "<|im_end|>"' in modelfile
    assert "{{ .Prompt }}\n\n" + prompts.INSTRUCTION + "<|im_end|>" in modelfile
    with pytest.raises(UserError, match="exists; --overwrite"):
        export.main([str(run), "distilled"])


def test_the_modelfile_keeps_a_first_token_that_the_tokenizer_does_not_add(tmp_path: Path):
    tokenizer = make_tokenizer(tmp_path)
    tokenizer.bos_token = "<|im_start|>"  # as SmolLM2's
    assert 'TEMPLATE """<|im_start|>system\n{{ .System }}' in modelfile(tokenizer, ["<|im_end|>"], Sampling(9))


@pytest.mark.slow
def test_the_card_has_the_comparison_and_what_it_does_not_show(run: Path, capsys: pytest.CaptureFixture[str]):
    from huggingface_hub import ModelCard

    assert export.main([str(run), "distilled", "--dry_run"]) == 0
    card = ModelCard(capsys.readouterr().out)
    comparison = read_json(run / "comparison.json")
    assert card.data.pipeline_tag == "text-generation" and card.data.base_model is None  # a folder is no hub name
    assert comparison["finding"] in card.text
    (pair,) = comparison["datasets"][0]["pairs"]
    assert pair["verdict"] not in ("better", "worse")
    assert "distilled against baseline on gsm8k: +0.0 points" in card.text
    assert "one training run" in card.text and "| lora_rank | `4` |" in card.text
    assert (
        read_json(path_for(run / "train/distilled"))["outputs"]["distilled/adapter_config.json"]["sha256"] in card.text
    )
    assert not (run / "export").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "said"), [(["distiled"], "did you mean 'distilled'"), (["--data", "gold"], "no training set 'gold'")]
)
def test_an_unknown_name_is_refused(run: Path, words: list[str], said: str):
    with pytest.raises(UserError, match=said):
        export.main([str(run), *words])


@pytest.mark.slow
def test_without_a_comparison_the_command_that_makes_it_is_named(run: Path):
    (run / "comparison.json").unlink()
    with pytest.raises(UserError, match=r"run python scripts/compare.py \S+run$"):
        export.main([str(run), "distilled"])


@pytest.mark.slow
def test_weights_that_changed_after_the_training_are_refused(run: Path):
    with (run / "train/distilled/adapter_model.safetensors").open("ab") as file:
        file.write(b" ")
    with pytest.raises(UserError, match="was changed after its training"):
        export.main([str(run), "distilled"])


BASE_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"


@pytest.mark.slow
def test_the_code_of_an_adapters_card_writes_the_text_of_the_run(run: Path, tiny_model: Path):
    from huggingface_hub import ModelCard

    assert export.main([str(run), "distilled", "--adapter"]) == 0
    folder = run / "export/adapter-distilled"
    for name in ("adapter_model.safetensors", "tokenizer.json", "chat_template.jinja", "adapter_config.json"):
        assert (folder / name).is_file(), name
    assert not (folder / "model.safetensors").exists()
    assert read_json(folder / "adapter_config.json")["base_model_name_or_path"] == str(tiny_model)
    card = ModelCard.load(folder / "README.md")
    assert card.data.library_name == "peft" and card.data.base_model_relation == "adapter"
    assert "its name on the hub is not known" in card.text
    code = card.text.split("```python\n")[1].split("```")[0]
    asked = problem(0)
    code = code.replace("Tom has 3 apples and buys 4 more. How many apples does he have?", asked["question"])
    row = next(row for row in read_rows(run / "predictions/gsm8k/distilled.jsonl") if row["id"] == asked["id"])
    assert run_script("-c", code, cwd=folder).stdout == row["response"] + "\n"


@pytest.mark.slow
@pytest.mark.parametrize("words", [[], ["--adapter"]])
def test_flags_tell_the_card_what_a_base_model_folder_cannot(run: Path, words: list[str], capsys):
    from huggingface_hub import ModelCard

    told = ["--base_model_name", BASE_NAME, "--license", "apache-2.0"]
    assert export.main([str(run), "distilled", *words, *told, "--dry_run"]) == 0
    card = ModelCard(capsys.readouterr().out)
    assert card.data.base_model == BASE_NAME and card.data.license == "apache-2.0"
    assert "not known" not in card.text and "Look it up" not in card.text and f"`{BASE_NAME}`, trained by" in card.text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--base_model_name", "SmolLM2"], "--base_model_name SmolLM2: OWNER/NAME is expected, .*no owner"),
        (["--base_model_name", "a/b/c"], "--base_model_name a/b/c: OWNER/NAME is expected"),
        (["--base_model_name", "./my model"], "OWNER/NAME is expected"),
        (["--base_model_name", ""], "OWNER/NAME is expected"),
        (["--license", "Apache 2.0"], "--license Apache 2.0: the hub's short name is expected"),
        (["--push_to_hub", "name"], "--push_to_hub name: OWNER/NAME is expected"),
    ],
)
def test_a_malformed_name_is_refused_before_the_run_is_read(tmp_path: Path, words: list[str], said: str):
    with pytest.raises(UserError, match=said):
        export.main([str(tmp_path / "no run"), "distilled", *words])


@pytest.mark.parametrize(
    "words", [["--data", "gold", "--adapter"], ["--data", "gold", "--base_model_name", "a/b"], [], ["m", "--data", "s"]]
)
def test_flags_that_contradict_one_another_are_refused(words: list[str], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        export.main(["run", *words])
    assert ended.value.code == 2 and "error: " in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("words", [[], ["--adapter"]])
def test_a_model_and_an_adapter_are_pushed_complete(run: Path, words: list[str]):
    told = ["--base_model_name", BASE_NAME, "--push_to_hub", "owner/name"]
    with HubServer() as hub:
        done = run_script("scripts/export.py", run, "distilled", *words, *told, **hub.environment)
    assert done.stdout.endswith(f"{hub.url}/owner/name\n")
    (made,) = hub.repositories
    assert made["name"] == "name" and made.get("type", "model") == "model" and made["visibility"] == "public"
    assert not [address for address in hub.addresses if "datasets" in address]
    folder = run / "export" / ("adapter-distilled" if words else "distilled")
    assert hub.files == {path.name: path.read_bytes() for path in folder.iterdir()}
    assert f"base_model: {BASE_NAME}\n" in hub.files["README.md"].decode()
    assert hub.tokens == {"Bearer hf_secret"} and "hf_secret" not in done.stdout + done.stderr


@pytest.mark.slow
def test_a_failed_push_keeps_the_model_and_the_card_cannot_change_unseen(run: Path):
    words = ["scripts/export.py", run, "distilled", "--push_to_hub", "owner/name"]
    with HubServer(fails=True) as hub:
        done = run_script(*words, check=False, **hub.environment)
        refused(done, "owner/name: the hub refused", "the same command tries again")
    weights = run / "export/distilled/model.safetensors"
    before = weights.stat().st_mtime_ns
    with HubServer() as hub:
        done = run_script(*words, "--license", "mit", check=False, **hub.environment)
        refused(done, "README.md: names none as its license, not --license mit; --overwrite makes the folder anew")
        assert not hub.repositories
        run_script(*words, **hub.environment)
    assert hub.files["model.safetensors"] == weights.read_bytes() and weights.stat().st_mtime_ns == before
