"""Workers as real processes, started by a job file as the server does."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from modelrack.hooks import Family, LoadPlan, ModelFiles, Route, Variant
from modelrack.worker import Job
from modelrack.worker.job import write_job

DEADLINE_S = 20.0

ROUTES = (
    Route(
        path="/v1/completions",
        ability="generate",
        request="modelrack.api.completions:CompletionRequest",
        response="modelrack.api.completions:Completion",
    ),
    Route(
        path="/v1/chat/completions",
        ability="chat",
        request="modelrack.api.chat:ChatRequest",
        response="modelrack.api.chat:ChatCompletion",
    ),
)


def wait_for(condition: Callable[[], Any], what: str, deadline_s: float = DEADLINE_S) -> Any:
    """Return the first true value of the condition."""
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.005)
    raise AssertionError(f"{what}: not within {deadline_s} s")


class RunningWorker:
    """A worker's process, and a client for its socket."""

    def __init__(self, process: "subprocess.Popen[bytes]", job: Job, log: Path) -> None:
        self.process = process
        self.job = job
        self.log = log
        self.client = httpx.Client(transport=httpx.HTTPTransport(uds=job.socket), base_url="http://worker", timeout=20)

    def status(self) -> dict[str, Any]:
        answer: dict[str, Any] = self.client.get("/_worker/status").json()
        return answer

    def metrics(self) -> dict[str, Any]:
        answer: dict[str, Any] = self.client.get("/_worker/metrics").json()
        return answer

    def ask(self, prompt: str, **fields: Any) -> httpx.Response:
        return self.client.post("/v1/completions", json={"model": "m", "prompt": prompt, **fields})

    def record(self) -> list[str]:
        record: list[str] = self.ask("record").json()["record"]
        return record

    def connect(self) -> socket.socket:
        raw = socket.socket(socket.AF_UNIX)
        raw.settimeout(20)
        try:
            raw.connect(self.job.socket)
        except OSError:
            raw.close()
            raise
        return raw

    def wait_bound(self) -> None:
        def is_bound() -> bool:
            assert self.process.poll() is None, self.log.read_text()
            try:
                self.connect().close()
            except OSError:
                return False
            return True

        wait_for(is_bound, "the socket")

    def wait_state(self, state: str) -> dict[str, Any]:
        self.wait_bound()

        def has_state() -> dict[str, Any] | None:
            status = self.status()
            return status if status["state"] == state else None

        status: dict[str, Any] = wait_for(has_state, f"state {state}")
        return status

    def wait_end(self) -> int:
        return self.process.wait(DEADLINE_S)


def request_bytes(prompt: str) -> bytes:
    """Return a request as bytes."""
    body = json.dumps({"model": "m", "prompt": prompt}).encode()
    return b"POST /v1/completions HTTP/1.1\r\nhost: w\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


def read_until(raw: socket.socket, end: bytes) -> bytes:
    """Read until the bytes end so."""
    data = b""
    while not data.endswith(end):
        more = raw.recv(65536)
        assert more, f"the connection ended after {data!r}"
        data += more
    return data


StartWorker = Callable[..., RunningWorker]


def make_job(socket_path: str, options: dict[str, Any] | None, fields: dict[str, Any]) -> Job:
    """Return a job for the probe, with some fields replaced."""
    plan = LoadPlan(
        model_uid="probe-uid",
        family=Family(name="probe", model_type="LLM", abilities=("generate",)),
        variant=Variant(format="probe"),
        quantization="none",
        files=ModelFiles(path="", format="probe"),
        options=options or {},
    )
    job = Job(
        incarnation="once",
        replica_id=1,
        socket=socket_path,
        lease=None,
        lease_s=60,
        plan=plan,
        routes=ROUTES,
        loader="probe_loader:ProbeLoader",
    )
    return replace(job, **fields)


@contextmanager
def starting_workers(folder: Path) -> Iterator[StartWorker]:
    """Give a function that starts a worker; all that it started are gone at the end."""
    started: list[RunningWorker] = []

    def start(
        *,
        options: dict[str, Any] | None = None,
        module: str = "modelrack.worker",
        stdin: int = subprocess.DEVNULL,
        ready: bool = True,
        **fields: Any,
    ) -> RunningWorker:
        number = len(started)
        job = make_job(str(folder / f"{number}.sock"), options, fields)
        run = folder / str(number)
        run.mkdir()
        write_job(run / "job.json", job)
        log = run / "log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", module, "job.json"],
                cwd=run,
                env=os.environ | {"PYTHONPATH": str(Path(__file__).parent)},
                stdin=stdin,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        worker = RunningWorker(process, job, log)
        started.append(worker)
        if ready:
            worker.wait_state("ready")
        return worker

    try:
        yield start
    finally:
        for worker in started:
            worker.client.close()
            if worker.process.poll() is None:
                os.killpg(worker.process.pid, signal.SIGKILL)
            worker.process.wait()


@pytest.fixture
def folder() -> Iterator[Path]:
    """Return a folder with a short path: a Unix socket's may have 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="mr-") as path:
        yield Path(path)


@pytest.fixture
def start_worker(folder: Path) -> Iterator[StartWorker]:
    """Return a function that starts a worker."""
    with starting_workers(folder) as start:
        yield start


@pytest.fixture(scope="module")
def shared_worker() -> Iterator[RunningWorker]:
    """Return a worker for all tests of a module that leave it as it was; its bodies may have 100,000 bytes."""
    with tempfile.TemporaryDirectory(prefix="mr-") as path, starting_workers(Path(path)) as start:
        yield start(max_body_bytes=100_000)
