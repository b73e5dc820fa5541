"""Start the real `echo` worker, as the server would, without a server."""

import http.client
import json
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from modelrack.hooks import LoadPlan, ModelFiles, PythonWorker, Route
from modelrack.worker import Job
from modelrack.worker.job import write_job
from modelrack_echo.plugin import register_engines, register_families

MESSAGES = [{"role": "user", "content": "What is the largest animal on Earth, and where does it live? " * 8}]
START_S = 20.0


def ask_echo(tokens: int, stream: bool) -> dict[str, Any]:
    """Return a request that the echo worker answers with so many tokens."""
    return {"model": "echo", "messages": MESSAGES, "max_tokens": tokens, "temperature": 0.7, "stream": stream}


def start_echo(folder: Path, name: str, token_delay_s: float) -> tuple["subprocess.Popen[str]", str]:
    """Start a worker, wait until it is ready, and return its process and its socket."""
    family = register_families()[0]
    engine = next(engine for engine in register_engines() if engine.name == "echo")
    assert isinstance(engine.worker, PythonWorker)
    options = engine.options_for(family.model_type).model_validate({"repeat": True, "token_delay_s": token_delay_s})
    plan = LoadPlan(
        model_uid="echo",
        family=family,
        variant=family.variants[0],
        quantization="none",
        files=ModelFiles(path="", format="echo"),
        options=options.model_dump(mode="json"),
    )
    models = "modelrack.api.chat"
    route = Route(
        path="/v1/chat/completions",
        ability="chat",
        request=f"{models}:ChatRequest",
        response=f"{models}:ChatCompletion",
        chunk=f"{models}:ChatChunk",
    )
    path = folder / f"{name}.json"
    job = Job(
        incarnation="bench",
        replica_id=0,
        socket=str(folder / f"{name}.sock"),
        lease=None,
        lease_s=60,
        plan=plan,
        routes=(route,),
        loader=engine.worker.loader,
    )
    write_job(path, job)
    process = subprocess.Popen([sys.executable, "-P", "-m", "modelrack.worker", str(path)], text=True)
    deadline = time.monotonic() + START_S
    while _state(job.socket) != "ready":
        if time.monotonic() > deadline or process.poll() is not None:
            raise SystemExit("the echo worker did not start")
        time.sleep(0.02)
    return process, job.socket


def _state(path: str) -> str | None:
    connection = http.client.HTTPConnection("worker")
    with socket.socket(socket.AF_UNIX) as connection.sock:
        try:
            connection.sock.connect(path)
            connection.request("GET", "/_worker/status", headers={"Connection": "close"})
            state: str = json.load(connection.getresponse())["state"]
        except OSError:
            return None
    return state
