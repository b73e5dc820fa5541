import httpx
import pytest
from pydantic import BaseModel

from modelrack.api.chat import ChatRequest
from modelrack.api.completions import CompletionRequest
from modelrack.api.launch import LaunchRequest
from modelrack.api.tokenize import ConvertIdsRequest, DetokenizeRequest, TokenizeRequest
from modelrack.testing.serving import Server

REQUESTS = [ChatRequest, CompletionRequest, ConvertIdsRequest, DetokenizeRequest, LaunchRequest, TokenizeRequest]


@pytest.mark.parametrize("request_model", REQUESTS, ids=lambda model: model.__name__)
def test_examples_are_valid(request_model: type[BaseModel]) -> None:
    examples = request_model.model_json_schema()["examples"]
    assert examples
    for example in examples:
        request_model.model_validate(example)


def test_every_operation_says_what_it_does(server: Server) -> None:
    document = httpx.get(f"{server.url}/openapi.json").json()
    groups = {tag["name"] for tag in document["tags"]}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert operation["summary"].endswith("."), (method, path)
            assert operation["tags"][0] in groups, (method, path)
    assert "security" not in document


def test_docs_need_no_network(server: Server) -> None:
    """Swagger UI comes from a CDN; where that cannot be reached the page was blank."""
    answer = httpx.get(f"{server.url}/docs")
    assert answer.headers["content-type"].startswith("text/html")
    head, _, script = answer.text.partition("<script>")
    assert "https://" not in head
    assert 'fetch("openapi.json")' in script
