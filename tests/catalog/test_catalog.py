import json
import logging
import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from catalog.racks import LLAMA, TORCH, llm_plugins, machine
from modelrack.catalog import describe_family, engines_for
from modelrack.catalog.catalog import Catalog
from modelrack.errors import AlreadyExists, BadRequest, ModelNotFound
from modelrack.hooks import Engine, Family, PythonWorker, Source, Variant

FAMILY = Family(
    name="Qwen-tiny",
    model_type="LLM",
    abilities=("chat", "tools"),
    languages=("en", "zh"),
    description="A tiny one.",
    context_length=4096,
    architectures=("Qwen2ForCausalLM",),
    chat_template="{{ x }}",
    tool_format="qwen",
    reasoning_tags=("<think>", "</think>"),
    stop=("<|end|>",),
    facts={"stop_token_ids": [1, 2], "model_family": "qwen", "load_defaults": {"a": 1}},
    variants=(
        Variant(
            format="gguf",
            size_b=1.8,
            sources=(
                Source(
                    hub="huggingface",
                    repo="a/b-GGUF",
                    revision="main",
                    quantizations=("Q4_K_M", "Q8_0"),
                    file="b-{quantization}.gguf",
                    split_file="b-{quantization}-{part}.gguf",
                    parts={"Q8_0": ("00001-of-00002", "00002-of-00002"), "Q4_K_M": 2},
                    projectors=("mmproj.gguf",),
                ),
                Source(hub="modelscope", repo="c/b-GGUF", quantizations=("Q4_K_M",), file="b-{quantization}.gguf"),
            ),
        ),
        Variant(
            format="pytorch", size_b=30, active_b=3, sources=(Source(hub="huggingface", repo="a/b-{quantization}"),)
        ),
        Variant(format="pytorch", sources=(Source(hub="file", repo="/models/b"),)),
    ),
)

XINFERENCE: dict[str, Any] = {
    "version": 2,
    "context_length": 32768,
    "model_name": "custom-qwen-2.5",
    "model_lang": ["en", "zh"],
    "model_ability": ["generate"],
    "model_description": "This is a custom model description.",
    "model_family": "my-custom-qwen-2.5",
    "model_specs": [
        {
            "model_format": "pytorch",
            "model_size_in_billions": "0_5",
            "quantization": "none",
            "model_id": None,
            "model_hub": "huggingface",
            "model_uri": "file:///path/to/models--Qwen--Qwen2.5-0.5B",
            "model_revision": None,
            "activated_size_in_billions": None,
        }
    ],
    "chat_template": None,
    "stop_token_ids": None,
    "stop": None,
    "reasoning_start_tag": None,
    "reasoning_end_tag": None,
    "cache_config": None,
    "virtualenv": {"packages": [], "inherit_pip_config": True, "index_url": None},
    "is_builtin": False,
}


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return Catalog(
        llm_plugins(FAMILY, replace(FAMILY, name="alpha"), replace(FAMILY, name="Beta")), tmp_path / "custom"
    )


def test_families_are_listed_by_lower_case_name(catalog: Catalog) -> None:
    assert [family.name for family in catalog.families("LLM")] == ["alpha", "Beta", "Qwen-tiny"]
    assert catalog.families("embedding") == []
    assert catalog.is_builtin("LLM", "alpha") and not catalog.is_builtin("LLM", "gamma")
    assert catalog.owners("LLM", "alpha") == ("one",)


def test_names_are_found_in_any_case_and_guessed(catalog: Catalog) -> None:
    assert catalog.get("LLM", "qwen-TINY").name == "Qwen-tiny"
    with pytest.raises(ModelNotFound, match=r"There is no LLM model 'qwentiny'\. Did you mean 'Qwen-tiny'\?") as caught:
        catalog.get("LLM", "qwentiny")
    assert caught.value.param == "model_name" and "modelrack registrations --model-type LLM" in str(caught.value.remedy)
    with pytest.raises(ModelNotFound, match="It is a model of type LLM"):
        catalog.get("embedding", "alpha")
    with pytest.raises(BadRequest, match=r"no model type 'llm'; the types are: LLM, embedding.*Did you mean 'LLM'"):
        catalog.get("llm", "alpha")


def test_a_family_of_an_unknown_type_is_a_problem_of_its_plugin(tmp_path: Path) -> None:
    plugins = llm_plugins(replace(FAMILY, model_type="sculpture"))
    assert Catalog(plugins, tmp_path).families("LLM") == []
    assert "sculpture" in plugins.row("one").problems[0][0]


def test_contradictory_plugins_become_a_problem_of_the_second(tmp_path: Path) -> None:
    plugins = llm_plugins(FAMILY)
    plugins.families.append(("two", replace(FAMILY, context_length=1)))
    assert Catalog(plugins, tmp_path).get("LLM", "Qwen-tiny").context_length == 4096
    assert "'one'" in plugins.row("two").problems[0][0]


def test_registers_xinferences_json(catalog: Catalog, tmp_path: Path) -> None:
    family = catalog.register("LLM", json.dumps(XINFERENCE), persist=True)
    assert family.variants == (
        Variant(
            format="pytorch", size_b=0.5, sources=(Source(hub="file", repo="/path/to/models--Qwen--Qwen2.5-0.5B"),)
        ),
    )
    assert family.facts["model_family"] == "my-custom-qwen-2.5" and "virtualenv" in family.facts
    assert (family.context_length, family.languages, family.chat_template) == (32768, ("en", "zh"), None)
    assert not catalog.is_builtin("LLM", family.name)
    again = Catalog(llm_plugins(), tmp_path / "custom")
    assert again.get("LLM", "custom-qwen-2.5") == family
    again.unregister("LLM", "custom-qwen-2.5")
    assert Catalog(llm_plugins(), tmp_path / "custom").families("LLM") == []
    assert list((tmp_path / "custom").rglob("*.*")) == []


def test_registers_xinferences_first_version(catalog: Catalog) -> None:
    family = catalog.register(
        "LLM",
        {
            "version": 1,
            "context_length": 2048,
            "model_name": "custom-llama-2",
            "model_lang": ["en"],
            "model_ability": ["chat"],
            "model_family": "Qwen-tiny",
            "model_specs": [
                {
                    "model_format": "ggufv2",
                    "model_size_in_billions": 7,
                    "quantizations": ["q4_0", "q8_0"],
                    "model_id": "TheBloke/Llama-2-7B-GGUF",
                    "model_file_name_template": "llama-2-7b.{quantization}.gguf",
                    "model_hub": "huggingface",
                }
            ],
        },
        persist=False,
    )
    (variant,) = family.variants
    assert (variant.format, variant.size_b, variant.quantizations) == ("gguf", 7, ("q4_0", "q8_0"))
    assert family.tool_format == "qwen" and family.architectures == ("Qwen2ForCausalLM",)  # of the family it names


@pytest.mark.parametrize(
    ("model_type", "payload", "facts"),
    [
        (
            "embedding",
            {
                "dimensions": 1024,
                "max_tokens": 512,
                "language": ["zh"],
                "model_specs": [{"model_format": "pytorch", "model_uri": "/m", "quantization": "none"}],
            },
            {"dimensions": 1024, "max_tokens": 512},
        ),
        (
            "rerank",
            {"type": "unknown", "max_tokens": 512, "language": ["en", "zh"], "model_id": "BAAI/bge-reranker-base"},
            {"type": "unknown", "max_tokens": 512},
        ),
        (
            "rerank",
            {
                "kind": "normal",
                "max_tokens": 8192,
                "language": ["en"],
                "model_specs": [{"model_format": "ggufv2", "model_src": {"modelscope": {"model_id": "a/b"}}}],
            },
            {"type": "normal", "max_tokens": 8192},
        ),
        (
            "image",
            {
                "model_family": "stable_diffusion",
                "model_id": None,
                "model_uri": "file:///path/to/my-qwen-image",
                "controlnet": [],
                "default_model_config": {},
                "gguf_model_id": None,
            },
            {"model_family": "stable_diffusion", "controlnet": [], "default_model_config": {}},
        ),
        (
            "audio",
            {"model_family": "ChatTTS", "multilingual": False, "language": None, "model_id": "2Noise/ChatTTS"},
            {"model_family": "ChatTTS", "multilingual": False},
        ),
        ("video", {"model_family": "Wan", "model_ability": ["text2video"], "model_id": "a/b"}, {"model_family": "Wan"}),
    ],
)
def test_registers_every_type(
    catalog: Catalog, model_type: str, payload: dict[str, Any], facts: dict[str, Any]
) -> None:
    family = catalog.register(model_type, {"version": 2, "model_name": "mine", "is_builtin": False, **payload}, False)
    assert family.facts == facts and len(family.variants) == 1 and family.model_type == model_type
    shown = describe_family(family, Path("/nowhere"), is_builtin=False)
    for name, value in facts.items():
        assert shown[name] == value


FLAT: dict[str, Any] = {
    "model_name": "custom-bge-base-en",
    "dimensions": 768,
    "max_tokens": 512,
    "language": ["en"],
    "model_id": "BAAI/bge-base-en",
    "model_revision": "main",
}


def test_xinferences_shapes_of_embedding_models(catalog: Catalog) -> None:
    """The oldest has the files beside the facts; later ones name the hub there, or in each spec."""
    catalog.register("embedding", {**FLAT, "model_name": "flat"}, persist=False)
    catalog.register("embedding", {**FLAT, "model_name": "own", "model_id": None, "model_uri": "file:///m"}, False)
    specs = [
        {"model_format": "transformers", "model_id": "a/b", "quantizations": ["none"]},
        {
            "model_format": "ggufv2",
            "model_id": "a/b-GGUF",
            "quantizations": ["Q8_0"],
            "model_file_name_template": "b-{quantization}.gguf",
            "model_hub": "huggingface",
        },
    ]
    old = {name: FLAT[name] for name in ("dimensions", "max_tokens", "language")}
    catalog.register(
        "embedding", {**old, "model_name": "specs", "model_hub": "modelscope", "model_specs": specs}, False
    )
    found = {family.name: family for family in catalog.families("embedding")}
    for family in found.values():
        assert family.abilities == ("embed",) and family.languages == ("en",)
        assert family.facts == {"dimensions": 768, "max_tokens": 512}
    hubs = {name: [v.sources[0].hub for v in family.variants] for name, family in found.items()}
    assert hubs == {"flat": ["huggingface"], "own": ["file"], "specs": ["modelscope", "huggingface"]}
    assert [variant.format for variant in found["specs"].variants] == ["pytorch", "gguf"]


def test_every_embedding_model_embeds(catalog: Catalog) -> None:
    assert catalog.register("embedding", {**FLAT, "model_ability": ["vision"]}, False).abilities == ("embed", "vision")
    with pytest.raises(BadRequest, match="'chat' is no ability of type embedding") as caught:
        catalog.register("embedding", {**FLAT, "model_name": "b", "model_ability": ["chat"]}, False)
    assert caught.value.param == "model_ability.0"


@pytest.mark.parametrize("field", ["model_revision", "model_id", "quantization", "model_file_name_template"])
def test_nothing_beside_specs_is_ignored(catalog: Catalog, field: str) -> None:
    specs = [{"model_format": "pytorch", "model_id": "a/b"}]
    with pytest.raises(BadRequest, match="give it in model_specs") as caught:
        catalog.register("embedding", {"model_name": "a", "model_specs": specs, field: "x"}, persist=False)
    assert caught.value.param == field


@pytest.mark.parametrize("model_type", ["embedding", "rerank"])
def test_what_is_shown_of_other_types_can_be_registered_too(catalog: Catalog, model_type: str) -> None:
    payload = {**FLAT, "model_name": "mine", "type": "normal"}
    family = catalog.register(model_type, payload, persist=True)
    shown = json.loads(json.dumps(describe_family(family, Path("/nowhere"), is_builtin=False)))
    assert (shown["dimensions"], shown["max_tokens"], shown["language"]) == (768, 512, ["en"])
    copy = catalog.register(model_type, {**shown, "model_name": "copy"}, persist=True)
    assert replace(copy, name="mine") == family


def test_what_is_shown_can_be_registered_under_another_name(catalog: Catalog) -> None:
    for name in ("Qwen-tiny",):
        family = catalog.get("LLM", name)
        shown = json.loads(json.dumps(describe_family(family, Path("/nowhere"), is_builtin=True)))
        assert shown["model_name"] == name and shown["is_builtin"] is True
        copy = catalog.register("LLM", {**shown, "model_name": "copy"}, persist=True)
        assert replace(copy, name=name) == family


def test_our_own_shape(catalog: Catalog) -> None:
    family = catalog.register(
        "LLM",
        {
            "name": "own",
            "abilities": ["chat"],
            "variants": [{"format": "gguf", "size_b": 1, "sources": [{"hub": "file", "repo": "/m/own.gguf"}]}],
            "facts": {"anything": [1]},
        },
        persist=False,
    )
    assert family.variants[0].sources[0].repo == "/m/own.gguf" and family.facts == {"anything": [1]}


def spec(**changes: Any) -> dict[str, Any]:
    return {**XINFERENCE, "model_specs": [{**XINFERENCE["model_specs"][0], **changes}]}


@pytest.mark.parametrize(
    ("payload", "param", "text"),
    [
        ("{", "model", "not valid JSON"),
        ("[]", "model", "JSON object"),
        ("[" * 100_000, "model", "not valid JSON"),
        ({}, "model_name", "missing"),
        ({**XINFERENCE, "model_name": "../../etc/passwd"}, "model_name", "letters, digits"),
        ({**XINFERENCE, "model_name": "a/b"}, "model_name", "letters, digits"),
        ({**XINFERENCE, "model_name": ""}, "model_name", "letters, digits"),
        ({**XINFERENCE, "model_abilities": ["chat"]}, "model_abilities", "no field.*Did you mean 'model_ability'"),
        ({**XINFERENCE, "model_ability": ["chat", "dance"]}, "model_ability.1", "'dance' is no ability"),
        ({**XINFERENCE, "model_ability": []}, "model_ability", "missing"),
        ({**XINFERENCE, "context_length": "long"}, "context_length", "integer"),
        ({**XINFERENCE, "context_length": -1}, "context_length", "greater than 0"),
        ({**XINFERENCE, "version": 3}, "version", "less than or equal to 2"),
        ({**XINFERENCE, "reasoning_end_tag": "</t>"}, "reasoning_start_tag", "pair"),
        ({**XINFERENCE, "model_specs": []}, "model_id", "missing"),
        ({**XINFERENCE, "model_type": "embedding"}, "model_type", "registered as 'LLM'"),
        (spec(model_uri=None), "model_specs.0.model_id", "missing"),
        (spec(model_uri="s3://bucket/key"), "model_specs.0.model_uri", "scheme 's3'"),
        (spec(model_uri="relative/path"), "model_specs.0.model_uri", "absolute"),
        (spec(model_uri="file://host/path"), "model_specs.0.model_uri", "three slashes"),
        (spec(model_id="../../x"), "model_specs.0.model_id", "owner/name"),
        (spec(model_size_in_billions="big"), "model_specs.0.model_size_in_billions", "number of billions"),
        (spec(quantization="../q"), "model_specs.0.quantization", "inside"),
        (spec(model_file_name_template="../{quantization}"), "model_specs.0.model_file_name_template", "inside"),
        (spec(model_file_name_template="{0.__class__}"), "model_specs.0.model_file_name_template", "may hold"),
        (spec(quantisation="x"), "model_specs.0.quantisation", "Did you mean 'quantization'"),
        (
            {"name": "own", "abilities": ["chat"], "variants": [{"format": "gguf", "sources": []}]},
            "variants.0.sources",
            "at least 1",
        ),
        (
            {
                "name": "own",
                "abilities": ["chat"],
                "variants": [{"format": "x", "sources": [{"hub": "file", "repo": "a"}]}],
            },
            "variants.0.sources.0.repo",
            "absolute",
        ),
        (
            {"name": "own", "variants": [{"format": "x", "sources": [{"hub": "h", "repo": "a/b"}]}]},
            "abilities",
            "missing",
        ),
    ],
)
def test_invalid_registrations_name_the_field(
    catalog: Catalog, tmp_path: Path, payload: Any, param: str, text: str
) -> None:
    with pytest.raises(BadRequest, match=text) as caught:
        catalog.register("LLM", payload, persist=True)
    assert caught.value.param == param and caught.value.message.startswith(f"{param}:")
    assert not (tmp_path / "custom").exists()


def test_taken_names_and_what_cannot_be_unregistered(catalog: Catalog) -> None:
    catalog.register("LLM", XINFERENCE, persist=False)
    for name in ("custom-qwen-2.5", "Custom-Qwen-2.5", "alpha", "ALPHA"):
        with pytest.raises(AlreadyExists) as caught:
            catalog.register("LLM", {**XINFERENCE, "model_name": name}, persist=False)
        assert caught.value.param == "model_name" and caught.value.remedy
    with pytest.raises(BadRequest, match=r"built in \(plugin one\)"):
        catalog.unregister("LLM", "alpha")
    with pytest.raises(ModelNotFound, match="Did you mean 'alpha'"):
        catalog.unregister("LLM", "alfha")
    catalog.unregister("LLM", "custom-qwen-2.5")
    assert catalog.find("LLM", "custom-qwen-2.5") is None


def test_a_registration_that_is_spoilt_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "LLM"
    folder.mkdir()
    (folder / "torn.json").write_text('{"schema": 1, "fam')
    (folder / "list.json").write_text("[]")
    (folder / "other.json").write_text('{"schema": 1, "family": {"name": "another"}}')
    (folder / "half.tmp").write_text("x")
    with caplog.at_level(logging.WARNING):
        assert Catalog(llm_plugins(), tmp_path).families("LLM") == []
    assert all(name in caplog.text for name in ("torn.json", "list.json", "other.json"))


def test_what_somebody_put_among_the_registrations_holds_nobody_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A pipe without a writer, an endless device, a file of gigabytes: none is read."""
    folder = tmp_path / "LLM"
    folder.mkdir()
    os.mkfifo(folder / "pipe.json")
    (folder / "zero.json").symlink_to("/dev/zero")
    (folder / "loop.json").symlink_to("loop.json")
    (folder / "folder.json").mkdir()
    (folder / "deep.json").write_text("[" * 200_000)
    with (folder / "huge.json").open("wb") as huge:
        huge.truncate(1 << 33)
    assert Catalog(llm_plugins(), tmp_path).families("LLM") == []
    assert len(caplog.records) == 6


@pytest.mark.parametrize("text", ['{"model_name": "\\ud800"}', '{"context_length": NaN}', "[" * 100_000])
def test_a_registration_that_could_not_be_written_back_is_refused(catalog: Catalog, text: str) -> None:
    with pytest.raises(BadRequest):
        catalog.register("LLM", text, persist=True)


def test_of_many_registrations_of_one_name_one_wins(catalog: Catalog) -> None:
    outcomes: list[str] = []

    def register() -> None:
        try:
            catalog.register("LLM", XINFERENCE, persist=True)
            outcomes.append("done")
        except AlreadyExists:
            outcomes.append("taken")

    threads = [threading.Thread(target=register) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["done"] + ["taken"] * 7


def test_engines_for_a_family(catalog: Catalog, tmp_path: Path) -> None:
    def broken(*_: object) -> str | None:
        raise ZeroDivisionError("oops")

    odd = Engine(name="odd", model_types=("LLM",), worker=PythonWorker(loader="a:B"), accepts=broken)
    plugins = llm_plugins(FAMILY, engines=(LLAMA, TORCH, odd))
    answer = engines_for(catalog.get("LLM", "Qwen-tiny"), plugins, machine())
    assert answer["llama.cpp"] == [
        {
            "model_name": "Qwen-tiny",
            "model_format": "gguf",
            "model_size_in_billions": 1.8,
            "quantizations": ["Q4_K_M", "Q8_0"],
            "rank": 10,
            "environment": "server",
            "environment_is_built": True,
        }
    ]
    assert list(answer) == ["llama.cpp", "Transformers", "odd"]
    assert [row["model_size_in_billions"] for row in answer["Transformers"] if isinstance(row, dict)] == [30, None]
    assert answer["odd"] == "its check failed: ZeroDivisionError: oops"
