"""Whatever is sent to whatever route: the answer is designed, never a crash."""

import json
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.core.result import Ok

from modelrack.testing.serving import Server, start_server

EXAMPLES = 12
LIMIT_S = 10
UID = "echo"

# What a client may see of the server's own trouble: a model that is not ready. Nothing here makes an engine fail.
DESIGNED = {200, 400, 401, 403, 404, 405, 409, 413, 415, 429, 503}

JSON_ROUTES = [
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/tokenize",
    "/tokenize",
    "/v1/detokenize",
    "/detokenize",
    "/v1/convert_ids_to_tokens",
    "/v1/models",
    "/v1/model_registrations/LLM",
]


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Run a server with a model that answers at once, and no network for what is launched by accident."""
    variables = {"MODELRACK_PLUGINS": "echo", "HF_HUB_OFFLINE": "1", "MODELRACK_MAX_BODY_MB": "1"}
    with start_server(tmp_path_factory.mktemp("home"), **variables) as running:
        keep_running(running.url)
        yield running


@pytest.fixture(scope="module")
def description(fuzzed: Server) -> Any:
    return httpx.get(f"{fuzzed.url}/openapi.json").json()


def keep_running(url: str) -> None:
    """Make sure that there is a model to ask; what was sent before may have terminated it."""
    models = httpx.get(f"{url}/v1/models", timeout=LIMIT_S).json()["data"]
    if UID not in [model["id"] for model in models]:
        body = {"model_name": "echo", "model_engine": "echo", "model_uid": UID}
        response = httpx.post(f"{url}/v1/models", params={"wait_ready": True}, json=body, timeout=60)
        assert response.status_code == 200, response.text


def check(status: int, headers: Any, content: bytes) -> None:
    """Check an answer: a designed status, and for an error the one body that all clients read."""
    told = content[:500]
    assert status in DESIGNED, (status, told)
    if status < 400:
        return
    assert headers["content-type"].startswith("application/json"), (status, headers, told)
    body = json.loads(content)
    assert set(body) == {"error", "detail"}, told
    assert {"message", "type", "param", "code"} <= set(body["error"]), told
    assert body["error"]["message"] and body["error"]["message"] == body["detail"], told
    assert isinstance(body["error"]["code"], str), told
    if status == 503:
        assert int(headers["retry-after"]) >= 0


@pytest.mark.timeout(400)
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["valid", "invalid"])
def test_every_route(fuzzed: Server, description: Any, mode: GenerationMode, subtests: pytest.Subtests) -> None:
    schema = schemathesis.openapi.from_dict(description)
    schema.config.update(base_url=fuzzed.url)
    seen: Counter[tuple[str, int]] = Counter()
    for result in schema.get_all_operations():
        assert isinstance(result, Ok), result
        operation = result.ok()

        @given(case=operation.as_strategy(generation_mode=mode))
        @settings(
            max_examples=EXAMPLES,
            deadline=timedelta(seconds=LIMIT_S),
            derandomize=True,
            database=None,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        def send(case: Any) -> None:
            count = seen.total()
            if isinstance(case.body, dict) and "model" in case.body and case.path in JSON_ROUTES[:7] and count % 4:
                case.body["model"] = UID
            if case.method == "GET" and "model_uid" in case.path_parameters and count % 2:
                case.path_parameters["model_uid"] = UID
            if "model_type" in case.path_parameters and count % 2:
                case.path_parameters["model_type"] = "LLM"
            answer = case.call(base_url=fuzzed.url, timeout=LIMIT_S)
            seen[case.path, answer.status_code] += 1
            check(answer.status_code, {name: values[0] for name, values in answer.headers.items()}, answer.content)

        keep_running(fuzzed.url)
        with subtests.test(msg=f"{operation.method.upper()} {operation.path}"):
            try:
                send()
            except Unsatisfiable:
                assert mode is GenerationMode.NEGATIVE, "nothing valid could be made"
    assert seen.total() > 100
    if mode is GenerationMode.POSITIVE:
        assert seen["/v1/chat/completions", 200] and seen["/v1/models/{model_uid}", 200], (
            "the answers were all refusals"
        )
    assert fuzzed.process.poll() is None


@pytest.mark.parametrize("path", JSON_ROUTES)
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b"17",
        b"\xff\xfe",
        b'{"model": "echo", "model": 3}',
        b'{"model": ["echo"]}',
        b'{"model": null}',
        b'{"model": ""}',
        b'{"model": "../../etc/passwd"}',
        b'{"model": "echo", "messages": [], "prompt": [], "tokens": [], "ids": []}',
        b'{"model": "echo", "messages": "x", "prompt": {}, "text": 5, "tokens": "x"}',
        b'{"model": "echo", "messages": [{"role": "user", "content": NaN}], "prompt": NaN}',
        b'{"model": "\\ud800", "messages": [], "prompt": ""}',
        b"[" * 20_000,
        b'{"a":' * 20_000,
        b'{"model": "echo", "max_tokens": 1e400, "prompt": "x"}',
        b'{"model": "echo", "max_tokens": 123456789012345678901234567890, "prompt": "x"}',
        b'{"model": "' + b"x" * 2_000_000 + b'"}',
    ],
    ids=lambda body: body[:24].decode("latin-1"),
)
def test_bad_bodies(fuzzed: Server, path: str, body: bytes) -> None:
    answer = httpx.post(
        f"{fuzzed.url}{path}", content=body, headers={"content-type": "application/json"}, timeout=LIMIT_S
    )
    check(answer.status_code, answer.headers, answer.content)
    assert answer.status_code in (400, 404, 413), answer.text


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("GET", "/v1/nowhere", 404),
        ("PUT", "/v1/models", 405),
        ("GET", "/v1/chat/completions", 405),
        ("GET", "/v1/models/nobody", 404),
        ("DELETE", "/v1/models/nobody", 404),
        ("GET", "/v1/models/nobody/progress", 404),
        ("POST", "/v1/models/nobody/cancel", 404),
        ("GET", "/v1/models/nobody/replicas", 404),
        ("GET", "/v1/models/nobody/events", 404),
        ("GET", "/v1/model_registrations/nothing", 400),
        ("GET", "/v1/model_registrations/llm", 400),
        ("GET", "/v1/model_registrations/LLM/nobody", 404),
        ("DELETE", "/v1/model_registrations/LLM/nobody", 404),
        ("DELETE", "/v1/model_registrations/LLM/echo", 400),
        ("GET", "/v1/engines/nobody", 404),
        ("GET", "/v1/model_registrations/LLM?detailed=perhaps", 400),
        ("GET", "/v1/models/%00", 404),
        ("GET", "/v1/models/%FF%FE", 404),
        ("GET", "/v1/models/..%2F..%2Fetc", 404),
    ],
)
def test_bad_paths(fuzzed: Server, method: str, path: str, status: int) -> None:
    answer = httpx.request(method, f"{fuzzed.url}{path}", timeout=LIMIT_S)
    check(answer.status_code, answer.headers, answer.content)
    assert answer.status_code == status, answer.text


def test_the_description_tells_no_status_that_never_comes(description: Any) -> None:
    """FastAPI describes 422 for bad input by itself; here bad input is a 400."""
    wrong = [
        f"{method} {path}"
        for path, operations in description["paths"].items()
        for method, operation in operations.items()
        if "422" in operation["responses"]
    ]
    assert wrong == []
