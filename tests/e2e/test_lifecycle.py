"""Launching, failing, dying, restarting and stopping, on a real server with real workers."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from modelrack.testing.serving import RunningServer, start_server

CHAT = {"messages": [{"role": "user", "content": "one two three four five six seven eight nine ten"}]}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """Run one server for the tests that do not end it."""
    with start_server(tmp_path_factory.mktemp("home")) as running:
        yield running


@pytest.fixture
def api(server: RunningServer) -> Iterator[httpx.Client]:
    """Give a client of that server."""
    with httpx.Client(base_url=server.url, timeout=30) as client:
        yield client


def launch(api: httpx.Client, uid: str, wait: bool = True, **options: Any) -> httpx.Response:
    body = {"model_name": "echo", "model_engine": "echo", "model_uid": uid, **options}
    return api.post("/v1/models", params={"wait_ready": wait}, json=body)


def launched(api: httpx.Client, uid: str, **options: Any) -> None:
    response = launch(api, uid, **options)
    assert response.status_code == 200, response.text


def replicas(api: httpx.Client, uid: str) -> list[dict[str, Any]]:
    answer: list[dict[str, Any]] = api.get(f"/v1/models/{uid}/replicas").json()
    return answer


def until(condition: Callable[[], Any], limit_s: float = 10.0) -> Any:
    deadline = time.monotonic() + limit_s
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.01)


def is_gone(pid: int) -> bool:
    """Return whether a process has ended; nobody may have collected an orphan yet."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def chat(api: httpx.Client, uid: str, **more: Any) -> httpx.Response:
    return api.post("/v1/chat/completions", json={"model": uid, **CHAT, **more})


def test_launch_answer_and_terminate(api: httpx.Client) -> None:
    launched(api, "plain")
    assert chat(api, "plain").json()["choices"][0]["message"]["content"] == CHAT["messages"][0]["content"]
    (replica,) = replicas(api, "plain")
    pid = replica["pid"]
    environment = psutil.Process(pid).environ()
    assert environment["MODELRACK_OWNER"]
    assert "plain" in {item["id"] for item in api.get("/v1/models").json()["data"]}
    response = api.delete("/v1/models/plain")
    assert (response.status_code, response.json()) == (200, None)
    assert is_gone(pid)
    assert api.get("/v1/models/plain").status_code == 404
    assert api.delete("/v1/models/plain").status_code == 404
    assert chat(api, "plain").status_code == 404


def test_uids_default_to_the_name_and_are_never_shared(api: httpx.Client) -> None:
    body = {"model_name": "echo", "model_engine": "echo"}
    first = api.post("/v1/models", json=body).json()["model_uid"]
    second = api.post("/v1/models", json=body).json()["model_uid"]
    assert first == "echo" and second.startswith("echo-") and len(second) == len("echo-") + 8
    taken = launch(api, "echo")
    assert taken.status_code == 400 and "already in use" in taken.json()["detail"]
    for uid in (first, second):
        assert api.delete(f"/v1/models/{uid}").status_code == 200


@pytest.mark.parametrize(
    ("uid", "option", "reason"),
    [
        ("fails", {"load_failure": "the disk is full of whales"}, "the disk is full of whales"),
        ("crashes", {"crash_on_load": True}, "the worker"),
    ],
)
def test_a_failed_launch_tells_why_and_leaves_no_process(
    api: httpx.Client, uid: str, option: dict[str, Any], reason: str
) -> None:
    response = launch(api, uid, **option)
    assert response.status_code == 500
    error = response.json()["error"]
    assert error["code"] == "launch_failed" and reason in error["message"]
    (instance,) = api.get("/v1/models/instances", params={"model_uid": uid}).json()
    assert instance["status"] == "ERROR" and reason in instance["error_message"]
    assert reason in instance["replica_statuses"][0]["error_message"]
    assert uid not in {item["id"] for item in api.get("/v1/models").json()["data"]}
    assert chat(api, uid).status_code == 404
    events = [event["event_type"] for event in api.get(f"/v1/models/{uid}/events").json()]
    assert "failed" in events
    launched(api, uid)
    assert api.delete(f"/v1/models/{uid}").status_code == 200


def test_a_launch_without_waiting_can_be_followed(api: httpx.Client) -> None:
    response = launch(api, "slow", wait=False, load_delay_s=1.0)
    assert response.json() == {"model_uid": "slow"}
    (instance,) = api.get("/v1/models/instances", params={"model_uid": "slow"}).json()
    assert instance["status"] in ("CREATING", "LOADING")
    assert 0 <= api.get("/v1/models/slow/progress").json()["progress"] < 1
    refused = chat(api, "slow")
    assert refused.status_code == 503 and int(refused.headers["retry-after"]) >= 1
    assert refused.json()["error"]["code"] == "model_not_ready"
    assert api.get("/v1/models/slow").status_code == 503
    until(lambda: chat(api, "slow").status_code == 200)
    assert api.get("/v1/models/slow/progress").json()["progress"] == 1.0
    assert api.delete("/v1/models/slow").status_code == 200


@pytest.mark.parametrize("how", ["delete", "cancel"])
def test_a_launch_can_be_cancelled(api: httpx.Client, server: RunningServer, how: str) -> None:
    """A worker that hangs while loading is stopped, and the one who waits for it is answered."""

    async def run() -> tuple[httpx.Response, httpx.Response]:
        async with httpx.AsyncClient(base_url=server.url, timeout=30) as client:
            body = {"model_name": "echo", "model_engine": "echo", "model_uid": how, "hang_on_load": True}
            waiting = asyncio.ensure_future(client.post("/v1/models", json=body))
            path = f"/v1/models/{how}"
            for _ in range(500):
                answer = (await client.get(f"{path}/replicas")).json()
                if isinstance(answer, list) and answer and answer[0]["pid"]:
                    break
                await asyncio.sleep(0.01)
            ended = await (client.delete(path) if how == "delete" else client.post(f"{path}/cancel"))
            return await waiting, ended

    waited, ended = asyncio.run(run())
    assert (ended.status_code, ended.json()) == (200, None)
    assert waited.status_code == 409 and waited.json()["error"]["code"] == "launch_cancelled"
    assert api.get(f"/v1/models/{how}/progress").status_code == 404


def test_cancel_is_for_launches_under_way(api: httpx.Client) -> None:
    launched(api, "ready")
    assert api.post("/v1/models/ready/cancel").status_code == 400
    assert api.post("/v1/models/nobody/cancel").status_code == 404
    api.delete("/v1/models/ready")


def test_replicas_come_and_go(api: httpx.Client) -> None:
    launched(api, "many", replica=2)
    assert [replica["status"] for replica in replicas(api, "many")] == ["READY", "READY"]
    assert api.get("/v1/models/many").json()["replica"] == 2
    added = api.post("/v1/models/many/replicas").json()
    assert added["replica_id"] == 2
    until(lambda: replicas(api, "many")[2]["status"] == "READY")
    assert api.delete("/v1/models/many/replicas/0").json() == {"remaining_replicas": 2}
    assert [replica["replica_id"] for replica in replicas(api, "many")] == [1, 2]
    assert api.delete("/v1/models/many/replicas/0").status_code == 404
    assert chat(api, "many").status_code == 200
    assert api.delete("/v1/models/many/replicas/1").status_code == 200
    assert api.delete("/v1/models/many/replicas/2").status_code == 400
    api.delete("/v1/models/many")


def test_request_limits_are_answered_before_the_first_byte(api: httpx.Client, server: RunningServer) -> None:
    launched(api, "narrow", request_limits=1, token_delay_s=0.1)
    with api.stream("POST", "/v1/chat/completions", json={"model": "narrow", **CHAT, "stream": True}) as stream:
        lines = stream.iter_lines()
        next(lines)
        refused = httpx.post(f"{server.url}/v1/chat/completions", json={"model": "narrow", **CHAT})
        assert refused.status_code == 429 and refused.headers["retry-after"]
    until(lambda: chat(api, "narrow").status_code == 200)
    api.delete("/v1/models/narrow")


async def stream_until_end(client: httpx.AsyncClient, uid: str, started: asyncio.Semaphore) -> tuple[str, float]:
    """Read a stream to its end; return its last event and when that came."""
    last = ""
    body = {"model": uid, **CHAT, "stream": True}
    async with client.stream("POST", "/v1/chat/completions", json=body) as response:
        async for line in response.aiter_lines():
            if line.startswith("data: "):
                if not last:
                    started.release()
                last = line[6:]
    return last, time.monotonic()


def test_kill_9_of_a_worker_under_8_streams(api: httpx.Client, server: RunningServer) -> None:
    """Each stream ends with an error event within a second, the model comes back by itself, others never notice."""
    launched(api, "victim", token_delay_s=0.1)
    launched(api, "bystander", token_delay_s=0.1)
    pid = replicas(api, "victim")[0]["pid"]

    async def run() -> tuple[list[tuple[str, float]], tuple[str, float], float]:
        async with httpx.AsyncClient(base_url=server.url, timeout=30) as client:
            started = asyncio.Semaphore(0)
            victims = [asyncio.ensure_future(stream_until_end(client, "victim", started)) for _ in range(8)]
            bystander = asyncio.ensure_future(stream_until_end(client, "bystander", started))
            for _ in range(9):
                await asyncio.wait_for(started.acquire(), 10)
            os.kill(pid, signal.SIGKILL)
            killed = time.monotonic()
            return await asyncio.gather(*victims), await bystander, killed

    ended, bystander, killed = asyncio.run(run())
    for last, moment in ended:
        assert json.loads(last)["error"]["code"] == "worker_lost"
        assert moment - killed < 1.0
    assert bystander[0] == "[DONE]"
    response = until(lambda: (answer := chat(api, "victim")).status_code == 200 and answer)
    assert response.json()["choices"][0]["finish_reason"] == "stop"
    (replica,) = replicas(api, "victim")
    assert replica["pid"] != pid and replica["restarts"] == 1
    assert replicas(api, "bystander")[0]["restarts"] == 0
    events = [(event["event_type"], event["event_content"]) for event in api.get("/v1/models/victim/events").json()]
    assert any(kind == "failed" and "SIGKILL" in content for kind, content in events)
    for uid in ("victim", "bystander"):
        api.delete(f"/v1/models/{uid}")


def test_a_worker_that_keeps_dying_is_given_up(tmp_path: Path) -> None:
    with (
        start_server(tmp_path / "home", MODELRACK_RESTART_LIMIT="2") as server,
        httpx.Client(base_url=server.url, timeout=30) as api,
    ):
        launched(api, "mortal", crash_after_tokens=2)

        def state() -> str:
            chat(api, "mortal")
            (instance,) = api.get("/v1/models/instances", params={"model_uid": "mortal"}).json()
            return "given up" if "given up" in (instance["error_message"] or "") else instance["status"]

        until(lambda: state() == "given up", 20)
        refused = chat(api, "mortal")
        assert refused.status_code == 503 and "given up after 3 failures" in refused.json()["detail"]
        assert api.delete("/v1/models/mortal").status_code == 200


def test_a_worker_deaf_to_sigterm_is_killed(tmp_path: Path) -> None:
    with (
        start_server(tmp_path / "home", MODELRACK_STOP_S="0.5") as server,
        httpx.Client(base_url=server.url, timeout=30) as api,
    ):
        launched(api, "deaf", ignore_sigterm=True)
        pid = replicas(api, "deaf")[0]["pid"]
        assert api.delete("/v1/models/deaf").status_code == 200
        assert is_gone(pid)


def test_terminate_lets_requests_finish(api: httpx.Client, server: RunningServer) -> None:
    launched(api, "drains", token_delay_s=0.05)

    async def run() -> tuple[str, int]:
        async with httpx.AsyncClient(base_url=server.url, timeout=30) as client:
            started = asyncio.Semaphore(0)
            streaming = asyncio.ensure_future(stream_until_end(client, "drains", started))
            await started.acquire()
            response = await client.delete("/v1/models/drains")
            last, _ = await streaming
            return last, response.status_code

    assert asyncio.run(run()) == ("[DONE]", 200)


def test_a_stalled_start_is_given_up(tmp_path: Path) -> None:
    with (
        start_server(tmp_path / "home", MODELRACK_START_STALL_S="1", MODELRACK_STOP_S="1") as server,
        httpx.Client(base_url=server.url, timeout=30) as api,
    ):
        response = launch(api, "stuck", hang_on_load=True)
        assert response.status_code == 500
        assert "MODELRACK_START_STALL_S" in response.json()["detail"]


def test_sigkill_of_the_server_loses_no_model(tmp_path: Path) -> None:
    """The next server adopts the workers that still answer and starts those that died."""
    home = tmp_path / "home"
    with start_server(home) as server, httpx.Client(base_url=server.url, timeout=30) as api:
        launched(api, "kept")
        launched(api, "lost")
        kept, lost = replicas(api, "kept")[0]["pid"], replicas(api, "lost")[0]["pid"]
        server.process.kill()
        server.process.wait(10)
    assert psutil.pid_exists(kept)
    os.kill(lost, signal.SIGKILL)
    with start_server(home) as server, httpx.Client(base_url=server.url, timeout=30) as api:
        until(lambda: api.get("/ready").status_code == 200)
        until(lambda: chat(api, "kept").status_code == 200)
        until(lambda: chat(api, "lost").status_code == 200)
        assert replicas(api, "kept")[0]["pid"] == kept
        assert replicas(api, "lost")[0]["pid"] != lost
        os.kill(kept, signal.SIGKILL)
        until(lambda: replicas(api, "kept")[0]["pid"] not in (None, kept))
        until(lambda: chat(api, "kept").status_code == 200)
    assert is_gone(kept)


def test_models_come_back_after_a_graceful_stop_unless_told_not_to(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with start_server(home) as server, httpx.Client(base_url=server.url, timeout=30) as api:
        launched(api, "comes-back")
        pid = replicas(api, "comes-back")[0]["pid"]
    assert is_gone(pid)
    with start_server(home) as server, httpx.Client(base_url=server.url, timeout=30) as api:
        until(lambda: chat(api, "comes-back").status_code == 200)
    with start_server(home, "--no-restore") as server, httpx.Client(base_url=server.url, timeout=30) as api:
        until(lambda: api.get("/ready").status_code == 200)
        assert chat(api, "comes-back").status_code == 404


def test_a_worker_without_a_server_ends_itself(tmp_path: Path) -> None:
    with start_server(tmp_path / "home", MODELRACK_LEASE_S="1") as server:
        with httpx.Client(base_url=server.url, timeout=30) as api:
            launched(api, "orphan")
            pid = replicas(api, "orphan")[0]["pid"]
        server.process.kill()
        server.process.wait(10)
    until(lambda: is_gone(pid))


def test_a_home_belongs_to_one_server(tmp_path: Path, server: RunningServer) -> None:
    command = [sys.executable, "-m", "modelrack.cli", "serve", "--port", "0", "--home", str(server.home)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 1
    assert "Another modelrack server uses the home folder" in ended.stderr and "Traceback" not in ended.stderr


def test_a_command_worker_serves_and_is_restarted(api: httpx.Client) -> None:
    response = api.post(
        "/v1/models", json={"model_name": "echo", "model_engine": "echo-command", "model_uid": "command"}
    )
    assert response.status_code == 200, response.text
    assert chat(api, "command").json()["model"] == "command"
    refused = api.post("/v1/tokenize", json={"model": "command", "prompt": "x"})
    assert refused.status_code == 400 and "echo-command" in refused.json()["detail"]
    (replica,) = replicas(api, "command")
    (served,) = psutil.Process(replica["pid"]).children()
    served.kill()
    until(lambda: replicas(api, "command")[0]["restarts"] == 1)
    until(lambda: chat(api, "command").status_code == 200)
    (replica,) = replicas(api, "command")
    family = [psutil.Process(replica["pid"]), *psutil.Process(replica["pid"]).children()]
    assert api.delete("/v1/models/command").status_code == 200
    psutil.wait_procs(family, timeout=5)
    assert not any(process.is_running() for process in family)


@pytest.mark.parametrize("name", ["LD_PRELOAD", "PYTHONPATH", "MODELRACK_OWNER", "a b"])
def test_variables_that_change_the_code_are_refused(api: httpx.Client, name: str) -> None:
    response = launch(api, "env", envs={name: "x"})
    assert response.status_code == 400 and response.json()["error"]["param"] == f"envs.{name}"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("worker_ip", "10.1.2.3"),
        ("environment", "somewhere"),
        ("virtual_env_packages", ["../x"]),
        ("peft_model_config", {"lora_list": [{"lora_name": "a", "local_path": "/nowhere"}]}),
        ("n_gpu", 99),
        ("gpu_idx", [99]),
        ("replica", 0),
        ("request_limits", 0),
        ("no_such_option", 1),
        ("model_size_in_billions", "many"),
        ("model_uid", "../x"),
        ("download_hub", "nowhere"),
        ("model_format", "gguf"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(api: httpx.Client, field: str, value: Any) -> None:
    body = {"model_name": "echo", "model_engine": "echo", field: value}
    response = api.post("/v1/models", json=body)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert field in f"{error['param']} {error['message']}"
    assert api.get("/v1/models/instances", params={"model_uid": "echo"}).json() == []


def test_a_request_is_aborted_by_its_id(api: httpx.Client) -> None:
    launched(api, "aborts", token_delay_s=0.2)
    body = {"model": "aborts", **CHAT, "stream": True, "request_id": "mine"}
    with api.stream("POST", "/v1/chat/completions", json=body) as stream:
        lines = stream.iter_lines()
        next(lines)
        assert api.post("/v1/models/aborts/requests/other/abort").json() == {"msg": "NOT_FOUND"}
        assert api.post("/v1/models/aborts/requests/mine/abort").json() == {"msg": "DONE"}
        last = [line for line in lines if line.startswith("data: ")][-1]
    assert json.loads(last[6:])["error"]["code"] == "request_aborted"
    assert api.post("/v1/models/nobody/requests/x/abort").status_code == 404
    api.delete("/v1/models/aborts")
