"""Workers in environments of their own: made by the launch, with real uv, from packages made on the spot."""

import contextlib
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from e2e.orchard import builders, chat, environments, launch, launched, plant, said, terminate, variables
from modelrack.testing.serving import Server, start_server, wait_until

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


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with plant(tmp_path_factory.mktemp("orchard")) as place:
        yield place


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


def test_an_engine_that_is_not_here_gets_an_environment(api: httpx.Client, server: Server) -> None:
    launched(api, "apple", "fresh")
    (name,) = [name for name in environments(server.home) if name.startswith("apple-")]
    assert said(api, "fresh") == ("2.0", str(server.home / "envs" / name))
    assert api.get("/v1/models/fresh").json()["environment"] == name
    (replica,) = api.get("/v1/models/fresh/replicas").json()
    assert replica["environment"] == name and psutil.Process(replica["pid"]).cmdline()[0].startswith(str(server.home))
    (instance,) = api.get("/v1/models/instances", params={"model_uid": "fresh"}).json()
    assert instance["environment"] == name
    plan = api.post("/v1/plan", json={"model_name": "orchard", "model_engine": "apple"}).json()["choice"]["environment"]
    assert (plan["name"], plan["is_built"], plan["requirements"]) == (name, True, []) and plan["size_bytes"] > 10000
    printed = subprocess.run(
        [sys.executable, "-m", "modelrack.cli", "plan", "-n", "orchard", "-en", "apple"],
        env=server.environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert f"its own, which is there already: {name} (" in printed.stdout, printed.stderr
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
        ("picky", {"environment": "OLD"}, 400, "has apple 1.0, and apple>=2 is required"),
        ("apple", {"environment": "server", "enable_virtual_env": True}, 400, "contradict"),
        ("apple", {"environment": "server", "virtual_env_packages": ["pear"]}, 400, "contradict"),
        ("apple", {"virtual_env_packages": ["pear @ https://example.org/pear.whl"]}, 400, "address"),
        ("apple", {"virtual_env_packages": ["--pre"]}, 400, "no requirement"),
        ("apple", {"virtual_env_packages": ["apple\n-r /etc/passwd"]}, 400, "no requirement"),
        ("apple", {"virtual_env_packages": ["apple>=3"]}, 400, "apple>=3 cannot be installed beside"),
        ("apple", {"virtual_env_packages": ["quince"]}, 400, "quince was not found"),
        ("broken", {"virtual_env_packages": ["apple<2"]}, 500, "the compiler is not there"),
        ("broken", {}, 500, "the compiler is not there"),
    ],
)
def test_what_cannot_be_is_told_with_its_reason(
    api: httpx.Client, server: Server, engine: str, body: dict[str, Any], status: int, reason: str
) -> None:
    if body.get("environment") == "OLD":
        launched(api, "apple", "old", virtual_env_packages=["apple<2"])
        body = {"environment": said(api, "old")[1]}
        terminate(api, "old")
    answer = launch(api, engine, "refused", **body)
    error = answer.json()["error"]
    assert answer.status_code == status and reason in error["message"], answer.text
    if status == 400 and "virtual_env_packages" in body and "contradict" not in reason:
        assert error["param"] == "virtual_env_packages"
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
