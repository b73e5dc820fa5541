import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from catalog.gguf_files import gguf_bytes, write_gguf
from catalog.racks import ABSENT, LLAMA, TORCH, llm_plugins, machine
from modelrack.api.launch import LaunchRequest
from modelrack.catalog import Resolved, resolve
from modelrack.catalog.catalog import Catalog
from modelrack.errors import BadRequest, EngineUnavailable, ModelNotFound, NoEngine
from modelrack.hooks import Engine, Family, ModelFiles, Source, Variant
from modelrack.hooks.loader import Plugins

HF = "huggingface"
ALL = (LLAMA, ABSENT, TORCH)


def gguf(size: float | None, *quantizations: str, hub: str = HF) -> Variant:
    source = Source(hub=hub, repo="a/b-GGUF", quantizations=quantizations, file="b-{quantization}.gguf")
    return Variant(format="gguf", size_b=size, sources=(source,))


def pytorch(size: float) -> Variant:
    return Variant(format="pytorch", size_b=size, sources=(Source(hub=HF, repo=f"a/b-{size}B"),))


def family(*variants: Variant, name: str = "tiny", **more: Any) -> Family:
    return Family(name=name, model_type="LLM", abilities=("chat",), variants=variants, **more)


class Rack:
    """What `resolve` needs, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.plugins: Plugins = llm_plugins(engines=ALL)
        self.memory_gb = 16.0
        self.hub = HF

    def has(self, *families: Family, engines: tuple[Engine, ...] = ALL) -> None:
        self.plugins = llm_plugins(*families, engines=engines)

    def resolve(self, name: str = "tiny", **parameters: Any) -> Resolved:
        catalog = Catalog(self.plugins, self.folder / "custom")
        request = LaunchRequest.model_validate({"model_name": name, **parameters})
        return resolve(request, catalog, self.plugins, machine(self.memory_gb), self.hub, self.folder / "models")

    def form(self, name: str = "tiny", **parameters: Any) -> tuple[str, str, float | None, str]:
        found = self.resolve(name, **parameters)
        return found.engine.name, found.variant.format, found.variant.size_b, found.quantization


@pytest.fixture
def rack(tmp_path: Path) -> Rack:
    return Rack(tmp_path)


# What is chosen where nothing is said


def test_the_engine_of_the_highest_rank_that_can_run_it(rack: Rack) -> None:
    rack.has(family(pytorch(7), gguf(7, "Q8_0", "Q4_K_M")))
    assert rack.form() == ("llama.cpp", "gguf", 7, "Q4_K_M")
    assert rack.resolve().refused == {"vLLM": rack.resolve().refused["vLLM"]}
    assert (
        "no_such_engine_library" in rack.resolve().refused["vLLM"] and ABSENT.remedy in rack.resolve().refused["vLLM"]
    )


@pytest.mark.parametrize(
    ("quantizations", "chosen"),
    [
        (("Q2_K", "Q8_0", "Q4_K_M", "Q5_K_M"), "Q4_K_M"),
        (("q2_k", "q8_0", "q4_k_m"), "q4_k_m"),
        (("Q8_0", "Q5_K_M", "Q4_K_S"), "Q5_K_M"),
        (("F16", "Q8_0", "Q2_K"), "Q8_0"),
        (("Q2_K", "BF16"), "BF16"),
        (("odd", "Q2_K"), "odd"),
    ],
)
def test_the_most_sensible_quantization(rack: Rack, quantizations: tuple[str, ...], chosen: str) -> None:
    rack.has(family(gguf(1, *quantizations)))
    assert rack.form()[3] == chosen


@pytest.mark.parametrize(("memory_gb", "size"), [(64, 32), (16, 14), (8, 7), (2, 1.5), (0.1, 0.5)])
def test_the_largest_size_that_fits_else_the_smallest(rack: Rack, memory_gb: float, size: float) -> None:
    rack.has(family(*(gguf(size, "Q4_K_M") for size in (7, 0.5, 32, 1.5, 14))))
    rack.memory_gb = memory_gb
    assert rack.form()[2] == size


def test_what_is_on_this_machine_goes_first(rack: Rack, tmp_path: Path) -> None:
    here = write_gguf(tmp_path / "here" / "b-Q8_0.gguf", {"general.file_type": 7})
    local = Source(hub="file", repo=str(here.parent), quantizations=("Q8_0",), file="b-{quantization}.gguf")
    variant = gguf(0.5, "Q4_K_M", "Q8_0")
    rack.has(family(pytorch(7), gguf(7, "Q4_K_M"), replace(variant, sources=(*variant.sources, local))))
    found = rack.resolve()
    assert (found.variant.size_b, found.quantization) == (0.5, "Q8_0")
    assert found.files == ModelFiles(path=str(here), format="gguf")
    assert rack.resolve(quantization="Q4_K_M").files is None


def test_everything_can_be_said(rack: Rack) -> None:
    rack.has(family(pytorch(7), pytorch(1.8), gguf(7, "Q8_0", "Q4_K_M"), gguf(1.8, "Q8_0", "fp16")))
    assert rack.form(model_engine="transformers", model_size_in_billions="1_8") == (
        "Transformers",
        "pytorch",
        1.8,
        "none",
    )
    assert rack.form(model_engine="llamacpp", quantization="q8_0", model_size_in_billions=7)[2:] == (7, "Q8_0")
    assert rack.form(model_format="ggufv2", model_size_in_billions="1.8", quantization="F16")[3] == "fp16"
    assert rack.form("TINY", model_format="pytorch", model_size_in_billions=7)[0] == "Transformers"


# What cannot be


def test_forms_that_do_not_exist_name_those_that_do(rack: Rack) -> None:
    rack.has(family(pytorch(7), gguf(7, "Q8_0", "Q4_K_M"), gguf(1.8, "Q8_0")))
    with pytest.raises(NoEngine, match=r"no format 'ggfu'; it has: pytorch, gguf\. Did you mean 'gguf'") as caught:
        rack.resolve(model_format="ggfu")
    assert caught.value.param == "model_format"
    assert {"model_format": "gguf", "model_size_in_billions": 1.8, "quantizations": ["Q8_0"]} in caught.value.details[
        "available"
    ]
    with pytest.raises(NoEngine, match=r"no size '9' in format gguf; it has: 7, 1\.8") as caught:
        rack.resolve(model_format="gguf", model_size_in_billions=9)
    assert caught.value.param == "model_size_in_billions"
    with pytest.raises(NoEngine, match=r"no quantization 'Q4_KM' in size 7; it has: none, Q8_0, Q4_K_M\. Did you mean"):
        rack.resolve(model_size_in_billions=7, quantization="Q4_KM")


def test_every_engine_says_why_not(rack: Rack) -> None:
    awq = Variant(format="awq", size_b=7, sources=(Source(hub=HF, repo="a/b", quantizations=("Int4",)),))
    rack.has(family(awq))
    with pytest.raises(NoEngine) as caught:
        rack.resolve()
    message = caught.value.message
    assert "llama.cpp: it takes gguf, not awq" in message and "Transformers: it takes pytorch, not awq" in message
    assert "vLLM: not installed (no_such_engine_library cannot be found). pip install modelrack-llm-vllm" in message
    assert set(caught.value.details["refused"]) == {"llama.cpp", "vLLM", "Transformers"}
    assert caught.value.details["available"][0]["quantizations"] == ["Int4"]
    with pytest.raises(NoEngine, match=r"Engine 'llama.cpp' cannot run 'tiny' \(awq 7B\): llama.cpp: it takes gguf"):
        rack.resolve(model_engine="llama.cpp")


def test_engines_that_are_unknown_absent_or_of_another_type(rack: Rack) -> None:
    rack.has(family(pytorch(7)))
    with pytest.raises(BadRequest, match=r"no engine 'transfomers'.*llama\.cpp.*Did you mean 'Transformers'") as caught:
        rack.resolve(model_engine="transfomers")
    assert caught.value.param == "model_engine"
    with pytest.raises(EngineUnavailable, match="no_such_engine_library") as caught:
        rack.resolve(model_engine="vllm")
    assert caught.value.remedy == "pip install modelrack-llm-vllm"
    with pytest.raises(NoEngine, match="runs LLM models, not embedding models"):
        rack.resolve(model_engine="llama.cpp", model_type="embedding")
    rack.has(family(pytorch(7)), engines=())
    with pytest.raises(NoEngine, match="No engine for LLM models is installed"):
        rack.resolve()
    with pytest.raises(BadRequest, match=r"no engine 'llama\.cpp'"):
        rack.resolve(model_engine="llama.cpp")


def test_unknown_models_types_and_hubs(rack: Rack) -> None:
    rack.has(family(gguf(7, "Q4_K_M"), name="qwen2.5-instruct"))
    with pytest.raises(ModelNotFound, match=r"Did you mean 'qwen2\.5-instruct'"):
        rack.resolve("qwen2.5")
    with pytest.raises(ModelNotFound) as caught:
        rack.resolve("my.gguf")
    assert "absolute path" in str(caught.value.remedy)
    with pytest.raises(BadRequest, match="no model type 'LLMs'"):
        rack.resolve("x", model_type="LLMs")
    with pytest.raises(BadRequest, match=r"no hub 'hugingface'.*Did you mean 'huggingface'") as hub:
        rack.resolve("qwen2.5-instruct", download_hub="hugingface")
    assert hub.value.param == "download_hub"


def test_options_are_checked(rack: Rack) -> None:
    rack.has(family(gguf(7, "Q4_K_M")))
    assert rack.resolve().options == {"n_ctx": 4096, "flash": False, "lora": []}
    given = rack.resolve(**{"n-ctx": "8192", "flash": "true", "lora": '["a"]'}).options
    assert given == {"n_ctx": 8192, "flash": True, "lora": ["a"]}
    assert rack.resolve(n_ctx=None).options["n_ctx"] == 4096
    with pytest.raises(BadRequest, match=r"no option 'nctx'\. Did you mean 'n_ctx'\? Its options are: n_ctx") as caught:
        rack.resolve(nctx=1)
    assert caught.value.param == "nctx"
    with pytest.raises(BadRequest, match="Did you mean 'model_size_in_billions'"):
        rack.resolve(model_size_in_bilions=7)
    with pytest.raises(
        BadRequest, match=r"Option 'n_ctx' of engine 'llama\.cpp': input should be a valid integer"
    ) as bad:
        rack.resolve(n_ctx="many")
    assert bad.value.param == "n_ctx"
    with pytest.raises(BadRequest, match="given twice"):
        rack.resolve("tiny", **{"n-ctx": 1, "n_ctx": 2})


# Where files come from


def test_hubs(rack: Rack) -> None:
    both = replace(
        gguf(7, "Q4_K_M"), sources=(*gguf(7, "Q4_K_M", hub="modelscope").sources, *gguf(7, "Q4_K_M").sources)
    )
    rack.has(family(both))
    assert rack.resolve().source == both.sources[1]
    rack.hub = "modelscope"
    assert rack.resolve().source == both.sources[1]  # the package modelscope is not installed here
    with pytest.raises(EngineUnavailable, match="Hub 'modelscope' is not installed") as caught:
        rack.resolve(download_hub="modelscope")
    assert "pip install modelscope" in str(caught.value.remedy)
    rack.hub = HF
    rack.has(family(gguf(7, "Q4_K_M", hub="elsewhere")))
    with pytest.raises(BadRequest, match="no installed hub has them; they are at: elsewhere"):
        rack.resolve()
    rack.has(family(gguf(7, "Q4_K_M", hub="modelscope")))
    with pytest.raises(BadRequest, match="hub 'huggingface' does not have them; they are at: modelscope"):
        rack.resolve(download_hub="huggingface")


def test_registered_files_that_are_gone(rack: Rack, tmp_path: Path) -> None:
    gone = Source(hub="file", repo=str(tmp_path / "gone.gguf"))
    rack.has(family(Variant(format="gguf", size_b=7, sources=(gone,))))
    with pytest.raises(BadRequest, match=r"gone\.gguf, and nothing is there"):
        rack.resolve()
    hub = gguf(7, "Q4_K_M").sources[0]
    rack.has(family(Variant(format="gguf", size_b=7, sources=(replace(gone, quantizations=("Q4_K_M",)), hub))))
    assert rack.resolve().source == hub


def test_registered_files_that_are_broken(rack: Rack, tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"GGUF")
    bad = Source(hub="file", repo=str(tmp_path / "bad.gguf"))
    rack.has(family(Variant(format="gguf", size_b=7, sources=(bad,))))
    with pytest.raises(BadRequest, match="cut off"):
        rack.resolve()


def test_a_model_without_files(rack: Rack) -> None:
    rack.has(family(Variant(format="gguf")))
    assert rack.resolve().files == ModelFiles(path="", format="gguf")


# Models that no family describes


def test_a_gguf_file_describes_itself(rack: Rack, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "my model-q4_k_m.gguf", {"general.size_label": "1.8B"})
    for request in ({"name": str(path)}, {"name": "my-name", "model_path": str(path)}):
        found = rack.resolve(**request)
        assert found.files == ModelFiles(path=str(path), format="gguf") and found.engine is LLAMA
        assert found.family.abilities == ("chat", "generate") and found.family.context_length == 2048
        assert (found.family.architectures, found.variant.size_b, found.quantization) == (("llama",), 1.8, "Q4_K_M")
    assert rack.resolve(str(path)).family.name == "my-model-q4_k_m"
    assert rack.resolve("my-name", model_path=str(path)).family.name == "my-name"
    # What was decided is stored, and asked for again after a restart.
    settled = rack.resolve(
        str(path), model_format="gguf", model_size_in_billions=1.8, quantization="Q4_K_M", model_engine="llama.cpp"
    )
    assert replace(settled, refused={}) == replace(rack.resolve(str(path)), refused={})
    with pytest.raises(NoEngine, match="no quantization 'Q8_0'; it has: Q4_K_M"):
        rack.resolve(str(path), quantization="Q8_0")
    with pytest.raises(NoEngine, match="no format 'pytorch'"):
        rack.resolve(str(path), model_format="pytorch")


def test_abilities_of_a_gguf_file(rack: Rack, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    template = "{% if tools %}{{ tools }}{% endif %}<think></think>"
    write_gguf(path, {"tokenizer.chat_template": template})
    found = rack.resolve(str(path)).family
    assert found.abilities == ("chat", "generate", "tools", "reasoning")
    assert found.reasoning_tags == ("<think>", "</think>")
    write_gguf(path, {"tokenizer.chat_template": None})
    assert rack.resolve(str(path)).family.abilities == ("generate",)


@pytest.mark.parametrize(
    ("keys", "what", "remedy"),
    [
        ({"llama.pooling_type": 1}, "is an embedding model", "--model-type embedding"),
        ({"general.architecture": "bert", "bert.attention.causal": False}, "is an embedding model", "embedding"),
        ({"llama.pooling_type": 4}, "is a rerank model", "--model-type rerank"),
        ({"general.architecture": "clip"}, "multimodal projector", "own GGUF file"),
    ],
)
def test_models_of_other_types_are_refused(rack: Rack, tmp_path: Path, keys: Any, what: str, remedy: str) -> None:
    with pytest.raises(BadRequest, match=what) as caught:
        rack.resolve(str(write_gguf(tmp_path / "m.gguf", keys)))
    assert remedy in str(caught.value.remedy)


def test_a_path_with_a_familys_name_has_its_facts(rack: Rack, tmp_path: Path) -> None:
    rack.has(family(gguf(7, "Q4_K_M"), gguf(1.8, "Q4_K_M"), tool_format="qwen", context_length=77))
    path = write_gguf(tmp_path / "x.gguf", {"general.size_label": "1.9B"})
    found = rack.resolve("tiny", model_path=str(path))
    assert (found.family.tool_format, found.family.context_length) == ("qwen", 77)
    assert (found.variant.size_b, found.source, found.files) == (1.8, None, ModelFiles(path=str(path), format="gguf"))
    assert rack.resolve("tiny", model_path=str(path), model_size_in_billions=7).variant.size_b == 7
    assert rack.resolve("tiny", model_path=f"{tmp_path}", quantization="q4_k_m").files == found.files


def test_folders(rack: Rack, tmp_path: Path) -> None:
    folder = tmp_path / "hf"
    folder.mkdir()
    (folder / "config.json").write_text(
        json.dumps({"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 512})
    )
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ tools }}"}))
    found = rack.resolve(str(folder))
    assert (found.engine.name, found.variant.format, found.quantization) == ("Transformers", "pytorch", "none")
    assert found.family.abilities == ("chat", "generate", "tools") and found.family.context_length == 512
    (folder / "config.json").write_text(json.dumps({"quantization_config": {"quant_method": "awq", "bits": 4}}))
    with pytest.raises(NoEngine, match=r"\(awq\)"):
        rack.resolve(str(folder))
    many = tmp_path / "many"
    for name in ("m-Q8_0", "m-Q4_K_M"):
        write_gguf(many / f"{name}.gguf", {"general.file_type": 7 if "Q8" in name else 15})
    (many / "mmproj.gguf").write_bytes(
        gguf_bytes({"general.architecture": "clip", "clip.has_vision_encoder": True, "clip.has_audio_encoder": False})
    )
    found = rack.resolve("m", model_path=str(many))
    assert found.quantization == "Q4_K_M" and found.files and found.files.projector == str(many / "mmproj.gguf")
    assert "vision" in found.family.abilities
    assert rack.form("m", model_path=str(many), quantization="q8_0")[3] == "Q8_0"
    with pytest.raises(BadRequest, match="it has: Q4_K_M, Q8_0"):
        rack.resolve("m", model_path=str(many), quantization="Q2_K")


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("none.gguf", None, "no file or folder"),
        ("weights.bin", b"x", "pickle"),
        ("model.safetensors", b"x", "weights alone"),
        ("notes.txt", b"some notes about models", "looks like text"),
    ],
)
def test_paths_that_are_no_models(rack: Rack, tmp_path: Path, name: str, data: bytes | None, reason: str) -> None:
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(BadRequest, match=reason):
        rack.resolve(str(tmp_path / name))
    with pytest.raises(BadRequest, match="must be an absolute path"):
        rack.resolve("x", model_path=name)
    with pytest.raises(BadRequest, match="holds no model"):
        (tmp_path / "empty").mkdir()
        rack.resolve(str(tmp_path / "empty"))


@pytest.mark.parametrize("config", ["{", "[]", "[" * 100_000])
def test_a_broken_config_is_named(rack: Rack, tmp_path: Path, config: str) -> None:
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(BadRequest, match=r"config\.json is not"):
        rack.resolve(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "form", "quantization"),
    [
        ("Qwen/Qwen2.5-0.5B-Instruct-GGUF", "gguf", "none"),
        ("Qwen/Qwen2.5-0.5B-Instruct-GGUF:Q8_0", "gguf", "Q8_0"),
        ("owner/model:Q4_K_M", "gguf", "Q4_K_M"),
        ("hf.co/owner/model/folder/m-Q4_K_M.gguf", "gguf", "none"),
        ("https://huggingface.co/owner/model", "pytorch", "none"),
        ("owner/model", "pytorch", "none"),
    ],
)
def test_hub_references(rack: Rack, name: str, form: str, quantization: str) -> None:
    rack.has(engines=(TORCH, replace(LLAMA, rank=0)))
    found = rack.resolve(name)
    assert (found.variant.format, found.quantization, found.files, found.is_adhoc) == (form, quantization, None, True)
    assert found.source and found.source.hub == HF and "/" not in found.family.name
    assert "chat" in found.family.abilities


def test_a_hub_reference_takes_the_format_that_an_engine_can_run(rack: Rack) -> None:
    rack.has(engines=(LLAMA, ABSENT))
    assert rack.resolve("owner/model").variant.format == "gguf"
    with pytest.raises(NoEngine, match=r"llama.cpp: it takes gguf, not awq"):
        rack.resolve("owner/model-AWQ")


def test_a_plugin_may_know_a_reference(rack: Rack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = ModelFiles(path=str(write_gguf(tmp_path / "blob.gguf")), format="gguf")
    monkeypatch.setattr(rack.plugins, "resolve_model", lambda ref: files if ref == "store:thing" else None)
    found = rack.resolve("store:thing")
    assert (
        found.files == files and found.family.name == "store-thing" and found.family.abilities == ("chat", "generate")
    )
