"""What the server and the command line tell of the engine, where it is installed and where it is not."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from modelrack.hooks import Candidate, Engine, Family, LoadPlan, ModelFiles, Variant
from modelrack.hooks.loader import load_plugins
from modelrack.settings import get_settings
from modelrack.testing.machines import GIB, make_machine
from modelrack_llm_transformers.options import TransformersOptions

NAME = "Transformers"


@pytest.fixture(scope="module")
def engine() -> Engine:
    return load_plugins("llm_transformers").engines[NAME]


def candidate(form: str) -> Candidate:
    variant = Variant(format=form, size_b=8)
    family = Family(name="it", model_type="LLM", context_length=8192, variants=(variant,))
    return Candidate(family=family, variant=variant, quantization="none")


def plan(*accelerators: int, **options: Any) -> LoadPlan:
    one = candidate("pytorch")
    return LoadPlan(
        model_uid="it",
        family=one.family,
        variant=one.variant,
        quantization="none",
        files=ModelFiles(path="", format="pytorch"),
        options=TransformersOptions(**options).model_dump(),
        accelerators=accelerators,
    )


def test_the_description_needs_no_engine() -> None:
    """It is loaded by every server, which must not pay for an engine that it may never start."""
    code = (
        "import sys, modelrack_llm_transformers.plugin as plugin; plugin.register_engines()\n"
        "print([name for name in ('torch', 'transformers', 'numpy', 'llguidance') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stdout + done.stderr


def test_the_engine_is_found_however_it_is_written() -> None:
    plugins = load_plugins("llm_transformers")
    for name in ("Transformers", "transformers", "TRANSFORMERS"):
        found = plugins.find_engine(name)
        assert found is not None and found.name == NAME


@pytest.mark.parametrize(
    ("form", "kinds", "reason"),
    [
        ("pytorch", (), None),
        ("pytorch", ("mps",), None),
        ("bnb", (), None),
        ("gptq", ("cuda",), None),
        ("awq", ("rocm",), None),
        ("fp8", (), "need an accelerator"),
        ("gptq", ("mps",), "need an accelerator"),
        ("gguf", ("cuda",), "GGUF files are for llama.cpp"),
        ("mlx", (), "mlx-lm"),
        ("onnx", (), "it does not load the format 'onnx'"),
    ],
)
def test_it_takes_what_transformers_loads(
    engine: Engine, form: str, kinds: tuple[str, ...], reason: str | None
) -> None:
    refusal = engine.accepts(candidate(form), make_machine(*kinds))
    assert (refusal is None) == (reason is None)
    assert reason is None or reason in str(refusal)


def test_it_comes_after_what_is_faster_on_a_machine(engine: Engine) -> None:
    """Below llama.cpp on the CPU (whose plugins say 40 and more), higher with an accelerator than without."""
    assert callable(engine.rank)
    alone, with_gpu = (engine.rank(candidate("pytorch"), make_machine(*kinds)) for kinds in ((), ("cuda",)))
    assert alone < with_gpu < 40


def test_its_environment_has_what_its_distribution_requires(engine: Engine) -> None:
    """What the server installs and what pip installs are the same, but for modelrack."""
    import tomllib

    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert engine.environment is not None
    wanted = [text for text in project["dependencies"] if not text.startswith("modelrack>")]
    assert sorted(engine.environment.requirements) == sorted(wanted)
    assert not any("+cpu" in text or "torchvision" in text for text in engine.environment.requirements)


def test_code_that_comes_with_models_is_not_run_unless_the_operator_allows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MODELRACK_TRUST_REMOTE_CODE", raising=False)
    get_settings.cache_clear()
    with pytest.raises(ValidationError, match="MODELRACK_TRUST_REMOTE_CODE"):
        TransformersOptions(trust_remote_code=True)
    monkeypatch.setenv("MODELRACK_TRUST_REMOTE_CODE", "1")
    get_settings.cache_clear()
    try:
        assert TransformersOptions(trust_remote_code=True).trust_remote_code
    finally:
        get_settings.cache_clear()


def test_every_option_says_what_it_is_for() -> None:
    for name, field in TransformersOptions.model_fields.items():
        assert field.description and field.description.endswith("."), name


def test_memory_is_reckoned_before_a_download(engine: Engine) -> None:
    assert engine.estimate is not None
    here = engine.estimate(plan(kv_tokens=4096), make_machine())
    there = engine.estimate(plan(0, max_model_len=4096), make_machine("cuda"))
    assert here is not None and there is not None
    # The CPU computes in float32 where there is room for that.
    assert 28 * GIB < here.weights_bytes < 40 * GIB
    assert there.weights_bytes * 2 == pytest.approx(here.weights_bytes, rel=0.01)
    # An accelerator's memory is filled, beyond the one sequence that the cache of the CPU is as large as here.
    assert 0 < here.cache_bytes < 2 * there.cache_bytes
    assert there.weights_bytes + there.cache_bytes < 24 * GIB
    less = engine.estimate(plan(0, quantization="bnb-4bit"), make_machine("cuda"))
    assert less is not None and less.weights_bytes < there.weights_bytes / 2


@pytest.mark.skipif(importlib.util.find_spec("torch") is not None, reason="torch is installed here")
def test_without_torch_it_needs_an_environment_of_its_own(engine: Engine) -> None:
    assert engine.environment is not None and "torch" in engine.requires
    assert "isolated" in engine.remedy
