"""The demo model puts what is meant first, in texts that no training saw."""

from pathlib import Path

import pytest
from rerank_rig import library, opened, rank, works

from modelrack.hooks.loader import load_plugins
from modelrack_rerank.model import CrossEncoderModel


@pytest.fixture(scope="module")
def folder() -> Path:
    (family,) = (family for _, family in load_plugins("demo").families if family.name == "demo-rerank")
    (source,) = (variant.sources[0] for variant in family.variants if variant.format == "pytorch")
    return Path(source.repo)


@pytest.fixture(scope="module")
def model(folder: Path) -> CrossEncoderModel:
    return opened(folder)


def test_the_right_document_is_first(model: CrossEncoderModel) -> None:
    from modelrack_demo.heldout import load

    choices = [choice for choice in load().choices if choice.verified]
    assert len(choices) >= 100
    scores = {choice: rank(model, works(choice.documents, choice.query)) for choice in choices}
    assert not [choice.query for choice, row in scores.items() if max(row) != row[choice.right]]
    others = [score for choice, row in scores.items() for place, score in enumerate(row) if place != choice.right]
    assert sum(row[choice.right] > 0.5 for choice, row in scores.items()) >= 0.9 * len(choices)
    assert sum(score < 0.5 for score in others) >= 0.9 * len(others)


def test_scores_are_those_of_the_library(model: CrossEncoderModel, folder: Path) -> None:
    from modelrack_demo.heldout import load

    encoder = library(folder)
    for choice in load().choices[:20]:
        expected = encoder.predict([(choice.query, document) for document in choice.documents]).tolist()
        assert rank(model, works(choice.documents, choice.query)) == pytest.approx(expected, abs=1e-5)
