"""The suite for embedding models."""

import base64
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest

from ...api.embeddings import EmbeddingResponse
from .items import TEXTS, ItemTests, long_text
from .served import BaseRig, BaseTarget
from .shared import Conformance
from .subject import BaseSubject

__all__ = ["EMBEDDING_ROLES", "EmbeddingConformance", "EmbeddingSubject"]

PATH = "/v1/embeddings"

EMBEDDING_ROLES: Mapping[str, str] = {
    "main": "embeds texts of at least 64 tokens",
    "narrow": "the same with options that leave room for a few waiting items only",
    "shortened": "may be cut to `shorter` dimensions",
    "sparse": "also gives weights by token",
    "multi_vector": "also gives a vector for each token",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingSubject(BaseSubject):
    """An engine of embedding models and the models to test it with, for the roles in `EMBEDDING_ROLES`.

    Args:
        tolerance: how far the numbers of a text may be apart, whatever else is in the batch (vectors of length 1).
        shorter: a number of dimensions that the model `shortened` may be cut to.
        reference: embeds texts with the engine's library alone: from the model's path and the texts to vectors as they
            come, without scaling; None: they are not compared.
        reference_tolerance: how far from that they may be.
        takes_token_ids: inputs may be token ids.
        meanings: by the name of a model that means something: texts, and of these the one nearest to each query.
    """

    model_type: ClassVar[str] = "embedding"
    roles: ClassVar[Mapping[str, str]] = EMBEDDING_ROLES

    tolerance: float = 1e-5
    shorter: int = 8
    reference: Callable[[Path, Sequence[str]], Sequence[Sequence[float]]] | None = None
    reference_tolerance: float = 1e-5
    takes_token_ids: bool = True
    meanings: Mapping[str, tuple[tuple[str, ...], tuple[tuple[str, int], ...]]] = field(default_factory=dict)


class EmbeddingConformance(ItemTests, Conformance, is_kit=True):
    """The conformance tests of an engine for embedding models; a plugin's test module subclasses it."""

    subject: ClassVar[EmbeddingSubject]
    subject_class = EmbeddingSubject
    path = PATH

    def small(self, number: int) -> Mapping[str, Any]:
        """Return a request with one to three texts."""
        return {"input": [f"{number} {TEXTS[(number + step) % len(TEXTS)]}" for step in range(1 + number % 3)]}

    def much(self, target: BaseTarget) -> Mapping[str, Any]:
        """Return a request with as many texts as are taken."""
        return {"input": [f"{number} {long_text(40)}" for number in range(2048)], "truncate": True}

    def compare(self, found: Sequence[Any], expected: Sequence[Any]) -> None:
        """Check that answers hold the same vectors and counts."""
        assert [one["usage"] for one in found] == [one["usage"] for one in expected]
        for one, other in zip(found, expected, strict=True):
            assert_close(vectors(one), vectors(other), self.subject.tolerance)

    def bad_bodies(self, target: BaseTarget) -> list[Mapping[str, Any]]:
        """Return a request with one text that is too long, and one with an empty one."""
        return [{"input": ["fine", long_text(_max_tokens(target) * 2), "fine"]}, {"input": ["fine", ""]}]

    def embed(self, target: BaseTarget, given: Any, **fields: Any) -> list[list[float]]:
        """Return the vectors of a request that must be answered."""
        response = target.post(PATH, {"input": given, **fields})
        assert response.status_code == 200, f"{response.status_code}: {response.text}"
        return vectors(response.json())

    # Shapes and counts

    def test_the_answer_has_the_shape_of_the_api(self, main: BaseTarget) -> None:
        (answer,) = self.answers(main, [{"input": list(TEXTS)}])
        EmbeddingResponse.model_validate(answer)
        assert (answer["object"], answer["model"]) == ("list", main.uid)
        assert [one["index"] for one in answer["data"]] == list(range(len(TEXTS)))
        description = main.http.get(f"/v1/models/{main.uid}").json()
        assert description["model_type"] == "embedding"
        assert {len(vector) for vector in vectors(answer)} == {description["dimensions"]}
        assert all(math.isfinite(value) for vector in vectors(answer) for value in vector)

    def test_base64_holds_the_same_numbers(self, main: BaseTarget) -> None:
        floats, packed = self.answers(
            main, [{"input": list(TEXTS)}, {"input": list(TEXTS), "encoding_format": "base64"}]
        )
        assert_close(vectors(packed), vectors(floats), self.subject.tolerance)

    def test_vectors_have_length_1_unless_asked_otherwise(self, main: BaseTarget) -> None:
        scaled = self.embed(main, list(TEXTS))
        assert all(abs(math.hypot(*vector) - 1) < 1e-4 for vector in scaled)
        raw = self.embed(main, list(TEXTS), normalize=False)
        assert_close([_unit(vector) for vector in raw], scaled, 1e-4)

    def test_counts_are_true(self, main: BaseTarget) -> None:
        (whole,) = self.answers(main, [{"input": list(TEXTS)}])
        alone = self.answers(main, [{"input": text} for text in TEXTS])
        counts = [one["usage"]["prompt_tokens"] for one in alone]
        assert whole["usage"]["prompt_tokens"] == whole["usage"]["total_tokens"] == sum(counts)
        assert min(counts) >= 1 and len(set(counts)) > 3

    def test_a_prompt_is_put_before_the_text(self, main: BaseTarget) -> None:
        prompted = self.embed(main, "honey never spoils", prompt="query: ")
        assert_close(prompted, self.embed(main, "query: honey never spoils"), self.subject.tolerance)

    # Batches

    def test_a_batch_is_embedded_as_each_text_alone(self, main: BaseTarget) -> None:
        texts = [f"{number} {text}" for number in range(4) for text in TEXTS]
        alone = [self.embed(main, text)[0] for text in texts]
        assert_close(self.embed(main, texts), alone, self.subject.tolerance)
        assert_close(self.embed(main, texts[::-1]), alone[::-1], self.subject.tolerance)
        differing = {tuple(round(value, 4) for value in vector) for vector in alone}
        assert len(differing) > len(texts) // 2, "the texts are embedded too much alike to tell a mix-up"

    def test_the_numbers_are_those_of_the_library_alone(self, rig: BaseRig) -> None:
        if self.subject.reference is None:
            pytest.skip("the subject brings no reference")
        target = rig.target("main")
        expected = self.subject.reference(Path(rig.names["main"]), TEXTS)
        found = self.embed(target, list(TEXTS), normalize=False)
        assert_close(found, [list(map(float, row)) for row in expected], self.subject.reference_tolerance)

    def test_token_ids_are_embedded_as_they_are(self, main: BaseTarget) -> None:
        if not self.subject.takes_token_ids:
            assert main.refused(PATH, {"input": [5, 6]})["param"] == "input"
            return
        ids = [[5, 6, 7], [8]]
        together_, first, second = (self.embed(main, given) for given in (ids, ids[0], ids[1]))
        assert_close(together_, [*first, *second], self.subject.tolerance)
        for wrong in ([2**30], [[5], [2**30]]):
            assert str(main.refused(PATH, {"input": wrong})["param"]).startswith("input")

    # Limits and errors

    def test_a_text_that_is_too_long_is_refused_or_cut(self, main: BaseTarget) -> None:
        length = _max_tokens(main)
        error = main.refused(PATH, {"input": ["fine", long_text(length * 2)]})
        assert error["param"] == "input.1" and str(length) in error["message"], error
        (cut,) = self.answers(main, [{"input": long_text(length * 2), "truncate": True}])
        assert cut["usage"]["prompt_tokens"] <= length
        other = self.embed(main, long_text(length * 2) + " and something else", truncate=True)
        assert_close(vectors(cut), other, self.subject.tolerance)

    def test_bad_fields_are_refused_by_name(self, main: BaseTarget) -> None:
        cases: list[tuple[dict[str, Any], str]] = [
            ({"input": []}, "input"),
            ({"input": ""}, "input"),
            ({"input": ["fine", ""]}, "input"),
            ({"input": [[]]}, "input"),
            ({"input": None}, "input"),
            ({"input": 5}, "input"),
            ({"input": {"text": "fine"}}, "input"),
            ({"input": ["fine", 5]}, "input"),
            ({"input": [1.5]}, "input"),
            ({"input": [-1]}, "input"),
            ({"input": ["fine"] * 10_000}, "input"),
            ({"input": "a " * 500_000}, "input"),
            ({"dimensions": 0}, "dimensions"),
            ({"dimensions": 1_000_000}, "dimensions"),
            ({"dimensions": "many"}, "dimensions"),
            ({"encoding_format": "int3"}, "encoding_format"),
            ({"prompt_name": "no such prompt"}, "prompt_name"),
            ({"no_such_field": 1}, "no_such_field"),
        ]
        for fields, param in cases:
            error = main.refused(PATH, {"input": "fine", **fields})
            assert error["type"] == "invalid_request_error", error
            assert str(error["param"] or "").startswith(param), f"{fields!r:.80} is refused for {error['param']!r}"

    def test_outputs_that_a_model_has_not_are_refused(self, rig: BaseRig, main: BaseTarget) -> None:
        for name in ("sparse", "multi_vector"):
            if name not in rig.subject.models:
                assert main.refused(PATH, {"input": "fine", f"return_{name}": True})["param"] == f"return_{name}"

    # What only some models have

    def test_vectors_are_cut_and_scaled_anew(self, rig: BaseRig) -> None:
        if not rig.has("shortened"):
            pytest.skip("the subject brings no model that can be cut")
        target, length = rig.target("shortened"), self.subject.shorter
        whole = self.embed(target, list(TEXTS))
        cut = self.embed(target, list(TEXTS), dimensions=length)
        assert {len(vector) for vector in cut} == {length}
        assert_close(cut, [_unit(vector[:length]) for vector in whole], 1e-4)
        own = len(whole[0])
        assert target.refused(PATH, {"input": "fine", "dimensions": own + 1})["param"] == "dimensions"
        assert_close(self.embed(target, list(TEXTS), dimensions=own), whole, self.subject.tolerance)

    @pytest.mark.parametrize("name", ["sparse", "multi_vector"])
    def test_further_outputs(self, rig: BaseRig, name: str) -> None:
        if not rig.has(name):
            pytest.skip(f"the subject brings no model with {name}")
        target = rig.target(name)
        body = {"input": list(TEXTS), f"return_{name}": True}
        field = {"sparse": "sparse_embedding", "multi_vector": "multi_vector"}[name]
        (whole,) = self.answers(target, [body])
        EmbeddingResponse.model_validate(whole)
        alone = self.answers(target, [{**body, "input": text} for text in TEXTS])
        for one, other in zip(whole["data"], alone, strict=True):
            found, expected = one[field], other["data"][0][field]
            assert len(found) == len(expected) and found
            if name == "sparse":
                assert found == pytest.approx(expected, abs=1e-4)
            else:
                assert_close(found, expected, 1e-4)

    def test_texts_of_like_meaning_are_near(self, rig: BaseRig) -> None:
        if not self.subject.meanings:
            pytest.skip("the subject knows no model that means something")
        for name, (texts, queries) in self.subject.meanings.items():
            target: BaseTarget = rig.named(name)
            known = self.embed(target, list(texts))
            for (query, right), vector in zip(
                queries, self.embed(target, [query for query, _ in queries]), strict=True
            ):
                likeness = [sum(map(float.__mul__, vector, other)) for other in known]
                nearest = max(range(len(texts)), key=likeness.__getitem__)
                assert nearest == right, f"nearest to {query!r} is {texts[nearest]!r}, not {texts[right]!r}"


def vectors(answer: Mapping[str, Any]) -> list[list[float]]:
    """Return an answer's vectors, from lists or base64."""
    import numpy as np

    found = []
    for one in answer["data"]:
        vector = one["embedding"]
        if isinstance(vector, str):
            vector = np.frombuffer(base64.b64decode(vector), "<f4").tolist()
        found.append([float(value) for value in vector])
    return found


def assert_close(found: Sequence[Sequence[float]], expected: Sequence[Sequence[float]], tolerance: float) -> None:
    """Check that vectors are the same, number by number."""
    import numpy as np

    assert [len(vector) for vector in found] == [len(vector) for vector in expected]
    apart = [float(np.abs(np.subtract(one, other)).max()) for one, other in zip(found, expected, strict=True)]
    assert max(apart, default=0) <= tolerance, f"item {apart.index(max(apart))} is {max(apart):g} apart"


def _unit(vector: Sequence[float]) -> list[float]:
    length = math.hypot(*vector)
    return [value / length for value in vector]


def _max_tokens(target: BaseTarget) -> int:
    length = target.http.get(f"/v1/models/{target.uid}").json().get("max_tokens")
    assert isinstance(length, int), "its description has no max_tokens: the family or `Loader.describe` tells it"
    return length
