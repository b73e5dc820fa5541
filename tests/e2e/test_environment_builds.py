"""Environments that a launch makes: once for all, never half, and again after whatever has happened."""

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import httpx
import psutil
import pytest

from e2e.orchard import build_pid, builders, chat, environments, is_zombie, launch, launched, plant, variables
from modelrack.testing.serving import Server, start_server, wait_until

Start = Callable[..., AbstractContextManager[Server]]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with plant(tmp_path_factory.mktemp("orchard")) as place:
        yield place


@pytest.fixture
def start(place: Path, tmp_path: Path) -> Start:
    """Return what starts a server with the plugin; its uv sees what was made here and no index."""

    def run(home: Path, **more: str) -> AbstractContextManager[Server]:
        for path in place.glob("started-*"):
            path.unlink()
        (place / "go").unlink(missing_ok=True)
        return start_server(home, **{**variables(place, tmp_path / "cache"), **more})

    return run


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
