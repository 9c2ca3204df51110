"""The vllm backend: its part of the work on a scripted engine; the real one where COTKIT_VLLM_PYTHON names its python."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from conftest import ROOT, SMOLLM2, make_tokenizer, problem, read_rows, write_rows

from cotkit.core.errors import UserError
from cotkit.generation import engines
from cotkit.generation.backends import vllm_backend as backend
from cotkit.generation.options import EngineOptions
from cotkit.generation.types import Completion, Request, Sampling

AT_ONCE = 2  # rows that the scripted engine decodes together
CONTEXT = 1024
ANSWER = "3+4=7\n#### 7"


class EngineDeadError(Exception):
    pass


class Engine:
    """Writes `texts[question]` token by token, then <|im_end|>; keeps what it was given."""

    def __init__(self, tokenizer: Any, texts: dict[str, str]) -> None:
        self.tokenizer, self.texts = tokenizer, texts
        self.vllm_config = SimpleNamespace(
            model_config=SimpleNamespace(max_model_len=CONTEXT), scheduler_config=SimpleNamespace(max_num_seqs=AT_ONCE)
        )
        self.active: dict[str, Any] = {}
        self.params: list[Any] = []
        self.most = 0

    def add_request(self, name: str, prompt: dict[str, list[int]], params: Any, lora_request: Any = None) -> str:
        question = self.tokenizer.decode(prompt["prompt_token_ids"]).split("user\n")[1].split("<|im_end|>")[0]
        tokens = [*self.tokenizer.encode(self.texts[question]), self.tokenizer.convert_tokens_to_ids("<|im_end|>")]
        self.active[name] = SimpleNamespace(tokens=tokens, written=0, sent=0, params=params, lora=lora_request)
        self.params.append(params)
        self.most = max(self.most, len(self.active))
        return name

    def step(self) -> list[Any]:
        outputs = []
        for name in list(self.active)[:AT_ONCE]:
            row = self.active[name]
            row.written += 1
            ends = row.tokens[row.written - 1] in row.params.stop_token_ids
            reason = "stop" if ends else "length" if row.written == row.params.max_tokens else None
            if reason or row.params.output_kind == "delta":
                new = row.tokens[row.sent : row.written]
                row.sent = row.written
                outputs.append(
                    SimpleNamespace(request_id=name, outputs=[SimpleNamespace(token_ids=new, finish_reason=reason)])
                )
            if reason:
                del self.active[name]
        return outputs

    def abort_request(self, names: list[str]) -> None:
        for name in names:
            self.active.pop(name, None)


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module that looks like vLLM as far as the backend can see; `started` holds each engine's arguments."""
    names = "vllm vllm.lora vllm.lora.request vllm.platforms vllm.sampling_params vllm.v1 vllm.v1.engine"
    modules = {name: ModuleType(name) for name in [*names.split(), "vllm.v1.engine.exceptions"]}
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    fake: Any = modules["vllm"]
    fake.SamplingParams = fake.EngineArgs = SimpleNamespace
    fake.started = []
    fake.LLMEngine = SimpleNamespace(from_engine_args=lambda args: start_engine(fake, args))
    vars(modules["vllm.lora.request"])["LoRARequest"] = lambda *words: words
    vars(modules["vllm.platforms"])["current_platform"] = SimpleNamespace(is_cpu=lambda: True, device_type="cpu")
    vars(modules["vllm.sampling_params"])["RequestOutputKind"] = SimpleNamespace(DELTA="delta", FINAL_ONLY="final")
    vars(modules["vllm.v1.engine.exceptions"])["EngineDeadError"] = EngineDeadError
    return fake


def start_engine(fake: Any, args: Any) -> Any:
    """What the backend's `load` gets: an engine that remembers its arguments, environment and weights' folder."""
    folder = Path(args.model)
    args.files = sorted(file.name for file in folder.iterdir()) if folder.is_dir() else []
    args.environment = dict(os.environ)
    fake.started.append(args)
    engine = Engine(None, {})
    vars(engine).update(add_lora=lambda lora: None, engine_core=SimpleNamespace(shutdown=lambda timeout: None))
    return engine


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def make(tokenizer: Any, texts: dict[str, str], sampling: Sampling) -> backend.VllmBackend:
    ends = {tokenizer.convert_tokens_to_ids(token) for token in ("<|im_end|>", "<|endoftext|>")}
    return backend.VllmBackend(Engine(tokenizer, texts), tokenizer, ends, sampling, seed=1, lora="the adapter")


def ask(engine: backend.VllmBackend, *questions: str) -> dict[str, Completion]:
    """The completions by question, in the order in which they came; each exactly once."""
    requests = [Request(question, 0, [{"role": "user", "content": question}]) for question in questions]
    results = [(request.id, completion) for request, completion in engine.generate(requests)]
    assert len(results) == len(questions)
    return dict(results)


@pytest.mark.parametrize("stop", [True, False])
def test_a_text_ends_after_its_answer_line(vllm: Any, tokenizer: Any, stop: bool):
    text = f"#### x\n{ANSWER}\nNext problem: a b c d\n#### 8\n"
    engine = make(tokenizer, {"q": text, "other": "no answer"}, Sampling(200, stop_at_answer=stop))
    done = ask(engine, "q", "other")
    assert done["other"].finish_reason == "stop"
    tokens = len(tokenizer.encode(text))
    if stop:
        assert (done["q"].text, done["q"].finish_reason) == (f"#### x\n{ANSWER}", "answer")
        assert done["q"].completion_tokens < tokens
    else:
        assert (done["q"].text, done["q"].finish_reason) == (text, "stop")
        assert done["q"].completion_tokens == tokens + 1  # the end of the turn is counted, not shown
    assert not engine.engine.active  # a row that was stopped at its answer was also aborted
    kinds = {params.output_kind for params in engine.engine.params}
    assert kinds == {"delta" if stop else "final"}


def test_the_token_limit_is_the_requests_own(vllm: Any, tokenizer: Any):
    engine = make(tokenizer, {"q": "apples " * 30}, Sampling(50))
    request = Request("q", 0, [{"role": "user", "content": "q"}], max_new_tokens=5)
    ((_, done),) = engine.generate([request])
    assert (done.finish_reason, done.completion_tokens) == ("length", 5)


def test_completions_come_as_they_finish_and_the_queue_stays_short(vllm: Any, tokenizer: Any):
    texts = {f"q{number}": "apples " * (40 if number == 0 else 3) for number in range(12)}
    engine = make(tokenizer, texts, Sampling(100))
    done = ask(engine, *texts)
    assert list(done).index("q0") > 3  # the long one does not hold up the others
    assert next(iter(done)) == "q1"
    assert engine.engine.most == engine.window == 2 * AT_ONCE
    assert {name: completion.text for name, completion in done.items()} == texts


def test_a_prompt_longer_than_the_context_fails_alone(vllm: Any, tokenizer: Any):
    long = "7 " * CONTEXT
    done = ask(make(tokenizer, {"q": "yes"}, Sampling(8)), long, "q")
    assert done[long].finish_reason == "error"
    assert f"context of {CONTEXT}" in (done[long].error or "")
    assert done["q"].text == "yes"


def test_what_the_engine_gives_up_is_an_error_and_its_end_is_one_line(vllm: Any, tokenizer: Any):
    engine = make(tokenizer, {"q": "yes"}, Sampling(8))
    gone = SimpleNamespace(request_id="0", outputs=[SimpleNamespace(token_ids=[], finish_reason="abort")])
    engine.engine.step = lambda: [gone]
    assert ask(engine, "q")["q"].error == "vLLM gave up (abort)"

    def dies() -> None:
        raise EngineDeadError

    engine.engine.step = dies
    with pytest.raises(UserError, match="the same command resumes"):
        ask(engine, "q")


def test_sampling_reaches_the_engine(vllm: Any, tokenizer: Any):
    greedy, sampled = (
        make(tokenizer, {"q": "yes"}, Sampling(8)),
        make(tokenizer, {"q": "yes"}, Sampling(8, 0.7, 0.8, 20)),
    )
    ask(greedy, "q"), ask(sampled, "q")
    (params,) = greedy.engine.params
    assert (params.temperature, params.seed, params.detokenize) == (0.0, None, False)
    (params,) = sampled.engine.params
    assert (params.temperature, params.top_p, params.top_k) == (0.7, 0.8, 20)
    assert params.seed == Request("q", 0, []).seed(1)


def options(model: Path, adapter: Path | None = None, **changes: Any) -> EngineOptions:
    return EngineOptions("vllm", str(model), str(adapter) if adapter else None, seed=1, **changes)


def test_an_adapter_is_merged_on_a_cpu_and_the_copy_is_removed(vllm: Any, tiny_model: Path, tiny_adapter: Path):
    loaded = backend.load(options(tiny_model, tiny_adapter), Sampling(8))
    (args,) = vllm.started
    assert loaded.lora is None
    assert {"config.json", "model.safetensors"} <= set(args.files)
    assert not Path(args.model).exists()
    assert (args.dtype, args.kv_cache_memory_bytes) == ("float32", backend.CPU_CACHE_BYTES)


def test_an_adapter_goes_to_the_engine_with_the_room_that_it_needs(vllm: Any, tiny_model: Path, tiny_adapter: Path):
    chosen = options(tiny_model, tiny_adapter, merge_adapter=False, dtype="bfloat16", gpu_memory_utilization=0.5)
    loaded = backend.load(chosen, Sampling(8))
    (args,) = vllm.started
    assert loaded.lora == ("adapter", 1, str(tiny_adapter))
    assert (args.enable_lora, args.max_lora_rank, args.model) == (True, 8, str(tiny_model))
    assert (args.dtype, args.gpu_memory_utilization) == ("bfloat16", 0.5)
    assert {0, 1, 2} <= loaded.turn_ends  # <|endoftext|>, <|im_start|>, <|im_end|>


@pytest.mark.parametrize("failure", [RuntimeError("Engine core initialization failed.\nmore"), ValueError("no room")])
def test_an_engine_that_does_not_start_is_one_line(vllm: Any, tiny_model: Path, failure: Exception):
    def fails(args: Any) -> None:
        raise failure

    vllm.LLMEngine.from_engine_args = fails
    with pytest.raises(UserError, match=rf"does not start with .*: {str(failure).splitlines()[0]}$"):
        backend.load(options(tiny_model), Sampling(8))
    with pytest.raises(UserError, match="--device cuda: this vLLM was built for cpu"):
        backend.load(options(tiny_model, device="cuda"), Sampling(8))


TORCHRUN = {
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "GROUP_RANK": "1",
    "MASTER_ADDR": "node0",
    "MASTER_PORT": "29500",
    "TORCHELASTIC_USE_AGENT_STORE": "True",
    "OMP_NUM_THREADS": "1",
}


def test_the_engine_sees_nothing_of_torchrun(monkeypatch: pytest.MonkeyPatch):
    for name in ("CUDA_VISIBLE_DEVICES", "VLLM_CPU_OMP_THREADS_BIND", "VLLM_LOGGING_LEVEL"):
        monkeypatch.delenv(name, raising=False)
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)
    with backend.engine_environment(tensor_parallel_size=2):
        assert not (TORCHRUN.keys() - {"OMP_NUM_THREADS"}) & os.environ.keys()
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "2,3"
        assert os.environ["OMP_NUM_THREADS"] == str(max(1, len(os.sched_getaffinity(0)) // 4))
        assert (os.environ["VLLM_CPU_OMP_THREADS_BIND"], os.environ["VLLM_LOGGING_LEVEL"]) == ("nobind", "ERROR")
    assert dict(os.environ) == before


def test_the_engine_does_not_outlive_a_killed_command():
    """A child that would sleep for a minute, of a process that guards it and is killed by SIGKILL."""
    code = (
        "import multiprocessing, sys, time; from cotkit.generation.backends.vllm_backend import guard_children\n"
        "child = multiprocessing.get_context('fork').Process(target=time.sleep, args=(60,), daemon=True); child.start()\n"
        "guard_children(); print(child.pid, flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    child = Path("/proc", process.stdout.readline().strip())
    assert child.exists()
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 30
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # gone
        while "(zombie)" not in (child / "status").read_text(encoding="utf-8"):
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_each_rank_has_its_own_gpus():
    assert [backend.gpus_of_rank(None, rank, 2, 1) for rank in (0, 1)] == ["0", "1"]
    assert [backend.gpus_of_rank("4,5,6,7", rank, 2, 2) for rank in (0, 1)] == ["4,5", "6,7"]
    with pytest.raises(
        UserError, match="2 ranks with --tensor_parallel_size 2 need 4 GPUs, CUDA_VISIBLE_DEVICES has 3"
    ):
        backend.gpus_of_rank("0,1,2", 0, 2, 2)


def test_without_vllm_the_environment_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(backend, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"vLLM is not installed here; .*requirements-vllm\.txt"):
        engines.check(options(ROOT))


def test_the_real_engine_writes_what_transformers_writes(tmp_path: Path):
    """In the named environment: both backends, greedy float32, and a prompt that is too long."""
    python = os.environ.get("COTKIT_VLLM_PYTHON")
    if not python:
        pytest.skip("COTKIT_VLLM_PYTHON names no python of an environment with vLLM")
    if not SMOLLM2.is_dir():
        pytest.skip("the SmolLM2 model is not there: scripts/setup.sh makes it")
    write_rows(tmp_path / "data/gsm8k/test.jsonl", [*map(problem, range(4)), problem(4, question="7 " * 9000)])
    for engine in ("vllm", "transformers"):
        words = ["infer_parallel.py", "--dataset", "gsm8k", "--base_model", SMOLLM2, "--data_root", tmp_path / "data"]
        words += ["--output_path", tmp_path / f"{engine}.jsonl", "--max_new_tokens", 16, "--backend", engine]
        done = subprocess.run(
            [python, *map(str, words)], check=False, cwd=ROOT, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 3, done.stderr
        assert "context of 8192" in done.stderr
    ours, theirs = read_rows(tmp_path / "vllm.jsonl"), read_rows(tmp_path / "transformers.jsonl")
    assert [row["prompt_tokens"] for row in ours] == [row["prompt_tokens"] for row in theirs]
    assert sum(a["response"] == b["response"] for a, b in zip(ours, theirs, strict=True)) >= 4
