"""A chat-completions server on the loopback that misbehaves by plan; `python tests/generation/chat_server.py` runs one to be killed."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

MANY = 10_000  # pieces of a text that does not end by itself


def text_for(body: dict[str, Any]) -> str:
    """What the model behind the server writes: depends on the question alone, and ends with runaway text."""
    question = body["messages"][-1]["content"]
    return f"Asked {len(question)} letters: {question[:40]!r}\n#### 7\nNext problem: Who is next?\n#### 8\n"


class ChatServer(ThreadingHTTPServer):
    """The n-th request gets the n-th fault of the plan, later ones `then`.

    A fault is the name of a method of `_Handler`, an HTTP status, or a pair of a status and what its body is to hold.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, *plan: Any, then: Any = "answer", seconds: float = 0.0, port: int = 0, **how: Any) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.plan, self.then, self.seconds, self.how = list(plan), then, seconds, how
        self.lock = threading.Lock()
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.times: list[float] = []
        self.running = self.most_running = self.hung_up = 0
        self.released = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, *_: Any) -> None:
        """Connections that the client closes are part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ChatServer

    def do_POST(self) -> None:
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            fault = server.plan.pop(0) if server.plan else server.then
            server.bodies.append(body)
            server.keys.append(self.headers.get("Authorization"))
            server.times.append(time.monotonic())
            server.running += 1
            server.most_running = max(server.most_running, server.running)
        try:
            time.sleep(server.seconds)
            if isinstance(fault, str):
                getattr(self, fault)(body)
            else:
                self.status(*fault if isinstance(fault, tuple) else (fault, {"message": "it is broken"}))
        except (BrokenPipeError, ConnectionResetError):
            server.hung_up += 1
        finally:
            with server.lock:
                server.running -= 1

    def status(self, code: int, body: Any, **headers: str) -> None:
        data = body.encode() if isinstance(body, str) else json.dumps({"error": body}).encode()
        self.plain(code, data, "text/html" if isinstance(body, str) else "application/json", **headers)

    def plain(self, code: int, data: bytes, kind: str = "application/json", **headers: str) -> None:
        self.send_response(code)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def stream(self, events: Iterable[Any], whole: bool = True) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for event in events:
            data = b"data: " + (event if isinstance(event, bytes) else json.dumps(event).encode()) + b"\n\n"
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        if whole:
            self.wfile.write(b"0\r\n\r\n")
        else:
            self.close_connection = True

    def answer(self, body: dict[str, Any]) -> None:
        """The text, as the options of the server ask for."""
        how = self.server.how
        text, reason = how.get("text", text_for(body)), how.get("reason", "stop")
        usage = how.get("usage", {"prompt_tokens": 11, "completion_tokens": 22})
        thought = {how.get("thought_name", "reasoning_content"): how["thought"]} if "thought" in how else {}
        if not body.get("stream"):
            message = {"role": "assistant", "content": text, **thought}
            self.plain(
                200, json.dumps({"choices": [{"message": message, "finish_reason": reason}], "usage": usage}).encode()
            )
            return
        pieces = [text[at : at + 4] for at in range(0, len(text or ""), 4)]
        deltas: list[Any] = [
            {"role": "assistant"},
            *([thought] if thought else []),
            *({"content": piece} for piece in pieces),
        ]
        events = [{"choices": [{"delta": delta, "finish_reason": None}]} for delta in deltas]
        events += [{"choices": [{"delta": {}, "finish_reason": reason}], "usage": usage}, b"[DONE]"]
        self.stream(events)

    def endless(self, body: dict[str, Any]) -> None:
        """The text, then more and more of it, slowly enough for a closed connection to be noticed."""

        def events() -> Iterable[Any]:
            for piece in [text_for(body), *["more of it "] * MANY]:
                yield {"choices": [{"delta": {"content": piece}}]}
                time.sleep(0.01)

        self.stream(events())

    def given(self, body: dict[str, Any]) -> None:
        """The reply that the test gives: a stream of events, or a body of any type and status."""
        how = self.server.how
        if "events" in how:
            self.stream(how["events"])
            return
        reply = how["reply"]
        data = reply.encode() if isinstance(reply, str) else json.dumps(reply).encode()
        self.plain(how.get("code", 200), data, how.get("kind", "application/json"))

    def hang(self, body: dict[str, Any]) -> None:
        self.server.released.wait()
        self.close_connection = True

    def hang_in_the_text(self, body: dict[str, Any]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        self.wfile.write(b'data: {"choices": [{"delta": {"content": "3+4"}}]}\n\n')
        self.hang(body)

    def cut(self, body: dict[str, Any]) -> None:
        self.close_connection = True

    def cut_in_the_text(self, body: dict[str, Any]) -> None:
        if body.get("stream"):
            self.stream([{"choices": [{"delta": {"content": "3+4=7\n"}}]}], whole=False)
        else:
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b'{"choices": [{"message": {"content": "3+4')
            self.close_connection = True

    def broken_json(self, body: dict[str, Any]) -> None:
        bad = b'{"choices": [{"delta": {"content": '
        self.stream([bad]) if body.get("stream") else self.plain(200, bad)

    def deep_json(self, body: dict[str, Any]) -> None:
        bad = b"[" * 100_000
        self.stream([bad]) if body.get("stream") else self.plain(200, bad)

    def page(self, body: dict[str, Any]) -> None:
        self.plain(200, b"<html>Welcome to the gateway</html>", "text/html")

    def empty_choices(self, body: dict[str, Any]) -> None:
        self.choices(body)

    def null_content(self, body: dict[str, Any]) -> None:
        self.choices(body, {"content": None})

    def number_as_content(self, body: dict[str, Any]) -> None:
        self.choices(body, {"content": 7})

    def tool_call(self, body: dict[str, Any]) -> None:
        self.choices(body, {"content": "x"}, reason="tool_calls")

    def no_reason(self, body: dict[str, Any]) -> None:
        self.choices(body, {"content": "3+4"}, reason=None)

    def choices(self, body: dict[str, Any], *messages: dict[str, Any], reason: str | None = "stop") -> None:
        part = "delta" if body.get("stream") else "message"
        answer = {"choices": [{part: message, "finish_reason": reason} for message in messages]}
        self.stream([answer]) if body.get("stream") else self.plain(200, json.dumps(answer).encode())

    def error_in_the_text(self, body: dict[str, Any]) -> None:
        events = [{"choices": [{"delta": {"content": "3+4"}}]}, {"error": {"message": "the engine died", "code": 500}}]
        self.stream(events) if body.get("stream") else self.plain(200, json.dumps(events[1]).encode())

    def later(self, body: dict[str, Any]) -> None:
        self.status(429, {"message": "slow down"}, Retry_After="0.7")

    def echo(self, body: dict[str, Any]) -> None:
        """Repeats the key in every way that servers have been seen to."""
        key = str(self.headers["Authorization"])
        self.status(
            self.server.how["code"], {"message": f"Incorrect API key provided: {key}", "param": key, "code": key}
        )

    def echo_page(self, body: dict[str, Any]) -> None:
        self.status(500, f"<html>{self.headers['Authorization']}</html>")

    def echo_in_the_text(self, body: dict[str, Any]) -> None:
        self.stream([{"error": {"message": f"who is {self.headers['Authorization']}?"}}])

    def log_message(self, *_: Any) -> None:
        """Quiet."""


if __name__ == "__main__":
    with ChatServer(seconds=float(sys.argv[1])) as running:
        print(running.url, flush=True)
        threading.Event().wait()
