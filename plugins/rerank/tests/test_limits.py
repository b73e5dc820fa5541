"""What is too long: cut, or refused by the name of the field."""

from collections.abc import Callable
from pathlib import Path

import pytest
from rerank_rig import DOCUMENTS, QUERY, assert_refused, error_of, opened, pairs, rank, works

from modelrack.rerank import RerankWork
from modelrack.testing.st_rerank import write_cross_encoder, write_yes_no

WRITERS: dict[str, Callable[[Path], Path]] = {"pairs": write_cross_encoder, "prompt": write_yes_no}
LONG = "the blue whale sings, " * 200


@pytest.fixture(scope="module", params=WRITERS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return WRITERS[request.param](tmp_path_factory.mktemp("models") / "model")


def test_a_long_document_is_refused_where_it_shall_not_be_cut(folder: Path) -> None:
    model = opened(folder)
    error = error_of(model, works(["fine", LONG], truncate=False), 1)
    assert (error.status, error.param) == (400, "documents.1")
    assert error.details["max_tokens"] == model.traits.max_tokens
    assert error.details["tokens"] > model.traits.max_tokens
    (fits,) = pairs(model, works(["fine"], truncate=False))
    assert fits.tokens < model.traits.max_tokens


def test_a_document_that_just_fits_is_not_cut(folder: Path) -> None:
    model = opened(folder)
    words = 1
    while pairs(model, works(["a " * (words + 1)]))[0].tokens < model.traits.max_tokens:
        words += 1
    kept = pairs(model, works(["a " * (words - 1)], truncate=False))[0]
    assert model.traits.max_tokens - 3 <= kept.tokens <= model.traits.max_tokens
    assert error_of(model, works(["a " * (words + 5)], truncate=False)).param == "documents.0"


def test_a_query_that_leaves_no_room_is_refused(folder: Path) -> None:
    model = opened(folder)
    for truncate in (True, False):
        error = error_of(model, works(["fine"], LONG, truncate=truncate))
        assert (error.status, error.param) == (400, "query")


def test_documents_have_limits_of_their_own(folder: Path) -> None:
    model = opened(folder)
    counts = [pairs(model, works(["blue " * 20], max_document_tokens=most))[0].tokens for most in (1, 2, 5, 10_000)]
    assert counts[1] - counts[0] == 1 and counts[2] - counts[0] == 4
    assert counts[3] == pairs(model, works(["blue " * 20]))[0].tokens > counts[2]
    # Both begin alike, and no more than that is read.
    one, other = (works([f"blue {word}"], max_document_tokens=1) for word in ("whale", "ocean"))
    assert rank(model, one) == rank(model, other)


def test_one_bad_pair_has_an_error_beside_the_others(folder: Path) -> None:
    model = opened(folder)
    asked = [*works(DOCUMENTS[:2]), RerankWork(2, QUERY, LONG, truncate=False), RerankWork(0, LONG, "fine")]
    found = model.prepare(asked)
    assert [getattr(one, "param", None) for one in found] == [None, None, "documents.2", "query"]


def test_the_context_can_be_made_shorter(folder: Path) -> None:
    model = opened(folder, max_tokens=100)
    assert model.traits.max_tokens == 100
    assert pairs(model, works([LONG]))[0].tokens == 100
    assert opened(folder, {"max_tokens": 90}).traits.max_tokens == 90
    assert opened(folder, {"max_tokens": 10_000}).traits.max_tokens == 128


def test_a_context_without_room_for_any_pair_fails_the_launch(tmp_path: Path) -> None:
    assert_refused(write_yes_no(tmp_path / "model"), "reads too little for any pair", max_tokens=16)


def test_positions_that_begin_behind_the_padding_are_counted(tmp_path: Path) -> None:
    """RoBERTa's table of 128 positions holds 126 tokens, whatever its tokenizer says."""
    import json

    folder = write_cross_encoder(tmp_path / "model", kind="roberta")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    del settings["model_max_length"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    model = opened(folder)
    assert model.traits.max_tokens == 126
    assert len(rank(model, works([LONG]))) == 1
