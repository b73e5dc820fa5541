"""The engine in the test's own process."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from modelrack.batching import Prepared
from modelrack.encoders import use_threads
from modelrack.errors import LaunchFailed, ModelrackError
from modelrack.hooks import Family, LoadPlan, ModelFiles, Variant
from modelrack.rerank import RerankWork
from modelrack_rerank.loading import load
from modelrack_rerank.model import CrossEncoderModel
from modelrack_rerank.options import RerankOptions

__all__ = ["assert_refused", "error_of", "library", "make_plan", "opened", "pairs", "rank", "works"]

QUERY = "what is the largest animal"
DOCUMENTS = (
    "the blue whale is the largest animal",
    "a",
    "Honey never spoils, it's said; 你好 🐋 Größe",
    "  white \n\t space ",
    *(" ".join(("the blue whale lives in the ocean, and eats krill. " * 4).split()[: 3 + 4 * n]) for n in range(8)),
)
"""Texts of different lengths and scripts, each within 100 tokens of the smallest models."""


def make_plan(model: Path, facts: Mapping[str, Any] | None = None, **options: Any) -> LoadPlan:
    """Return the plan of a launch."""
    return LoadPlan(
        model_uid="tiny",
        family=Family(name="tiny", model_type="rerank", facts=facts or {}),
        variant=Variant(format="pytorch"),
        quantization="none",
        files=ModelFiles(path=str(model), format="pytorch"),
        options=RerankOptions.model_validate({"n_threads": 1, **options}).model_dump(),
    )


def opened(model: Path, facts: Mapping[str, Any] | None = None, **options: Any) -> CrossEncoderModel:
    """Load a model."""
    import torch

    plan = make_plan(model, facts, **options)
    use_threads(torch, 1)
    found = CrossEncoderModel(load(plan, lambda progress, stage: None), plan)
    found.warm_up()
    return found


def assert_refused(model: Path, reason: str, remedy: str = "", *, facts: Any = None, **options: Any) -> None:
    """Check that a launch fails with a reason, and a remedy, that match."""
    with pytest.raises(LaunchFailed, match=reason) as caught:
        opened(model, facts, **options)
    assert remedy in (caught.value.remedy or "")


def works(documents: Sequence[str] = DOCUMENTS, query: str = QUERY, **fields: Any) -> list[RerankWork]:
    """Return the pairs of a request."""
    return [RerankWork(index, query, document, **fields) for index, document in enumerate(documents)]


def pairs(model: CrossEncoderModel, asked: Sequence[RerankWork]) -> list[Prepared[Any]]:
    """Return the tokens of pairs, none of which may be refused."""
    found = model.prepare(asked)
    assert not [one for one in found if isinstance(one, ModelrackError)], found
    return [one for one in found if isinstance(one, Prepared)]


def rank(model: CrossEncoderModel, asked: Sequence[RerankWork]) -> list[float]:
    """Return what is answered as the scores of pairs, which are computed in one batch."""
    return [model.relevance(score) for score in model.run([one.payload for one in pairs(model, asked)])]


def error_of(model: CrossEncoderModel, asked: Sequence[RerankWork], index: int = 0) -> ModelrackError:
    """Return why a pair is refused."""
    found = model.prepare(asked)[index]
    assert isinstance(found, ModelrackError), found
    return found


def library(model: Path, **arguments: Any) -> Any:
    """Load a model with sentence-transformers alone."""
    from sentence_transformers import CrossEncoder

    return CrossEncoder(str(model), device="cpu", local_files_only=True, **arguments)
