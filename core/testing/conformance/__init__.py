"""The conformance kit: test suites for engines of language, embedding and rerank models.

A plugin's test module says what to test, and pytest runs the whole suite against a real server:

    from modelrack.testing.conformance import LLMConformance, Subject, gguf_models


    class TestConformance(LLMConformance):
        subject = Subject(engine="my-engine", models=gguf_models())

`check_agreement` compares the greedy answers of an engine with those of the others that are installed.

The tests need `pytest` and `jsonschema`; the models of `gguf_models` need `gguf` and `numpy`, those of `hf_models`
(folders as Hugging Face's libraries read them) `numpy` alone.
"""

import pytest

# Before they are imported, so that a failing test shows its values.
pytest.register_assert_rewrite(
    *(f"{__name__}.{name}" for name in ("answers", "base", "constraints", "faults", "logprobs", "models", "rig")),
    *(f"{__name__}.{name}" for name in ("embedding", "items", "rerank", "served", "shared")),
    *(f"{__name__}.{name}" for name in ("sampling", "suite", "tokens", "tools", "agreement")),
)

from .agreement import QUESTIONS, check_agreement  # noqa: E402
from .claims import TOOLS  # noqa: E402
from .embedding import EmbeddingConformance, EmbeddingSubject  # noqa: E402
from .record import FILE, VARIABLE  # noqa: E402
from .rerank import RerankConformance, RerankSubject  # noqa: E402
from .subject import CUE, ROLES, SCRIPTS, Model, Subject, gguf_models, hf_models  # noqa: E402
from .suite import LLMConformance  # noqa: E402

__all__ = [
    "CUE",
    "FILE",
    "QUESTIONS",
    "ROLES",
    "SCRIPTS",
    "TOOLS",
    "VARIABLE",
    "EmbeddingConformance",
    "EmbeddingSubject",
    "LLMConformance",
    "Model",
    "RerankConformance",
    "RerankSubject",
    "Subject",
    "check_agreement",
    "gguf_models",
    "hf_models",
]
