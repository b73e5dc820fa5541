"""The suite for rerank models."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest

from ...api.rerank import RerankResponse
from .items import TEXTS, ItemTests, long_text
from .served import BaseRig, BaseTarget
from .shared import Conformance
from .subject import BaseSubject

__all__ = ["RERANK_ROLES", "RerankConformance", "RerankSubject"]

PATH, PATHS = "/v1/rerank", ("/v1/rerank", "/v2/rerank")
QUERY = "What is the largest animal?"

RERANK_ROLES: Mapping[str, str] = {
    "main": "scores documents of at least 64 tokens",
    "narrow": "the same with options that leave room for a few waiting items only",
    "instructed": "is told the task",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankSubject(BaseSubject):
    """An engine of rerank models and the models to test it with, for the roles in `RERANK_ROLES`.

    Args:
        tolerance: how far the scores of a pair may be apart, whatever else is in the batch.
        reference: scores documents with the engine's library alone: from the model's path, a query and documents
            to what `relevance_score` must be; None: they are not compared.
        reference_tolerance: how far from that they may be.
        meanings: by the name of a model that means something: documents, and of these the best for each query.
    """

    model_type: ClassVar[str] = "rerank"
    roles: ClassVar[Mapping[str, str]] = RERANK_ROLES

    tolerance: float = 1e-5
    reference: Callable[[Path, str, Sequence[str]], Sequence[float]] | None = None
    reference_tolerance: float = 1e-5
    meanings: Mapping[str, tuple[tuple[str, ...], tuple[tuple[str, int], ...]]] = field(default_factory=dict)


class RerankConformance(ItemTests, Conformance, is_kit=True):
    """The conformance tests of an engine for rerank models; a plugin's test module subclasses it."""

    subject: ClassVar[RerankSubject]
    subject_class = RerankSubject
    path = PATH

    def small(self, number: int) -> Mapping[str, Any]:
        """Return a request with two to four documents."""
        documents = [f"{number} {TEXTS[(number + step) % len(TEXTS)]}" for step in range(2 + number % 3)]
        return {"query": f"{QUERY} {number}", "documents": documents}

    def much(self, target: BaseTarget) -> Mapping[str, Any]:
        """Return a request with as many documents as are taken."""
        return {"query": QUERY, "documents": [f"{number} {long_text(40)}" for number in range(2048)]}

    def compare(self, found: Sequence[Any], expected: Sequence[Any]) -> None:
        """Check that answers hold the same scores and counts."""
        assert [one["usage"] for one in found] == [one["usage"] for one in expected]
        for one, other in zip(found, expected, strict=True):
            assert scores(one) == pytest.approx(scores(other), abs=self.subject.tolerance)

    def bad_bodies(self, target: BaseTarget) -> list[Mapping[str, Any]]:
        """Return a request with one document that is too long, and one with an empty one."""
        length = _max_tokens(target)
        return [
            {"query": QUERY, "documents": ["fine", long_text(length * 2)], "truncate": False},
            {"query": QUERY, "documents": ["fine", ""]},
        ]

    def rank(self, target: BaseTarget, documents: Sequence[Any], query: str = QUERY, **fields: Any) -> Any:
        """Return the answer to a request that must be answered, checked for its shape."""
        (answer,) = self.answers(target, [{"query": query, "documents": list(documents), **fields}])
        RerankResponse.model_validate(answer)
        found = [one["relevance_score"] for one in answer["results"]]
        assert found == sorted(found, reverse=True), "the results are not best first"
        return answer

    # Shapes and counts

    @pytest.mark.parametrize("path", PATHS)
    def test_the_answer_has_the_shape_of_the_api(self, main: BaseTarget, path: str) -> None:
        response = main.post(path, {"query": QUERY, "documents": list(TEXTS)})
        assert response.status_code == 200, response.text
        answer = response.json()
        RerankResponse.model_validate(answer)
        assert answer["model"] == main.uid and answer["id"]
        assert sorted(one["index"] for one in answer["results"]) == list(range(len(TEXTS)))
        assert all(0 <= one["relevance_score"] <= 1 for one in answer["results"])
        assert all(not one.get("document") for one in answer["results"])

    def test_the_best_are_answered_with_their_documents(self, main: BaseTarget) -> None:
        whole = self.rank(main, TEXTS, return_documents=True)
        assert [one["document"]["text"] for one in whole["results"]] == [
            TEXTS[one["index"]] for one in whole["results"]
        ]
        best = self.rank(main, TEXTS, top_n=3)
        assert [one["index"] for one in best["results"]] == [one["index"] for one in whole["results"][:3]]
        assert len(self.rank(main, TEXTS, top_n=1000)["results"]) == len(TEXTS)

    def test_documents_may_be_objects(self, main: BaseTarget) -> None:
        plain, objects = self.rank(main, TEXTS), self.rank(main, [{"text": text} for text in TEXTS])
        self.compare([objects], [plain])

    def test_documents_are_ranked_by_the_fields_that_are_named(self, main: BaseTarget) -> None:
        plain = self.rank(main, [f"{text}\n{number}" for number, text in enumerate(TEXTS)])
        documents = [{"number": number, "title": text, "text": "other"} for number, text in enumerate(TEXTS)]
        named = self.rank(main, documents, rank_fields=["title", "number"], return_documents=True)
        self.compare([named], [plain])
        assert [one["document"] for one in named["results"]] == [documents[one["index"]] for one in named["results"]]
        error = main.refused(PATH, {"query": QUERY, "documents": documents, "rank_fields": ["title", "none"]})
        assert error["param"] == "documents.0.none", error

    def test_options_may_come_packed(self, main: BaseTarget) -> None:
        """Xinference's client sends further options as a JSON string."""
        plain, packed = self.rank(main, TEXTS, top_n=2), self.rank(main, TEXTS, kwargs='{"top_n": 2}')
        assert [one["index"] for one in packed["results"]] == [one["index"] for one in plain["results"]]
        assert main.refused(PATH, {"query": QUERY, "documents": ["fine"], "kwargs": "{"})["param"] == "kwargs"

    def test_raw_scores_are_in_the_same_order(self, main: BaseTarget) -> None:
        plain, raw = self.rank(main, TEXTS), self.rank(main, TEXTS, raw_scores=True)
        assert [one["index"] for one in raw["results"]] == [one["index"] for one in plain["results"]]

    def test_counts_are_true(self, main: BaseTarget) -> None:
        whole = self.rank(main, TEXTS)
        alone = [self.rank(main, [text]) for text in TEXTS]
        counts = [one["usage"]["total_tokens"] for one in alone]
        assert whole["usage"]["total_tokens"] == sum(counts)
        assert len(set(counts)) > 3
        told = self.rank(main, TEXTS, return_len=True)
        assert told["meta"]["tokens"]["input_tokens"] == sum(counts)
        assert self.rank(main, TEXTS, return_len=False)["meta"]["tokens"] is None

    # Batches

    def test_a_batch_is_scored_as_each_document_alone(self, main: BaseTarget) -> None:
        documents = [f"{number} {text}" for number in range(4) for text in TEXTS]
        alone = [scores(self.rank(main, [document]))[0] for document in documents]
        assert scores(self.rank(main, documents)) == pytest.approx(alone, abs=self.subject.tolerance)
        backwards = scores(self.rank(main, documents[::-1]))
        assert backwards == pytest.approx(alone[::-1], abs=self.subject.tolerance)
        assert len({round(score, 6) for score in alone}) > len(alone) // 3, "the scores are too much alike"

    def test_the_scores_are_those_of_the_library_alone(self, rig: BaseRig) -> None:
        if self.subject.reference is None:
            pytest.skip("the subject brings no reference")
        target = rig.target("main")
        expected = [float(score) for score in self.subject.reference(Path(rig.names["main"]), QUERY, TEXTS)]
        found = scores(self.rank(target, TEXTS))
        assert found == pytest.approx(expected, abs=self.subject.reference_tolerance)

    # Limits and errors

    def test_a_document_that_is_too_long_is_cut_or_refused(self, main: BaseTarget) -> None:
        length = _max_tokens(main)
        long = long_text(length * 2)
        cut = self.rank(main, [long, "fine"])
        assert cut["usage"]["total_tokens"] < 2 * length
        other = self.rank(main, [f"{long} and something else", "fine"])
        self.compare([other], [cut])
        error = main.refused(PATH, {"query": QUERY, "documents": ["fine", long], "truncate": False})
        assert error["param"] == "documents.1" and str(length) in error["message"], error
        error = main.refused(PATH, {"query": long, "documents": ["fine"]})
        assert error["param"] == "query", error

    def test_bad_fields_are_refused_by_name(self, main: BaseTarget) -> None:
        cases: list[tuple[dict[str, Any], str]] = [
            ({"query": ""}, "query"),
            ({"query": None}, "query"),
            ({"query": 5}, "query"),
            ({"documents": []}, "documents"),
            ({"documents": None}, "documents"),
            ({"documents": "fine"}, "documents"),
            ({"documents": ["fine", ""]}, "documents.1"),
            ({"documents": ["fine", 5]}, "documents.1"),
            ({"documents": [{"title": "fine"}]}, "documents.0"),
            ({"documents": ["fine"] * 10_000}, "documents"),
            ({"query": "a " * 500_000}, "query"),
            ({"documents": ["fine", "a" * 1_000_000]}, "documents.1"),
            ({"documents": ["a " * 200_000], "truncate": False}, "documents.0"),
            ({"top_n": 0}, "top_n"),
            ({"top_n": "all"}, "top_n"),
            ({"return_documents": "perhaps"}, "return_documents"),
            ({"no_such_field": 1}, "no_such_field"),
        ]
        for fields, param in cases:
            error = main.refused(PATH, {"query": QUERY, "documents": ["fine"], **fields})
            assert error["type"] == "invalid_request_error", error
            assert str(error["param"] or "").startswith(param), f"{fields!r:.80} is refused for {error['param']!r}"

    # What only some models have

    def test_an_instruction_is_heard_or_refused(self, rig: BaseRig, main: BaseTarget) -> None:
        body = {"query": QUERY, "documents": list(TEXTS), "instruction": "Find what contradicts the query"}
        if not rig.has("instructed"):
            assert main.refused(PATH, body)["param"] == "instruction"
            return
        target = rig.target("instructed")
        plain, told = self.rank(target, TEXTS), self.answers(target, [body])[0]
        assert scores(plain) != pytest.approx(scores(told), abs=1e-6)

    def test_the_right_document_is_the_best(self, rig: BaseRig) -> None:
        if not self.subject.meanings:
            pytest.skip("the subject knows no model that means something")
        for name, (documents, queries) in self.subject.meanings.items():
            target: BaseTarget = rig.named(name)
            for query, right in queries:
                best = self.rank(target, documents, query)["results"][0]["index"]
                assert best == right, f"best for {query!r} is {documents[best]!r}, not {documents[right]!r}"


def scores(answer: Mapping[str, Any]) -> list[float]:
    """Return an answer's scores in the order of the documents."""
    return [one["relevance_score"] for one in sorted(answer["results"], key=lambda one: int(one["index"]))]


def _max_tokens(target: BaseTarget) -> int:
    length = target.http.get(f"/v1/models/{target.uid}").json().get("max_tokens")
    assert isinstance(length, int), "its description has no max_tokens: the family or `Loader.describe` tells it"
    return length
