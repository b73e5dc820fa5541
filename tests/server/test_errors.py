"""How errors are rendered; that every route uses it is shown in test_gateway.py."""

import json

import pytest
from pydantic import BaseModel, ValidationError

from modelrack.errors import ModelNotFound, ModelrackError, NotReady, WorkerLost
from modelrack.server import errors
from modelrack.server.errors import Shape, from_status, from_validation, render, render_event


def test_the_one_body() -> None:
    error = NotReady("Loading.", remedy="Wait.", headers={"Retry-After": "3"}, details={"progress": 0.5})
    status, headers, body = render(error)
    assert status == 503
    assert dict(headers) == {
        b"content-type": b"application/json",
        b"content-length": str(len(body)).encode(),
        b"retry-after": b"3",
    }
    document = json.loads(body)
    assert document["detail"] == document["error"]["message"] == "Loading. Wait."
    assert document["error"]["type"] == "service_unavailable_error"
    assert document["error"]["code"] == "model_not_ready"
    assert document["error"]["param"] is None
    assert document["error"]["progress"] == 0.5


def test_the_event_holds_the_same_error() -> None:
    event = render_event(WorkerLost("Gone."))
    assert event.startswith(b"data: ") and event.endswith(b"\n\n") and event.count(b"\n") == 2
    assert json.loads(event[6:])["error"]["code"] == "worker_lost"


def test_a_path_can_have_a_shape_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    bare = Shape(body=lambda error: {"error": error.message}, event=lambda error: error.message.encode() + b"\n")
    monkeypatch.setitem(errors.SHAPES, "/api/", bare)
    assert render(ModelNotFound("No."), "/api/chat")[2] == b'{"error":"No."}'
    assert render_event(ModelNotFound("No."), "/api/chat") == b"No.\n"
    assert b"detail" in render(ModelNotFound("No."), "/v1/models")[2]


class Inner(BaseModel):
    role: str


class Outer(BaseModel):
    messages: list[Inner]
    size: int


def test_what_pydantic_finds_names_the_field() -> None:
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate({"messages": [{"role": "a"}, {}], "size": "x"})
    error = from_validation(caught.value.errors())
    assert error.param == "messages.1.role"
    assert error.message == "messages.1.role: Field required (1 more)"


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (404, "not_found", "invalid_request_error"),
        (405, "method_not_allowed", "invalid_request_error"),
        (415, "http_error", "invalid_request_error"),
        (502, "http_error", "server_error"),
    ],
)
def test_bare_statuses(status: int, code: str, kind: str) -> None:
    error = from_status(status, "Text.")
    assert (error.status, error.code, error.type) == (status, code, kind)
    assert isinstance(error, ModelrackError)
