"""Replies of every shape that OpenAI-compatible servers send, through the openai backend and a loopback server."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from generation.chat_server import ChatServer
from generation.openai_tools import teach, words

import teacher_cot
from cotkit.core import cli
from cotkit.core.errors import UserError
from cotkit.generation.backends.proxies import proxy_of

pytestmark = pytest.mark.usefixtures("short_delays")

ONCE, STREAM = "--no-stop_at_answer", "--stop_at_answer"
SAYS = "the GPU is on fire"


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def reply(text: Any, reason: Any = "stop", **message: Any) -> dict[str, Any]:
    return {"choices": [{"message": {"content": text, **message}, "finish_reason": reason}]}


def pieces(*deltas: Any, reason: Any = "stop") -> list[Any]:
    """The events of a stream; a delta that is no dict is its content."""
    deltas = tuple(delta if isinstance(delta, dict) else {"content": delta} for delta in deltas)
    return [
        *({"choices": [{"delta": delta}]} for delta in deltas),
        {"choices": [{"delta": {}, "finish_reason": reason}]},
    ]


ERRORS: dict[str, Any] = {
    "OpenAI's": {"error": {"message": SAYS, "type": "x", "code": None}},
    "a text": {"error": SAYS},
    "FastAPI's": {"detail": SAYS},
    "FastAPI's list": {"detail": [{"loc": ["body", "messages"], "msg": SAYS, "type": "value_error"}]},
    "vLLM's older one": {"object": "error", "message": SAYS},
    "a list of errors": {"errors": [{"message": SAYS}]},
    "an error in an error": {"error": {"error": {"description": SAYS}}},
    "a list": [{"error": {"message": SAYS}}],
    "a plain text": SAYS,
    "a page": f"<html><h1>{SAYS}</h1></html>",
    "fields of its own": {"problem": SAYS},
}


@pytest.mark.parametrize("how", [ONCE, STREAM])
@pytest.mark.parametrize("code", [200, 400, 500])
@pytest.mark.parametrize("shape", ERRORS)
def test_the_servers_own_words_are_the_rows_error(tmp_path: Path, shape: str, code: int, how: str):
    body = ERRORS[shape]
    if code == 200 and shape == "fields of its own":
        pytest.skip("a reply of status 200 without known fields is not known to be a failure")
    kind = {"a plain text": "text/plain", "a page": "text/html"}.get(shape, "application/json")
    if (code, shape, how) == (200, "a plain text", STREAM):
        pytest.skip("read as a stream, which some servers send as text/plain")
    with ChatServer(then="given", reply=body, code=code, kind=kind) as server:
        exit_code, rows = teach(tmp_path, server, more=(how, "--max_retries", 1))
    assert exit_code == cli.SOME_ITEMS_FAILED
    assert SAYS in rows[0]["error"]
    assert ("HTTP" in rows[0]["error"]) == (code != 200)
    assert len(server.bodies) == (1 if code == 400 else 2)
    assert "<" not in rows[0]["error"]


@pytest.mark.parametrize("event", [{"error": SAYS}, {"error": {"message": SAYS}}, {"object": "error", "message": SAYS}])
def test_an_error_within_a_stream_is_the_rows_error(tmp_path: Path, event: Any):
    with ChatServer(then="given", events=[*pieces("3+4")[:1], event]) as server:
        code, rows = teach(tmp_path, server, more=("--max_retries", 0))
    assert (code, rows[0]["response"]) == (cli.SOME_ITEMS_FAILED, "")
    assert SAYS in rows[0]["error"]


@pytest.mark.parametrize(("status", "asked"), [(400, 1), ("422", 1), (429, 3), (500, 3)])
def test_a_status_within_a_reply_of_200_is_that_status(tmp_path: Path, status: Any, asked: int):
    body = {"error": {"message": SAYS, "code": status}}
    with ChatServer(then="given", reply=body) as server:
        _, rows = teach(tmp_path, server, more=(ONCE, "--max_retries", 2))
    assert f"HTTP {status}: {SAYS}" in rows[0]["error"]
    assert len(server.bodies) == asked


PARTS = [{"type": "text", "text": "3+4=7\n"}, {"type": "output_text", "text": {"value": "#### 7\n"}}]


@pytest.mark.parametrize("how", [ONCE, STREAM])
def test_a_content_of_parts_is_their_text(tmp_path: Path, how: str):
    given = {"reply": reply(PARTS)} if how == ONCE else {"events": pieces(*([part] for part in PARTS))}
    with ChatServer(then="given", **given) as server:
        code, rows = teach(tmp_path, server, more=(how,))
    assert (code, rows[0]["response"].strip()) == (0, "3+4=7\n#### 7")
    assert rows[0]["finish_reason"] == ("stop" if how == ONCE else "answer")


def test_a_part_that_is_a_thought_is_one(tmp_path: Path):
    content = [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}, {"type": "text", "text": "#### 7"}]
    with ChatServer(then="given", reply=reply(content)) as server:
        _, rows = teach(tmp_path, server, more=(ONCE, "--thinking"))
    assert (rows[0]["thinking"].strip(), rows[0]["response"].strip()) == ("Hm.", "#### 7")


@pytest.mark.parametrize("kind", ["application/json", "application/json; charset=utf-8"])
def test_an_answer_at_once_to_a_request_for_a_stream_is_taken(tmp_path: Path, kind: str):
    answer = {**reply("3+4=7\n#### 7\nNext"), "usage": {"prompt_tokens": 3, "completion_tokens": 9}}
    with ChatServer(then="given", reply=answer, kind=kind) as server:
        code, rows = teach(tmp_path, server, more=(STREAM,))
    assert (code, rows[0]["response"], rows[0]["finish_reason"]) == (0, "3+4=7\n#### 7", "answer")
    assert (rows[0]["prompt_tokens"], rows[0]["completion_tokens"], len(server.bodies)) == (3, 9, 1)


@pytest.mark.parametrize("how", [ONCE, STREAM])
@pytest.mark.parametrize("content", [None, "", []])
def test_an_empty_truncated_text_is_truncated_and_not_asked_again(tmp_path: Path, content: Any, how: str):
    given = {"reply": reply(content, "length")} if how == ONCE else {"events": pieces(content, reason="length")}
    with ChatServer(then="given", **given) as server:
        code, rows = teach(tmp_path, server, more=(how,))
    assert (code, rows[0]["response"], rows[0]["finish_reason"], len(server.bodies)) == (0, "", "length", 1)


@pytest.mark.parametrize(
    ("reason", "found"),
    [
        ("eos_token", "stop"),
        ("end_turn", "stop"),
        ("STOP", "stop"),
        ("MAX_TOKENS", "length"),
        ("model_length", "length"),
    ],
)
def test_finish_reasons_of_other_servers_are_known(tmp_path: Path, reason: str, found: str):
    with ChatServer(then="given", reply=reply("3+4=7", reason)) as server:
        code, rows = teach(tmp_path, server, more=(ONCE,))
    assert (code, rows[0]["response"], rows[0]["finish_reason"]) == (0, "3+4=7", found)


@pytest.mark.parametrize(
    ("reason", "asked"),
    [("content_filter", 1), ("SAFETY", 1), ("insufficient_system_resource", 2), ("abort", 2), (7, 2)],
)
def test_an_unknown_finish_reason_is_the_rows_error(tmp_path: Path, reason: Any, asked: int):
    with ChatServer(then="given", reply=reply("3+4", reason)) as server:
        code, rows = teach(tmp_path, server, more=(ONCE, "--max_retries", 1))
    assert code == cli.SOME_ITEMS_FAILED
    assert f"finish reason '{reason}'" in rows[0]["error"]
    assert len(server.bodies) == asked


@pytest.mark.parametrize("how", [ONCE, STREAM])
@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_a_text_that_arrives_as_a_thought_is_the_text_where_thinking_is_off(
    tmp_path: Path, name: str, how: str, caplog: pytest.LogCaptureFixture
):
    with ChatServer(text="\n", thought="3+4=7\n#### 7\nNext", thought_name=name) as server:
        code, rows = teach(tmp_path, server, rows=3, more=(how,))
    ends = ("3+4=7\n#### 7", "answer") if how == STREAM else ("3+4=7\n#### 7\nNext", "stop")
    assert code == 0
    assert {(row["response"], row["finish_reason"], row["thinking"]) for row in rows} == {(*ends, "")}
    assert [record.levelno for record in caplog.records if "although thinking is off" in record.message] == [
        logging.WARNING
    ]


def test_a_thought_beside_a_text_stays_a_thought(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    with ChatServer(text="#### 7\n", thought="Hm.") as server:
        _, rows = teach(tmp_path, server)
    assert (rows[0]["thinking"].strip(), rows[0]["response"].strip()) == ("Hm.", "#### 7")
    assert "although thinking is off" not in caplog.text


@pytest.mark.parametrize(
    "message",
    [
        "System role not supported",
        "Conversation roles must alternate user/assistant/user/assistant/...",
        "Only user and assistant roles are supported!",
        "system messages are not allowed",
    ],
)
@pytest.mark.parametrize("code", [200, 400, 500])
def test_a_template_without_a_system_role_ends_the_run_with_a_way_out(tmp_path: Path, message: str, code: int):
    with ChatServer(then="given", reply={"error": {"message": message}}, code=code) as server:
        exit_code, rows = teach(tmp_path, server, rows=20, more=("--concurrency", 2))
    assert exit_code == cli.SOME_ITEMS_FAILED
    assert len(server.bodies) <= 2
    assert all(message in row["error"] and "docs/GENERATION.md, section" in row["error"] for row in rows)


def test_other_words_about_a_system_are_no_template(tmp_path: Path):
    with ChatServer((400, {"message": "the system is overloaded, the role user is fine"})) as server:
        _, rows = teach(tmp_path, server, rows=2, more=("--concurrency", 1))
    assert sorted(row["finish_reason"] for row in rows) == ["answer", "error"]


def test_a_proxy_in_force_is_named(tmp_path: Path, monkeypatch: Any, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO)
    with ChatServer() as proxy:
        address = proxy.url.removesuffix("/v1")
        monkeypatch.setenv("HTTP_PROXY", address.replace("//", "//user:secret@"))
        code, rows = teach(tmp_path, "http://gpu1.invalid:8000/v1")
    assert (code, len(rows), len(proxy.bodies)) == (0, 1, 1)  # the loopback server answers as a proxy would
    assert (
        f"gpu1.invalid:8000/v1 is asked through the proxy {address} (HTTP_PROXY); NO_PROXY=gpu1.invalid" in caplog.text
    )
    assert "secret" not in caplog.text


@pytest.mark.parametrize("code", [403, 407, 502, 503])
def test_a_proxy_that_refuses_is_named(tmp_path: Path, monkeypatch: Any, code: int):
    with ChatServer(then=code) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url.removesuffix("/v1"))
        _, rows = teach(tmp_path, "http://gpu1.invalid:8000/v1", more=("--max_retries", 0))
    assert f"HTTP {code}: it is broken (asked through the proxy http://127.0.0.1" in rows[0]["error"]


def test_a_proxy_that_is_not_there_is_named(tmp_path: Path, monkeypatch: Any):
    with ChatServer() as gone:
        pass
    monkeypatch.setenv("http_proxy", gone.url.removesuffix("/v1"))
    _, rows = teach(tmp_path, "http://gpu1.invalid:8000/v1", more=("--max_retries", 0))
    assert "cannot be reached through the proxy http://127.0.0.1" in rows[0]["error"]


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("ftp://u:secret@proxy:1", r"the proxy ftp://proxy:1 \(ALL_PROXY\) is no address such as"),
        ("http://", "is no address such as"),
        ("http://proxy:port", "is no address such as"),
        ("socks5://u:secret@proxy:1080", r"socks5://proxy:1080 \(ALL_PROXY\) needs the package socksio"),
    ],
)
def test_a_proxy_that_cannot_be_used_is_refused_at_once(tmp_path: Path, monkeypatch: Any, value: str, says: str):
    monkeypatch.setattr("cotkit.generation.backends.proxies.find_spec", lambda _: None)
    monkeypatch.setenv("ALL_PROXY", value)
    with pytest.raises(UserError, match=says) as refusal:
        teacher_cot.main(words(tmp_path, "http://gpu1:8000/v1"))
    assert "unset ALL_PROXY" in str(refusal.value)
    assert "secret" not in str(refusal.value)


@pytest.mark.parametrize("bypass", ["gpu1", "gpu1,other", "*", "cluster"])
def test_no_proxy_is_heeded(monkeypatch: Any, bypass: str):
    monkeypatch.setenv("http_proxy", "http://proxy:3128")
    assert proxy_of("http://gpu1:8000/v1") == "http://proxy:3128 (http_proxy)"
    assert proxy_of("https://gpu1:8000/v1") is None
    monkeypatch.setenv("no_proxy", bypass)
    assert (proxy_of("http://gpu1:8000/v1") is None) == (bypass != "cluster")
