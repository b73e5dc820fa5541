"""The handler of embedding models, over a model that counts letters: prompts, lengths, shapes of answers, limits."""

import asyncio
import base64
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import orjson
import pytest
from pydantic import ValidationError

from modelrack.api.embeddings import EmbeddingRequest, EmbeddingResponse
from modelrack.api.tokenize import ConvertIdsRequest, DetokenizeRequest, TokenizeRequest
from modelrack.batching import BatchLimits, Prepared
from modelrack.embedding import (
    Embedding,
    EmbeddingLoader,
    EmbeddingTraits,
    EmbeddingWork,
    InputTooLong,
    make_handlers,
    too_long,
)
from modelrack.errors import BadRequest, EngineError, ModelrackError, NotReady, TooManyRequests, UnsupportedParameter
from modelrack.hooks import Family, LoadPlan, ModelFiles, Variant
from modelrack.worker import Report

np = pytest.importorskip("numpy")

LETTERS = "abcdefgh"
DIMENSIONS = len(LETTERS)
PLAN = LoadPlan(
    model_uid="letters",
    family=Family(name="letters", model_type="embedding"),
    variant=Variant(format="pytorch"),
    quantization="none",
    files=ModelFiles(path="", format="pytorch"),
)
PROMPTS = {"query": "aa", "passage": "bb", "clustering": "", "task": "ee"}


class LetterTokenizer:
    """A token is a letter; `^` stands before a text."""

    names_of = "^" + LETTERS

    def encode(self, text: str, *, add_special: bool) -> list[int]:
        return [0] * add_special + [self.names_of.index(letter) for letter in text if letter in LETTERS]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(self.names_of[one] for one in ids)

    def names(self, ids: Sequence[int]) -> list[str]:
        return [self.names_of[one] for one in ids]


class LetterModel:
    """Counts how often each of eight letters occurs; a task is added to the count of its first letter."""

    def __init__(self, **traits: Any) -> None:
        known: dict[str, Any] = {"dimensions": DIMENSIONS, "max_tokens": 20, "n_vocab": 9, "prompts": PROMPTS}
        self.traits = EmbeddingTraits(**{**known, **traits})
        self.tokenizer = LetterTokenizer()
        self.gate = threading.Event()
        self.gate.set()
        self.facts = {"similarity": "dot"}
        self.is_closed = False
        self.spoil: Callable[[Embedding], Any] = lambda embedding: None

    def prepare(self, works: Sequence[EmbeddingWork]) -> Sequence[Prepared[Any] | ModelrackError]:
        return [self._prepare(work) for work in works]

    def _prepare(self, work: EmbeddingWork) -> Prepared[Any] | ModelrackError:
        most = self.traits.max_tokens
        if isinstance(work.input, str):
            ids = self.tokenizer.encode(work.prompt + work.input, add_special=True)
        else:
            ids = list(work.input)
        if most is not None and len(ids) > most:
            if not work.truncate:
                return too_long(work.index, len(ids), most)
            ids = ids[:most]
        return Prepared((ids, work.task, work.outputs), max(1, len(ids)))

    def run(self, batch: Sequence[Any]) -> Sequence[Embedding]:
        assert self.gate.wait(30)
        made = [self._embed(*one) for one in batch]
        for one in made:
            self.spoil(one)
        return made

    def _embed(self, ids: Sequence[int], task: str | None, outputs: frozenset[str]) -> Embedding:
        counts = np.bincount([one for one in ids if one], minlength=9)[1:].astype(np.float32)
        if task is not None:
            counts[LETTERS.index(task[0])] += 100
        if self.traits.is_normalized:
            counts /= np.linalg.norm(counts) or 1
        return Embedding(
            dense=counts if "dense" in outputs else None,
            sparse={one + 1: float(count) for one, count in enumerate(counts) if count}
            if "sparse" in outputs
            else None,
            multi_vector=np.eye(9, dtype=np.float32)[list(ids)] if "multi_vector" in outputs else None,
        )

    def close(self) -> None:
        self.is_closed = True


class Call:
    request_id, model_uid, path = "r", "letters", "/v1/embeddings"

    def __init__(self) -> None:
        self.counted: tuple[int, int] | None = None

    def usage(self, prompt_tokens: int, completion_tokens: int) -> None:
        self.counted = (prompt_tokens, completion_tokens)


class Rig:
    """A model and its handlers."""

    def __init__(self, **traits: Any) -> None:
        self.model = LetterModel(**traits)
        self.handlers: Mapping[str, Any] = make_handlers(self.model, PLAN)

    def ask(self, **fields: Any) -> dict[str, Any]:
        """Return the answer to a request."""
        request, call = EmbeddingRequest.model_validate({"model": "letters", **fields}), Call()
        answer: dict[str, Any] = orjson.loads(asyncio.run(self.handlers["embed"](request, call)))
        EmbeddingResponse.model_validate(answer)
        assert call.counted == (answer["usage"]["prompt_tokens"], 0)
        return answer

    def counts(self, **fields: Any) -> list[float]:
        """Return the first vector as it comes."""
        vector: list[float] = self.ask(normalize=False, **fields)["data"][0]["embedding"]
        return vector

    def refused(self, kind: type[ModelrackError] = BadRequest, **fields: Any) -> ModelrackError:
        with pytest.raises(kind) as caught:
            self.ask(**fields)
        return caught.value

    def close(self) -> None:
        self.model.gate.set()
        self.handlers["embed"].close()


@pytest.fixture
def make() -> Iterator[Any]:
    made: list[Rig] = []

    def make_rig(**traits: Any) -> Rig:
        made.append(Rig(**traits))
        return made[-1]

    yield make_rig
    for rig in made:
        rig.close()


def test_answers_come_in_order_with_counts(make: Any) -> None:
    answer = make().ask(input=["abc", "h", "aab"])
    assert (answer["object"], answer["model"]) == ("list", "letters")
    assert [one["index"] for one in answer["data"]] == [0, 1, 2]
    assert answer["usage"] == {"prompt_tokens": 10, "total_tokens": 10}
    assert answer["data"][2]["embedding"][:2] == pytest.approx([2 / math.sqrt(5), 1 / math.sqrt(5)])


@pytest.mark.parametrize("fields", [{"normalize": False}, {"normalize_embeddings": False}])
def test_vectors_are_scaled_unless_asked_otherwise(make: Any, fields: Any) -> None:
    rig = make()
    assert rig.ask(input="aab", **fields)["data"][0]["embedding"][:2] == [2, 1]
    assert math.hypot(*rig.ask(input="aab")["data"][0]["embedding"]) == pytest.approx(1)
    assert rig.ask(input="zzz")["data"][0]["embedding"] == [0] * DIMENSIONS  # no length, so none to scale


def test_base64_is_little_endian_float32(make: Any) -> None:
    packed = make().ask(input="aab", encoding_format="base64", normalize=False)["data"][0]["embedding"]
    assert np.frombuffer(base64.b64decode(packed), "<f4").tolist() == [2, 1, 0, 0, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("shorter", "good", "bad"),
    [((), [8], [7, 9]), ((2, 4), [2, 4, 8], [3, 9]), (None, [1, 7, 8], [9])],
)
def test_dimensions_are_those_that_a_model_may_be_cut_to(
    make: Any, shorter: Any, good: Sequence[int], bad: Sequence[int]
) -> None:
    rig = make(shorter_dimensions=shorter)
    for length in good:
        (one,) = rig.ask(input="aab", dimensions=length)["data"]
        assert len(one["embedding"]) == length and math.hypot(*one["embedding"]) == pytest.approx(1)
        (raw,) = rig.ask(input="aab", dimensions=length, normalize=False)["data"]
        assert raw["embedding"] == [2, 1, 0, 0, 0, 0, 0, 0][:length]
    for length in bad:
        error = rig.refused(input="aab", dimensions=length)
        assert error.param == "dimensions" and str(DIMENSIONS) in error.message


def test_what_is_scaled_already_is_left_as_it_is(make: Any) -> None:
    rig = make(is_normalized=True, shorter_dimensions=None)
    assert rig.ask(input="ab")["data"][0]["embedding"][:2] == pytest.approx([math.sqrt(0.5)] * 2)
    assert rig.ask(input="ab", dimensions=1)["data"][0]["embedding"] == pytest.approx([1])


# Prompts and tasks


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, "d"),
        ({"prompt_name": "query"}, "aad"),
        ({"prompt_name": "passage"}, "bbd"),
        ({"prompt": "cc"}, "ccd"),
        ({"input_type": "query"}, "aad"),
        ({"input_type": "search_query"}, "aad"),
        ({"task": "retrieval.query"}, "aad"),
        ({"input_type": "document"}, "bbd"),
        ({"task": "passage"}, "bbd"),
        ({"input_type": "clustering"}, "d"),
        ({"task": "task"}, "eed"),
        ({"prompt": "", "input_type": "query"}, "d"),
    ],
)
def test_prompts_are_put_before_texts(make: Any, fields: Any, expected: str) -> None:
    rig = make()
    assert rig.counts(input="d", **fields) == rig.counts(input=expected)


def test_a_default_prompt_is_for_requests_that_say_nothing(make: Any) -> None:
    rig = make(default_prompt="query")
    assert rig.counts(input="d")[0] == 2
    assert rig.counts(input="d", prompt="")[0] == rig.counts(input="d", input_type="clustering")[0] == 0
    assert rig.counts(input="d", input_type="document")[:2] == [0, 2]


def test_the_sides_of_a_search_are_known_to_every_model(make: Any) -> None:
    """A model that was not trained to tell them apart embeds both alike, as `encode_query` and `encode_document` do."""
    rig = make(prompts={})
    for name in ("query", "document", "search_document", "passage"):
        assert rig.counts(input="d", input_type=name) == rig.counts(input="d")
    error = rig.refused(input="d", input_type="classification")
    assert error.param == "input_type" and "'query', 'document'" in error.message
    assert "it has none" in rig.refused(input="d", prompt_name="query").message


def test_tasks_reach_the_model(make: Any) -> None:
    rig = make(tasks=("document", "embed", "class"), prompts={"embed": "bb"})
    assert rig.counts(input="d", task="document")[3] == 101
    assert rig.counts(input="d", input_type="search_document")[3] == 101
    assert rig.counts(input="d", task="embed")[:5] == [0, 2, 0, 1, 100]
    assert rig.counts(input="d", task="class", prompt="aa")[:4] == [2, 0, 100, 1]
    assert rig.counts(input=[4], task="document")[3] == 101


def test_instructions_are_for_models_that_are_told_them(make: Any) -> None:
    rig = make(instruction_template="a{instruction}a")
    assert rig.counts(input="d", instruction="bb") == rig.counts(input="abbad")
    assert "instruction" not in rig.handlers["embed"].unsupported
    assert "instruction" in make().handlers["embed"].unsupported


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": "a", "prompt_name": "query"},
        {"prompt_name": "query", "instruction": "a"},
        {"task": "query", "input_type": "query"},
    ],
)
def test_fields_that_mean_the_same_are_not_taken_together(make: Any, fields: Any) -> None:
    with pytest.raises(ValidationError, match="only one of"):
        make().ask(input="d", **fields)


def test_a_prompt_that_leaves_no_room_for_a_text_is_not_read(make: Any) -> None:
    rig = make(instruction_template="a{instruction}a")
    for field in ("prompt", "instruction"):
        assert rig.refused(input="d", truncate=True, **{field: "a" * 1281}).param == field
    assert rig.ask(input="d", truncate=True, prompt="a" * 1280)["usage"]["prompt_tokens"] == 20


# Token ids


def test_token_ids_are_embedded_as_they_are(make: Any) -> None:
    rig = make(default_prompt="query")
    assert rig.counts(input=[1, 1, 2])[:2] == [2, 1]
    assert [one["embedding"][0] for one in rig.ask(input=[[1], [2]])["data"]] == [1, 0]
    assert rig.ask(input=[1, 1, 2])["usage"]["prompt_tokens"] == 3
    assert rig.counts(input=[4], input_type="query")[:4] == [0, 0, 0, 1]


def test_token_ids_that_cannot_be_are_refused(make: Any) -> None:
    rig = make()
    assert rig.refused(input=[1, 9]).param == "input.0"
    assert rig.refused(input=[[1], [2, 9]]).param == "input.1"
    for field in ({"prompt": "a"}, {"prompt_name": "query"}):
        assert rig.refused(UnsupportedParameter, input=[1], **field).param == next(iter(field))
    assert rig.refused(InputTooLong, input=[1] * 21).details == {"max_tokens": 20, "tokens": 21}
    assert rig.ask(input=[1] * 21, truncate=True)["usage"]["prompt_tokens"] == 20
    assert make(takes_token_ids=False).refused(UnsupportedParameter, input=[1]).param == "input"


# Limits


def test_texts_that_are_too_long_are_refused_or_cut(make: Any) -> None:
    rig = make()
    error = rig.refused(InputTooLong, input=["a", "b" * 20])
    assert (error.param, error.status, error.details) == ("input.1", 400, {"max_tokens": 20, "tokens": 21})
    assert "truncate" in (error.remedy or "")
    far = rig.refused(InputTooLong, input=["a", "b" * 5000])
    assert far.param == "input.1" and far.details == {"max_tokens": 20}
    assert rig.counts(input="b" * 5000, truncate=True)[1] == 19
    assert make(max_tokens=None).counts(input="b" * 5000)[1] == 5000


def test_one_bad_text_fails_its_request_alone(make: Any) -> None:
    rig = make()

    async def both() -> list[Any]:
        handler = rig.handlers["embed"]
        requests = [EmbeddingRequest(model="m", input=given) for given in (["a", "b" * 30], ["a"] * 40)]
        return await asyncio.gather(*(handler(one, Call()) for one in requests), return_exceptions=True)

    bad, good = asyncio.run(both())
    assert isinstance(bad, InputTooLong)
    assert len(orjson.loads(good)["data"]) == 40


def test_a_full_queue_refuses(make: Any) -> None:
    rig = make(limits=BatchLimits(queue_items=2))
    rig.model.gate.clear()

    async def fill() -> None:
        handler = rig.handlers["embed"]
        first = asyncio.create_task(handler(EmbeddingRequest(model="m", input=["a"] * 5), Call()))
        await asyncio.sleep(0)
        with pytest.raises(TooManyRequests) as caught:
            await handler(EmbeddingRequest(model="m", input=["a"] * 3), Call())
        assert int(caught.value.headers["Retry-After"]) >= 1
        rig.model.gate.set()
        assert len(orjson.loads(await first)["data"]) == 5

    asyncio.run(fill())


def test_what_will_be_cut_off_takes_little_room_in_the_queue(make: Any) -> None:
    rig = make(limits=BatchLimits(queue_tokens=400))
    rig.model.gate.clear()

    async def fill() -> None:
        handler = rig.handlers["embed"]
        long = EmbeddingRequest(model="m", input=["a" * 1200] * 4, truncate=True)
        first = asyncio.create_task(handler(long, Call()))
        await asyncio.sleep(0)
        second = asyncio.create_task(handler(EmbeddingRequest(model="m", input="a"), Call()))
        await asyncio.sleep(0)
        rig.model.gate.set()
        assert [len(orjson.loads(one)["data"]) for one in await asyncio.gather(first, second)] == [4, 1]

    asyncio.run(fill())


# Other outputs


def test_outputs_are_given_as_asked(make: Any) -> None:
    rig = make(outputs=frozenset({"dense", "sparse", "multi_vector"}))
    (one,) = rig.ask(input="aab", return_sparse=True, return_multi_vector=True, normalize=False)["data"]
    assert one["sparse_embedding"] == {"1": 2, "2": 1} and one["embedding"][:2] == [2, 1]
    assert np.array(one["multi_vector"]).argmax(axis=1).tolist() == [0, 1, 1, 2]
    (plain,) = rig.ask(input="aab")["data"]
    assert "sparse_embedding" not in plain and "multi_vector" not in plain
    (packed,) = rig.ask(input="a", return_multi_vector=True, encoding_format="base64")["data"]
    assert [np.frombuffer(base64.b64decode(row), "<f4").argmax() for row in packed["multi_vector"]] == [0, 1]


def test_a_model_without_dense_embeddings_must_be_asked_for_what_it_has(make: Any) -> None:
    rig = make(outputs=frozenset({"sparse"}), dimensions=0)
    assert rig.refused(input="a").param == "return_sparse"
    assert rig.ask(input="a", return_sparse=True)["data"][0]["embedding"] == []
    assert rig.refused(input="a", return_sparse=True, dimensions=8).param == "dimensions"
    unsupported = make(unsupported={"user": "it knows nobody"}).handlers["embed"].unsupported
    assert set(unsupported) == {"return_sparse", "return_multi_vector", "instruction", "user"}


@pytest.mark.parametrize(
    "spoil",
    [
        lambda made: made.dense.fill(np.nan),
        lambda made: made.dense.put(0, np.inf),
        lambda made: made.multi_vector.put(1, np.nan),
        lambda made: made.sparse.update({1: math.nan}),
    ],
)
def test_what_is_no_number_is_an_error(make: Any, spoil: Any) -> None:
    rig = make(outputs=frozenset({"dense", "sparse", "multi_vector"}))
    fields = {"input": "ab", "return_sparse": True, "return_multi_vector": True}
    assert rig.ask(**fields)
    rig.model.spoil = spoil
    assert "item 0" in rig.refused(EngineError, **fields).message


# Tokens


def test_tokens_are_told(make: Any) -> None:
    handlers, call = make().handlers, Call()

    def ask(name: str, request: Any) -> Any:
        return asyncio.run(handlers[name](request, call))

    asked = ask("tokenize", TokenizeRequest(model="m", prompt="abz", return_token_strs=True))
    assert asked == {"tokens": [0, 1, 2], "count": 3, "max_model_len": 20, "token_strs": ["^", "a", "b"]}
    assert ask("tokenize", TokenizeRequest(model="m", prompt="a", add_special_tokens=False))["tokens"] == [1]
    assert ask("tokenize", TokenizeRequest(model="m", prompt="a" * 5000))["count"] == 5001
    assert "messages" in handlers["tokenize"].unsupported
    assert ask("detokenize", DetokenizeRequest(model="m", tokens=[1, 2])) == {"prompt": "ab"}
    for given, named in (([1, 2], ["a", "b"]), ([[1], []], [["a"], []]), ([], [])):
        assert orjson.loads(ask("convert_ids_to_tokens", ConvertIdsRequest(model="m", input=given))) == named
    with pytest.raises(BadRequest) as caught:
        ask("detokenize", DetokenizeRequest(model="m", tokens=[9]))
    assert caught.value.param == "tokens"
    with pytest.raises(BadRequest):
        ask("convert_ids_to_tokens", ConvertIdsRequest(model="m", input=[[1], [9]]))


# Requests


@pytest.mark.parametrize(
    "given",
    [
        "",
        [],
        ["a", ""],
        [[]],
        [[1], []],
        None,
        5,
        {"text": "a"},
        ["a", 5],
        ["a", [1]],
        [1.5],
        [-1],
        [True],
        [2**31],
        ["a"] * 2049,
        [[1, "a"]],
    ],
)
def test_inputs_of_other_shapes_are_refused_in_a_few_words(given: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        EmbeddingRequest.model_validate({"model": "m", "input": given})
    (error,) = caught.value.errors()
    assert error["loc"][0] == "input" and len(error["msg"]) < 200


# The loader


class LetterLoader(EmbeddingLoader):
    made: LetterModel

    def load_model(self, report: Report) -> LetterModel:
        report(0.5, "counting")
        self.made = LetterModel()
        return self.made


def test_a_loader_needs_no_more_than_its_model() -> None:
    loader = LetterLoader(PLAN)
    assert loader.describe() == {}
    handlers: Mapping[str, Any] = loader.load(lambda progress, stage: None)
    assert set(handlers) == {"embed", "tokenize", "detokenize", "convert_ids_to_tokens"}
    facts = {"dimensions": DIMENSIONS, "max_tokens": 20, "outputs": ["dense"], "similarity": "dot"}
    assert loader.describe() == facts
    loader.close()
    assert loader.made.is_closed
    with pytest.raises(NotReady):
        asyncio.run(handlers["embed"](EmbeddingRequest(model="m", input="a"), Call()))


def test_a_loader_that_failed_can_be_closed() -> None:
    LetterLoader(PLAN).close()
