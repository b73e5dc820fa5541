"""What the server and the command line tell of the plugin, where its engine is installed and where it is not."""

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from modelrack.hooks import Candidate, Engine, Family, LoadPlan, ModelFiles, Variant
from modelrack.hooks.loader import Plugins, load_plugins
from modelrack.settings import get_settings
from modelrack.testing.machines import make_machine
from modelrack_rerank.options import RerankOptions
from modelrack_rerank.prompts import parse

NAME = "cross-encoder"
MACHINE = make_machine()


@pytest.fixture(scope="module")
def plugins() -> Plugins:
    return load_plugins("rerank")


@pytest.fixture(scope="module")
def engine(plugins: Plugins) -> Engine:
    return plugins.engines[NAME]


def candidate(form: str = "pytorch", **facts: Any) -> Candidate:
    variant = Variant(format=form)
    family = Family(name="it", model_type="rerank", variants=(variant,), facts=facts)
    return Candidate(family=family, variant=variant, quantization="none")


def test_the_description_needs_no_engine() -> None:
    """It is loaded by every server, which must not pay for an engine that it may never start."""
    code = (
        "import sys, modelrack_rerank.plugin as plugin; plugin.register_engines(); plugin.register_families()\n"
        "print([name for name in ('torch', 'transformers', 'sentence_transformers', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stdout + done.stderr


def test_families_are_known_by_name(plugins: Plugins) -> None:
    families = {family.name: family for _, family in plugins.families if family.model_type == "rerank"}
    assert len(families) >= 17
    assert families["bge-reranker-v2-m3"].facts["max_tokens"] == 8192
    formats = {variant.format for variant in families["bge-reranker-v2-m3"].variants}
    assert formats == {"pytorch", "gguf"}
    for family in families.values():
        assert family.abilities == ("rerank",) and family.variants, family.name
        assert family.facts["type"] and family.facts["max_tokens"] >= 512, family.name
        prompt = family.facts.get("prompt", {})
        template = prompt.get("template") or prompt.get("query_template", "") + "{document}"
        assert not prompt or parse(template) is not None, family.name


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (candidate(), None),
        (candidate(scoring="pairs"), None),
        (candidate("gguf"), "GGUF files are for llama.cpp"),
        (candidate("mlx"), "mlx-lm"),
        (candidate("gptq"), "it does not load the format 'gptq'"),
        (candidate(scoring="listwise"), "all documents of a request at once"),
        (candidate(scoring="layerwise"), "after each of its layers"),
        (candidate(scoring="images"), "this engine reads texts alone"),
        (candidate(scoring="moods"), "it does not know the scoring 'moods'"),
    ],
)
def test_it_says_what_it_takes(engine: Engine, given: Candidate, reason: str | None) -> None:
    refusal = engine.accepts(given, MACHINE)
    assert (refusal is None) == (reason is None)
    assert reason is None or reason in str(refusal)


def test_code_that_comes_with_models_is_not_run_unless_the_operator_allows_it(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MODELRACK_TRUST_REMOTE_CODE", raising=False)
    get_settings.cache_clear()
    assert "MODELRACK_TRUST_REMOTE_CODE" in str(engine.accepts(candidate(needs_remote_code=True), MACHINE))
    with pytest.raises(ValidationError, match="MODELRACK_TRUST_REMOTE_CODE"):
        RerankOptions(trust_remote_code=True)
    monkeypatch.setenv("MODELRACK_TRUST_REMOTE_CODE", "1")
    get_settings.cache_clear()
    try:
        assert engine.accepts(candidate(needs_remote_code=True), MACHINE) is None
        assert RerankOptions(trust_remote_code=True).trust_remote_code
    finally:
        get_settings.cache_clear()


def test_its_environment_has_what_its_distribution_requires(engine: Engine) -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert engine.environment is not None
    wanted = [text for text in project["dependencies"] if not text.startswith("modelrack>")]
    assert sorted(engine.environment.requirements) == sorted(wanted)


@pytest.mark.parametrize("prompt", ["{query}", "{document} {query}", "{query} {document} {document}"])
def test_prompts_need_a_place_for_both(prompt: str) -> None:
    with pytest.raises(ValidationError, match="must have"):
        RerankOptions(prompt=prompt)


def test_every_option_says_what_it_is_for() -> None:
    for name, field in RerankOptions.model_fields.items():
        assert field.description and field.description.endswith("."), name


def test_memory_is_reckoned_from_the_files(engine: Engine, tmp_path: Path) -> None:
    pytest.importorskip("numpy")
    from modelrack.testing.st_rerank import write_cross_encoder

    folder = write_cross_encoder(tmp_path / "model")
    assert engine.estimate is not None
    one = candidate()
    plan = LoadPlan(
        model_uid="it",
        family=one.family,
        variant=one.variant,
        quantization="none",
        files=ModelFiles(path=str(folder), format="pytorch"),
        options=RerankOptions().model_dump(),
    )
    found = engine.estimate(plan, MACHINE)
    assert found is not None
    assert found.weights_bytes == pytest.approx((folder / "model.safetensors").stat().st_size, rel=0.1)
