"""A hub on loopback: as much of Hugging Face's API as its own client needs to download from it."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """What the server has, and what it was asked for.

    Args:
        repos: files by repository.
        gated: repositories that want a token.
        busy: how many downloads are answered with 503.
        stop_after: bytes of a file after which the server holds back the rest until `go_on` is set.
        requests: (method, path, Range header) of each request.
    """

    repos: dict[str, dict[str, bytes]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    token: str = "hf_secret"
    stop_after: int | None = None
    cut_after: int | None = None
    corrupt: bool = False
    busy: int = 0
    go_on: threading.Event = field(default_factory=threading.Event)
    stopped: threading.Event = field(default_factory=threading.Event)
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    endpoint: str = ""

    def ranges(self) -> list[str]:
        return [value for method, _, value in self.requests if method == "GET" and value]

    def sent(self) -> list[str]:
        return [path for method, path, _ in self.requests if method == "GET" and "/resolve/" in path]


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: ClassVar[Hub]

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._serve()

    def do_GET(self) -> None:
        self._serve()

    def _serve(self) -> None:
        path = self.path.partition("?")[0]
        self.hub.requests.append((self.command, path, self.headers.get("Range")))
        listing = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?", path)
        resolve = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        match = listing or resolve
        if not match:
            return self._json(404, {"error": "Not found"})
        repo, revision = match[1], match[2]
        files = self.hub.repos.get(repo)
        if files is None:
            return self._json(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        if repo in self.hub.gated and self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            return self._json(403, {"error": f"Access to model {repo} is restricted"}, {"X-Error-Code": "GatedRepo"})
        if revision not in (None, "main", COMMIT):
            return self._json(404, {"error": "Revision not found"}, {"X-Error-Code": "RevisionNotFound"})
        if listing:
            return self._list(repo, files)
        if match[3] not in files:
            return self._json(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})
        self._file(files[match[3]])

    def _list(self, repo: str, files: dict[str, bytes]) -> None:
        siblings = [
            {"rfilename": name, "size": len(data), "blobId": digest(data)[:40], "lfs": None}
            for name, data in files.items()
        ]
        self._json(
            200, {"id": repo, "modelId": repo, "sha": COMMIT, "private": False, "tags": [], "siblings": siblings}
        )

    def _json(self, status: int, body: object, headers: dict[str, str] | None = None) -> None:
        raw = json.dumps(body).encode()
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Type": "application/json"}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(raw)

    def _file(self, data: bytes) -> None:
        if self.command == "GET" and self.hub.busy > 0:
            self.hub.busy -= 1
            return self._json(503, {"error": "busy"})
        start = 0
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if wanted:
            start = int(wanted[1])
        self.send_response(206 if wanted else 200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{digest(data)}"')
        self.send_header("Accept-Ranges", "bytes")
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        if self.command == "GET":
            self._send(bytes(len(data)) if self.hub.corrupt else data, start)

    def _send(self, data: bytes, start: int) -> None:
        limit, cut = self.hub.stop_after, self.hub.cut_after
        try:
            if limit is not None and start < limit < len(data):
                self.wfile.write(data[start:limit])
                self.wfile.flush()
                self.hub.stopped.set()
                self.hub.go_on.wait(30)
                start = limit
            if cut is not None and start < cut < len(data):
                self.wfile.write(data[start:cut])
                self.close_connection = True
                return
            self.wfile.write(data[start:])
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is what some tests are about."""


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = _Server(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        hub.go_on.set()
        server.shutdown()
        server.server_close()
        thread.join(10)
