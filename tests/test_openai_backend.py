"""The openai backend against loopback servers that misbehave by plan (F27), alone and in a pool."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from chat_server import ChatServer, text_for
from conftest import ROOT, problem, read_rows, refused, run_script, write_rows

import infer_parallel
import teacher_cot
from cotkit import cli, prompts
from cotkit.answers import answer_line_end
from cotkit.backends import openai_backend, server_pool
from cotkit.backends.server_pool import AttemptError, Blame, Pool
from cotkit.files import DataError
from cotkit.generate import Request, Sampling

CANARY = "sk-canary-0123456789"
PASSING = [
    429, 500, 503, (502, "<html>Bad Gateway</html>"), "hang", "cut", "cut_in_the_text", "broken_json", "deep_json",
    "page", "empty_choices", "null_content", "number_as_content", "tool_call", "no_reason", "error_in_the_text",
]  # fmt: skip

LASTING = [429, 500, "hang", "cut", "broken_json", "empty_choices", "null_content"]


@pytest.fixture(autouse=True)
def short_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_pool, "FIRST_DELAY_SECONDS", 0.02)


def words(folder: Path, *servers: ChatServer | str, rows: int = 1, more: tuple[Any, ...] = ()) -> list[str]:
    """The command line of a teacher run over so many problems."""
    path = folder / "problems.jsonl"
    if not path.exists():
        write_rows(path, [problem(number) for number in range(rows)])
    urls = [server if isinstance(server, str) else server.url for server in servers]
    flags = ["--input_path", path, "--output_path", folder / "out.jsonl", "--model_name", "m", "--backend", "openai"]
    return [str(word) for word in [*flags, "--base_url", *urls, *more]]


def teach(folder: Path, *servers: ChatServer | str, rows: int = 1, more: tuple[Any, ...] = ()) -> tuple[int, list[Any]]:
    """(exit code, rows of the output)."""
    code = teacher_cot.main(words(folder, *servers, rows=rows, more=more))
    return code, read_rows(folder / "out.jsonl")


def written_for(number: int, stop: bool = True) -> str:
    """What the servers write for a problem."""
    text = text_for({"messages": prompts.teacher_messages(problem(number), "rewrite")})
    return text[: answer_line_end(text)] if stop else text


def whole(rows: list[Any], number: int) -> bool:
    """Every problem once, in order, with its own text."""
    expected = [(problem(number)["id"], written_for(number)) for number in range(number)]
    return [(row["id"], row["response"]) for row in rows] == expected


@pytest.mark.parametrize("stop", ["--stop_at_answer", "--no-stop_at_answer"])
@pytest.mark.parametrize("fault", PASSING, ids=str)
def test_f27_a_passing_fault_is_survived(tmp_path: Path, fault: Any, stop: str):
    with ChatServer(fault) as server:
        code, rows = teach(tmp_path, server, more=(stop, "--request_timeout", 0.5))
    assert code == 0
    assert len(server.bodies) == 2
    assert rows[0]["response"] == written_for(0, stop == "--stop_at_answer")
    assert rows[0]["finish_reason"] == ("answer" if stop == "--stop_at_answer" else "stop")


def test_f27_silence_within_a_text(tmp_path: Path):
    with ChatServer("hang_in_the_text") as server:
        assert teach(tmp_path, server, more=("--request_timeout", 0.5))[0] == 0
    assert len(server.bodies) == 2


@pytest.mark.parametrize("fault", LASTING, ids=str)
def test_f27_a_lasting_fault_ends_in_an_error_and_is_retried_by_the_next_run(tmp_path: Path, fault: Any, capsys: Any):
    more = ("--request_timeout", 0.3, "--max_retries", 2)
    with ChatServer(then=fault) as server:
        code, rows = teach(tmp_path, server, more=more)
    assert code == cli.SOME_ITEMS_FAILED
    assert len(server.bodies) == (2 if fault == "hang" else 3)
    assert rows[0]["finish_reason"] == "error"
    assert rows[0]["response"] == ""
    assert server.url in rows[0]["error"]
    assert len(rows[0]["error"]) < 300
    assert "1 results failed for good: gsm8k-test-00000" in capsys.readouterr().err
    assert teacher_cot.main([*words(tmp_path, server), "--is_done"]) == cli.NOT_DONE
    with ChatServer() as server:
        code, rows = teach(tmp_path, server)
    assert code == 0
    assert whole(rows, 1)
    assert "error" not in rows[0]


@pytest.mark.parametrize("code", [400, 413, 422])
def test_f27_a_refused_request_is_not_repeated_and_the_others_go_on(tmp_path: Path, code: int):
    said = {"message": "This model's maximum context length is 512 tokens. " + "x" * 5000}
    with ChatServer((code, said)) as server:
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


def test_f27_a_text_cut_at_the_token_limit(tmp_path: Path):
    with ChatServer(text="3+4", reason="length") as server:
        code, rows = teach(tmp_path, server)
    assert (code, rows[0]["finish_reason"], rows[0]["response"]) == (0, "length", "3+4")


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
    assert whole(rows, 6)


def test_f27_a_server_killed_in_the_middle(tmp_path: Path):
    """Two processes share the work; one gets SIGKILL: every row arrives once, as in a run that nothing disturbs."""
    command = [sys.executable, str(ROOT / "tests/chat_server.py"), "0.05"]
    servers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        urls = [server.stdout.readline().strip() for server in servers]  # type: ignore[union-attr]
        code_and_rows = run_and_kill(tmp_path, urls, servers[1])
    finally:
        for server in servers:
            server.kill()
            server.communicate()
    assert code_and_rows[0] == 0
    assert whole(code_and_rows[1], 60)


def run_and_kill(folder: Path, urls: list[str], victim: subprocess.Popen[str]) -> tuple[int, list[Any]]:
    """A teacher run of 60 rows during which a server is killed as soon as 15 are there."""
    backend = teacher_cot.generate.load_backend

    class Watched:
        def __init__(self, *args: Any) -> None:
            self.backend = backend(*args)

        def generate(self, requests: Any) -> Iterator[Any]:
            for number, result in enumerate(self.backend.generate(requests)):
                if number == 15:
                    victim.kill()
                yield result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(teacher_cot.generate, "load_backend", Watched)
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
    assert whole(rows, 100)


def test_f26_a_key_that_is_echoed_appears_nowhere(tmp_path: Path):
    """Six servers, one request each, that repeat the key in a body, a page or a text."""
    faults: list[Any] = [("echo", 400), ("echo", 401), ("echo", 429), ("echo", 500), ("echo_page", 0), ("echo_in_the_text", 0)]
    with ExitStack() as stack:
        servers = [stack.enter_context(ChatServer(then=fault, code=code)) for fault, code in faults]
        more = ("--max_retries", 0, "--concurrency", 1, "--debug")
        flags = words(tmp_path, *servers, rows=len(servers), more=more)
        done = run_script("teacher_cot.py", *flags, check=False, OPENAI_API_KEY=CANARY)
    assert done.returncode == cli.SOME_ITEMS_FAILED
    assert all(server.keys[0] == f"Bearer {CANARY}" for server in servers)
    said = done.stdout.encode() + done.stderr.encode()
    written = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"Incorrect API key provided: Bearer ***" in written
    assert b"canary" not in said + written


def test_work_goes_to_whoever_is_free_and_no_server_gets_too_much(tmp_path: Path):
    with ChatServer(seconds=0.02) as fast, ChatServer(seconds=0.4) as slow:
        code, rows = teach(tmp_path, fast, slow, rows=60, more=("--concurrency", 3))
    assert code == 0
    assert whole(rows, 60)
    assert len(fast.bodies) > 2 * len(slow.bodies) > 0
    assert len(fast.bodies) + len(slow.bodies) == 60
    assert max(fast.most_running, slow.most_running) == 3


def test_a_server_that_only_fails_leaves_the_work_to_the_others(tmp_path: Path):
    with ChatServer(seconds=0.02) as good, ChatServer(then=500) as bad:
        code, rows = teach(tmp_path, good, bad, rows=40, more=("--concurrency", 2, "--max_retries", 3))
    assert code == 0
    assert whole(rows, 40)
    assert len(bad.bodies) <= 2 + 3


def test_two_ranks_share_the_servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with ChatServer() as server:
        for rank in "01":
            monkeypatch.setenv("RANK", rank)
            assert teacher_cot.main(words(tmp_path, server, rows=9)) == 0
    assert whole(read_rows(tmp_path / "out.jsonl"), 9)
    assert len(server.bodies) == 9


def test_the_stream_is_closed_at_the_answer(tmp_path: Path):
    with ChatServer(then="endless") as server:
        code, rows = teach(tmp_path, server, rows=2)
        deadline = time.monotonic() + 30
        while server.hung_up < 2:
            assert time.monotonic() < deadline, "the server still writes"
            time.sleep(0.02)
    assert code == 0
    assert whole(rows, 2)
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
    return openai_backend.load(args, "m", None, Sampling(50, **sampling))


def test_what_is_asked():
    first, second = (Request("a", sample, [{"role": "user", "content": "?"}]) for sample in (0, 1))
    greedy = backend(stop_at_answer=False).body(first, set())
    assert greedy == {
        "model": "m", "messages": first.messages, "max_tokens": 50, "temperature": 0.0,
        "chat_template_kwargs": {"enable_thinking": False},
    }  # fmt: skip
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
        (400, "Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens' instead.", "max_tokens"),
    ],
)
def test_an_option_that_a_server_refuses_is_left_out_there(tmp_path: Path, code: int, says: str, name: str):
    refusal = (code, {"message": says})
    with ChatServer(refusal) as server:
        exit_code, rows = teach(tmp_path, server, rows=3, more=("--temperature", 1, "--concurrency", 1))
    assert exit_code == 0
    assert whole(rows, 3)
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
        assert whole(rows, 2)
        manifest = (tmp_path / "out.jsonl.manifest.json").read_text(encoding="utf-8")
        assert json.loads(manifest)["settings"]["model_files"] == "m"
        assert "127.0.0.1" not in manifest
        with pytest.raises(DataError, match="model: 'm' -> 'n'"):
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
    with pytest.raises(DataError) as refusal:
        teacher_cot.main([*flags[:at], *(["--base_url", *urls] if urls else []), *flags[at + 1 :]])
    assert says in str(refusal.value)
    assert "secret" not in str(refusal.value)
    assert not list(tmp_path.glob("out*"))


def test_an_adapter_is_refused_before_anything_begins(tmp_path: Path):
    write_rows(tmp_path / "data/gsm8k/test.jsonl", [problem(0)])
    flags = ["--dataset", "gsm8k", "--data_root", tmp_path / "data", "--output_path", tmp_path / "p.jsonl"]
    flags += ["--backend", "openai", "--base_model", "m", "--base_url", "http://127.0.0.1:9/v1"]
    with pytest.raises(DataError, match="serve it under a model name of its own"):
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


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("3", 3.0), ("0.5", 0.5), (None, 0.0), ("", 0.0), ("-1", 0.0), ("soon", 0.0), ("Sun, 06 Nov 1994 08:49:37 GMT", 0.0)],
)
def test_retry_after_headers(value: str | None, seconds: float):
    assert openai_backend.retry_after(value) == seconds


def test_a_retry_after_date_in_the_future():
    from email.utils import formatdate

    assert 50 < openai_backend.retry_after(formatdate(time.time() + 60)) <= 60


def test_every_item_comes_out_once_whatever_fails(monkeypatch: pytest.MonkeyPatch):
    """Random faults of every kind, some items poisonous, some servers dead: 40 pools, no item lost or doubled."""
    monkeypatch.setattr(server_pool, "FIRST_DELAY_SECONDS", 0.0005)
    for seed in range(40):
        chance = random.Random(seed)
        dead = set(chance.sample("abc", chance.randrange(3)))
        poison = set(chance.sample(range(60), 5))
        pool: Pool[int, str] = Pool("abc", concurrency=4, max_retries=4)
        made: Counter[int] = Counter()

        async def attempt(url: str, item: int) -> str:
            if url in dead:  # noqa: B023
                raise AttemptError("dead", Blame.SERVER)
            if item in poison:  # noqa: B023
                raise AttemptError("poison", chance.choice([Blame.ITEM, Blame.EITHER]))  # noqa: B023
            if chance.random() < 0.1:  # noqa: B023
                raise AttemptError("now and then", chance.choice([Blame.SERVER, Blame.EITHER]))  # noqa: B023
            made[item] += 1  # noqa: B023
            return f"made {item}"

        async def close() -> None:
            pass

        results = dict(pool.run(range(60), attempt, close))
        assert set(results) == set(range(60))
        good = {item for item, result in results.items() if isinstance(result, str)}
        assert all(results[item] == f"made {item}" for item in good)
        assert made == Counter(good)
        assert not good & poison
        assert len(good) >= 50
