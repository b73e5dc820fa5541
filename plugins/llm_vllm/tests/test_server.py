"""vLLM behind the real server: what the kit does not ask of every engine."""

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import fastapi
import httpx
import psutil
import pytest

from modelrack.testing.hf import write_random_model
from modelrack.testing.serving import Server, start_server, wait_until

pytestmark = pytest.mark.timeout(600)

_LAUNCH_S = 300
_SMALL = {"enforce_eager": True, "dtype": "float32", "kv_cache_gb": 0.25, "max_num_seqs": 4, "max_model_len": 1536}
_CHAT = {"messages": [{"role": "user", "content": "one two three"}], "max_tokens": 4, "temperature": 0}
_TELL = {"stream_options": {"include_usage": True}}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, vllm_environment: str) -> Iterator[Server]:
    """Run a server with an instance `it` of a small model."""
    folder = write_random_model(tmp_path_factory.mktemp("models") / "it")
    with start_server(tmp_path_factory.mktemp("home")) as running:
        options = {"max_num_queued_reqs": 6, "async_scheduling": "true"}
        body = {"model_name": str(folder), "model_engine": "vllm", "model_uid": "it", "environment": vllm_environment}
        answer = httpx.post(f"{running.url}/v1/models", json={**body, **_SMALL, **options}, timeout=_LAUNCH_S)
        assert answer.status_code == 200, answer.text
        yield running


@pytest.fixture
def http(server: Server) -> Iterator[httpx.Client]:
    """Return a client of the server."""
    with httpx.Client(base_url=server.url, timeout=60, trust_env=False) as client:
        yield client


def _launched(http: httpx.Client, **fields: Any) -> dict[str, Any]:
    """Launch what must be refused, and return the error."""
    answer = http.post("/v1/models", json={"model_engine": "vLLM", **fields}, timeout=_LAUNCH_S)
    assert answer.status_code >= 400, answer.text
    error: dict[str, Any] = answer.json()["error"]
    return error


def _chat(http: httpx.Client, **fields: Any) -> httpx.Response:
    return http.post("/v1/chat/completions", json={"model": "it", **_CHAT, **fields})


def _processes(http: httpx.Client) -> dict[str, psutil.Process]:
    """Return the processes of the replica by what they are called."""
    (replica,) = http.get("/v1/models/it/replicas").json()
    found = psutil.Process(replica["pid"]).children(recursive=True)
    return {" ".join(one.cmdline())[:60]: one for one in found if one.is_running()}


def test_the_instance_tells_the_length_that_vllm_runs_it_with(http: httpx.Client) -> None:
    assert http.get("/v1/models/it").json()["context_length"] == 1536


def test_only_the_public_paths_are_reachable(http: httpx.Client) -> None:
    assert http.post("/tokenize", json={"model": "it", "prompt": "a"}).json()["max_model_len"] == 1536
    for path in ("/invocations", "/v1/responses", "/inference/v1/generate", "/v1/load_lora_adapter"):
        assert http.post(path, json={"model": "it"}).status_code in (404, 405)


def test_counts_come_to_the_metrics(http: httpx.Client) -> None:
    def counted() -> float:
        lines = http.get("/metrics").text.splitlines()
        found = [line for line in lines if "tokens" in line and 'model="it"' in line and not line.startswith("#")]
        return sum(float(line.rpartition(" ")[2]) for line in found)

    before = counted()
    usage = _chat(http).json()["usage"]
    assert counted() - before == usage["total_tokens"]
    for fields, choices in (({}, 1), ({"n": 2, "temperature": 1}, 2), ({"logprobs": True}, 1), (_TELL, 1)):
        before = counted()
        stream = _chat(http, stream=True, **fields)
        assert stream.status_code == 200 and "x-modelrack-usage" not in stream.headers
        events = [json.loads(one.removeprefix("data: ")) for one in stream.text.split("\n\n")[:-2]]
        assert any(event.get("usage") for event in events) == (fields is _TELL)
        wait_until(lambda start=before: counted() > start)  # type: ignore[misc]
        assert usage["prompt_tokens"] < counted() - before <= usage["prompt_tokens"] + 4 * choices


def test_what_vllm_would_leave_out_is_refused(http: httpx.Client) -> None:
    for field, value in (("dry_multiplier", 1), ("guided_whitespace_pattern", " *"), ("no_such", 1)):
        error = _chat(http, **{field: value}).json()["error"]
        assert error["param"] == field and field in error["message"]


def test_a_queue_that_is_full_is_a_429(http: httpx.Client) -> None:
    """Four are computed, two wait; what more comes is refused at once."""
    body = {"model": "it", **_CHAT, "max_tokens": 400, "ignore_eos": True}
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda _: http.post("/v1/chat/completions", json=body), range(12)))
    statuses = {answer.status_code for answer in answers}
    assert statuses == {200, 429}, statuses
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert refused.json()["error"]["code"] == "too_many_requests" and refused.headers["retry-after"]
    assert _chat(http).status_code == 200


def test_arguments_that_vllm_does_not_know_are_refused_before_it_starts(
    http: httpx.Client, tmp_path: Any, vllm_environment: str
) -> None:
    folder = write_random_model(tmp_path / "other")
    common = {"model_name": str(folder), "environment": vllm_environment}
    for option, text in (("async_schedulin", "async_scheduling"), ("trust_remote_code", "cannot be given")):
        begun = time.monotonic()
        error = _launched(http, **common, **{option: True})
        assert option in error["message"] and text in error["message"], error
        assert time.monotonic() - begun < 60


def test_the_pins_of_both_sides_contradict_each_other_and_both_run(http: httpx.Client, vllm_environment: str) -> None:
    """The server's own FastAPI is one that vLLM cannot have, and requests cross both."""
    code = "import fastapi; print(fastapi.__version__)"
    done = subprocess.run(
        [f"{vllm_environment}/bin/python", "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert tuple(map(int, done.stdout.split(".")[:2])) < (0, 137)
    if tuple(map(int, fastapi.__version__.split(".")[:2])) < (0, 137):
        pytest.skip(f"the server runs with FastAPI {fastapi.__version__}, which vLLM could have as well")
    assert _chat(http).status_code == 200


def _kill_engine(http: httpx.Client) -> dict[str, Any]:
    """Kill vLLM's engine while it answers, and return the last event of the answer."""
    engine = next(process for name, process in _processes(http).items() if "EngineCore" in name)
    body = {"model": "it", **_CHAT, "max_tokens": 1500, "n": 4, "ignore_eos": True, "stream": True}
    with http.stream("POST", "/v1/chat/completions", json=body) as response:
        lines = response.iter_lines()
        next(lines)
        engine.send_signal(signal.SIGKILL)
        events = [line for line in lines if line.startswith("data: {")]
    last: dict[str, Any] = json.loads(events[-1].removeprefix("data: "))
    return last


def test_when_vllms_engine_dies_the_model_comes_back(http: httpx.Client) -> None:
    """The process of the API server lives on for a moment: it has to notice."""
    before = _chat(http).json()["choices"]
    for _ in range(3):
        (replica,) = http.get("/v1/models/it/replicas").json()

        def is_back(pid: int = replica["pid"]) -> bool:
            (now,) = http.get("/v1/models/it/replicas").json()
            return bool(now["status"] == "READY" and now["pid"] not in (None, pid))

        last = _kill_engine(http)
        wait_until(is_back, _LAUNCH_S, "vLLM to come back")
        assert _chat(http).json()["choices"] == before
        # On a busy machine the engine may have written all of the answer before its first event is read here.
        if "error" in last:
            break
        assert last["choices"][0]["finish_reason"] == "length"
    assert {"message", "type", "param", "code"} <= last["error"].keys()


def test_a_stop_leaves_no_process_behind(http: httpx.Client) -> None:
    """Comes last."""
    processes = list(_processes(http).values())
    assert len(processes) >= 3
    assert http.delete("/v1/models/it").status_code == 200
    wait_until(lambda: not any(one.is_running() for one in processes), 30, "vLLM's processes to end")
