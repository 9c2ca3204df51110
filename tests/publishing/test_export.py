"""export.py: the folder writes in transformers what the run wrote, the card says what was and was not shown, pushes."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import pytest
from conftest import make_tokenizer, problem, read_rows, refused, run_script, write_rows

from cotkit.core.errors import UserError
from cotkit.core.jsonl import read_json, write_json_atomic
from cotkit.core.manifest import Input, Manifest, path_for
from cotkit.filtering.training_sets import write_dataset_info, write_training_set
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


@pytest.fixture
def run(tiny_run: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model's run."""
    return shutil.copytree(tiny_run, tmp_path / "run")


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
    assert "one training run" in card.text and "| lora_rank | 4 |" in card.text
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


@pytest.fixture
def set_run(tmp_path: Path) -> Path:
    """What the filter leaves of a run: one training set with its account."""
    folder = tmp_path / "set run"
    path = folder / "datasets/distilled.jsonl"
    path.parent.mkdir(parents=True)
    write_training_set(path.parent, "distilled", [prompts.training_row("1+1?", "1+1=2\n#### 2")])
    write_dataset_info(path.parent, {"distilled": False})
    rejected = {"wrong_answer": 3, "contaminated": 0}
    account = {"read": 4, "kept": 1, "rejected": rejected, "training_sets": {"distilled": 1}}
    write_json_atomic(folder / "kept.report.json", account)
    kept = write_rows(folder / "kept.jsonl", [{"id": "a"}])
    test = write_rows(tmp_path / "test.jsonl", [problem(0)])
    limits = dict.fromkeys(("min_words", "max_words", "max_tokens", "max_similarity"), 5)
    settings = {**limits, "max_overlap": 0.5, "ngram": 8, "skip_rules": [], "sets": ["distilled = kept"]}
    Manifest("filter", kept, settings, {"test data/gsm8k/test.jsonl": Input(test)}).finish([kept, path], account)
    return folder


def test_a_data_set_has_its_rows_and_the_share_that_was_rejected(set_run: Path):
    from huggingface_hub import DatasetCard

    assert export.main([str(set_run), "--data", "distilled"]) == 0
    folder = set_run / "export/data-distilled"
    assert (folder / "distilled.jsonl").read_bytes() == (set_run / "datasets/distilled.jsonl").read_bytes()
    card = DatasetCard.load(folder / "README.md")
    assert card.data.configs[0]["data_files"][0]["path"] == "distilled.jsonl"
    assert "75.0% were rejected" in card.text and "| wrong_answer | 3 |" in card.text
    assert "50% of its 8-word runs with a question of data/gsm8k/test.jsonl" in card.text


def test_without_a_token_nothing_is_made(set_run: Path, tmp_path: Path):
    words = ["scripts/export.py", set_run, "--data", "distilled", "--push_to_hub", "owner/name"]
    done = run_script(*words, check=False, HF_HOME=str(tmp_path / "home"), HF_TOKEN="", HF_TOKEN_PATH="/none")
    refused(done, "no token; run `hf auth login` once, or set HF_TOKEN")
    assert not (set_run / "export").exists()


class Hub(BaseHTTPRequestHandler):
    """Stands in for the hub's HTTP interface: makes a repository and takes a commit of small files."""

    calls: ClassVar[list[tuple[str, str, str]]] = []
    fails = False

    def do_GET(self) -> None:
        self.answer({"_id": "1", "id": "owner/name", "siblings": [], "sha": "0" * 40})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.calls.append((self.path, self.headers.get("Authorization") or "", body.decode()))
        if self.path.endswith("/preupload/main"):
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            return self.answer({"files": files})
        if "/commit/" in self.path and self.fails:
            return self.answer({"error": "storage is full"}, 403)
        address = f"http://{self.headers['Host']}/datasets/owner/name"
        self.answer({"url": address, "commitUrl": f"{address}/commit/0", "commitOid": "0" * 40, "name": "owner/name"})

    def answer(self, value: Any, status: int = 200) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[str]:
    Hub.calls.clear()
    Hub.fails = False
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.slow
@pytest.mark.parametrize("fails", [False, True])
def test_a_data_set_is_pushed_with_its_card_and_a_failed_push_keeps_it(set_run: Path, hub: str, fails: bool):
    Hub.fails = fails
    words = ["scripts/export.py", set_run, "--data", "distilled", "--push_to_hub", "owner/name", "--private"]
    done = run_script(*words, check=False, HF_ENDPOINT=hub, HF_TOKEN="hf_secret", NO_PROXY="127.0.0.1")
    assert (set_run / "export/data-distilled/README.md").is_file()
    made = next(json.loads(body) for path, _, body in Hub.calls if path == "/api/repos/create")
    assert made["name"] == "name" and made["visibility"] == "private" and made["type"] == "dataset"
    assert {token for _, token, _ in Hub.calls} == {"Bearer hf_secret"}
    assert "hf_secret" not in done.stdout + done.stderr
    if fails:
        return refused(done, "owner/name: the hub refused", "the same command tries again")
    assert done.returncode == 0, done.stderr
    (commit,) = [body for path, _, body in Hub.calls if "/commit/" in path]
    assert {json.loads(line)["value"].get("path") for line in commit.splitlines()} >= {"README.md", "distilled.jsonl"}
