"""Errors of command workers, in the shapes that servers use, come out in ours."""

import json

import pytest

from modelrack.server.foreign import read_error

JSON = b"application/json"
OURS = {
    "error": {"message": "m", "type": "invalid_request_error", "param": None, "code": "c", "more": 1},
    "detail": "m",
}
VALIDATION = {"detail": [{"loc": ["body", "messages", 0, "role"], "msg": "Field required", "type": "missing"}]}


def read(status: int, body: object, kind: bytes = JSON) -> tuple[int, str, str, str, str | None]:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    error = read_error(status, [(b"retry-after", b"3"), (b"x-secret", b"1")], kind, content)
    assert error is not None and error.headers == {"retry-after": "3"}
    document = error.body()
    assert document["detail"] == document["error"]["message"]
    return error.status, document["error"]["type"], error.code, error.message, error.param


def test_what_is_ours_passes() -> None:
    assert read_error(400, [], JSON, json.dumps(OURS).encode()) is None


@pytest.mark.parametrize(
    ("status", "body", "wanted"),
    [
        (
            400,
            {"error": {"message": "too long", "type": "BadRequestError", "param": "max_tokens", "code": 400}},
            (400, "invalid_request_error", "invalid_request", "too long", "max_tokens"),
        ),
        (
            400,
            {"error": {"message": "too long", "type": "x", "param": None, "code": "context_length_exceeded"}},
            (400, "invalid_request_error", "context_length_exceeded", "too long", None),
        ),
        (
            404,
            {"object": "error", "message": "no such model", "type": "NotFoundError", "param": None, "code": 404},
            (404, "invalid_request_error", "not_found", "no such model", None),
        ),
        (500, {"error": "boom"}, (500, "server_error", "engine_error", "boom", None)),
        (503, {"detail": "asleep"}, (503, "service_unavailable_error", "model_not_ready", "asleep", None)),
        (429, {"detail": {"message": "later"}}, (429, "rate_limit_error", "too_many_requests", "later", None)),
        (
            422,
            VALIDATION,
            (400, "invalid_request_error", "invalid_request", "messages.0.role: Field required", "messages.0.role"),
        ),
        (400, "just text", (400, "invalid_request_error", "invalid_request", "just text", None)),
        (418, {"x": 1}, (418, "invalid_request_error", "http_error", None, None)),
        (400, {"error": {"message": " "}, "detail": []}, (400, "invalid_request_error", "invalid_request", None, None)),
        (400, ["no"], (400, "invalid_request_error", "invalid_request", None, None)),
    ],
)
def test_shapes_of_other_servers(status: int, body: object, wanted: tuple[object, ...]) -> None:
    found = read(status, body)
    message = wanted[3] or f"The engine answered with status {status} and gave no reason."
    assert found == (*wanted[:3], message, wanted[4])


@pytest.mark.parametrize(
    ("kind", "body", "message"),
    [
        (b"text/plain", b"Internal\n  Server Error\n", "Internal Server Error"),
        (b"text/html; charset=utf-8", b"<html>no</html>", None),
        (b"", b"<!doctype html>", None),
        (JSON, b'{"error": {"mess', None),
        (b"", b"", None),
        (b"text/plain", b"\xff", "\ufffd"),
    ],
)
def test_bodies_that_are_not_json(kind: bytes, body: bytes, message: str | None) -> None:
    wanted = message or "The engine answered with status 500 and gave no reason."
    assert read(500, body, kind)[2:4] == ("engine_error", wanted)


def test_long_messages_are_cut() -> None:
    assert len(read(500, b"x" * 100_000, b"text/plain")[3]) == 2000
