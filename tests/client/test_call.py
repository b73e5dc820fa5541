"""The parts of the client that do no I/O."""

import json
from typing import Any

import pytest

from modelrack.client import BadRequest, ClientError, LaunchError, NotFound, NotReady, ServerError, ServerUnreachable
from modelrack.client.call import Call, EventDecoder
from modelrack.client.endpoint import DEFAULT_ENDPOINT, find_api_key, find_endpoint, is_local
from modelrack.client.errors import error_from_event, error_from_response
from modelrack.client.handles import (
    AsyncModelHandle,
    ChatHandle,
    GenerateHandle,
    ModelHandle,
    RerankHandle,
    choose_handle,
)
from modelrack.errors import ModelNotFound, NoEngine, WorkerLost

STREAM = b'data: {"a": "\xc3\xa9"}\n\ndata: {"b": 2}\r\n\r\n: a comment\n\nevent: x\ndata:{"c":3}\n\ndata: [DONE]\n\n'


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_decoder_does_not_care_how_a_stream_is_cut(size: int) -> None:
    decoder = EventDecoder()
    events = [event for i in range(0, len(STREAM), size) for event in decoder.feed(STREAM[i : i + size])]
    assert events == [{"a": "é"}, {"b": 2}, {"c": 3}]
    assert decoder.is_done
    assert decoder.finish() == []


def test_decoder_ignores_what_comes_after_done() -> None:
    decoder = EventDecoder()
    assert decoder.feed(b'data: [DONE]\n\ndata: {"late": 1}\n\n') == []


def test_decoder_notices_a_stream_that_breaks_off() -> None:
    decoder = EventDecoder()
    assert decoder.feed(b'data: {"a": 1}\n\n') == [{"a": 1}]
    with pytest.raises(ServerUnreachable, match="broke off"):
        decoder.finish()


def test_decoder_lets_a_stream_end_with_an_error() -> None:
    decoder = EventDecoder()
    assert decoder.feed(b'data: {"error": {"message": "x"}}') == []
    assert decoder.finish() == [{"error": {"message": "x"}}]


@pytest.mark.parametrize("line", [b"data: {oops\n", b"data: [1]\n"])
def test_decoder_refuses_what_is_no_object(line: bytes) -> None:
    with pytest.raises(ServerUnreachable):
        EventDecoder().feed(line)


def test_multipart_leaves_out_what_is_none_and_repeats_lists() -> None:
    call: Call[Any] = Call(
        method="POST",
        path="/",
        action="test",
        form={"model": "m", "size": None, "n": 2, "stream": True, "kinds[]": ["a", "b"]},
        files=(("image", ("cat.png", b"\x00")),),
    )
    assert call.parts == [
        ("model", (None, "m", None)),
        ("n", (None, "2", None)),
        ("stream", (None, "true", None)),
        ("kinds[]", (None, "a", None)),
        ("kinds[]", (None, "b", None)),
        ("image", ("cat.png", b"\x00", "application/octet-stream")),
    ]


@pytest.mark.parametrize(
    ("given", "endpoint"),
    [
        (None, DEFAULT_ENDPOINT),
        ("http://example.test:1/", "http://example.test:1"),
        ("example.test:1", "http://example.test:1"),
        ("https://example.test/v1/", "https://example.test"),
        ("http://[::1]:9997", "http://[::1]:9997"),
    ],
)
def test_endpoint(given: str | None, endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MODELRACK_ENDPOINT", raising=False)
    assert find_endpoint(given) == endpoint


def test_endpoint_and_key_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELRACK_ENDPOINT", "http://there.test:5")
    monkeypatch.setenv("MODELRACK_API_KEY", "secret")
    assert find_endpoint() == "http://there.test:5"
    assert find_endpoint("http://here.test") == "http://here.test"
    assert find_api_key() == "secret"
    assert find_api_key("other") == "other"


@pytest.mark.parametrize("given", ["ftp://example.test", "http://", "http://a:b", "http://a:0"])
def test_endpoint_that_is_none(given: str) -> None:
    with pytest.raises(ValueError, match="is no address"):
        find_endpoint(given)


def test_is_local() -> None:
    assert is_local("http://localhost:9997")
    assert is_local("http://127.0.0.5")
    assert is_local("http://[::1]:1")
    assert not is_local("http://192.168.1.7:9997")


@pytest.mark.parametrize(
    ("status", "body", "kind", "message"),
    [
        (404, ModelNotFound("Model 'x' is not running.", param="model").body(), NotFound, "Model 'x' is not running."),
        (400, NoEngine("No engine.", remedy="Install one.").body(), BadRequest, "No engine."),
        (422, {"detail": [{"msg": "bad"}]}, BadRequest, '[{"msg": "bad"}]'),
        (503, {"error": {"message": "later", "code": "model_not_ready"}}, NotReady, "later"),
        (500, {"error": {"message": "why", "code": "launch_failed"}}, LaunchError, "why"),
        (502, "Bad gateway", ServerError, "Bad gateway"),
        (418, {"error": "tea"}, ClientError, "tea"),
        (500, "", ServerError, "Failed to test: the server answered 500."),
    ],
)
def test_error_from_response(status: int, body: Any, kind: type[ClientError], message: str) -> None:
    content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    error = error_from_response("test", status, {"retry-after": "3"}, content)
    assert type(error) is kind
    assert isinstance(error, RuntimeError)
    assert error.status == status
    assert error.message == message
    assert error.retry_after_s == 3


def test_error_carries_code_param_and_remedy_once() -> None:
    body = NoEngine("No engine runs it.", param="model_engine", remedy="Install one.").body()
    error = error_from_response("test", 400, {}, json.dumps(body).encode())
    assert (error.code, error.param, error.remedy) == ("no_engine", "model_engine", "Install one.")
    assert str(error) == "No engine runs it. Install one."


def test_error_inside_a_stream_has_the_status_of_its_code() -> None:
    error = error_from_event({"error": WorkerLost("gone").body()["error"]})
    assert isinstance(error, ServerError)
    assert error.status == 502
    assert error.code == "worker_lost"


@pytest.mark.parametrize(
    ("description", "kind"),
    [
        ({"model_type": "LLM", "model_ability": ["generate", "chat"]}, ChatHandle),
        ({"model_type": "LLM", "model_ability": ["generate"]}, GenerateHandle),
        ({"model_type": "rerank"}, RerankHandle),
        ({"model_type": "of-a-plugin"}, ModelHandle),
    ],
)
def test_choose_handle(description: dict[str, Any], kind: type[ModelHandle]) -> None:
    blocking, asynchronous = choose_handle(description)
    assert blocking is kind
    assert issubclass(asynchronous, AsyncModelHandle)
    assert asynchronous.__name__ == f"Async{kind.__name__}"
