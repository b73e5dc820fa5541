"""POST /v1/plan on a real server: what it tells is what the launch then does."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from modelrack.client import BadRequest, Client, NotFound
from modelrack.testing.serving import Server, wait_until

FACTOR = 3.0
"""The estimate of a tiny model on llama.cpp is within this factor of what is measured: most of it is the process."""


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[Client]:
    with Client(server.url) as client:
        yield client


def test_the_model_without_files(client: Client) -> None:
    plan = client.plan("echo")
    choice = plan["choice"]
    assert (choice["model_engine"], choice["model_format"]) == ("echo", "echo")
    nothing: dict[str, Any] = {"path": None, "name": None, "size_bytes": None, "requirements": []}
    assert choice["environment"] == {"where": "server", "is_built": True, **nothing}
    assert choice["download"] == {"bytes": 0, "path": None, "hub": None, "repo": None}
    assert choice["memory"]["total_bytes"] > 0 and choice["fits"] is True
    assert plan["devices"][0]["kind"] == "cpu"
    assert not [uid for uid in client.list_models() if uid == "echo"], "nothing is launched"


def test_errors_are_those_of_the_launch(client: Client) -> None:
    wrong: list[tuple[type[Exception], dict[str, Any]]] = [
        (NotFound, {"model_name": "no-such-model"}),
        (BadRequest, {"model_name": "echo", "model_engine": "no-such-engine"}),
        (BadRequest, {"model_name": "echo", "no_such_option": 1}),
        (BadRequest, {"model_name": "echo", "gpu_idx": 99}),
        (BadRequest, {"model_name": "echo", "worker_ip": "10.1.2.3"}),
        (BadRequest, {"model_name": "demo-chat", "model_engine": "llama.cpp", "environment": "isolated"}),
        (BadRequest, {"model_name": "echo", "environment": "/no/such/python", "model_engine": "echo"}),
        (BadRequest, {"model_name": "echo", "replica": 0}),
        (
            BadRequest,
            {"model_name": "echo", "peft_model_config": {"lora_list": [{"lora_name": "a", "local_path": "/x"}]}},
        ),
    ]
    for kind, parameters in wrong:
        with pytest.raises(kind) as planned:
            client.plan(**parameters)
        with pytest.raises(kind) as launched:
            client.launch_model(**parameters)
        assert str(planned.value) == str(launched.value)


def test_a_body_that_is_none(server: Server) -> None:
    for body in ("", "[]", "{", '{"model_name": NaN}', "{}"):
        answer = httpx.post(f"{server.url}/v1/plan", content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == 400, body
        assert answer.json()["error"]["message"]


def test_it_is_described(server: Server) -> None:
    document = httpx.get(f"{server.url}/openapi.json").json()
    operation = document["paths"]["/v1/plan"]["post"]
    assert operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith("/LaunchRequest")
    assert operation["responses"]["200"]["content"]["application/json"]["schema"]["$ref"].endswith("/PlanAnswer")
    assert "400" in operation["responses"]


def test_engines_tell_rank_and_environment(client: Client) -> None:
    rows = client.query_engine_by_model_name("echo")["echo"]
    assert not isinstance(rows, str)
    (row,) = rows
    assert (row["environment"], row["environment_is_built"]) == ("server", True)
    assert isinstance(row["rank"], int)


def test_estimated_then_measured(client: Client) -> None:
    """A model's first plan is an estimate, near to what its worker then takes; the next one is what was measured."""
    options: dict[str, Any] = {"n_ctx": 768, "n_parallel": 1}
    first = client.plan("demo-chat", model_engine="llama.cpp", **options)["choice"]
    assert first["download"]["bytes"] == 0 and first["download"]["path"].endswith(".gguf")
    assert (first["memory"]["basis"], first["fits"]) == ("files", True)
    client.launch_model("demo-chat", model_uid="measured", model_engine="llama.cpp", **options)

    def plan() -> Any:
        return client.plan("demo-chat", model_engine="llama.cpp", **options)["choice"]

    try:
        wait_until(lambda: plan()["memory"]["basis"] == "measured", what="figures")  # just after
        second = plan()
        ratio = first["memory"]["total_bytes"] / second["memory"]["total_bytes"]
        assert 1 / FACTOR < ratio < FACTOR
        other = client.plan("demo-chat", model_engine="llama.cpp", n_ctx=544)["choice"]
        assert other["memory"]["basis"] == "files", "another context is another thing"
    finally:
        client.terminate_model("measured")
