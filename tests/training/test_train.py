"""Stage 3: the real LLaMA-Factory on a tiny model; what is trained is what is served."""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import ROOT, SMOLLM2, write_rows
from generation.test_generate import Sampling, load

from cotkit.core import cli, machine
from cotkit.core.errors import UserError
from cotkit.core.lineage import WEIGHTS
from cotkit.filtering.training_sets import write_dataset_info, write_training_set
from cotkit.generation import prompts
from cotkit.training import budget, preflight
from cotkit.training.adapter_parity import adapter_problem
from cotkit.training.config import TrainConfig, read_config

CONFIG = ROOT / "configs/smollm2_cpu/train/distilled.yaml"


@pytest.fixture(scope="module")
def datasets_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [
        prompts.training_row(f"What is {n}+1?", prompts.target(f"{n}+1=<<{n}+1={n + 1}>>{n + 1}", str(n + 1)))
        for n in range(16)
    ]
    folder = tmp_path_factory.mktemp("train") / "data sets"
    for name in ("distilled", "gold_dev"):
        write_training_set(folder, name, rows)
    pairs = [
        {
            **{key: row[key] for key in ("system", "instruction", "input")},
            "chosen": row["output"],
            "rejected": "7\n#### 7",
        }
        for row in rows
    ]
    write_training_set(folder, "preference", pairs, ranking=True)
    write_dataset_info(folder, {"distilled": False, "gold_dev": False, "preference": True})
    return folder


@pytest.fixture(scope="module")
def trained(tiny_model: Path, datasets_folder: Path) -> Path:
    """The adapter of one complete training, in one process."""
    output = datasets_folder.parent / "out put" / "distilled"
    done = train(train_words(tiny_model, datasets_folder, output))
    assert done.returncode == 0, done.stderr
    return output


def train_words(tiny_model: Path, datasets_folder: Path, output: Path, *more: str) -> list[str]:
    overrides = [f"model_name_or_path={tiny_model}", f"dataset_dir={datasets_folder}", f"output_dir={output}"]
    return ["bash", "scripts/train.sh", str(CONFIG), *overrides, "plot_loss=false", *more]


def train(words: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, check=False, cwd=ROOT, capture_output=True, text=True, timeout=400)


def steps_of(output: Path) -> int:
    return json.loads((output / "trainer_state.json").read_text(encoding="utf-8"))["global_step"]


@pytest.mark.parametrize("model", ["tiny", "SmolLM2"])
@pytest.mark.parametrize("template_name", ["qwen", "qwen3_nothink"])
def test_what_is_trained_is_what_is_served(model: str, template_name: str, tiny_model: Path):
    """Token for token: LLaMA-Factory's training prompt, the inference prompt, and the end-of-turn token at the end."""
    from llamafactory.data.template import get_template_and_fix_tokenizer
    from llamafactory.hparams import DataArguments
    from transformers import AutoTokenizer

    if model == "SmolLM2" and not SMOLLM2.is_dir():
        pytest.skip("scripts/setup.sh has not made the model")
    folder = tiny_model if model == "tiny" else SMOLLM2
    serving, training = AutoTokenizer.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    template = get_template_and_fix_tokenizer(training, DataArguments(template=template_name))
    question = r"Tom has 3 apples & $\frac{1}{2}$ {pears}. How many?"
    row = prompts.training_row(question, "3+4=7\n#### 7")
    messages = [{"role": "user", "content": row["instruction"]}, {"role": "assistant", "content": row["output"]}]
    prompt_ids, answer_ids = template.encode_oneturn(training, messages, system=row["system"])
    served = prompts.render(serving, prompts.student_messages(question), thinking=False)
    assert prompt_ids == serving(served, add_special_tokens=False)["input_ids"]
    assert (
        answer_ids[-1] == serving.convert_tokens_to_ids("<|im_end|>")
        or answer_ids[-2:] == serving("<|im_end|>\n", add_special_tokens=False)["input_ids"]
    )
    assert serving.decode(answer_ids).startswith(row["output"] + "<|im_end|>")


def manifest_of(output: Path) -> dict[str, Any]:
    return json.loads(output.with_name(output.name + ".manifest.json").read_text(encoding="utf-8"))


@pytest.mark.slow
def test_a_real_training_makes_an_adapter_that_inference_takes(tiny_model: Path, datasets_folder: Path, trained: Path):
    assert steps_of(trained) == 8  # 16 rows, batch 4, 2 epochs
    manifest = manifest_of(trained)
    assert manifest["status"] == "done"
    counts = manifest["counts"]
    assert (counts["steps"], counts["rows"]) == (8, 16)
    config = small_config(tiny_model, datasets_folder)
    assert counts["trained_tokens"] == 2 * budget.count_answer_tokens(config, "distilled")
    assert {"distilled", "gold_dev"} == set(manifest["inputs"])
    losses = manifest["losses"]
    assert [point["step"] for point in losses] == [0, 2, 4, 6, 8]
    assert losses[-1]["eval_loss"] == counts["eval_loss"] < losses[2]["eval_loss"] < losses[0]["eval_loss"]

    words = train_words(tiny_model, datasets_folder, trained)
    repeated = train(words)
    assert repeated.returncode == 0
    assert "trained already" in repeated.stdout
    changed = train([*words, "learning_rate=0.5"])
    assert changed.returncode == 1
    assert "learning_rate: 0.001 -> 0.5" in changed.stderr

    plain, tuned = (load(tiny_model, Sampling(4), adapter=adapter).model for adapter in (None, trained))
    weights = [model.model.layers[0].self_attn.q_proj.weight for model in (plain, tuned)]
    assert not weights[0].equal(weights[1])
    assert adapter_problem(str(tiny_model), trained) is None


@pytest.mark.slow
def test_a_training_that_left_no_checkpoint_binds_nobody(tiny_model: Path, datasets_folder: Path, tmp_path: Path):
    """As after a typing error or when memory ran out: the key is corrected, and the same command starts."""
    words = train_words(tiny_model, datasets_folder, tmp_path / "distilled", "max_steps=2")
    begin = [sys.executable, "scripts/internal/train_record.py", "begin", *words[2:]]
    assert train(begin).returncode == cli.NOT_DONE  # the training itself then fails
    torn = tmp_path / "distilled/checkpoint-1"
    torn.mkdir(parents=True)
    (torn / "trainer_state.json").write_bytes(b"")
    corrected = train([*begin, "learning_rate=0.5"])
    assert corrected.returncode == cli.NOT_DONE, corrected.stderr
    assert manifest_of(tmp_path / "distilled")["settings"]["learning_rate"] == 0.5
    (tmp_path / "distilled").mkdir(exist_ok=True)
    (tmp_path / "distilled" / WEIGHTS).write_bytes(b"trained, but killed before it was recorded")
    refusal = train([*begin, "learning_rate=0.1"])
    assert refusal.returncode == 1
    assert "learning_rate: 0.5 -> 0.1" in refusal.stderr


@pytest.mark.slow
def test_two_processes_train_as_one_does(tiny_model: Path, datasets_folder: Path, trained: Path, monkeypatch: Any):
    """The rows per step stay four: the loss differs by rounding only, and paths may hold spaces."""
    monkeypatch.setenv("NPROC", "2")
    output = trained.with_name("two processes")
    done = train(train_words(tiny_model, datasets_folder, output))
    assert done.returncode == 0, done.stderr
    one, two = manifest_of(trained), manifest_of(output)
    assert two["processes"] == 2
    assert two["counts"]["steps"] == one["counts"]["steps"]
    for key in ("train_loss", "eval_loss"):
        assert two["counts"][key] == pytest.approx(one["counts"][key], rel=0.02)


@pytest.mark.slow
def test_two_processes_that_are_killed_resume(
    tiny_model: Path, datasets_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("NPROC", "2")
    output = tmp_path / "killed"
    words = train_words(tiny_model, datasets_folder, output, "max_steps=40", "save_steps=2")
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL, start_new_session=True) as running:
        while not list(output.glob("checkpoint-*/trainer_state.json")):
            assert running.poll() is None
            time.sleep(0.05)
        os.killpg(running.pid, signal.SIGKILL)
    assert not (output / WEIGHTS).exists()
    done = train(words)
    assert done.returncode == 0, done.stderr
    assert "resuming from checkpoint-" in done.stdout
    assert manifest_of(output)["counts"]["steps"] == 40


@pytest.mark.slow
def test_preference_learning_goes_on_from_the_adapter_and_is_pulled_back_to_it(
    tiny_model: Path, datasets_folder: Path, trained: Path
):
    output = trained.with_name("dpo")
    words = train_words(
        tiny_model,
        datasets_folder,
        output,
        f"adapter_name_or_path={trained}",
        f"ref_model_adapters={trained}",
        "logging_steps=1",
        "max_steps=3",
    )
    done = train([*words[:2], str(CONFIG.with_stem("dpo")), *words[3:]])
    assert done.returncode == 0, done.stderr
    log = json.loads((output / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    assert log[0]["rewards/chosen"] == pytest.approx(0, abs=1e-5)  # before the first update it is its own reference
    assert log[0]["rewards/rejected"] == pytest.approx(0, abs=1e-5)
    assert log[2]["rewards/margins"] != 0  # the first step of the warm-up has rate 0
    assert log[0]["loss"] > 1.7  # ln 2 of the preference term, and the SFT term that keeps it stable
    assert adapter_problem(str(tiny_model), output) is None
    start, tuned = (load(tiny_model, Sampling(4), adapter=adapter).model for adapter in (trained, output))
    weights = [model.model.layers[0].self_attn.q_proj.weight for model in (start, tuned)]
    assert not weights[0].equal(weights[1])


def record(*words: str) -> int:
    """scripts/internal/train_record.py in this process."""
    return runpy.run_path(str(ROOT / "scripts/internal/train_record.py"), run_name="train_record")["main"](list(words))


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("dataset=destilled", "command line: `dataset: destilled`: no set 'destilled' in"),
        ("dataset_dir=nowhere", "nowhere/dataset_info.json: not found"),
        ("model_name_or_path=no/such/model", "no such model folder"),
        ("output_dir=", "key 'output_dir' is missing"),
        ("learning_rate", "an override is written key=value"),
        ("learning_rat=1", "command line: unknown key 'learning_rat'; did you mean 'learning_rate'?"),
        ("bf16=true", "`bf16: True`: this machine has no GPU"),
        ("eval_dataset=null", "there is no eval_dataset to evaluate on"),
        ("template=qwen2", "has no such template; did you mean 'qwen"),
        ("template=llama3", "does not fit"),
        ("lora_rank=many", "command line: `lora_rank: many`: invalid int value: 'many'"),
        ("bf16='false'", "command line: `bf16: false`: is a text; write the value without quotes"),
        ("finetuning_type=lorra", "invalid choice: 'lorra' (choose from 'lora', 'oft', 'freeze', 'full')"),
        ("pref_beta=strong", "`pref_beta: strong`: invalid float value"),
        ("per_device_train_batch_size=3", "3 x 1 rows per step cannot be divided among 2 processes"),
        ("budget=tokens", "must be `epochs`, `steps of SET` or `tokens of SET`"),
        ("budget=steps of silver", "no set 'silver'"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_a_model_is_loaded(
    tiny_model: Path, datasets_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, override: str, says: str
):
    monkeypatch.setattr("llamafactory.extras.misc.get_current_device", lambda: torch.device("cpu"))
    words = train_words(tiny_model, datasets_folder, tmp_path / "o")[2:]
    with pytest.raises(UserError, match=re.escape(says)):
        record("begin", "--processes", "2", *words, override)
    assert not list(tmp_path.glob("o*"))


@pytest.mark.parametrize(
    ("units", "overrides", "says"),
    [
        (True, ["bf16=true"], "set bf16: false, or add use_cpu: true to train in bfloat16 on this CPU"),
        (True, ["bf16=true", "use_cpu=true"], None),
        (True, ["pure_bf16=true", "use_cpu=true"], "set pure_bf16: false"),
        (True, ["fp16=true", "use_cpu=true"], "set fp16: false"),
        (False, ["bf16=true", "use_cpu=true"], "its CPU no units for bfloat16; set bf16: false"),
    ],
)
def test_a_cpu_trains_in_bfloat16_if_it_has_the_units_and_is_asked_twice(
    tiny_model: Path,
    datasets_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    units: bool,
    overrides: list[str],
    says: str | None,
):
    monkeypatch.setattr("llamafactory.extras.misc.get_current_device", lambda: torch.device("cpu"))
    monkeypatch.setattr(machine, "multiplies_bfloat16", lambda: units)
    config = small_config(tiny_model, datasets_folder, *overrides)
    if says is None:
        preflight.check_precision(config)
    else:
        with pytest.raises(UserError, match=re.escape(says)):
            preflight.check_precision(config)


@pytest.mark.slow
def test_a_training_in_bfloat16_reaches_the_loss_of_float32(tiny_model: Path, datasets_folder: Path, trained: Path):
    if torch.cuda.is_available() or not machine.multiplies_bfloat16():
        pytest.skip("needs a machine without a GPU whose CPU multiplies bfloat16")
    output = trained.with_name("bfloat16")
    done = train(train_words(tiny_model, datasets_folder, output, "bf16=true", "use_cpu=true"))
    assert done.returncode == 0, done.stderr
    assert manifest_of(output)["settings"]["bf16"] is True
    losses = [manifest_of(folder)["counts"]["eval_loss"] for folder in (output, trained)]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
    assert adapter_problem(str(tiny_model), output) is None


def small_config(tiny_model: Path, datasets_folder: Path, *more: str) -> TrainConfig:
    return read_config(CONFIG, [f"model_name_or_path={tiny_model}", f"dataset_dir={datasets_folder}", *more])


def test_a_budget_gives_every_method_as_many_steps_or_tokens(tiny_model: Path, datasets_folder: Path, tmp_path: Path):
    """distilled has 16 rows; half of them, each twice as long, are 8."""
    rows = [prompts.training_row(f"What is {n}+1?", "1+1=2 " * 40 + "\n#### 2") for n in range(6)]
    folder = shutil.copytree(datasets_folder, tmp_path / "sets")
    write_training_set(folder, "gold", rows)
    write_dataset_info(folder, {"distilled": False, "gold_dev": False, "gold": False})
    config = small_config(tiny_model, folder)
    assert budget.steps(config) == 8  # 16 rows, batch 4, 2 epochs
    assert budget.steps(small_config(tiny_model, folder, "budget=steps of gold")) == 4
    assert budget.steps(small_config(tiny_model, folder, "num_train_epochs=0.4")) == 2
    by_tokens = budget.steps(small_config(tiny_model, folder, "budget=tokens of gold"))
    a_row = {name: budget.count_answer_tokens(config, name) / rows for name, rows in (("gold", 6), ("distilled", 16))}
    assert by_tokens == round(4 * a_row["gold"] / a_row["distilled"])
    assert by_tokens > 8


def test_processes_divide_the_rows_of_a_step(tiny_model: Path, datasets_folder: Path):
    config = small_config(tiny_model, datasets_folder, "gradient_accumulation_steps=4")
    assert budget.divide_batch(config, 2) == {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    config = small_config(tiny_model, datasets_folder)
    assert budget.divide_batch(config, 2) == {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 1}


def test_another_machine_joins_with_the_same_yaml_and_keeps_no_record(
    tiny_model: Path, datasets_folder: Path, tmp_path: Path, capsys: Any
):
    words = train_words(tiny_model, datasets_folder, tmp_path / "o")[2:]
    assert record("join", "--processes", "4", *words) == 4
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "o.yaml")
    assert [path.name for path in tmp_path.glob("o*")] == ["o.yaml"]
    first = (tmp_path / "o.yaml").read_bytes()
    assert record("begin", "--processes", "4", *words) == 4
    assert (tmp_path / "o.yaml").read_bytes() == first
    values = yaml.safe_load(first)
    assert values["per_device_train_batch_size"] * values["gradient_accumulation_steps"] * 4 == 4
    assert not {"budget", "methods"} & set(values)


def test_the_seconds_of_a_resumed_training_are_those_of_all_launches(tmp_path: Path):
    clocks = ["0:00:16", "0:05:57", "0:06:09", "0:00:15", "0:04:34", "1 day, 0:00:01", "2 days, 1:00:00", "0:00:09"]
    log = write_rows(tmp_path / "trainer_log.jsonl", [{"current_steps": 1, "elapsed_time": clock} for clock in clocks])
    earlier = runpy.run_path(str(ROOT / "scripts/internal/train_record.py"))["seconds_of_earlier_launches"]
    assert earlier(log) == 369 + 2 * 86400 + 3600  # the last launch is not among them
    log.write_bytes(log.read_bytes().replace(b'"0:05:57"}\n', b'"0:05:'))  # torn by a kill, and written on
    assert earlier(log) == 369 + 2 * 86400 + 3600
    assert earlier(tmp_path / "none") == 0


def test_secrets_drawn_from_the_environment_are_not_written_down(
    tiny_model: Path, datasets_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("CANARY", "s3cret-canary")
    output = tmp_path / "o"
    words = train_words(tiny_model, datasets_folder, output)[2:]
    assert record("begin", *words, "run_name=${oc.env:CANARY}", "optim_args=${oc.env:CANARY}") == 4
    written = "".join(path.read_text(encoding="utf-8") for path in tmp_path.glob("o.*"))
    assert "oc.env:CANARY" in written
    assert "s3cret-canary" not in written
