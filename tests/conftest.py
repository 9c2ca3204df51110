"""Helpers of all tests, and a tiny random Qwen2 with a ChatML tokenizer on which every stage runs in seconds."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARED_DATA = ROOT.parent / "shared" / "data"
SAMPLE_DATA = ROOT / "tests" / "data"
SMOLLM2 = ROOT / "data/models/SmolLM2-135M-Instruct"

for _name in ("PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE"):  # a user's shell does not set them
    os.environ.pop(_name, None)
if (
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN
):  # so in a shell's background jobs; the processes of tests need SIGINT
    signal.signal(signal.SIGINT, signal.default_int_handler)

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CORPUS = [
    "You are a careful math tutor. Reason step by step in short sentences. Then write the final answer alone.",
    "Tom has 3 apples and buys 4 more. 3+4=7 apples. #### 7 There are 12*4=48 rolls, 48-30=18 are left.",
    "system user assistant 0 1 2 3 4 5 6 7 8 9 + - * / = $ % . , \n \n\n",
]


def make_tokenizer(folder: Path) -> Any:
    """A byte-level BPE tokenizer that can write any text, with ChatML's control tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet)
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|endoftext|>", pad_token="<|endoftext|>", chat_template=CHATML
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


def save_tiny_qwen2(folder: Path, vocab_size: int, seed: int = 0, **changes: Any) -> Path:
    """Writes a random Qwen2 of two layers in float32, which differs in the given keys of its config; no tokenizer."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(seed)
    usual = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    Qwen2ForCausalLM(Qwen2Config(vocab_size=vocab_size, **{**usual, **changes})).save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def log_level_is_kept() -> Iterator[None]:
    """Scripts that are called in this process set how much the package logs; the next test must not inherit that."""
    before = logging.getLogger("cotkit").level
    yield
    logging.getLogger("cotkit").setLevel(before)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny Qwen2 and its tokenizer."""
    folder = tmp_path_factory.mktemp("models") / "tiny qwen2"
    return save_tiny_qwen2(folder, len(make_tokenizer(folder)), tie_word_embeddings=True)


@pytest.fixture(scope="session")
def tiny_adapter(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA adapter for the tiny model whose weights are not zero."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("adapters") / "adapter"
    torch.manual_seed(1)
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), config).save_pretrained(folder)
    return folder


# Rows of GSM8K that a rule rejects for a fault of the published solution, each read by eye: split -> rule -> numbers.
FAULTS_IN_GSM8K = json.loads((SAMPLE_DATA / "gsm8k/faults.json").read_text(encoding="utf-8"))
FALSE_IN_GSM8K = set(FAULTS_IN_GSM8K["train"]["wrong_steps"])


def raw_data(name: str) -> Path:
    """The public data file `name`, such as ``gsm8k/train.jsonl``: the full one if it is there, else the committed sample."""
    full = SHARED_DATA / "raw" / name
    return full if full.is_file() else SAMPLE_DATA / name


def raw_rows(name: str) -> dict[int, dict[str, Any]]:
    """The rows of `raw_data(name)` by their numbers, from 0, in the full file."""
    rows = read_rows(raw_data(name))
    if not raw_data(name).is_relative_to(SAMPLE_DATA):
        return dict(enumerate(rows))
    numbers = json.loads((SAMPLE_DATA / "row_numbers.json").read_text(encoding="utf-8"))
    return dict(zip(numbers[name], rows, strict=True))


def problem(number: int, **changes: Any) -> dict[str, Any]:
    """A problem record whose answer is its number plus one."""
    return {
        "id": f"gsm8k-test-{number:05d}",
        "dataset": "gsm8k",
        "split": "test",
        "question": f"Tom has {number} apples and buys 1 more. How many does he have?",
        "solution": f"Tom starts with {number} apples.\nThen he has {number}+1={number + 1} apples.",
        "answer": str(number + 1),
        **changes,
    }


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


@pytest.fixture
def data_root(tmp_path: Path) -> Path:
    """Eight problems as data/gsm8k/test.jsonl."""
    write_rows(tmp_path / "data/gsm8k/test.jsonl", [problem(number) for number in range(8)])
    return tmp_path / "data"


NEW_TOKENS = 24  # of a text of the tiny run


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_adapter: Path) -> Path:
    """A run of the tiny model: one trained method, predicted, scored and compared with the baseline."""
    import infer_parallel
    import score
    from cotkit.core.manifest import Input, Manifest
    from cotkit.core.model_identity import fingerprint
    from cotkit.generation import prompts

    compare = import_module("scripts.compare")
    tmp_path = tmp_path_factory.mktemp("tiny run")
    write_rows(tmp_path / "data/gsm8k/test.jsonl", [problem(number) for number in range(4)])
    folder = tmp_path / "run"
    adapter = folder / "train/distilled"
    shutil.copytree(tiny_adapter, adapter)
    make_tokenizer(adapter)
    rows = write_rows(folder / "datasets/distilled.jsonl", [prompts.training_row("1+1?", "1+1=2\n#### 2")])
    settings = {
        "dataset": "distilled",
        "model_name_or_path": str(tiny_model),
        "model_files": fingerprint(str(tiny_model)),
        "lora_rank": 4,
    }
    manifest = Manifest("train", adapter, settings, {"distilled": Input(rows)}, str(tiny_model))
    files = [adapter / "adapter_model.safetensors", adapter / "adapter_config.json"]
    manifest.finish(files, {"rows": 1, "steps": 1, "trained_tokens": 9})
    for method, words in (("baseline", []), ("distilled", ["--lora_path", str(adapter)])):
        path = folder / f"predictions/gsm8k/{method}.jsonl"
        common = ["--dataset", "gsm8k", "--data_root", str(tmp_path / "data")]
        engine = ["--base_model", str(tiny_model), "--max_new_tokens", str(NEW_TOKENS), "--output_path", str(path)]
        assert infer_parallel.main([*common, *engine, *words]) == 0
        assert score.main([*common, "--pred_path", str(path)]) == 0
    assert compare.main([str(folder)]) == 0
    return folder


@pytest.fixture
def run(tiny_run: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model's run, which a test may change."""
    return shutil.copytree(tiny_run, tmp_path / "run")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("needs Debian's chromium; scripts/test.sh installs it where it may")
    with sync_playwright() as driver:
        opened = driver.chromium.launch(
            executable_path=chromium,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"],
        )
        yield opened
        opened.close()


@pytest.fixture
def short_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shortens the time after which servers that failed are asked again."""
    from cotkit.generation.backends import server_pool

    monkeypatch.setattr(server_pool, "FIRST_DELAY_SECONDS", 0.02)


def run_script(
    *words: Any, check: bool = True, cwd: Path = ROOT, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Runs ``python SCRIPT ARGS`` as a user would. With `check`, a failed script fails the test and shows its output."""
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        check=False,
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=300,
    )
    if check and done.returncode:
        pytest.fail(f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done


# Runs a stage and prints by how many KiB its memory grew over its size after imports (numpy is imported late). VmHWM is
# the peak of this process alone; ru_maxrss would include that of its parent.
_GROWTH = """
import importlib, pathlib, re, sys, numpy
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", pathlib.Path("/proc/self/status").read_text(encoding="utf-8"))[1])
stage = importlib.import_module(sys.argv[1])
before = peak()
code = stage.cli.run(lambda: stage.main(sys.argv[2:]))
print("GROWTH", peak() - before)
sys.exit(code)
"""


def memory_growth(stage: str, *words: Any, check: bool = True) -> tuple[subprocess.CompletedProcess[str], int]:
    """Runs a stage by its module's name. Returns the finished process and its peak in KiB over its size after imports."""
    done = run_script("-c", _GROWTH, stage, *words, check=check, PYTHONPATH=str(ROOT))
    return done, int(done.stdout.split("GROWTH")[1])


def refused(done: subprocess.CompletedProcess[str], *needles: str) -> None:
    """Asserts that the command failed without a traceback and that its last line on stderr has every needle."""
    assert done.returncode in (1, 2), done
    message = done.stderr.strip().split("\n")[-1]
    assert "Traceback" not in done.stderr
    for needle in needles:
        assert needle in message, message
