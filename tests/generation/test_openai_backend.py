"""The openai backend: what it asks, what it reads, and what it refuses before anything is sent."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import problem, read_rows, refused, run_script, write_rows
from generation.chat_server import ChatServer
from generation.openai_tools import complete, teach, words

import infer_parallel
import teacher_cot
from cotkit.core import cli
from cotkit.core.errors import UserError
from cotkit.generation import options
from cotkit.generation.backends import openai_backend
from cotkit.generation.types import Request, Sampling

pytestmark = pytest.mark.usefixtures("short_delays")


def test_the_stream_is_closed_at_the_answer(tmp_path: Path):
    with ChatServer(then="endless") as server:
        code, rows = teach(tmp_path, server, rows=2)
        deadline = time.monotonic() + 30
        while server.hung_up < 2:
            assert time.monotonic() < deadline, "the server still writes"
            time.sleep(0.02)
    assert code == 0
    assert complete(rows, 2)
    assert [row["finish_reason"] for row in rows] == ["answer", "answer"]


@pytest.mark.parametrize("stop", ["--stop_at_answer", "--no-stop_at_answer"])
@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_a_thought_goes_back_to_the_start_of_the_text(tmp_path: Path, name: str, stop: str):
    with ChatServer(thought="So #### 9\n", thought_name=name, text="3+4=7\n#### 7\n") as server:
        code, rows = teach(tmp_path, server, more=("--thinking", stop))
    assert code == 0
    assert rows[0]["thinking"].strip() == "So #### 9"
    assert rows[0]["response"].strip() == "3+4=7\n#### 7"
    assert server.bodies[0]["chat_template_kwargs"] == {"enable_thinking": True}


def test_a_thought_cut_by_the_limit_stays_open(tmp_path: Path):
    with ChatServer(thought="So 3", text=None, reason="length") as server:
        code, rows = teach(tmp_path, server, more=("--thinking", "--no-stop_at_answer"))
    assert (code, rows[0]["finish_reason"], rows[0]["response"]) == (0, "length", "<think>\nSo 3")


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": None, "completion_tokens": "x"}])
def test_without_counts_the_pieces_of_the_stream_are_counted(tmp_path: Path, usage: Any):
    text = "3+4=7 and so on"
    with ChatServer(text=text, usage=usage) as server:
        _, rows = teach(tmp_path, server)
    assert (rows[0]["prompt_tokens"], rows[0]["completion_tokens"]) == (0, -(-len(text) // 4))


def test_the_servers_own_counts_are_taken(tmp_path: Path):
    with ChatServer(text="3+4=7") as server:
        _, rows = teach(tmp_path, server)
    assert (rows[0]["prompt_tokens"], rows[0]["completion_tokens"]) == (11, 22)


@pytest.mark.parametrize("text", ["", None])
def test_a_turn_that_ends_at_once_is_an_empty_text(tmp_path: Path, text: str | None):
    with ChatServer(text=text, usage={"prompt_tokens": 5, "completion_tokens": 1}) as server:
        code, rows = teach(tmp_path, server)
    assert (code, rows[0]["response"], rows[0]["finish_reason"]) == (0, "", "stop")


def test_half_a_surrogate_pair_can_be_written(tmp_path: Path):
    with ChatServer(text="\ud83d\ude00 and \ud83d alone") as server:
        code, rows = teach(tmp_path, server, more=("--no-stop_at_answer",))
    assert (code, rows[0]["response"]) == (0, "😀 and � alone")


def backend(**sampling: Any) -> openai_backend.OpenAIBackend:
    args = teacher_cot.build_parser().parse_args(
        ["--input_path", "i", "--output_path", "o", "--model_name", "m", "--base_url", "http://h/v1"]
    )
    return openai_backend.load(options.engine_from(args, "m"), Sampling(50, **sampling))


def test_what_is_asked():
    first, second = (Request("a", sample, [{"role": "user", "content": "?"}]) for sample in (0, 1))
    greedy = backend(stop_at_answer=False).body(first, set())
    assert greedy == {
        "model": "m",
        "messages": first.messages,
        "max_tokens": 50,
        "temperature": 0.0,
        "chat_template_kwargs": {"enable_thinking": False},
    }
    sampled = backend(temperature=0.7, top_p=0.8, top_k=20)
    body = sampled.body(first, set())
    assert (body["top_p"], body["top_k"], body["stream"]) == (0.8, 20, True)
    assert body["seed"] != sampled.body(second, set())["seed"]
    assert 0 <= body["seed"] < 2**31
    assert "top_k" not in backend(temperature=0.7).body(first, set())
    assert sampled.body(Request("a", 0, [], max_new_tokens=7), set())["max_tokens"] == 7


@pytest.mark.parametrize(
    ("code", "says", "name"),
    [
        (422, "Unexpected fields in the request: {'chat_template_kwargs'}", "chat_template_kwargs"),
        (400, "Unrecognized request argument supplied: chat_template_kwargs", "chat_template_kwargs"),
        (400, "Unknown parameter: 'stream_options.continuous_usage_stats'.", "continuous_usage_stats"),
        (400, "stream_options is not supported", "stream_options"),
        (422, "body -> seed: Extra inputs are not permitted", "seed"),
        (
            400,
            "Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens' instead.",
            "max_tokens",
        ),
    ],
)
def test_an_option_that_a_server_refuses_is_left_out_there(tmp_path: Path, code: int, says: str, name: str):
    refusal = (code, {"message": says})
    with ChatServer(refusal) as server:
        exit_code, rows = teach(tmp_path, server, rows=3, more=("--temperature", 1, "--concurrency", 1))
    assert exit_code == 0
    assert complete(rows, 3)
    sent = [{*body, *body.get("stream_options", {})} for body in server.bodies]
    assert [name in names for names in sent] == [True, False, False, False]
    assert all(("max_completion_tokens" in names) == (name == "max_tokens") for names in sent[1:])


def test_an_option_that_was_asked_for_is_not_left_out(tmp_path: Path):
    with ChatServer((400, {"message": "Unrecognized request argument supplied: top_k"})) as server:
        code, rows = teach(tmp_path, server, more=("--temperature", 1, "--top_k", 5))
    assert code == cli.SOME_ITEMS_FAILED
    assert "top_k" in rows[0]["error"]


@pytest.mark.parametrize("text", ["base_url: {0}\n", "base_url: [{0}, {1}]\n", "base_url:\n  - {0}\n  - {1}\n"])
def test_the_servers_can_stand_in_the_yaml(tmp_path: Path, text: str):
    with ChatServer(seconds=0.05) as one, ChatServer(seconds=0.05) as other:
        config = tmp_path / "teacher.yaml"
        config.write_text("backend: openai\nconcurrency: 1\n" + text.format(one.url, other.url), encoding="utf-8")
        flags = words(tmp_path, one, rows=6)
        flags = ["--config", str(config), *flags[: flags.index("--backend")]]
        assert teacher_cot.main(flags) == 0
        assert bool(other.bodies) == ("{1}" in text)
        before = len(other.bodies)
        assert teacher_cot.main([*flags, "--overwrite", "--base_url", one.url]) == 0  # flags win
    assert len(other.bodies) == before
    assert len(one.bodies) + before == 12


def test_a_flag_given_twice_adds_up():
    args = teacher_cot.build_parser().parse(
        ["--input_path", "i", "--output_path", "o", "--model_name", "m", "--base_url", "a", "b", "--base_url", "c"]
    )
    assert args.base_url == ["a", "b", "c"]


def test_the_servers_are_no_part_of_a_runs_identity(tmp_path: Path, capsys: Any):
    with ChatServer(then=(400, {"message": "no"})) as server:
        assert teach(tmp_path, server, rows=2)[0] == cli.SOME_ITEMS_FAILED
    with ChatServer() as server:
        code, rows = teach(tmp_path, server, more=("--concurrency", 3))
        assert code == 0
        assert complete(rows, 2)
        manifest = (tmp_path / "out.jsonl.manifest.json").read_text(encoding="utf-8")
        assert json.loads(manifest)["settings"]["model_files"] == "m"
        assert "127.0.0.1" not in manifest
        with pytest.raises(UserError, match="model: 'm' -> 'n'"):
            teacher_cot.main([*words(tmp_path, server), "--model_name", "n"])


@pytest.mark.parametrize(
    ("urls", "says"),
    [
        ([], "needs --base_url"),
        (["http://u:secret@h/v1"], "number 1 holds more than an address; keys are read from OPENAI_API_KEY only"),
        (["http://h/v1", "http://h/v1?key=secret"], "number 2 holds more than an address"),
        (["localhost:8000/v1"], "an address such as"),
        (["file:///etc"], "an address such as"),
    ],
)
def test_addresses_that_do_not_fit_are_refused(tmp_path: Path, urls: list[str], says: str):
    flags = words(tmp_path)
    at = flags.index("--base_url")
    with pytest.raises(UserError) as refusal:
        teacher_cot.main([*flags[:at], *(["--base_url", *urls] if urls else []), *flags[at + 1 :]])
    assert says in str(refusal.value)
    assert "secret" not in str(refusal.value)
    assert not list(tmp_path.glob("out*"))


def test_an_adapter_is_refused_before_anything_begins(tmp_path: Path):
    write_rows(tmp_path / "data/gsm8k/test.jsonl", [problem(0)])
    flags = ["--dataset", "gsm8k", "--data_root", tmp_path / "data", "--output_path", tmp_path / "p.jsonl"]
    flags += ["--backend", "openai", "--base_model", "m", "--base_url", "http://127.0.0.1:9/v1"]
    with pytest.raises(UserError, match="serve it under a model name of its own"):
        infer_parallel.main([*map(str, flags), "--lora_path", str(tmp_path)])
    assert not list(tmp_path.glob("p*"))


def test_the_student_is_asked_too(tmp_path: Path):
    write_rows(tmp_path / "data/gsm8k/test.jsonl", [problem(number) for number in range(4)])
    flags = ["--dataset", "gsm8k", "--data_root", tmp_path / "data", "--output_path", tmp_path / "p.jsonl"]
    with ChatServer() as server:
        asked = ["--backend", "openai", "--base_model", "m", "--base_url", server.url]
        assert infer_parallel.main([*map(str, flags), *asked]) == 0
    assert [row["finish_reason"] for row in read_rows(tmp_path / "p.jsonl")] == ["answer"] * 4


def test_a_dry_run_asks_nobody(tmp_path: Path):
    done = run_script("teacher_cot.py", *words(tmp_path, "http://127.0.0.1:9/v1"), "--dry-run")
    assert "Tom has 0 apples" in done.stdout
    refused(run_script("teacher_cot.py", *words(tmp_path, "h"), "--dry-run", check=False), "an address such as")


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("3", 3.0),
        ("0.5", 0.5),
        (None, 0.0),
        ("", 0.0),
        ("-1", 0.0),
        ("soon", 0.0),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 0.0),
    ],
)
def test_retry_after_headers(value: str | None, seconds: float):
    assert openai_backend.retry_after(value) == seconds


def test_a_retry_after_date_in_the_future():
    from email.utils import formatdate

    assert 50 < openai_backend.retry_after(formatdate(time.time() + 60)) <= 60
