"""Run the real gateway under uvicorn, in a thread with its own uvloop, before workers that misbehave on request."""

import asyncio
import io
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import uvicorn
import uvloop
from fastapi import Body, FastAPI, Request

from modelrack.errors import Conflict, NotReady
from modelrack.lifecycle.directory import Directory, Endpoint, Target
from modelrack.server.access_log import AccessLog
from modelrack.server.errors import install
from modelrack.server.gateway import Gateway
from modelrack.server.metrics import Metrics
from modelrack.settings import Settings

CHAT = "/v1/chat/completions"
FORM = "/v1/audio/transcriptions"
WORKER = Path(__file__).parent / "server" / "worker_process.py"


def wait_for(condition: Callable[[], Any], within_s: float = 5.0) -> Any:
    """Return the first true value of `condition`; fail after the deadline."""
    deadline = time.monotonic() + within_s
    while not (value := condition()):
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.005)
    return value


class WorkerProcess:
    """A worker in a process of its own."""

    def __init__(self, path: Path) -> None:
        self.socket = str(path)
        self.process = subprocess.Popen([sys.executable, str(WORKER), self.socket], stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"ready\n"

    def state(self) -> dict[str, Any]:
        """Return what the worker has seen; the connection this takes is counted too."""
        with httpx.Client(transport=httpx.HTTPTransport(uds=self.socket), base_url="http://worker") as client:
            seen: dict[str, Any] = client.get("/state").json()
        return seen

    def kill(self) -> None:
        """Kill the process, and wait until it is gone."""
        self.process.kill()
        self.process.wait(5)
        if self.process.stdout is not None:
            self.process.stdout.close()


def make_app() -> FastAPI:
    app = FastAPI()
    install(app)

    @app.get("/v1/numbers/{number}")
    async def number(number: int) -> int:
        return number

    @app.post("/v1/settings")
    async def settings(size: int = Body(embed=True)) -> int:
        return size

    @app.post("/v1/raw")
    async def raw(request: Request) -> int:
        return len(await request.body())

    @app.get("/v1/taken")
    async def taken() -> None:
        raise Conflict("It is taken.", remedy="Take another.", headers={"Retry-After": "9"})

    @app.get("/v1/broken")
    async def broken() -> None:
        raise ValueError("the inside of the server")

    @app.get("/health")
    async def health() -> str:
        return "ok"

    return app


class Rig:
    """A gateway that listens on loopback. Models: `busy` (limit 1), `loading` (not ready), and what tests add."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        self.directory = Directory()
        self.metrics = Metrics()
        self.stream = io.StringIO()
        self.settings = Settings(home=folder, **settings)
        self.log = AccessLog(self.settings.log_format, self.stream)
        self.workers: list[WorkerProcess] = []
        self.gateway: Gateway
        self.port = 0
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        assert self._started.wait(10)
        self.directory.put(Target("loading", "echo", _not_ready))

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.gateway = Gateway(
            make_app(), self.directory, [CHAT, FORM], self.settings, metrics=self.metrics, log=self.log
        )
        self._server = uvicorn.Server(uvicorn.Config(self.gateway, port=0, access_log=False, log_level="critical"))
        task = asyncio.ensure_future(self._server.serve())
        while not self._server.started:
            await asyncio.sleep(0.005)
        self.port = self._server.servers[0].sockets[0].getsockname()[1]
        self._started.set()
        await task
        await self.gateway.close()

    def add(
        self,
        uid: str = "m",
        *,
        limit: int | None = None,
        routes: tuple[str, ...] = (CHAT, FORM),
        is_foreign: bool = False,
    ) -> WorkerProcess:
        """Start a worker and let the gateway know it."""
        worker = WorkerProcess(self.folder / f"{len(self.workers)}.sock")
        self.workers.append(worker)
        target = self.directory.get(uid) or Target(uid, "echo", _not_ready)
        target.endpoints.append(
            Endpoint(len(target.endpoints), worker.socket, frozenset(routes), limit=limit, is_foreign=is_foreign)
        )
        self.directory.put(target)
        return worker

    def client(self, **options: Any) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.port}", timeout=10, **options)

    def connect(self) -> socket.socket:
        """Open a bare connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=10)

    def call(self, function: Callable[[], Any]) -> None:
        """Call something on the gateway's loop."""
        self._loop.call_soon_threadsafe(function)

    def lines(self) -> list[str]:
        """Return the log lines so far."""
        self.log.flush()
        return self.stream.getvalue().splitlines()

    def close(self) -> None:
        self._server.should_exit = True
        self._server.force_exit = True
        self._thread.join(10)
        for worker in self.workers:
            worker.kill()
        assert not self._thread.is_alive()


def _not_ready() -> NotReady:
    return NotReady("Model 'loading' is loading (40%).", headers={"Retry-After": "5"}, details={"progress": 0.4})


def request_bytes(body: dict[str, Any], path: str = CHAT) -> bytes:
    """Return a request as it goes over the wire."""
    content = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content
