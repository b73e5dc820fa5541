"""The conformance kit for engines of language models.

A plugin's test module says what to test, and pytest runs the whole suite against a real server:

    from modelrack.testing.conformance import LLMConformance, Subject, gguf_models


    class TestConformance(LLMConformance):
        subject = Subject(engine="my-engine", models=gguf_models())

The tests need `pytest` and `jsonschema`; the models of `gguf_models` need `gguf` and `numpy`.
"""

import pytest

# Before they are imported, so that a failing test shows its values.
pytest.register_assert_rewrite(
    *(f"{__name__}.{name}" for name in ("answers", "base", "constraints", "faults", "logprobs", "models", "rig")),
    *(f"{__name__}.{name}" for name in ("sampling", "suite", "tokens", "tools")),
)

from .record import FILE, VARIABLE  # noqa: E402
from .subject import CUE, ROLES, SCRIPTS, Model, Subject, gguf_models  # noqa: E402
from .suite import LLMConformance  # noqa: E402

__all__ = ["CUE", "FILE", "ROLES", "SCRIPTS", "VARIABLE", "LLMConformance", "Model", "Subject", "gguf_models"]
