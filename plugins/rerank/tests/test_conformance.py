"""The conformance kit, pointed at the engine `cross-encoder`."""

from collections.abc import Sequence
from pathlib import Path

from modelrack.testing.conformance import Model, RerankConformance, RerankSubject
from modelrack.testing.encoders import EncoderShape
from modelrack.testing.st_rerank import write_cross_encoder, write_yes_no

SHAPE = EncoderShape(positions=512)


def _write_main(folder: Path) -> Path:
    return write_cross_encoder(folder / "main", SHAPE)


def _write_decoder(folder: Path) -> Path:
    return write_yes_no(folder / "decoder", SHAPE)


def reference(model: Path, query: str, documents: Sequence[str]) -> list[float]:
    """Score documents with the library alone."""
    from sentence_transformers import CrossEncoder

    encoder = CrossEncoder(str(model), device="cpu", local_files_only=True)
    scores: list[float] = encoder.predict([(query, document) for document in documents]).tolist()
    return scores


FACTS = (
    "Paris is the capital of France.",
    "The blue whale is the largest animal.",
    "There are seven days in a week.",
    "Water boils at one hundred degrees Celsius.",
)
QUESTIONS = (
    ("What is the largest animal?", 1),
    ("What is the capital of France?", 0),
    ("How many days are there in a week?", 2),
)

_NARROW = {"queue_items": 16}


class TestCrossEncoder(RerankConformance):
    subject = RerankSubject(
        engine="cross-encoder",
        models={
            "main": Model(name=_write_main),
            "narrow": Model(name=_write_main, options=_NARROW),
            "instructed": Model(name=_write_decoder),
        },
        options={"n_threads": 1},
        reference=reference,
        meanings={"demo-rerank": (FACTS, QUESTIONS)},
    )


class TestDecoder(RerankConformance):
    """A decoder that answers yes or no: the same promises."""

    subject = RerankSubject(
        engine="cross-encoder",
        models={
            "main": Model(name=_write_decoder),
            "narrow": Model(name=_write_decoder, options=_NARROW),
            "instructed": Model(name=_write_decoder),
        },
        options={"n_threads": 1},
        reference=reference,
    )
