"""What the server and the command line tell of the plugin, where its engine is installed and where it is not."""

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from modelrack.catalog.catalog import Catalog
from modelrack.catalog.describe import describe_family
from modelrack.hooks import Candidate, Engine, Family, LoadPlan, ModelFiles, Variant
from modelrack.hooks.loader import Plugins, load_plugins
from modelrack.settings import get_settings
from modelrack.testing.machines import make_machine
from modelrack_embedding.options import SentenceTransformersOptions

NAME = "sentence-transformers"
MACHINE = make_machine()


@pytest.fixture(scope="module")
def plugins() -> Plugins:
    return load_plugins("embedding")


@pytest.fixture(scope="module")
def engine(plugins: Plugins) -> Engine:
    return plugins.engines[NAME]


@pytest.fixture(scope="module")
def families(plugins: Plugins) -> dict[str, Family]:
    return {family.name: family for _, family in plugins.families}


def candidate(form: str = "pytorch", **facts: Any) -> Candidate:
    variant = Variant(format=form)
    family = Family(name="it", model_type="embedding", variants=(variant,), facts=facts)
    return Candidate(family=family, variant=variant, quantization="none")


def test_the_description_needs_no_engine() -> None:
    """It is loaded by every server, which must not pay for an engine that it may never start."""
    code = (
        "import sys, modelrack_embedding.plugin as plugin; plugin.register_engines(); plugin.register_families()\n"
        "print([name for name in ('torch', 'transformers', 'sentence_transformers', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stdout + done.stderr


def test_the_engine_is_found_by_the_names_that_clients_have_for_it(plugins: Plugins) -> None:
    for name in (NAME, "sentence_transformers", "Sentence-Transformers"):
        found = plugins.find_engine(name, "embedding")
        assert found is not None and found.name == NAME


def test_every_family_is_complete(families: dict[str, Family]) -> None:
    assert len(families) == 43
    for family in families.values():
        assert (family.model_type, family.abilities[0]) == ("embedding", "embed"), family.name
        assert family.languages and family.variants, family.name
        facts = family.facts
        assert facts["dimensions"] >= 384 and facts["max_tokens"] >= 128, family.name
        assert all(isinstance(text, str) for text in facts.get("prompts", {}).values()), family.name
        assert "{instruction}" in facts.get("instruction_template", "{instruction}"), family.name
        lengths = facts.get("matryoshka_dimensions")
        assert lengths in (None, True) or max(lengths) <= facts["dimensions"], family.name
        assert facts.get("default_task") in (None, *facts.get("tasks", ())), family.name
        for variant in family.variants:
            assert variant.format in ("pytorch", "gguf") and variant.sources, family.name
            assert all(source.file and source.quantizations for source in variant.sources if variant.format == "gguf")


def test_prompts_are_those_of_the_models_cards(families: dict[str, Family]) -> None:
    assert families["e5-large-v2"].facts["prompts"] == {"query": "query: ", "passage": "passage: "}
    assert families["bge-large-zh-v1.5"].facts["prompts"]["query"].startswith("为这个句子生成表示")
    qwen = families["Qwen3-Embedding-0.6B"].facts
    assert qwen["instruction_template"].replace("{instruction}", "x") == "Instruct: x\nQuery:"
    assert qwen["prompts"]["query"].endswith("\nQuery:")


def test_the_server_takes_all_of_it(plugins: Plugins, families: dict[str, Family], tmp_path: Path) -> None:
    catalog = Catalog(plugins, tmp_path)
    assert plugins.row("embedding").state == "loaded", plugins.row("embedding").problems
    assert set(families) <= {family.name for family in catalog.families("embedding")}
    shown = describe_family(catalog.get("embedding", "bge-m3"), tmp_path, is_builtin=True)
    assert (shown["dimensions"], shown["max_tokens"], shown["model_type"]) == (1024, 8192, "embedding")


@pytest.mark.parametrize(
    ("given", "platform", "reason"),
    [
        (candidate(), "linux", None),
        (candidate(), "win32", "Windows"),
        (candidate("gguf"), "linux", "GGUF files are for llama.cpp"),
        (candidate("mlx"), "linux", "mlx-lm"),
        (candidate("awq"), "linux", "it does not load the format 'awq'"),
    ],
)
def test_it_says_what_it_takes(engine: Engine, given: Candidate, platform: str, reason: str | None) -> None:
    refusal = engine.accepts(given, make_machine(platform=platform))
    assert (refusal is None) == (reason is None)
    assert reason is None or reason in str(refusal)


def test_models_with_code_of_their_own_wait_for_the_operator(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MODELRACK_TRUST_REMOTE_CODE", raising=False)
    get_settings.cache_clear()
    assert "MODELRACK_TRUST_REMOTE_CODE" in str(engine.accepts(candidate(needs_remote_code=True), MACHINE))
    monkeypatch.setenv("MODELRACK_TRUST_REMOTE_CODE", "1")
    get_settings.cache_clear()
    try:
        assert engine.accepts(candidate(needs_remote_code=True), MACHINE) is None
    finally:
        get_settings.cache_clear()


def test_its_environment_has_what_its_distribution_requires(engine: Engine) -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert engine.environment is not None
    wanted = [text for text in project["dependencies"] if not text.startswith(("modelrack>", "orjson>"))]
    assert sorted(engine.environment.requirements) == sorted(wanted)


def test_every_option_says_what_it_is_for() -> None:
    for name, field in SentenceTransformersOptions.model_fields.items():
        assert field.description and field.description.endswith("."), name


def test_memory_is_reckoned_from_the_files(engine: Engine, tmp_path: Path) -> None:
    pytest.importorskip("numpy")
    from modelrack.testing.st import write_embedder

    assert engine.estimate is not None
    one = candidate()
    folder = write_embedder(tmp_path / "model")
    options = SentenceTransformersOptions().model_dump()
    for path, is_known in ((str(folder), True), ("", False)):
        files = ModelFiles(path=path, format="pytorch")
        plan = LoadPlan(
            model_uid="it",
            family=one.family,
            variant=one.variant,
            quantization="none",
            files=files,
            options=options,
        )
        found = engine.estimate(plan, MACHINE)
        assert (found is not None) == is_known
        if found is not None:
            size = (folder / "model.safetensors").stat().st_size
            assert found.weights_bytes == pytest.approx(size, rel=0.1) and found.cache_bytes == 0
            assert found.overhead_bytes > 0
