"""The handler of rerank models, over a model that counts words in common: order, answers, limits, failures."""

import asyncio
import math
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import orjson
import pytest

from modelrack.api.rerank import RerankRequest, RerankResponse
from modelrack.batching import BatchLimits, Prepared
from modelrack.errors import BadRequest, EngineError, ModelrackError, TooManyRequests
from modelrack.hooks import Family, LoadPlan, ModelFiles, Variant
from modelrack.rerank import RerankLoader, RerankTraits, RerankWork, document_too_long, make_handlers, query_too_long
from modelrack.rerank.handlers import RerankHandler

PLAN = LoadPlan(
    model_uid="words",
    family=Family(name="words", model_type="rerank"),
    variant=Variant(format="pytorch"),
    quantization="none",
    files=ModelFiles(path="", format="pytorch"),
)


class WordModel:
    """Scores a document by the words it shares with the query, less the ones it does not; a token is a word.

    Args:
        gate: what each batch waits for.
    """

    def __init__(self, limits: BatchLimits | None = None, max_tokens: int = 12) -> None:
        self.traits = RerankTraits(max_tokens=max_tokens, takes_instruction=True, limits=limits or BatchLimits())
        self.gate = threading.Event()
        self.gate.set()
        self.scored: list[str] = []
        self.is_closed = False

    def prepare(self, works: Sequence[RerankWork]) -> Sequence[Prepared[Any] | ModelrackError]:
        return [self._prepare(work) for work in works]

    def _prepare(self, work: RerankWork) -> Prepared[Any] | ModelrackError:
        query, document = f"{work.instruction} {work.query}".split(), work.document.split()
        document = document[: work.max_document_tokens]
        most, count = self.traits.max_tokens, len(query) + len(document)
        if len(query) >= most:
            return query_too_long(len(query), most)
        if count > most and not work.truncate:
            return document_too_long(work.index, count, most)
        return Prepared((query, document[: most - len(query)]), min(count, most))

    def run(self, batch: Sequence[Any]) -> Sequence[float]:
        assert self.gate.wait(30)
        self.scored += [" ".join(document) for _, document in batch]
        return [self._score(set(query), document) for query, document in batch]

    def _score(self, query: set[str], document: Sequence[str]) -> float:
        if "nan" in document:
            return math.nan
        return sum(1.0 if word in query else -0.25 for word in document)

    def relevance(self, score: float) -> float:
        return 1 / (1 + math.exp(-score))

    def close(self) -> None:
        self.is_closed = True


class Call:
    """One request, as the worker's host gives it to handlers."""

    request_id, model_uid = "r", "words"

    def __init__(self, path: str = "/v1/rerank") -> None:
        self.path = path
        self.counts: tuple[int, int] | None = None

    def usage(self, prompt_tokens: int, completion_tokens: int) -> None:
        self.counts = prompt_tokens, completion_tokens


@pytest.fixture
def model() -> WordModel:
    return WordModel()


@pytest.fixture
def handler(model: WordModel) -> Iterator[RerankHandler]:
    made = make_handlers(model, PLAN)["rerank"]
    yield made
    model.gate.set()
    made.close()


DOCUMENTS = ["red fish", "blue whale", "the blue whale sings", "blue"]


async def ask(handler: RerankHandler, call: Call | None = None, **fields: Any) -> Any:
    body = {"model": "words", "query": "the blue whale", "documents": DOCUMENTS, **fields}
    made: Any = call or Call()
    answer = orjson.loads(await handler(RerankRequest.model_validate(body), made))
    RerankResponse.model_validate(answer)
    return answer


def nested(depth: int) -> list[Any]:
    found: list[Any] = []
    for _ in range(depth - 1):
        found = [found]
    return found


def order(answer: Any) -> list[int]:
    return [one["index"] for one in answer["results"]]


async def refused(handler: RerankHandler, **fields: Any) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        await ask(handler, **fields)
    return caught.value


async def test_the_best_come_first(handler: RerankHandler) -> None:
    answer = await ask(handler)
    assert order(answer) == [2, 1, 3, 0]
    found = [one["relevance_score"] for one in answer["results"]]
    assert found == sorted(found, reverse=True) and all(0 < score < 1 for score in found)
    raw = await ask(handler, raw_scores=True)
    assert [one["relevance_score"] for one in raw["results"]] == [2.75, 2.0, 1.0, -0.5]
    assert order(await ask(handler, top_n=2)) == [2, 1]
    assert order(await ask(handler, top_n=1000)) == [2, 1, 3, 0]


async def test_equals_keep_their_order(handler: RerankHandler) -> None:
    assert order(await ask(handler, documents=["x", "blue", "y", "blue", "z"])) == [1, 3, 0, 2, 4]


@pytest.mark.parametrize(("path", "version"), [("/v1/rerank", "1"), ("/v2/rerank", "2")])
async def test_counts_and_versions_are_told(handler: RerankHandler, path: str, version: str) -> None:
    call = Call(path)
    answer = await ask(handler, call)
    assert answer["model"] == "words" and answer["object"] == "list" and answer["id"].startswith("rerank-")
    assert answer["meta"]["api_version"] == {"version": version}
    assert call.counts == (21, 0)
    assert answer["usage"] == {"prompt_tokens": 21, "total_tokens": 21}
    assert answer["meta"]["tokens"] == {"input_tokens": 21, "output_tokens": 0}


async def test_counts_can_be_left_out(handler: RerankHandler) -> None:
    assert (await ask(handler, return_len=True))["meta"]["tokens"]["input_tokens"] == 21
    assert (await ask(handler, return_len=False))["meta"]["tokens"] is None


@pytest.mark.parametrize(("count", "units"), [(1, 1), (100, 1), (101, 2), (2048, 21)])
async def test_units_are_hundreds_of_documents(handler: RerankHandler, count: int, units: int) -> None:
    answer = await ask(handler, documents=["blue"] * count)
    assert answer["meta"]["billed_units"] == {"search_units": units}


async def test_documents_come_back_as_they_went(handler: RerankHandler) -> None:
    documents = ["red", {"text": "blue whale", "id": 7, "tags": ["a"]}]
    answer = await ask(handler, documents=documents, return_documents=True)
    assert [one["document"] for one in answer["results"]] == [documents[1], {"text": "red"}]
    assert all(one["document"] is None for one in (await ask(handler, documents=documents))["results"])


async def test_documents_are_ranked_by_fields(handler: RerankHandler, model: WordModel) -> None:
    documents = [
        {"title": "blue whale", "text": "red", "year": 1851},
        {"year": 2, "title": "red", "text": "the blue whale"},
    ]
    fields: dict[str, Any] = {"documents": documents, "return_documents": True}
    assert order(await ask(handler, **fields)) == [1, 0]
    answer = await ask(handler, rank_fields=["year", "title"], **fields)
    assert order(answer) == [0, 1]
    assert set(model.scored[-2:]) == {"1851 blue whale", "2 red"}
    assert answer["results"][0]["document"] == documents[0]
    only = await ask(handler, documents=[{"title": "blue"}], rank_fields=["title"], return_documents=True)
    assert only["results"][0]["document"] == {"title": "blue", "text": "blue"}
    only = await ask(handler, documents=[{"a": "blue", "text": 5}], rank_fields=["a"], return_documents=True)
    assert only["results"][0]["document"] == {"a": "blue", "text": "blue"}


async def test_what_is_as_deep_as_an_answer_can_be_comes_back(handler: RerankHandler) -> None:
    document = {"text": "blue", "tags": nested(250)}
    answer = await ask(handler, documents=[document], return_documents=True)
    assert answer["results"][0]["document"] == document


@pytest.mark.parametrize(
    ("documents", "fields", "param"),
    [
        (["fine", ""], None, "documents.1"),
        (["fine", " \n\t"], None, "documents.1"),
        ([{"text": ""}], None, "documents.0"),
        ([{"title": "fine"}], None, "documents.0.text"),
        ([{"text": 5}], None, "documents.0.text"),
        ([{"text": None}], None, "documents.0.text"),
        ([{"title": "fine"}, {"text": "fine"}], ["title"], "documents.1.title"),
        ([{"title": None}], ["title"], "documents.0.title"),
        (["fine"], ["title"], "documents.0.title"),
        ([{"title": "", "text": " "}], ["title", "text"], "documents.0"),
        (["fine", "a" * 500_001], None, "documents.1"),
        (["fine", {"text": "fine", "tags": nested(251)}], None, "documents.1"),
        ([{"tags": "fine"}, {"tags": {"a": nested(1000)}}], ["tags"], "documents.1"),
    ],
)
async def test_documents_without_a_text_are_named(
    handler: RerankHandler, documents: list[Any], fields: list[str] | None, param: str
) -> None:
    assert (await refused(handler, documents=documents, rank_fields=fields)).param == param


async def test_what_is_too_long_is_cut_or_named(handler: RerankHandler) -> None:
    long = "blue " * 50
    assert (await ask(handler, documents=["red", long]))["usage"]["total_tokens"] == 4 + 12
    error = await refused(handler, documents=["red", long], truncate=False)
    assert (error.param, error.details) == ("documents.1", {"max_tokens": 12, "tokens": 53})
    assert (await refused(handler, query=long)).param == "query"
    cut = await ask(handler, documents=["red", long], truncate=False, max_tokens_per_doc=2)
    assert cut["usage"]["total_tokens"] == 4 + 5


async def test_what_is_far_too_long_is_not_read(handler: RerankHandler, model: WordModel) -> None:
    far = "blue" * 10_000
    assert (await refused(handler, documents=["red", far], truncate=False)).param == "documents.1"
    assert (await refused(handler, query=far)).param == "query"
    assert not model.scored
    await ask(handler, documents=[far])
    assert len(model.scored[0]) == 12 * 64


async def test_instructions_are_told(handler: RerankHandler) -> None:
    assert order(await ask(handler, query="whale", instruction="red fish")) == [0, 1, 2, 3]
    assert "instruction" in handler.supported


async def test_a_score_that_is_no_number_is_an_error(handler: RerankHandler) -> None:
    """Even of a document that would not be answered."""
    with pytest.raises(EngineError, match="document 1 is no number"):
        await ask(handler, documents=["blue", "nan"], top_n=1)
    assert order(await ask(handler)) == [2, 1, 3, 0]


async def test_clients_that_leave_take_their_documents_along(handler: RerankHandler, model: WordModel) -> None:
    model.gate.clear()
    first = asyncio.create_task(ask(handler, documents=["first"]))
    leaving = [asyncio.create_task(ask(handler, documents=[f"leaving {n}"] * 100)) for n in range(3)]
    staying = asyncio.create_task(ask(handler, documents=["blue"]))
    await asyncio.sleep(0)
    for task in leaving:
        task.cancel()
    await asyncio.wait(leaving)
    model.gate.set()
    assert order(await staying) == [0]
    await first
    assert len([text for text in model.scored if text.startswith("leaving")]) <= 128


async def test_a_full_queue_is_told() -> None:
    model = WordModel(BatchLimits(queue_items=4))
    handler = make_handlers(model, PLAN)["rerank"]
    model.gate.clear()
    try:
        waiting = asyncio.create_task(ask(handler))
        await asyncio.sleep(0)
        with pytest.raises(TooManyRequests) as caught:
            await ask(handler)
        assert int(caught.value.headers["Retry-After"]) >= 1
        model.gate.set()
        assert order(await waiting) == [2, 1, 3, 0]
    finally:
        model.gate.set()
        handler.close()


def test_a_loader_makes_the_handler_and_ends_it() -> None:
    class WordLoader(RerankLoader):
        def load_model(self, report: Any) -> WordModel:
            report(0.5, "reading words")
            return WordModel()

    loader = WordLoader(PLAN)
    assert loader.describe() == {}
    loader.close()
    heard: list[str] = []
    handlers = loader.load(lambda progress, stage: heard.append(stage))
    assert list(handlers) == ["rerank"] and heard == ["reading words"]
    assert loader.describe() == {"max_tokens": 12, "takes_instruction": True}
    loader.close()
    assert isinstance(loader._model, WordModel) and loader._model.is_closed
