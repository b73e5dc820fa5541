"""An orchard: a plugin whose engines run in environments of their own, and the packages that these are made of."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
from packaging.requirements import Requirement

from environments.wheels import BROKEN_BACKEND, SLOW_BACKEND, make_sdist, make_wheel, repack
from modelrack.environments import WORKER_REQUIREMENTS
from modelrack.testing.serving import wait_until

__all__ = [
    "build_pid",
    "builders",
    "chat",
    "environments",
    "is_zombie",
    "launch",
    "launched",
    "plant",
    "said",
    "terminate",
    "variables",
]

PLUGIN = """
from modelrack.hooks import Command, CommandWorker, Engine, Environment, Family, PythonWorker, Variant, hookimpl

def accepts(candidate, machine):
    return None if candidate.variant.format == "fruit" else "it runs fruit only"


def build(plan, socket):
    argv = (plan.python, "-P", "-m", "modelrack_orchard.server", socket, plan.model_uid)
    return Command(argv=argv, ready_path="/ready")


@hookimpl
def register_families():
    return [Family(name="orchard", model_type="LLM", abilities=("chat",), variants=(Variant(format="fruit"),))]


@hookimpl
def register_engines():
    worker = PythonWorker(loader="modelrack_orchard.worker:Loader")
    common = {"model_types": ("LLM",), "accepts": accepts, "requires": ("apple",)}
    apple = Environment(requirements=("apple",))
    return [
        Engine(name="apple", worker=worker, environment=apple, rank=1, **common),
        Engine(name="picky", worker=worker, environment=Environment(requirements=("apple>=2",)), **common),
        Engine(name="slow", worker=worker, environment=Environment(requirements=("apple", "slow")), **common),
        Engine(name="broken", worker=worker, environment=Environment(requirements=("apple", "broken")), **common),
        Engine(name="apple-command", environment=apple,
               worker=CommandWorker(build=build, routes=("/v1/chat/completions",)), **common),
        Engine(name="bare", worker=worker, **common),
    ]
"""

WORKER = """
import sys

import apple
import modelrack.worker
from modelrack.api.chat import chat_answer
from modelrack.api.common import usage_dict


class Loader(modelrack.worker.Loader):
    def load(self, report):
        return {"chat": self.chat}

    async def chat(self, request, call):
        message = {"role": "assistant", "content": f"{apple.VERSION} {sys.prefix}"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return chat_answer(call.model_uid, [choice], usage_dict(1, 1))
"""

SERVER = """
import json, os, subprocess, sys
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingMixIn, UnixStreamServer

import apple
import orjson
from modelrack_orchard import plugin  # the plugin's own code is there too

ANSWERS = {
    "text": (503, "text/plain", b"the orchard is asleep"),
    "html": (502, "text/html", b"<html>no</html>"),
    "old": (400, "application/json", b'{"object": "error", "message": "too long", "type": "BadRequest", "code": 400}'),
}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.answer(200, "application/json", orjson.dumps({"facts": {"context_length": 77, "prefix": sys.prefix}}))

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        text = asked["messages"][-1]["content"]
        if text == "break":
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            self.wfile.write(b'b\\r\\ndata: {"n"' + b"\\r\\n")
            self.wfile.flush()
            os._exit(3)
        self.answer(*ANSWERS.get(text, (200, "application/json", b'{"good":  "as it is"}')))

    def answer(self, status, kind, body):
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self):
        return "unix"


class Threads(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True


subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("child started", flush=True)
Threads(sys.argv[1], Handler).serve_forever()
"""

ENTRY_POINTS = "[modelrack]\norchard = modelrack_orchard.plugin\n"
METADATA = "Metadata-Version: 2.1\nName: modelrack-orchard\nVersion: 1.0\n"


@contextmanager
def plant(place: Path) -> Iterator[Path]:
    """Fill a folder: with the plugin, as installed, and with all that environments are made from.

    What the user has set for uv and pip is away meanwhile.
    """
    package, info = place / "plugin" / "modelrack_orchard", place / "plugin" / "modelrack_orchard-1.0.dist-info"
    package.mkdir(parents=True)
    info.mkdir()
    for name, text in (("__init__", ""), ("plugin", PLUGIN), ("worker", WORKER), ("server", SERVER)):
        (package / f"{name}.py").write_text(text)
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    (info / "METADATA").write_text(METADATA)
    repack(place / "wheels", *(Requirement(text).name for text in WORKER_REQUIREMENTS))
    make_wheel(place / "wheels", "apple", "1.0")
    make_wheel(place / "wheels", "apple", "2.0")
    make_wheel(place / "built", "slow")
    make_sdist(place / "wheels", "slow", SLOW_BACKEND)
    make_sdist(place / "wheels", "broken", BROKEN_BACKEND)
    kept = dict(os.environ)
    for name in [name for name in os.environ if name.startswith(("UV_", "PIP_"))]:
        os.environ.pop(name)
    try:
        yield place
    finally:
        os.environ.update(kept)


def variables(place: Path, cache: Path) -> dict[str, str]:
    """Return the variables under which a server has the plugin, and its uv sees what was made here and no index."""
    return {
        "PYTHONPATH": str(place / "plugin"),
        "UV_FIND_LINKS": str(place / "wheels"),
        "PIP_NO_INDEX": "1",
        "UV_CACHE_DIR": str(cache),
        "TEST_PLACE": str(place),
    }


def launch(api: httpx.Client, engine: str, uid: str, wait: bool = True, **more: Any) -> httpx.Response:
    body = {"model_name": "orchard", "model_engine": engine, "model_uid": uid, **more}
    return api.post("/v1/models", params={"wait_ready": wait}, json=body)


def launched(api: httpx.Client, engine: str, uid: str, **more: Any) -> None:
    answer = launch(api, engine, uid, **more)
    assert answer.status_code == 200, answer.text


def chat(api: httpx.Client, uid: str, text: str = "hi", **more: Any) -> httpx.Response:
    messages = [{"role": "user", "content": text}]
    return api.post("/v1/chat/completions", json={"model": uid, "messages": messages, **more})


def said(api: httpx.Client, uid: str) -> tuple[str, str]:
    """Return version of the package and prefix of the interpreter that a worker sees."""
    version, prefix = chat(api, uid).json()["choices"][0]["message"]["content"].split()
    return version, prefix


def terminate(api: httpx.Client, *uids: str) -> None:
    for uid in uids:
        assert api.delete(f"/v1/models/{uid}").status_code == 200


def environments(home: Path) -> list[str]:
    folder = home / "envs"
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")) if folder.exists() else []


def builders(home: Path) -> list[str]:
    """Return the folders in which environments are being made."""
    return [path.name for path in (home / "envs").glob(".building-*") if path.is_dir()]


def build_pid(place: Path) -> int:
    """Wait until the slow package is being built; returns the process that does it."""
    wait_until(lambda: any(place.glob("started-*")), what="the build")
    return int(next(place.glob("started-*")).name.partition("-")[2])


def is_zombie(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
