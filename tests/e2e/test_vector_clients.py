"""Released clients embed and rerank: curl, OpenAI's and Cohere's SDKs, Xinference's client, integrations, and ours."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cohere
import httpx
import openai
import pytest

from modelrack.client import AsyncClient, Client
from modelrack.client.handles import EmbeddingHandle, RerankHandle
from modelrack.testing.serving import Server
from releases import install_client

SESSIONS = Path(__file__).parent / "clients"

DOCUMENTS = (
    "Paris is the capital of France.",
    "The blue whale is the largest animal.",
    "There are seven days in a week.",
    "Water boils at one hundred degrees Celsius.",
)
QUERIES = ("What is the largest animal?", "What is the capital of France?", "How many days are there in a week?")
RIGHT = (1, 0, 2)
EMBEDDER, RERANKER = "demo-embedding", "demo-rerank"
TEXTS = json.dumps({"documents": DOCUMENTS, "queries": QUERIES})


@pytest.fixture(scope="module", autouse=True)
def _models(server: Server) -> Iterator[None]:
    """Launch both models as a user does."""
    for model_type, name in (("embedding", EMBEDDER), ("rerank", RERANKER)):
        command = [sys.executable, "-m", "modelrack.cli", "launch", "-t", model_type, "-n", name, "-e", server.url]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100)
        assert done.returncode == 0, done.stderr
        assert name in done.stdout
    yield
    with Client(server.url) as client:
        client.terminate_model(EMBEDDER)
        client.terminate_model(RERANKER)


def nearest(query: Sequence[float], documents: Sequence[Sequence[float]]) -> int:
    """Return which document is nearest to a query."""
    likeness = [sum(one * other for one, other in zip(query, row, strict=True)) for row in documents]
    return likeness.index(max(likeness))


def run_session(name: str, server: Server, path: Path | None = None) -> dict[str, Any]:
    """Run one of the sessions in a process of its own and return what it saw."""
    done = subprocess.run(
        [sys.executable, str(SESSIONS / f"{name}_session.py"), server.url, EMBEDDER, RERANKER, TEXTS],
        env={**os.environ, "PYTHONPATH": str(path or "")},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    seen: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return seen


def curl(server: Server, path: str, body: dict[str, Any]) -> Any:
    """Post with curl and return the answer's JSON."""
    command = ["curl", "--silent", "--show-error", "--noproxy", "*", f"{server.url}{path}"]
    command += ["-H", "Content-Type: application/json", "-d", json.dumps(body)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


class TestCurl:
    def test_embeddings(self, server: Server) -> None:
        answer = curl(server, "/v1/embeddings", {"model": EMBEDDER, "input": [*DOCUMENTS, *QUERIES]})
        vectors = [one["embedding"] for one in answer["data"]]
        documents, queries = vectors[: len(DOCUMENTS)], vectors[len(DOCUMENTS) :]
        assert [nearest(query, documents) for query in queries] == list(RIGHT)

    @pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank"])
    def test_rerank(self, server: Server, path: str) -> None:
        for query, right in zip(QUERIES, RIGHT, strict=True):
            answer = curl(server, path, {"model": RERANKER, "query": query, "documents": DOCUMENTS})
            assert answer["results"][0]["index"] == right
            best, *_, worst = (one["relevance_score"] for one in answer["results"])
            assert best > 3 * worst

    def test_jina_s_fields(self, server: Server) -> None:
        documents = [{"text": text} for text in DOCUMENTS]
        body = {"model": RERANKER, "query": QUERIES[0], "documents": documents, "top_n": 2, "return_documents": True}
        answer = curl(server, "/v1/rerank", {**body, "truncation": True})
        assert answer["model"] == RERANKER and answer["usage"]["total_tokens"] > 0
        assert answer["results"][0]["document"]["text"] == DOCUMENTS[1]
        assert len(answer["results"]) == 2


class TestOpenAI:
    @pytest.fixture(scope="class")
    @classmethod
    def client(cls, server: Server) -> Iterator[openai.OpenAI]:
        with openai.OpenAI(api_key="any", base_url=f"{server.url}/v1", max_retries=0, timeout=60) as client:
            yield client

    def test_base64_is_the_default_and_holds_what_floats_do(self, client: openai.OpenAI) -> None:
        packed = client.embeddings.create(model=EMBEDDER, input=list(DOCUMENTS))
        floats = client.embeddings.create(model=EMBEDDER, input=list(DOCUMENTS), encoding_format="float")
        for one, other in zip(packed.data, floats.data, strict=True):
            assert one.embedding == pytest.approx(other.embedding, abs=1e-6)
        assert [one.index for one in packed.data] == list(range(len(DOCUMENTS)))
        assert packed.usage.prompt_tokens == packed.usage.total_tokens == floats.usage.total_tokens > len(DOCUMENTS)

    def test_the_nearest_document_is_the_right_one(self, client: openai.OpenAI) -> None:
        documents = [one.embedding for one in client.embeddings.create(model=EMBEDDER, input=list(DOCUMENTS)).data]
        queries = [one.embedding for one in client.embeddings.create(model=EMBEDDER, input=list(QUERIES)).data]
        assert [nearest(query, documents) for query in queries] == list(RIGHT)

    def test_errors_are_typed(self, client: openai.OpenAI) -> None:
        with pytest.raises(openai.BadRequestError) as bad:
            client.embeddings.create(model=EMBEDDER, input=["fine", ""])
        assert bad.value.param == "input"
        with pytest.raises(openai.NotFoundError):
            client.embeddings.create(model="nobody", input="fine")


class TestCohere:
    @pytest.fixture(scope="class")
    @classmethod
    def http(cls) -> Iterator[httpx.Client]:
        """Give the SDK a client that is closed in the end: it closes none itself."""
        with httpx.Client(timeout=60, trust_env=False) as http:
            yield http

    def test_v1(self, server: Server, http: httpx.Client) -> None:
        client = cohere.Client(api_key="any", base_url=server.url, httpx_client=http)
        for query, right in zip(QUERIES, RIGHT, strict=True):
            answer = client.rerank(model=RERANKER, query=query, documents=list(DOCUMENTS), return_documents=True)
            best = answer.results[0]
            assert best.index == right and best.document and best.document.text == DOCUMENTS[right]
            assert answer.id and answer.meta and answer.meta.api_version and answer.meta.api_version.version == "1"

    def test_v2(self, server: Server, http: httpx.Client) -> None:
        client = cohere.ClientV2(api_key="any", base_url=server.url, httpx_client=http)
        answer = client.rerank(
            model=RERANKER, query=QUERIES[0], documents=list(DOCUMENTS), top_n=2, max_tokens_per_doc=100
        )
        assert answer.results[0].index == RIGHT[0] and len(answer.results) == 2
        assert answer.meta and answer.meta.billed_units and answer.meta.billed_units.search_units == 1

    def test_errors_are_typed(self, server: Server, http: httpx.Client) -> None:
        client = cohere.ClientV2(api_key="any", base_url=server.url, httpx_client=http)
        with pytest.raises(cohere.BadRequestError):
            client.rerank(model=RERANKER, query="", documents=list(DOCUMENTS))


class TestOwnClient:
    def test_handles(self, server: Server) -> None:
        with Client(server.url) as client:
            embedder, reranker = client.get_model(EMBEDDER), client.get_model(RERANKER)
            assert isinstance(embedder, EmbeddingHandle) and isinstance(reranker, RerankHandle)
            rows = [one["embedding"] for one in embedder.create_embedding([*DOCUMENTS, *QUERIES])["data"]]
            documents, queries = rows[: len(DOCUMENTS)], rows[len(DOCUMENTS) :]
            assert [nearest(query, documents) for query in queries] == list(RIGHT)
            for query, right in zip(QUERIES, RIGHT, strict=True):
                answer = reranker.rerank(list(DOCUMENTS), query, top_n=1, return_documents=True)
                assert answer["results"][0]["document"]["text"] == DOCUMENTS[right]

    def test_asynchronous_handles(self, server: Server) -> None:
        async def ask() -> tuple[Any, Any]:
            async with AsyncClient(server.url) as client:
                embedder, reranker = await client.get_model(EMBEDDER), await client.get_model(RERANKER)
                return await asyncio.gather(
                    embedder.create_embedding(QUERIES[0]), reranker.rerank(list(DOCUMENTS), QUERIES[0])
                )

        embedded, ranked = asyncio.run(ask())
        assert len(embedded["data"]) == 1
        assert ranked["results"][0]["index"] == RIGHT[0]


class TestXinferenceClient:
    @pytest.fixture(scope="class", params=["installed", "4.1.0"])
    @classmethod
    def seen(
        cls, request: pytest.FixtureRequest, server: Server, tmp_path_factory: pytest.TempPathFactory
    ) -> dict[str, Any]:
        path = None
        if request.param != "installed":
            path = install_client(tmp_path_factory.mktemp("client"), request.param)
        return run_session("vectors", server, path)

    def test_embed(self, seen: dict[str, Any]) -> None:
        documents = [one["embedding"] for one in seen["many"]["data"]]
        assert nearest(seen["one"]["data"][0]["embedding"], documents) == RIGHT[0]
        assert seen["many"]["model"] == EMBEDDER

    def test_rerank(self, seen: dict[str, Any]) -> None:
        assert seen["ranked"]["results"][0]["index"] == RIGHT[0]
        assert len(seen["ranked"]["results"]) == len(DOCUMENTS)
        (best,) = seen["best"]["results"]
        assert best["document"]["text"] == DOCUMENTS[RIGHT[0]]
        assert seen["best"]["meta"]["tokens"]["input_tokens"] > 0

    def test_what_is_listed(self, seen: dict[str, Any]) -> None:
        embedder, reranker = seen["list"][EMBEDDER], seen["list"][RERANKER]
        assert (embedder["model_type"], reranker["model_type"]) == ("embedding", "rerank")
        assert embedder["dimensions"] == len(seen["one"]["data"][0]["embedding"]) and embedder["max_tokens"] > 0
        for model_type, name in (("embedding", EMBEDDER), ("rerank", RERANKER)):
            assert name in [one["model_name"] for one in seen["registrations"][model_type]]

    def test_errors_tell_the_reason(self, seen: dict[str, Any]) -> None:
        assert "input" in seen["error"]


@pytest.mark.parametrize("name", ["langchain_vectors", "llama_index_vectors"])
def test_integrations(server: Server, name: str) -> None:
    """LangChain's and LlamaIndex's integrations of Xinference, as they are released."""
    seen = run_session(name, server)
    assert nearest(seen["query"], seen["documents"]) == RIGHT[0]
    assert seen["ranked"][0] == RIGHT[0] and len(seen["ranked"]) == 3
    other = seen["async"][1] if name == "langchain_vectors" else seen["async"]
    assert other == pytest.approx(seen["query"], abs=1e-5)
    if name == "langchain_vectors":
        assert seen["async"][2] == seen["ranked"]
