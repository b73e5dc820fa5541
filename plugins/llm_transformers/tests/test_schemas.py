"""JSON schemas on a real server: a model with random weights would never keep to them by itself."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from modelrack.testing.hf import write_random_model
from modelrack.testing.json_schemas import REFUSED, SCHEMAS, RefusedSchema, SchemaCase
from modelrack.testing.serving import start_server

CHAT = "/v1/chat/completions"
UID = "tiny"


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """Return a client of a server that has the model."""
    folder = tmp_path_factory.mktemp("schemas")
    model = write_random_model(folder / "tiny")
    with (
        start_server(folder / "home") as server,
        httpx.Client(base_url=server.url, timeout=120, trust_env=False) as client,
    ):
        body = {"model_name": str(model), "model_engine": "Transformers", "model_uid": UID, "n_threads": 1}
        response = client.post("/v1/models", params={"wait_ready": 1}, json=body)
        assert response.status_code == 200, response.text
        yield client


def ask(http: httpx.Client, **fields: Any) -> tuple[str, str]:
    body = {"model": UID, "messages": [{"role": "user", "content": "hello"}], "temperature": 0, **fields}
    response = http.post(CHAT, json=body)
    assert response.status_code == 200, response.text
    choice = response.json()["choices"][0]
    return choice["message"]["content"] or "", choice["finish_reason"]


def answer(http: httpx.Client, case: SchemaCase, seed: int) -> tuple[str, str]:
    form = {"type": "json_schema", "json_schema": {"name": "it", "schema": case.schema}}
    heat = {"temperature": 1.5, "seed": seed} if seed else {}
    return ask(http, response_format=form, max_tokens=case.max_tokens, **heat)


@pytest.mark.parametrize("case", SCHEMAS, ids=lambda case: case.name)
def test_every_answer_is_valid(http: httpx.Client, case: SchemaCase) -> None:
    """Greedily, and sampled at a high temperature; all at once."""
    with ThreadPoolExecutor(3) as pool:
        for text, finish in pool.map(lambda seed: answer(http, case, seed), range(3)):
            case.check(text, finish)


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.keyword)
def test_what_cannot_be_honoured_is_refused(http: httpx.Client, case: RefusedSchema) -> None:
    body = {"model": UID, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 8}
    response = http.post(CHAT, json={**body, "guided_json": case.schema})
    assert response.status_code == 400, response.text
    assert case.keyword in response.json()["error"]["message"]
