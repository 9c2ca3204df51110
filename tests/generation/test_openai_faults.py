"""The openai backend against loopback servers that misbehave by plan (F27), leak (F26) or outlast a signal (F23)."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, run_script
from generation.chat_server import ChatServer
from generation.openai_tools import complete, teach, words, written_for

import teacher_cot
from cotkit.core import cli

pytestmark = pytest.mark.usefixtures("short_delays")

CANARY = "sk-canary-0123456789"
PASSING = [
    429,
    500,
    503,
    (502, "<html>Bad Gateway</html>"),
    "hang",
    "cut",
    "cut_in_the_text",
    "broken_json",
    "deep_json",
    "page",
    "empty_choices",
    "null_content",
    "number_as_content",
    "tool_call",
    "no_reason",
    "error_in_the_text",
]

LASTING = [429, 500, "hang", "cut", "broken_json", "empty_choices", "null_content"]


@pytest.mark.parametrize("stop", ["--stop_at_answer", "--no-stop_at_answer"])
@pytest.mark.parametrize("fault", PASSING, ids=str)
def test_f27_a_passing_fault_is_survived(tmp_path: Path, fault: Any, stop: str):
    with ChatServer(fault) as server:
        code, rows = teach(tmp_path, server, more=(stop, "--request_timeout", 1.5))
    assert code == 0
    assert len(server.bodies) == 2
    assert rows[0]["response"] == written_for(0, stop == "--stop_at_answer")
    assert rows[0]["finish_reason"] == ("answer" if stop == "--stop_at_answer" else "stop")


def test_f27_silence_within_a_text(tmp_path: Path):
    with ChatServer("hang_in_the_text") as server:
        assert teach(tmp_path, server, more=("--request_timeout", 1.5))[0] == 0
    assert len(server.bodies) == 2


@pytest.mark.parametrize("fault", LASTING, ids=str)
def test_f27_a_lasting_fault_ends_in_an_error_and_is_retried_by_the_next_run(tmp_path: Path, fault: Any, capsys: Any):
    more = ("--request_timeout", 1.5, "--max_retries", 2)
    with ChatServer(then=fault) as server:
        code, rows = teach(tmp_path, server, more=more)
    assert code == cli.SOME_ITEMS_FAILED
    assert len(server.bodies) == (2 if fault == "hang" else 3)
    assert rows[0]["finish_reason"] == "error"
    assert rows[0]["response"] == ""
    assert server.url in rows[0]["error"]
    assert len(rows[0]["error"]) < 300
    assert "1 results failed: gsm8k-test-00000" in capsys.readouterr().err
    assert teacher_cot.main([*words(tmp_path, server), "--is_done"]) == cli.NOT_DONE
    with ChatServer() as server:
        code, rows = teach(tmp_path, server)
    assert code == 0
    assert complete(rows, 1)
    assert "error" not in rows[0]


@pytest.mark.parametrize("code", [400, 413, 422])
def test_f27_a_refused_request_is_not_repeated_and_the_others_go_on(tmp_path: Path, code: int):
    reason = {"message": "This model's maximum context length is 512 tokens. " + "x" * 5000}
    with ChatServer((code, reason)) as server:
        exit_code, rows = teach(tmp_path, server, rows=3, more=("--concurrency", 1))
    assert exit_code == cli.SOME_ITEMS_FAILED
    assert len(server.bodies) == 3
    assert sorted(row["finish_reason"] for row in rows) == ["answer", "answer", "error"]
    error = next(row["error"] for row in rows if row["finish_reason"] == "error")
    assert f"HTTP {code}: This model's maximum context" in error
    assert len(error) < 300


@pytest.mark.parametrize("code", [401, 404])
def test_f27_a_wrong_key_or_model_ends_at_once(tmp_path: Path, code: int):
    with ChatServer(then=(code, {"message": "The model `m` does not exist."})) as server:
        exit_code, rows = teach(tmp_path, server, rows=30, more=("--concurrency", 2))
    assert exit_code == cli.SOME_ITEMS_FAILED
    assert len(server.bodies) <= 2
    assert all("The model `m` does not exist" in row["error"] for row in rows)


def test_f27_an_address_without_its_path_is_pointed_out(tmp_path: Path):
    with ChatServer(then=404) as server:
        _, rows = teach(tmp_path, server.url.removesuffix("/v1"))
    assert "HTTP 404: it is broken (does the address end in /v1?)" in rows[0]["error"]


@pytest.mark.parametrize("reason", ["length", "max_tokens", "MAX_TOKENS"])
def test_f27_a_text_cut_at_the_token_limit(reason: str, tmp_path: Path):
    with ChatServer(text="3+4", reason=reason) as server:
        code, rows = teach(tmp_path, server)
    assert (code, rows[0]["finish_reason"], rows[0]["response"]) == (0, "length", "3+4")


def test_a_text_is_not_ended_inside_a_thought_that_the_server_did_not_mark(tmp_path: Path):
    thought = "maybe\n#### 17\nno"
    with ChatServer(text=f"{thought}</think>\n#### 18\nmore") as server:
        _, rows = teach(tmp_path, server, more=("--thinking",))
    assert (rows[0]["thinking"], rows[0]["response"].strip()) == (thought, "#### 18")
    with ChatServer(text=thought + "\n", reason="length") as server:
        _, rows = teach(tmp_path, server, more=("--thinking", "--overwrite"))
    assert (rows[0]["thinking"], rows[0]["response"]) == ("", f"<think>\n{thought}\n")


@pytest.mark.parametrize("reason", ["end_turn", "eos_token"])
def test_f27_an_end_in_the_words_of_another_engine(reason: str, tmp_path: Path):
    with ChatServer(text="3+4", reason=reason) as server:
        code, rows = teach(tmp_path, server)
    assert (code, rows[0]["finish_reason"], rows[0]["response"]) == (0, "stop", "3+4")


def test_f27_retry_after_is_honoured(tmp_path: Path):
    with ChatServer("later") as server:
        assert teach(tmp_path, server)[0] == 0
    assert server.times[1] - server.times[0] >= 0.7


def test_f27_a_busy_server_costs_no_row_its_tries(tmp_path: Path):
    """Three refusals for being busy, then an answer, over and over: more than any row's two tries."""
    plan = [fault for _ in range(6) for fault in (429, 429, 503, "answer")]
    with ChatServer(*plan) as server:
        code, rows = teach(tmp_path, server, rows=6, more=("--concurrency", 1, "--max_retries", 3))
    assert code == 0
    assert complete(rows, 6)


def test_f27_a_server_killed_in_the_middle(tmp_path: Path):
    """Two processes share the work; one gets SIGKILL: every row arrives once, as in a run that nothing disturbs."""
    command = [sys.executable, str(ROOT / "tests/generation/chat_server.py"), "0.05"]
    servers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        urls = [server.stdout.readline().strip() for server in servers]  # type: ignore[union-attr]
        code_and_rows = run_and_kill(tmp_path, urls, servers[1])
    finally:
        for server in servers:
            server.kill()
            server.communicate()
    assert code_and_rows[0] == 0
    assert complete(code_and_rows[1], 60)


def run_and_kill(folder: Path, urls: list[str], victim: subprocess.Popen[str]) -> tuple[int, list[Any]]:
    """A teacher run of 60 rows during which a server is killed as soon as 15 are there."""
    backend = teacher_cot.engines.load

    class Watched:
        def __init__(self, *args: Any) -> None:
            self.backend = backend(*args)

        def close(self) -> None: ...

        def generate(self, requests: Any) -> Iterator[Any]:
            for number, result in enumerate(self.backend.generate(requests)):
                if number == 15:
                    victim.kill()
                yield result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(teacher_cot.engines, "load", Watched)
        return teach(folder, *urls, rows=60, more=("--concurrency", 4))


def test_f27_no_server_at_all(tmp_path: Path):
    """Two addresses where nobody listens: all rows fail soon; with a server there the same command does them."""
    with ChatServer() as one, ChatServer() as other:
        pass
    begun = time.monotonic()
    code, rows = teach(tmp_path, one, other, rows=100, more=("--max_retries", 2))
    assert time.monotonic() - begun < 30  # a safety limit; it takes under a second
    assert code == cli.SOME_ITEMS_FAILED
    assert len(rows) == 100
    assert all("cannot be reached" in row["error"] for row in rows)
    with ChatServer() as server:
        code, rows = teach(tmp_path, server)
    assert code == 0
    assert complete(rows, 100)


def test_f26_a_key_that_is_echoed_appears_nowhere(tmp_path: Path):
    """Six servers, one request each, that repeat the key in a body, a page or a text."""
    faults: list[Any] = [
        ("echo", 400),
        ("echo", 401),
        ("echo", 429),
        ("echo", 500),
        ("echo_page", 0),
        ("echo_in_the_text", 0),
    ]
    with ExitStack() as stack:
        servers = [stack.enter_context(ChatServer(then=fault, code=code)) for fault, code in faults]
        more = ("--max_retries", 0, "--concurrency", 1, "--debug")
        flags = words(tmp_path, *servers, rows=len(servers), more=more)
        done = run_script("teacher_cot.py", *flags, check=False, OPENAI_API_KEY=CANARY)
    assert done.returncode == cli.SOME_ITEMS_FAILED
    assert all(server.keys[0] == f"Bearer {CANARY}" for server in servers)
    printed = done.stdout.encode() + done.stderr.encode()
    written = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"Incorrect API key provided: Bearer ***" in written
    assert b"canary" not in printed + written


@pytest.mark.parametrize("then", ["hang", "answer"])
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_f23_signals_while_servers_are_silent_or_busy(tmp_path: Path, signum: int, code: int, then: str):
    with ChatServer("answer", then=then, seconds=0.03) as server:
        command = [sys.executable, str(ROOT / "teacher_cot.py"), *words(tmp_path, server, rows=2000)]
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 60
        while len(server.bodies) < (16 if then == "hang" else 60):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signum)
        _, errors = process.communicate(timeout=5)
    assert process.returncode == code, errors
    assert "the same command resumes" in errors
    assert "Traceback" not in errors
