"""A real server with an embedding model, through the command line, the OpenAI SDK and curl's kind of requests."""

import base64
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from openai import BadRequestError, OpenAI

from modelrack.testing.serving import Server, start_server
from modelrack.testing.st import write_embedder, write_multi_vector, write_sparse

pytestmark = pytest.mark.timeout(300)  # each worker imports PyTorch before the first test

QWEN, SPLADE, COLBERT = "qwen3", "splade", "colbert"
TEXTS = ["The largest animal is a blue whale.", "hello", "what is it? " * 5]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("models")
    models = {
        QWEN: write_embedder(folder / "qwen3", kind="qwen3"),
        SPLADE: write_sparse(folder / "splade"),
        COLBERT: write_multi_vector(folder / "colbert"),
    }
    with start_server(tmp_path_factory.mktemp("home")) as running, ThreadPoolExecutor(len(models)) as pool:
        for done in pool.map(lambda uid: launch(running, uid, models[uid]), models):
            assert done.returncode == 0, done.stdout + done.stderr
        yield running


def launch(server: Server, uid: str, path: Path) -> subprocess.CompletedProcess[str]:
    command = ["launch", "-t", "embedding", "-n", str(path), "--model-uid", uid, "--n_threads", "1"]
    command += ["--model-engine", "sentence-transformers"]
    return subprocess.run(
        [sys.executable, "-m", "modelrack.cli", *command],
        env=server.environment,
        capture_output=True,
        text=True,
        timeout=250,
    )


@pytest.fixture
def http(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60, trust_env=False) as client:
        yield client


def embed(http: httpx.Client, uid: str = QWEN, **fields: Any) -> dict[str, Any]:
    response = http.post("/v1/embeddings", json={"model": uid, **fields})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def vectors(answer: dict[str, Any]) -> Any:
    return np.array([one["embedding"] for one in answer["data"]], dtype=np.float32)


def refused(http: httpx.Client, uid: str = QWEN, **fields: Any) -> dict[str, Any]:
    begin = time.monotonic()
    response = http.post("/v1/embeddings", json={"model": uid, **fields})
    assert response.status_code == 400, response.text
    assert time.monotonic() - begin < 5  # a second where it was written; other tests may run beside
    error: dict[str, Any] = response.json()["error"]
    return error


def test_the_openai_sdk_gets_floats_by_its_default_base64(server: Server, http: httpx.Client) -> None:
    with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        packed = client.embeddings.create(model=QWEN, input=TEXTS)
        floats = client.embeddings.create(model=QWEN, input=TEXTS, encoding_format="float")
        expected = vectors(embed(http, input=TEXTS))
        for answer in (packed, floats):
            assert np.abs(np.array([one.embedding for one in answer.data]) - expected).max() <= 1e-5
            assert [one.index for one in answer.data] == [0, 1, 2]
        assert packed.usage.prompt_tokens == packed.usage.total_tokens > 50
        with pytest.raises(BadRequestError, match="dimensions"):
            client.embeddings.create(model=QWEN, input=TEXTS, dimensions=8)


def test_it_describes_itself(http: httpx.Client) -> None:
    shown = http.get(f"/v1/models/{QWEN}").json()
    assert (shown["model_type"], shown["dimensions"], shown["max_tokens"]) == ("embedding", 32, 128)
    assert shown["prompts"]["query"].startswith("Instruct: ")
    assert http.get(f"/v1/models/{SPLADE}").json()["outputs"] == ["sparse"]


def test_queries_and_documents_are_told_apart(http: httpx.Client) -> None:
    prompt = "Instruct: Find passages that answer the query\nQuery:"
    expected = vectors(embed(http, input=[prompt + text for text in TEXTS]))
    told: list[dict[str, Any]] = [{"prompt_name": "query"}, {"prompt": prompt}, {"input_type": "query"}]
    told += [{"task": "retrieval.query"}, {"instruction": "Find passages that answer the query"}]
    for fields in told:
        assert np.abs(vectors(embed(http, input=TEXTS, **fields)) - expected).max() <= 1e-5, fields
    plain = vectors(embed(http, input=TEXTS))
    for fields in ({"input_type": "document"}, {"input_type": "passage"}, {"prompt": ""}):
        assert np.abs(vectors(embed(http, input=TEXTS, **fields)) - plain).max() <= 1e-5, fields
    assert np.abs(expected - plain).max() > 0.01


def test_tokens_can_be_seen_and_sent(http: httpx.Client) -> None:
    asked = http.post("/v1/tokenize", json={"model": QWEN, "prompt": TEXTS[0], "return_token_strs": True}).json()
    assert asked["count"] == len(asked["tokens"]) == len(asked["token_strs"]) and asked["max_model_len"] == 128
    assert asked["count"] == embed(http, input=TEXTS[0])["usage"]["prompt_tokens"]
    sent = vectors(embed(http, input=asked["tokens"]))
    assert np.abs(sent - vectors(embed(http, input=TEXTS[0]))).max() <= 1e-5
    back = http.post("/v1/detokenize", json={"model": QWEN, "tokens": asked["tokens"]}).json()
    assert back["prompt"] == TEXTS[0] + "<|endoftext|>"
    names = http.post("/v1/convert_ids_to_tokens", json={"model": QWEN, "input": [asked["tokens"]]}).json()
    assert names == [asked["token_strs"]]
    for path, field in (("detokenize", "tokens"), ("convert_ids_to_tokens", "input")):
        error = http.post(f"/v1/{path}", json={"model": QWEN, field: [2**31]})
        assert error.status_code == 400 and error.json()["error"]["param"] == field
    error = http.post("/v1/tokenize", json={"model": QWEN, "messages": [{"role": "user", "content": "x"}]})
    assert error.status_code == 400 and "prompt" in error.json()["error"]["message"]
    assert refused(http, input=[5], prompt_name="query")["param"] == "prompt_name"


def test_bad_input_is_refused_at_once_and_the_worker_lives(http: httpx.Client) -> None:
    before = http.get(f"/v1/models/{QWEN}/replicas").json()[0]["pid"]
    n_vocab = 100_000
    cases: list[tuple[dict[str, Any], str]] = [
        ({"input": []}, "input"),
        ({"input": ""}, "input"),
        ({"input": ["fine", ""]}, "input"),
        ({"input": ["fine"] * 10_000}, "input"),
        ({"input": "whale " * 170_000}, "input.0"),
        ({"input": ["fine", "w" * 1_000_000]}, "input.1"),
        ({"input": [1, n_vocab]}, "input.0"),
        ({"input": [[1], [n_vocab]]}, "input.1"),
        ({"input": "fine", "dimensions": 31}, "dimensions"),
        ({"input": "fine", "dimensions": 33}, "dimensions"),
        ({"input": "fine", "prompt_name": "none"}, "prompt_name"),
        ({"input": "fine", "input_type": "classification"}, "input_type"),
        ({"input": "fine", "return_sparse": True}, "return_sparse"),
        ({"input": {"image": "data:image/png;base64,AAAA"}}, "input"),
        ({"input": [{"image": "data:image/png;base64,AAAA"}]}, "input"),
    ]
    for fields, param in cases:
        error = refused(http, **fields)
        assert error["param"] == param, f"{fields!r:.80}: {error}"
    assert "prompt" in refused(http, input="fine", prompt="a", prompt_name="query")["message"]
    assert len(embed(http, input="fine")["data"]) == 1
    assert http.get(f"/v1/models/{QWEN}/replicas").json()[0]["pid"] == before


def test_a_long_text_is_cut_if_asked(http: httpx.Client) -> None:
    error = refused(http, input=["fine", "whale " * 200])
    assert (error["param"], error["max_tokens"], error["code"]) == ("input.1", 128, "context_length_exceeded")
    cut = embed(http, input=["fine", "w" * 1_000_000], truncate=True)
    assert 128 < cut["usage"]["prompt_tokens"] <= 128 + 10


def test_weights_of_tokens(http: httpx.Client) -> None:
    error = refused(http, SPLADE, input="hello")
    assert error["param"] == "return_sparse"
    (one,) = embed(http, SPLADE, input="hello", return_sparse=True)["data"]
    assert one["embedding"] == [] and all(weight > 0 for weight in one["sparse_embedding"].values())
    assert refused(http, SPLADE, input="hello", return_sparse=True, dimensions=8)["param"] == "dimensions"


def test_vectors_of_tokens(http: httpx.Client) -> None:
    fields = {"input": "the largest animal", "return_multi_vector": True}
    document, query = (
        embed(http, COLBERT, **fields, input_type=kind)["data"][0]["multi_vector"] for kind in ("document", "query")
    )
    assert len(query) == 16 and len(document) < 16 and {len(row) for row in document} == {16}
    packed = embed(http, COLBERT, **fields, encoding_format="base64")["data"][0]["multi_vector"]
    rows = [np.frombuffer(base64.b64decode(row), "<f4") for row in packed]
    assert np.abs(np.array(rows) - np.array(document)).max() <= 1e-5
    assert refused(http, COLBERT, input=[5, 6], return_multi_vector=True)["param"] == "input"
