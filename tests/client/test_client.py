"""The clients against a real server with the echo model."""

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modelrack.client import (
    AsyncClient,
    BadRequest,
    Client,
    ClientError,
    Conflict,
    LaunchError,
    NotFound,
    RequestTimeout,
    ServerError,
    ServerUnreachable,
    Unauthorized,
)
from modelrack.client.handles import AsyncChatHandle, ChatHandle
from modelrack.testing.serving import Server, start_server, wait_until

MESSAGES = [{"role": "user", "content": "one two three four five"}]

OWN = {
    "version": 1,
    "model_name": "client-own",
    "model_lang": ["en"],
    "model_ability": ["chat"],
    "context_length": 2048,
    "model_family": "other",
    "model_specs": [
        {
            "model_format": "gguf",
            "model_size_in_billions": "1_8",
            "quantizations": ["Q4_K_M"],
            "model_id": "somebody/own",
            "model_file_name_template": "own-{quantization}.gguf",
        }
    ],
}


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[Client]:
    with Client(server.url) as client:
        yield client


@pytest.fixture(scope="module")
def uid(client: Client) -> Iterator[str]:
    """Launch the echo model."""
    uid = client.launch_model("echo", model_uid="client-echo")
    yield uid
    client.terminate_model(uid)


@pytest.fixture(scope="module")
def slow_uid(client: Client) -> Iterator[str]:
    """Launch an echo model that takes its time, and never ends by itself."""
    uid = client.launch_model("echo", model_uid="client-slow", token_delay_s=0.05, repeat=True)
    yield uid
    client.terminate_model(uid)


def text_of(chunks: Any) -> str:
    return "".join(choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"])


def test_launch_list_describe_terminate(client: Client) -> None:
    states: list[dict[str, Any]] = []
    uid = client.launch_model("echo", model_uid="client-states", load_delay_s=0.3, on_progress=states.append)
    assert uid == "client-states"
    assert client.list_models()[uid]["model_name"] == "echo"
    assert client.describe_model(uid)["model_engine"] == "echo"
    assert client.get_launch_model_progress(uid)["progress"] == 1.0
    assert [item["status"] for item in client.get_instance_info("echo", uid)] == ["READY"]
    progress = [state["progress"] for state in states]
    assert progress == sorted(progress)
    assert progress[-1] == 1.0
    assert len(progress) > 1
    client.terminate_model(uid)
    assert uid not in client.list_models()
    with pytest.raises(NotFound) as caught:
        client.describe_model(uid)
    assert caught.value.status == 404
    assert uid in str(caught.value)


def test_launch_without_waiting(client: Client) -> None:
    uid = client.launch_model("echo", model_uid="client-later", load_delay_s=0.3, wait_ready=False)
    assert uid not in client.list_models()
    client.wait_until_ready(uid)
    assert uid in client.list_models()
    client.terminate_model(uid)


def test_launch_with_replicas_waits_for_all(client: Client) -> None:
    uid = client.launch_model("echo", model_uid="client-two", replica=2)
    assert [replica["status"] for replica in client.list_model_replicas(uid)] == ["READY", "READY"]
    assert client.terminate_model_replica(uid, 0) == 1
    client.terminate_model(uid)


def test_launch_that_fails_tells_why(client: Client) -> None:
    with pytest.raises(LaunchError, match="the disk is on fire") as caught:
        client.launch_model("echo", model_uid="client-bad", load_failure="the disk is on fire")
    assert caught.value.code == "launch_failed"
    assert caught.value.status == 500


def test_launch_that_cannot_begin(client: Client) -> None:
    with pytest.raises(NotFound):
        client.launch_model("no-such-model")
    with pytest.raises(BadRequest, match="token_delay_s") as caught:
        client.launch_model("echo", no_such_option=1)
    assert "no_such_option" in str(caught.value)
    with pytest.raises(BadRequest):
        client.launch_model("echo", model_uid="not / a uid")


def test_cancelled_launch(client: Client) -> None:
    uid = client.launch_model("echo", model_uid="client-cancel", hang_on_load=True, wait_ready=False)
    client.cancel_launch_model(uid)
    with pytest.raises(Conflict, match="cancelled"):
        client.wait_until_ready(uid)


def test_launch_without_progress_is_given_up_by_the_client(server: Server, client: Client) -> None:
    uid = client.launch_model("echo", model_uid="client-stall", hang_on_load=True, wait_ready=False)
    with Client(server.url, stall_timeout=0.2) as impatient, pytest.raises(RequestTimeout, match="no progress"):
        impatient.wait_until_ready(uid)
    client.terminate_model(uid)


def test_handle(client: Client, uid: str) -> None:
    model = client.get_model(uid)
    assert isinstance(model, ChatHandle)
    assert model.description["model_name"] == "echo"
    with pytest.raises(NotFound):
        client.get_model("no-such-model")


def test_chat(client: Client, uid: str) -> None:
    answer = client.get_model(uid).chat(MESSAGES, generate_config={"max_tokens": 64})
    assert answer["choices"][0]["message"]["content"].strip() == "one two three four five"
    assert answer["usage"]["total_tokens"] == answer["usage"]["prompt_tokens"] + answer["usage"]["completion_tokens"]


def test_chat_stream(client: Client, uid: str) -> None:
    chunks = client.get_model(uid).chat(MESSAGES, generate_config={"stream": True, "max_tokens": 64})
    assert text_of(chunks).strip() == "one two three four five"
    assert list(chunks) == []


def test_generate(client: Client, uid: str) -> None:
    model = client.get_model(uid)
    whole = model.generate("one two three", {"max_tokens": 64})["choices"][0]["text"]
    chunks = model.generate("one two three", {"max_tokens": 64, "stream": True})
    assert "".join(choice["text"] for chunk in chunks for choice in chunk["choices"]) == whole
    assert whole.strip() == "one two three"


def test_errors_of_a_stream_come_with_the_call(client: Client, uid: str) -> None:
    """Not at the first chunk, which may be read much later."""
    model = client.get_model(uid)
    with pytest.raises(BadRequest):
        model.chat(MESSAGES, generate_config={"stream": True, "temperature": "hot"})
    with pytest.raises(BadRequest):
        model.chat([], generate_config={})


def test_error_inside_a_stream(client: Client) -> None:
    uid = client.launch_model("echo", model_uid="client-crash", crash_after_tokens=3, token_delay_s=0.02)
    chunks = client.get_model(uid).chat(MESSAGES, generate_config={"stream": True, "max_tokens": 64})
    with pytest.raises(ServerError) as caught:
        text_of(chunks)
    assert caught.value.status == 502
    assert caught.value.code == "worker_lost"
    client.terminate_model(uid)


def test_closed_stream_frees_the_model(server: Server, client: Client) -> None:
    """With room for one request only, a second one shows that the first has ended."""
    uid = client.launch_model("echo", model_uid="client-one", token_delay_s=0.05, repeat=True, request_limits=1)
    model = client.get_model(uid)
    chunks = model.chat(MESSAGES, generate_config={"stream": True, "max_tokens": 1000})
    next(chunks)
    with pytest.raises(ClientError) as caught:
        model.chat(MESSAGES, generate_config={"max_tokens": 1})
    assert caught.value.status == 429
    chunks.close()
    assert list(chunks) == []

    def is_free() -> bool:
        try:
            model.chat(MESSAGES, generate_config={"max_tokens": 1})
        except ClientError:
            return False
        return True

    wait_until(is_free, 5)
    client.terminate_model(uid)


def test_timeout_is_adjustable(server: Server, slow_uid: str) -> None:
    with Client(server.url, timeout=0.3) as client:
        with pytest.raises(RequestTimeout):
            client.get_model(slow_uid).chat(MESSAGES, generate_config={"max_tokens": 1000})
        # A stream lasts as long as it likes: the limit is for the time between two chunks.
        chunks = client.get_model(slow_uid).chat(MESSAGES, generate_config={"stream": True, "max_tokens": 15})
        assert text_of(chunks)


def test_registrations(client: Client) -> None:
    assert {"model_name": "echo", "is_builtin": True}.items() <= next(
        item for item in client.list_model_registrations("LLM") if item["model_name"] == "echo"
    ).items()
    client.register_model("LLM", OWN, persist=False)
    family = client.get_model_registration("LLM", "client-own")
    assert family["model_ability"] == ["chat"]
    client.register_model("LLM", json.dumps({**family, "model_name": "client-copy"}), persist=False)
    assert client.get_model_registration("LLM", "client-copy")["model_specs"] == family["model_specs"]
    client.unregister_model("LLM", "client-copy")
    client.unregister_model("LLM", "client-own")
    with pytest.raises(NotFound):
        client.get_model_registration("LLM", "client-own")
    with pytest.raises(BadRequest):
        client.list_model_registrations("no-such-type")


def test_engines_and_cache(client: Client) -> None:
    engines = client.query_engine_by_model_name("echo")
    assert engines["echo"][0]["model_format"] == "echo"  # type: ignore[index]
    assert client.query_engine_by_model_name("echo", model_type=None) == engines
    assert client.list_cached_models("no-such-model") == []
    assert client.get_version()["version"]


def test_no_server() -> None:
    with Client("http://127.0.0.1:1") as client, pytest.raises(ServerUnreachable, match="modelrack serve") as caught:
        client.list_models()
    assert caught.value.status is None
    assert caught.value.code == "server_unreachable"


def test_threads_share_a_client(client: Client, uid: str) -> None:
    from concurrent.futures import ThreadPoolExecutor

    model = client.get_model(uid)

    def ask(number: int) -> str:
        messages = [{"role": "user", "content": f"number {number}"}]
        return text_of(model.chat(messages, generate_config={"stream": True, "max_tokens": 64})).strip()

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(16))) == [f"number {i}" for i in range(16)]


async def test_async_client(server: Server) -> None:
    async with AsyncClient(server.url) as client:
        states: list[dict[str, Any]] = []
        uid = await client.launch_model("echo", model_uid="client-async", on_progress=states.append)
        assert states
        model = await client.get_model(uid)
        assert isinstance(model, AsyncChatHandle)
        answer = await model.chat(MESSAGES, generate_config={"max_tokens": 64})
        assert answer["choices"][0]["message"]["content"].strip() == "one two three four five"
        chunks = await model.chat(MESSAGES, generate_config={"stream": True, "max_tokens": 64})
        assert text_of([chunk async for chunk in chunks]).strip() == "one two three four five"
        with pytest.raises(BadRequest):
            await model.chat(MESSAGES, generate_config={"stream": True, "temperature": "hot"})
        await client.terminate_model(uid)
        with pytest.raises(NotFound):
            await client.describe_model(uid)
    async with AsyncClient("http://127.0.0.1:1") as nowhere:
        with pytest.raises(ServerUnreachable):
            await nowhere.list_models()


async def test_async_stream_closed_and_cancelled(server: Server, slow_uid: str) -> None:
    config = {"stream": True, "max_tokens": 1000}
    async with AsyncClient(server.url) as client:
        model = await client.get_model(slow_uid)
        async with await model.chat(MESSAGES, generate_config=config) as chunks:
            await anext(chunks)
        assert [chunk async for chunk in chunks] == []
        started = time.monotonic()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                async for _ in await model.chat(MESSAGES, generate_config=config):
                    pass
        assert time.monotonic() - started < 5


def test_api_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with start_server(tmp_path, MODELRACK_API_KEYS="secret,other") as server:
        with Client(server.url) as client, pytest.raises(Unauthorized) as caught:
            client.list_models()
        assert caught.value.status == 401
        with Client(server.url, "secret") as client:
            assert client.list_models() == {}
        monkeypatch.setenv("MODELRACK_API_KEY", "other")
        with Client(server.url) as client:
            assert client.list_models() == {}
