"""Stands in for the hub's HTTP interface on the loopback: makes repositories, and takes commits and large files."""

from __future__ import annotations

import json
import threading
from base64 import b64decode
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


@dataclass
class HubServer:
    """A context manager. What was sent is kept: repositories as they were asked for, and files by their paths.

    Args:
        fails: every commit is refused.
    """

    fails: bool = False
    repositories: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    tokens: set[str] = field(default_factory=set)
    addresses: list[str] = field(default_factory=list)
    objects: dict[str, bytes] = field(default_factory=dict)  # SHA-256 -> a large file

    def __enter__(self) -> Self:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_HubHandler,), {"hub": self}))
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def environment(self) -> dict[str, str]:
        """Variables with which the hub's client asks this server, which has no Xet storage: large files go by LFS."""
        return {"HF_ENDPOINT": self.url, "HF_TOKEN": "hf_secret", "NO_PROXY": "127.0.0.1", "HF_HUB_DISABLE_XET": "1"}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"


class _HubHandler(BaseHTTPRequestHandler):
    hub: HubServer

    def do_GET(self) -> None:
        self._answer({"_id": "1", "id": "owner/name", "siblings": [], "sha": "0" * 40})

    def do_PUT(self) -> None:
        self.hub.objects[self.path.rpartition("/")[2]] = self._body()
        self._answer({})

    def do_POST(self) -> None:
        body = self._body()
        self.hub.addresses.append(self.path)
        self.hub.tokens.add(self.headers.get("Authorization") or "")
        if self.path == "/api/repos/create":
            self.hub.repositories.append(json.loads(body))
        elif self.path.endswith("/preupload/main"):
            return self._answer({"files": [_mode(file["path"]) for file in json.loads(body)["files"]]})
        elif self.path.endswith("/lfs/objects/batch"):
            return self._answer({"objects": [self._place(one) for one in json.loads(body)["objects"]]})
        elif "/commit/" in self.path:
            if self.hub.fails:
                return self._answer({"error": "storage is full"}, 403)
            self._commit(body)
        address = f"{self.hub.url}/owner/name"
        self._answer({"url": address, "commitUrl": f"{address}/commit/0", "commitOid": "0" * 40, "name": "owner/name"})

    def _place(self, wanted: dict[str, Any]) -> dict[str, Any]:
        """Where a large file is to be put."""
        return {**wanted, "actions": {"upload": {"href": f"{self.hub.url}/large/{wanted['oid']}"}}}

    def _commit(self, body: bytes) -> None:
        for line in body.decode().splitlines():
            entry = json.loads(line)
            found = entry["value"]
            if entry["key"] == "file":
                self.hub.files[found["path"]] = b64decode(found["content"])
            elif entry["key"] == "lfsFile":
                self.hub.files[found["path"]] = self.hub.objects[found["oid"]]

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _answer(self, value: Any, status: int = 200) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


def _mode(path: str) -> dict[str, Any]:
    """How the client is to send a file: weights go as large files."""
    large = path.endswith((".safetensors", ".gguf"))
    return {"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
