"""Workers in environments of their own: made by the launch, with real uv, from packages made on the spot."""

import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from packaging.requirements import Requirement

from environments.wheels import BROKEN_BACKEND, SLOW_BACKEND, make_sdist, make_wheel, repack
from modelrack.environments import WORKER_REQUIREMENTS
from modelrack.testing.serving import Server, start_server, wait_until

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

IMPORT_ALL = """
import importlib, pkgutil, sys
import modelrack.api, modelrack.llm, modelrack.worker
names = ["modelrack.errors", "modelrack.hooks.types"]
for package in (modelrack.api, modelrack.llm, modelrack.worker):
    names += [item.name for item in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")]
for name in names:
    if not name.endswith("__main__"):
        importlib.import_module(name)
print(len(names))
"""

ENTRY_POINTS = "[modelrack]\norchard = modelrack_orchard.plugin\n"
METADATA = "Metadata-Version: 2.1\nName: modelrack-orchard\nVersion: 1.0\n"

Start = Callable[..., AbstractContextManager[Server]]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with the plugin, as installed, and one with all that environments are made from."""
    place = tmp_path_factory.mktemp("orchard")
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
    return place


@pytest.fixture
def start(place: Path, tmp_path: Path) -> Start:
    """Return what starts a server with the plugin; its uv sees what was made here and no index."""

    def run(home: Path, **more: str) -> AbstractContextManager[Server]:
        for path in place.glob("started-*"):
            path.unlink()
        (place / "go").unlink(missing_ok=True)
        return start_server(home, **{**variables(place, tmp_path / "cache"), **more})

    return run


def variables(place: Path, cache: Path) -> dict[str, str]:
    for name in [name for name in os.environ if name.startswith(("UV_", "PIP_"))]:
        os.environ.pop(name)  # put back by `unset`
    return {
        "PYTHONPATH": str(place / "plugin"),
        "UV_FIND_LINKS": str(place / "wheels"),
        "UV_NO_INDEX": "1",
        "UV_CACHE_DIR": str(cache),
        "TEST_PLACE": str(place),
    }


@pytest.fixture(scope="module", autouse=True)
def unset() -> Iterator[None]:
    """Put back what was set for uv and pip."""
    kept = dict(os.environ)
    yield
    os.environ.update(kept)


@pytest.fixture(scope="module")
def server(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Run one server for the tests that only launch."""
    home = tmp_path_factory.mktemp("home")
    with start_server(home, **variables(place, tmp_path_factory.mktemp("cache"))) as running:
        yield running


@pytest.fixture
def api(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield client


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


def test_an_engine_that_is_not_here_gets_an_environment(api: httpx.Client, server: Server) -> None:
    launched(api, "apple", "fresh")
    (name,) = [name for name in environments(server.home) if name.startswith("apple-")]
    assert said(api, "fresh") == ("2.0", str(server.home / "envs" / name))
    assert api.get("/v1/models/fresh").json()["environment"] == name
    (replica,) = api.get("/v1/models/fresh/replicas").json()
    assert replica["environment"] == name and psutil.Process(replica["pid"]).cmdline()[0].startswith(str(server.home))
    (instance,) = api.get("/v1/models/instances", params={"model_uid": "fresh"}).json()
    assert instance["environment"] == name
    events = [event["event_type"] for event in api.get("/v1/models/fresh/events").json()]
    assert events == ["launched", "environment", "environment", "starting", "ready"]
    library = Path(psutil.Process(replica["pid"]).environ()["PYTHONPATH"])
    assert {path.name for path in library.iterdir()} == {"modelrack", "modelrack_orchard"}
    terminate(api, "fresh")
    assert not library.exists() and Path(sys.modules["modelrack"].__path__[0], "worker").is_dir()
    launched(api, "apple", "fresh")  # the second time there is nothing to make
    assert "environment" not in [event["event_type"] for event in api.get("/v1/models/fresh/events").json()][5:]
    terminate(api, "fresh")


def test_a_launch_says_where_and_with_what(api: httpx.Client, server: Server) -> None:
    launched(api, "apple", "more", virtual_env_packages=["apple<2"], enable_virtual_env=True)
    version, prefix = said(api, "more")
    assert version == "1.0" and Path(prefix).parent == server.home / "envs"
    launched(api, "apple", "path", environment=prefix)
    assert said(api, "path") == (version, prefix)
    assert api.get("/v1/models/path").json()["environment"] == prefix
    launched(api, "apple", "python", environment=f"{prefix}/bin/python")
    assert said(api, "python") == (version, prefix)
    terminate(api, "more", "path", "python")


@pytest.mark.parametrize(
    ("engine", "body", "status", "reason"),
    [
        ("apple", {"environment": "server"}, 400, "apple cannot be found"),
        ("apple", {"enable_virtual_env": False}, 400, "apple cannot be found"),
        ("bare", {"environment": "isolated"}, 400, "declares no environment"),
        ("apple", {"environment": "isolate"}, 400, "'isolated'"),
        ("apple", {"environment": 7}, 400, "environment"),
        ("apple", {"environment": "/nowhere/at/all"}, 400, "/nowhere/at/all"),
        ("apple", {"environment": "/bin/sh"}, 400, "/bin/sh"),
        ("apple", {"environment": sys.prefix}, 400, "apple"),
        ("apple", {"environment": "server", "enable_virtual_env": True}, 400, "contradict"),
        ("apple", {"environment": "server", "virtual_env_packages": ["pear"]}, 400, "contradict"),
        ("apple", {"virtual_env_packages": ["pear @ https://example.org/pear.whl"]}, 400, "address"),
        ("apple", {"virtual_env_packages": ["--pre"]}, 400, "no requirement"),
        ("apple", {"virtual_env_packages": ["apple\n-r /etc/passwd"]}, 400, "no requirement"),
        ("apple", {"virtual_env_packages": ["apple>=3"]}, 500, "apple>=3"),
        ("broken", {}, 500, "the compiler is not there"),
    ],
)
def test_what_cannot_be_is_told_with_its_reason(
    api: httpx.Client, server: Server, engine: str, body: dict[str, Any], status: int, reason: str
) -> None:
    answer = launch(api, engine, "refused", **body)
    error = answer.json()["error"]
    assert answer.status_code == status and reason in error["message"], answer.text
    if status == 500:
        assert error["code"] == "launch_failed"
        (instance,) = api.get("/v1/models/instances", params={"model_uid": "refused"}).json()
        assert instance["status"] == "ERROR" and reason in instance["error_message"]
        assert reason in api.get("/v1/models/refused/progress").json()["error"]["message"]
        terminate(api, "refused")
    assert not builders(server.home)


def test_the_command_line_takes_both_meanings_of_env(server: Server, api: httpx.Client) -> None:
    command = [sys.executable, "-m", "modelrack.cli", "launch", "-n", "orchard", "-en", "apple", "-u", "cli"]
    done = subprocess.run(
        [*command, "--env", "isolated", "--env", "FRUIT", "pear"],
        env=server.environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    (replica,) = api.get("/v1/models/cli/replicas").json()
    assert replica["environment"].startswith("apple-")
    assert psutil.Process(replica["pid"]).environ()["FRUIT"] == "pear"
    terminate(api, "cli")
    done = subprocess.run(
        [*command, "--env=server"], env=server.environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1 and "apple cannot be found" in done.stderr


def test_the_worker_half_needs_no_more_than_it_says(api: httpx.Client) -> None:
    """With nothing but `WORKER_REQUIREMENTS` around it a worker answers, and all of its modules can be imported."""
    body = {"model_name": "echo", "model_engine": "echo", "model_uid": "thin", "environment": "isolated"}
    answer = api.post("/v1/models", json=body)
    assert answer.status_code == 200, answer.text
    assert chat(api, "thin", "a b").json()["choices"][0]["message"]["content"] == "a b"
    assert "[DONE]" in chat(api, "thin", "a b", stream=True).text
    assert api.post("/v1/completions", json={"model": "thin", "prompt": "c"}).json()["choices"][0]["text"] == "c"
    assert api.post("/v1/tokenize", json={"model": "thin", "prompt": "c"}).status_code == 200
    (replica,) = api.get("/v1/models/thin/replicas").json()
    worker = psutil.Process(replica["pid"])
    env = {"PYTHONPATH": worker.environ()["PYTHONPATH"]}
    done = subprocess.run(
        [worker.cmdline()[0], "-P", "-c", IMPORT_ALL], env=env, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 40
    terminate(api, "thin")


def test_what_a_replica_took_is_remembered(api: httpx.Client, server: Server) -> None:
    launched(api, "apple", "measured")
    (replica,) = api.get("/v1/models/measured/replicas").json()
    resident = psutil.Process(replica["pid"]).memory_info().rss

    def rows() -> list[tuple[int, int]]:
        with contextlib.closing(sqlite3.connect(f"file:{server.home / 'state.db'}?mode=ro", uri=True)) as store:
            return store.execute("SELECT host_bytes, device_bytes FROM measured").fetchall()

    wait_until(lambda: any(0.5 * resident < host < 1.5 * resident for host, _ in rows()), what="the figure")
    terminate(api, "measured")


def test_a_command_worker_in_an_environment(api: httpx.Client, server: Server) -> None:
    """It finds ours and its own packages; its errors get our body, its good answers pass as they are."""
    launched(api, "apple-command", "orchard-server")
    description = api.get("/v1/models/orchard-server").json()
    assert description["context_length"] == 77
    assert Path(description["prefix"]).name == description["environment"]
    assert chat(api, "orchard-server").content == b'{"good":  "as it is"}'
    for text, status, code, message in (
        ("text", 503, "model_not_ready", "the orchard is asleep"),
        ("html", 502, "http_error", "The engine answered with status 502 and gave no reason."),
        ("old", 400, "invalid_request", "too long"),
    ):
        answer = chat(api, "orchard-server", text)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["message"]) == (status, code, message)
        assert answer.json()["detail"] == message and answer.headers["content-type"] == "application/json"
    refused = api.post("/v1/completions", json={"model": "orchard-server", "prompt": "x"})
    assert refused.status_code == 400 and "apple-command" in refused.json()["detail"]

    (replica,) = api.get("/v1/models/orchard-server/replicas").json()
    children = psutil.Process(replica["pid"]).children(recursive=True)
    assert len(children) == 2  # the command, and what it has started
    broken = chat(api, "orchard-server", "break", stream=True)
    assert broken.status_code == 200
    events = [line for line in broken.text.split("\n\n") if line]
    assert len(events) == 1 and '"worker_lost"' in events[0]
    _, left = psutil.wait_procs(children, timeout=10)
    assert not left, "a process outlived its command"
    wait_until(lambda: chat(api, "orchard-server").status_code == 200, what="the restart")
    terminate(api, "orchard-server")


def test_two_launches_build_once(start: Start, place: Path, tmp_path: Path) -> None:
    with start(tmp_path / "home") as server, httpx.Client(base_url=server.url, timeout=60) as api:
        for uid in ("one", "two"):
            assert launch(api, "slow", uid, wait=False).status_code == 200
        build_pid(place)
        for uid in ("one", "two"):
            progress = api.get(f"/v1/models/{uid}/progress").json()
            assert (progress["stage"], progress["state"]) == ("environment", "preparing")
            assert 0 <= progress["progress"] < 0.8 and progress["detail"]
            refused = chat(api, uid)
            assert refused.status_code == 503 and refused.json()["error"]["stage"] == "environment"
            (instance,) = api.get("/v1/models/instances", params={"model_uid": uid}).json()
            assert (instance["status"], instance["environment"]) == ("CREATING", None)
        assert len(builders(server.home)) == 1
        (place / "go").touch()
        wait_until(lambda: all(chat(api, uid).status_code == 200 for uid in ("one", "two")), what="both models")
        assert len(list(place.glob("started-*"))) == 1
        (name,) = environments(server.home)
        assert {api.get(f"/v1/models/{uid}").json()["environment"] for uid in ("one", "two")} == {name}


@pytest.mark.parametrize("how", ["delete", "cancel"])
def test_a_cancelled_build_leaves_nothing(start: Start, place: Path, tmp_path: Path, how: str) -> None:
    with start(tmp_path / "home") as server, httpx.Client(base_url=server.url, timeout=60) as api:
        assert launch(api, "slow", "off", wait=False).status_code == 200
        pid = build_pid(place)
        path = "/v1/models/off"
        answer = api.delete(path) if how == "delete" else api.post(f"{path}/cancel")
        assert answer.status_code == 200, answer.text
        assert not builders(server.home) and not environments(server.home)
        wait_until(lambda: not psutil.pid_exists(pid) or is_zombie(pid), what="the build to end")
        assert api.get("/v1/models/off").status_code == 404


def test_kill_9_in_the_middle_of_a_build(start: Start, place: Path, tmp_path: Path) -> None:
    """Nothing half-made is used, nothing goes on without a server, and the next server goes on with the launch."""
    home = tmp_path / "home"
    with start(home) as server, httpx.Client(base_url=server.url, timeout=60) as api:
        assert launch(api, "slow", "kept", wait=False).status_code == 200
        pid = build_pid(place)
        assert len(builders(home)) == 1
        server.process.send_signal(signal.SIGKILL)
        server.process.wait(10)
        wait_until(lambda: not psutil.pid_exists(pid) or is_zombie(pid), what="the build to end")
    assert not environments(home)
    with start(home) as server, httpx.Client(base_url=server.url, timeout=60) as api:
        build_pid(place)
        assert len(builders(home)) == 1  # what the first had left is gone
        (place / "go").touch()
        wait_until(lambda: chat(api, "kept").status_code == 200, what="the model")
        assert not builders(home)


def test_an_environment_that_cannot_be_made_now_ends_no_wish(start: Start, tmp_path: Path) -> None:
    """A model that ran comes back once its environment can be made again: what is gone may be a disk or a network."""
    home = tmp_path / "home"
    with start(home) as server, httpx.Client(base_url=server.url, timeout=60) as api:
        launched(api, "apple", "back")
    shutil.rmtree(home / "envs")
    (tmp_path / "none").mkdir()
    nothing = {"UV_FIND_LINKS": str(tmp_path / "none")}
    with start(home, **nothing) as server, httpx.Client(base_url=server.url, timeout=60) as api:
        wait_until(lambda: api.get("/v1/models/back/progress").json()["state"] == "failed", what="the failure")
        assert "apple" in api.get("/v1/models/back/progress").json()["error_message"]
        assert chat(api, "back").status_code == 503
    with start(home) as server, httpx.Client(base_url=server.url, timeout=60) as api:
        wait_until(lambda: chat(api, "back").status_code == 200, what="the model")


def test_a_worker_in_an_environment_is_adopted(start: Start, place: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    with start(home) as server, httpx.Client(base_url=server.url, timeout=60) as api:
        launched(api, "apple", "stays")
        (before,) = api.get("/v1/models/stays/replicas").json()
        server.process.send_signal(signal.SIGKILL)
        server.process.wait(10)
    with start(home) as server, httpx.Client(base_url=server.url, timeout=60) as api:
        wait_until(lambda: chat(api, "stays").status_code == 200, what="the model")
        (after,) = api.get("/v1/models/stays/replicas").json()
        assert (after["pid"], after["environment"]) == (before["pid"], before["environment"])
        os.kill(after["pid"], signal.SIGKILL)
        deadline = time.monotonic() + 20
        while (again := api.get("/v1/models/stays/replicas").json()[0])["pid"] in (None, before["pid"]):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert again["environment"] == before["environment"]


def is_zombie(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
