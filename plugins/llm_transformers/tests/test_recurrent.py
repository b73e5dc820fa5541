"""The conformance kit on a state-space model, which continuous batching cannot compute: in batches of `generate`."""

from pathlib import Path

import pytest

from modelrack.testing.conformance import LLMConformance, Model, Subject, hf_models
from modelrack.testing.gguf_extras import RecurrentShape
from modelrack.testing.hf_extras import write_recurrent_model

pytestmark = pytest.mark.timeout(600)

# It remembers the beginnings of prompts, so that their answers differ. Without kernels of its own a step is slow.
SHAPE = RecurrentShape(width=32, layers=1, decay=0.02)


def _write(folder: Path) -> Path:
    return write_recurrent_model(folder / "recurrent", SHAPE)


class TestRecurrent(LLMConformance):
    subject = Subject(
        engine="Transformers",
        models={"main": Model(name=_write), "reciter": hf_models()["reciter"]},
        options={"dtype": "float32", "batching": "generate"},
        launch_s=300,
        answer_s=300,
        without=("cache_salt", "images", "lora", "prefix_cache", "speculation"),
    )
