"""What is left after the server, a guard or a file is gone: each worker has an owner, and nothing stays behind."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from modelrack.lifecycle.store import Store
from modelrack.testing.serving import Server, clean_environment, start_server, wait_until
from modelrack_demo.plugin import MODELS

CHAT = {"messages": [{"role": "user", "content": "one two three"}]}


def launch(server: Server, uid: str, engine: str = "echo", **options: Any) -> httpx.Response:
    body = {"model_name": "echo", "model_engine": engine, "model_uid": uid, **options}
    return httpx.post(f"{server.url}/v1/models", json=body, timeout=30)


def answers(server: Server, uid: str) -> bool:
    return httpx.post(f"{server.url}/v1/chat/completions", json={"model": uid, **CHAT}).status_code == 200


def workers(home: Path) -> set[int]:
    """Return the processes that belong to a home, whoever their parent is."""
    found = set()
    for process in psutil.process_iter():
        try:
            owned = "MODELRACK_OWNER" in (environment := process.environ()) and process.status() != "zombie"
            if owned and any(str(home) in word for word in (*process.cmdline(), environment.get("PWD", ""))):
                found.add(process.pid)
        except psutil.Error:
            continue
    return found


def kill(server: Server) -> None:
    server.process.kill()
    server.process.wait(10)


@pytest.mark.parametrize("engine", ["echo", "echo-command"])
def test_the_only_model_is_adopted_again_and_again(tmp_path: Path, engine: str) -> None:
    """A server that dies takes no worker along, and the next one starts no second worker beside it."""
    home = tmp_path / "home"
    with start_server(home) as server:
        assert launch(server, "kept", engine).status_code == 200
        before = workers(home)
        kill(server)
    for _ in range(2):
        with start_server(home) as server:
            wait_until(lambda server=server: answers(server, "kept"))  # type: ignore[misc]
            assert workers(home) == before
            kill(server)
    with start_server(home):
        pass
    assert not workers(home)
    assert list((home / "run").iterdir()) == []


def test_what_dies_while_stopping_leaves_no_files(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with start_server(home) as server:
        assert launch(server, "deaf", ignore_sigterm=True).status_code == 200
        url = f"{server.url}/v1/models/deaf"
        threading.Thread(target=_try_delete, args=(url,), daemon=True).start()
        wait_until(lambda: "deaf-0 is stopping" in server.output)
        kill(server)
    with start_server(home):
        wait_until(lambda: not workers(home) and not list((home / "run").iterdir()))
    store = Store(home / "state.db")
    assert store.workers() == [] and store.instances() == []
    store.close()


def _try_delete(url: str) -> None:
    with contextlib.suppress(httpx.HTTPError):
        httpx.delete(url, timeout=30)


def test_the_command_of_a_killed_guard_does_not_outlive_the_next_start(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with start_server(home) as server:
        assert launch(server, "guarded", "echo-command").status_code == 200
        (guard,) = psutil.Process(server.process.pid).children()
        (command,) = guard.children()
        kill(server)
        guard.kill()
        assert command.is_running()
    with start_server(home) as server:
        wait_until(lambda: answers(server, "guarded"))
        wait_until(lambda: not command.is_running() or command.status() == psutil.STATUS_ZOMBIE)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with start_server(tmp_path_factory.mktemp("home"), MODELRACK_LEASE_S="3") as running:
        yield running


def test_a_deleted_socket_brings_a_new_worker(server: Server) -> None:
    assert launch(server, "unreachable").status_code == 200
    for path in (server.home / "run").glob("*.sock"):
        path.unlink()
    wait_until(lambda: answers(server, "unreachable"))
    assert httpx.delete(f"{server.url}/v1/models/unreachable").status_code == 200


def test_a_deleted_home_takes_no_model_along(server: Server) -> None:
    """The lease lies in it: without it all workers would take the server for dead."""
    assert launch(server, "homeless").status_code == 200
    shutil.rmtree(server.home)
    wait_until((server.home / "lease").exists)
    wait_until(lambda: answers(server, "homeless"))
    assert launch(server, "another").status_code == 200
    for uid in ("homeless", "another"):
        assert httpx.delete(f"{server.url}/v1/models/{uid}").status_code == 200


def test_a_replica_for_a_model_that_is_being_terminated_is_refused(server: Server) -> None:
    assert launch(server, "going", ignore_sigterm=True).status_code == 200
    url = f"{server.url}/v1/models/going"
    ending = threading.Thread(target=_try_delete, args=(url,))
    ending.start()
    wait_until(lambda: "going-0 is stopping" in server.output)
    refused = httpx.post(f"{url}/replicas")
    assert refused.status_code == 400 and "not running" in refused.json()["detail"]
    ending.join()


ADAPTER = b'{"model_name": "demo-chat", "peft_model_config": {"lora_list": [{"lora_name": "a", "local_path": "%s"}]}}'


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (rb'{"model_name": "echo", "model_engine": "\udfff"}', None),
        (b'{"model_name": "echo", "token_delay_s": NaN}', None),
        (b'{"model_name": "echo", "token_delay_s": 1e999}', None),
        (b'{"model_name": "echo", "token_delay_s": "inf"}', "token_delay_s"),
        (b'{"model_name": "echo", "envs": {"A": "b\\u0000"}}', "envs.A"),
        (ADAPTER % b"~nobody-of-this-name/a", "peft_model_config.lora_list.0.local_path"),
        (
            ADAPTER % (b"/" + b"x" * 5000),
            "peft_model_config.lora_list.0.local_path",
        ),  # a 500 once: no path may be so long
        (ADAPTER % (b"/x" * 3000), "peft_model_config.lora_list.0.local_path"),
        (b'{"model_name": "m", "model_path": "/%s.gguf"}' % (b"x" * 5000), "model_path"),
        (b'{"model_name": "echo", "environment": "/%s"}' % (b"x" * 5000), "environment"),
    ],
    ids=map(str, range(10)),
)
def test_what_could_not_be_stored_or_passed_on_is_refused_at_once(
    server: Server, body: bytes, param: str | None
) -> None:
    answer = httpx.post(f"{server.url}/v1/models", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param


def test_a_server_whose_standard_streams_are_closed(tmp_path: Path) -> None:
    """The store or a socket must not become number 1, to which the next line is printed."""
    script = f'exec {sys.executable} -m modelrack.cli serve --port 0 --home "$0" <&- >&- 2>&-'
    home = tmp_path / "home"
    process = subprocess.Popen(["sh", "-c", script, str(home)], env=clean_environment())
    wait_until((home / "lease").exists)
    links = [os.readlink(f"/proc/{process.pid}/fd/{number}") for number in range(3)]
    process.terminate()
    assert process.wait(20) == 0
    assert links == [os.devnull] * 3


def test_a_closed_terminal_ends_the_server_in_order(tmp_path: Path) -> None:
    """Long streams end with an event, who waits for a launch is answered, and no worker stays behind."""
    home = tmp_path / "home"
    with start_server(home) as server, ThreadPoolExecutor() as pool:
        assert launch(server, "slow", token_delay_s=0.05).status_code == 200
        waiting = pool.submit(launch, server, "hangs", hang_on_load=True)
        body = {"model": "slow", "stream": True, "messages": [{"role": "user", "content": "word " * 1000}]}
        with httpx.stream("POST", f"{server.url}/v1/chat/completions", json=body, timeout=20) as stream:
            lines = stream.iter_lines()
            next(lines)
            wait_until(lambda: "hangs-0 is starting" in server.output)
            server.process.send_signal(signal.SIGHUP)
            last = [line for line in lines if line.startswith("data: ")][-1]
        assert json.loads(last[6:])["error"]["message"] == "The server is ending."
        assert waiting.result().status_code == 503
        assert server.process.wait(20) == 0
        assert "Traceback" not in server.output
    assert not workers(home)


def test_what_cannot_be_restored_stays_wanted(tmp_path: Path) -> None:
    """A model was forgotten for good when its plugin was missing at one start of the server."""
    home = tmp_path / "home"
    body = {"model_name": "echo", "model_engine": "echo", "model_uid": "patient"}
    with start_server(home) as server, httpx.Client(base_url=server.url, timeout=30) as api:
        assert api.post("/v1/models", json=body).status_code == 200
    with start_server(home, MODELRACK_PLUGINS="demo") as server, httpx.Client(base_url=server.url, timeout=30) as api:
        assert api.get("/v1/models/patient").status_code == 404
        assert "cannot be restored" in api.get("/v1/models/patient/events").json()[-1]["event_content"]
    with start_server(home) as server, httpx.Client(base_url=server.url, timeout=30) as api:
        wait_until(lambda: api.get("/v1/models/patient").status_code == 200)
    with start_server(home, MODELRACK_PLUGINS="demo") as server, httpx.Client(base_url=server.url, timeout=30) as api:
        assert api.delete("/v1/models/patient").status_code == 200
        assert api.delete("/v1/models/patient").status_code == 404
    with start_server(home) as server, httpx.Client(base_url=server.url, timeout=30) as api:
        assert api.get("/v1/models/patient").status_code == 404


def test_a_restored_model_that_fails_stays_wanted(tmp_path: Path) -> None:
    home = tmp_path / "home"
    weights = tmp_path / "own.gguf"
    source = MODELS / "demo-chat" / "demo-chat-q8_0.gguf"
    shutil.copyfile(source, weights)
    with start_server(home) as server, httpx.Client(base_url=server.url, timeout=60) as api:
        body = {"model_name": str(weights), "model_uid": "own"}
        assert api.post("/v1/models", json=body).status_code == 200
    weights.write_bytes(source.read_bytes().replace(b"llama", b"zebra"))
    with (
        start_server(home, MODELRACK_RESTART_LIMIT="1") as server,
        httpx.Client(base_url=server.url, timeout=60) as api,
    ):
        wait_until(lambda: "zebra" in (api.get("/v1/models/own/progress").json()["error_message"] or ""))
    shutil.copyfile(source, weights)
    with start_server(home) as server, httpx.Client(base_url=server.url, timeout=60) as api:
        wait_until(lambda: api.get("/v1/models/own").status_code == 200)
