"""The worker half of an engine with a decode loop."""

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from llm.decoding.counting import CountingModel, make_model
from modelrack.errors import EngineError
from modelrack.hooks import Family, LoadPlan, ModelFiles, Variant
from modelrack.llm.decoding import DecodingLoader
from modelrack.testing.in_process import ask
from modelrack.worker import Report

TESTS = Path(__file__).parents[2]


class CountingLoader(DecodingLoader):
    """Loads nothing."""

    def load_model(self, report: Report, on_broken: Callable[[], None]) -> CountingModel:
        report(0.5, "counting")
        return make_model(on_broken, facts={"context_length": 64})


def make_loader() -> CountingLoader:
    return CountingLoader(
        LoadPlan(
            model_uid="it",
            family=Family(name="it", model_type="LLM"),
            variant=Variant(format="none"),
            quantization="none",
            files=ModelFiles(path="", format="none"),
        )
    )


def test_a_model_gets_the_handlers_that_engines_share() -> None:
    told: list[str] = []
    interval = sys.getswitchinterval()
    loader = make_loader()
    assert loader.describe() == {}
    loader.close()
    try:
        handlers = loader.load(lambda progress, stage: told.append(stage))
    finally:
        sys.setswitchinterval(interval)
    assert set(handlers) == {"generate", "tokenize", "detokenize", "convert_ids_to_tokens"}
    assert (told, loader.describe()) == (["counting"], {"context_length": 64})
    loader.close()
    loader.close()


async def break_it() -> None:
    """Let the engine fail until it is given up, and wait for what comes of it."""
    loader = make_loader()
    loader.load(lambda progress, stage: None)
    model = loader._model
    assert model is not None
    model.loop.faults += [OSError("no more")] * 3
    for _ in range(3):
        with pytest.raises(EngineError):
            await ask(model, "a")
    await asyncio.sleep(60)


def test_a_worker_whose_engine_is_broken_ends() -> None:
    code = "import asyncio; from llm.decoding.test_loader import break_it; asyncio.run(break_it())"
    done = subprocess.run([sys.executable, "-c", code], cwd=TESTS, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1, done.stderr
    assert "fails again and again" in done.stderr
