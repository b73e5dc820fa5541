"""Workers of this plugin as real processes, on their Unix sockets."""

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import orjson

from modelrack.builtin import register_model_types
from modelrack.hooks import Family, LoadPlan, ModelFiles, Variant
from modelrack.worker import Job
from modelrack.worker.job import write_job
from modelrack_llm_xllamacpp.options import LlamaCppOptions

UID = "tiny-uid"
ROUTES = next(one for one in register_model_types() if one.name == "LLM").routes
START_S = 60.0


@dataclass
class WorkerProcess:
    """One worker."""

    process: subprocess.Popen[bytes]
    folder: Path

    @property
    def client(self) -> httpx.Client:
        """Return a client of its socket."""
        transport = httpx.HTTPTransport(uds=str(self.folder / "w.sock"))
        return httpx.Client(transport=transport, base_url="http://worker", timeout=60)

    def log(self) -> str:
        """Return what it has written to stderr."""
        return (self.folder / "log").read_text(errors="replace")

    def status(self) -> dict[str, Any]:
        """Return the answer to `GET /_worker/status`."""
        with self.client as client:
            return dict(client.get("/_worker/status").json())

    def _listens(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self.folder / "w.sock")) == 0

    def wait(self, state: str) -> dict[str, Any]:
        """Wait until it is in a state."""
        deadline = time.monotonic() + START_S
        status: dict[str, Any] = {}
        while time.monotonic() < deadline:
            try:
                # httpx leaks the socket of a connection that is refused.
                if self._listens():
                    status = self.status()
            except httpx.TransportError:
                pass
            if status.get("state") == state:
                return status
            if self.process.poll() is not None:
                break
            time.sleep(0.01)
        raise AssertionError(
            f"the worker is not {state} but {status}, exit {self.process.poll()}: {self.log()[-3000:]}"
        )

    def post(self, path: str, **body: Any) -> httpx.Response:
        """Send a request."""
        with self.client as client:
            return client.post(path, json={"model": UID, **body})

    def ok(self, path: str, **body: Any) -> Any:
        """Send a request that must succeed, and return its JSON."""
        response = self.post(path, **body)
        assert response.status_code == 200, response.text
        return response.json()

    def events(self, path: str, **body: Any) -> list[dict[str, Any]]:
        """Send a request for a stream that must be whole, and return its events."""
        response = self.post(path, stream=True, **body)
        assert response.status_code == 200, response.text
        lines = [line.removeprefix("data: ") for line in response.text.splitlines() if line]
        assert lines[-1] == "[DONE]"
        return [orjson.loads(line) for line in lines[:-1]]

    def counters(self) -> dict[str, Any]:
        """Return the worker's counters."""
        with self.client as client:
            return dict(client.get("/_worker/metrics").json())

    def stop(self) -> int:
        """Stop it as the server does, and return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise


Start = Callable[..., WorkerProcess]


def start_worker(
    folder: Path, model: Path, *, lora: tuple[tuple[str, str], ...] = (), stop: tuple[str, ...] = (), **options: Any
) -> WorkerProcess:
    """Start a worker for a model; options as they are given at a launch."""
    folder.mkdir(parents=True, exist_ok=True)
    plan = LoadPlan(
        model_uid=UID,
        family=Family(name="tiny", model_type="LLM", abilities=("chat", "generate"), stop=stop),
        variant=Variant(format="gguf"),
        quantization="none",
        files=ModelFiles(path=str(model), format="gguf"),
        options=LlamaCppOptions.model_validate(options).model_dump(),
        lora=lora,
    )
    job = Job(
        incarnation=secrets.token_hex(8),
        replica_id=0,
        socket=str(folder / "w.sock"),
        lease=None,
        lease_s=60,
        plan=plan,
        routes=ROUTES,
        loader="modelrack_llm_xllamacpp.worker:LlamaCppLoader",
    )
    write_job(folder / "job.json", job)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "modelrack.worker", "job.json"],
            cwd=folder,
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
    return WorkerProcess(process, folder)
