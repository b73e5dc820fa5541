"""The smaller pieces: references, names, guesses, selections, engines' packages, the machine, the core's own plugin."""

import re
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest

from catalog.racks import LLAMA
from modelrack import builtin, machine
from modelrack.api.launch import UID_PATTERN
from modelrack.catalog.engines import missing_modules
from modelrack.catalog.names import NAME_PATTERN, model_version, plain_format, rank_quantization, same_quantization
from modelrack.catalog.reference import HubReference, parse_reference
from modelrack.catalog.selection import select
from modelrack.catalog.suggest import did_you_mean, listing, suggestions
from modelrack.errors import LaunchFailed
from modelrack.hooks import Source, Variant
from modelrack.hooks.loader import load_plugins


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("owner/repo", HubReference(repo="owner/repo")),
        ("owner/repo:Q4_K_M", HubReference(repo="owner/repo", quantization="Q4_K_M")),
        ("owner/repo@v1.0", HubReference(repo="owner/repo", revision="v1.0")),
        ("owner/repo@main/a/b.gguf", HubReference(repo="owner/repo", revision="main", file="a/b.gguf")),
        ("owner/repo/b-Q8_0.gguf", HubReference(repo="owner/repo", file="b-Q8_0.gguf")),
        ("hf.co/owner/repo:Q8_0", HubReference(hub="huggingface", repo="owner/repo", quantization="Q8_0")),
        ("hf://owner/repo", HubReference(hub="huggingface", repo="owner/repo")),
        ("https://huggingface.co/owner/repo/", HubReference(hub="huggingface", repo="owner/repo")),
        (
            "https://huggingface.co/owner/repo/blob/main/b.gguf?download=true",
            HubReference(hub="huggingface", repo="owner/repo", revision="main", file="b.gguf"),
        ),
        (
            "https://huggingface.co/owner/repo/tree/v2",
            HubReference(hub="huggingface", repo="owner/repo", revision="v2"),
        ),
        ("https://modelscope.cn/models/owner/repo", HubReference(hub="modelscope", repo="owner/repo")),
    ],
)
def test_references(text: str, reference: HubReference) -> None:
    assert parse_reference(text) == reference


@pytest.mark.parametrize(
    "text",
    [
        *("", "plain", "/abs/path", "a/b/c", "../a/b", "a/..", "a/b/../c.gguf", "https://example.com/a/b", "ftp://a/b"),
        *(
            "a b/c",
            "a/b:",
            "a/b\0",
            "file:///a/b",
            "https://huggingface.co/owner/repo/blob/main/x.bin",
            "a" * 200 + "/b",
        ),
    ],
)
def test_what_is_no_reference(text: str) -> None:
    assert parse_reference(text) is None


def test_names() -> None:
    assert plain_format("ggufv2") == "gguf" and plain_format("PyTorch") == "pytorch"
    assert same_quantization("Q4_K_M", "q4_k_m") and same_quantization("fp16", "F16")
    assert not same_quantization("Q4_K_M", "Q4_K_S")
    order = ["Q4_K_M", "Q5_K_M", "Q4_K_S", "Q8_0", "fp16", "unknown"]
    assert sorted(reversed(order), key=rank_quantization) == order
    assert model_version("qwen3", Variant(format="gguf", size_b=8.0), "Q4_K_M") == "qwen3--8B--gguf--Q4_K_M"
    assert model_version("x", Variant(format="pytorch"), "none") == "x--pytorch--none"
    assert re.fullmatch(NAME_PATTERN, "a.b-c_1") and re.fullmatch(UID_PATTERN, "a.b-c_1")


def test_guesses() -> None:
    known = ["qwen2.5-instruct", "qwen2.5-coder-instruct", "qwen3", "llama-3-instruct", "Mistral-Nemo"]
    assert suggestions("Qwen-3", known)[0] == "qwen3"
    assert suggestions("mistralnemo", known) == ["Mistral-Nemo"]
    assert suggestions("lama-3-instruct", known)[0] == "llama-3-instruct"
    assert suggestions("coder", known)[0] == "qwen2.5-coder-instruct"
    assert suggestions("zzzz", known) == [] and suggestions("", known) == [] and suggestions("x" * 10_000, known) == []
    assert did_you_mean("qwen-3", ["qwen3"]) == " Did you mean 'qwen3'?" and did_you_mean("zzzz", known) == ""
    assert did_you_mean("abc", ["abc1", "abc2", "abc3"]) == " Did you mean 'abc1', 'abc2' or 'abc3'?"
    assert listing([]) == "nothing" and listing(["a", "b", "c"], 2) == "a, b and 1 more"


def gguf_source(**more: object) -> Source:
    return Source(hub="h", repo="a/b", **more)  # type: ignore[arg-type]


def pick(source: Source, quantization: str, *names: str) -> tuple[str, ...]:
    return select(source, "gguf", quantization, dict.fromkeys(names, 1)).files


def test_selection_by_template_name_and_folder() -> None:
    template = gguf_source(file="m-{quantization}.gguf", quantizations=("q4_k_m",))
    assert pick(template, "Q4_K_M", "m-q4_k_m.gguf", "m-q8_0.gguf") == ("m-q4_k_m.gguf",)
    assert pick(template, "Q8_0", "x-Q8_0.gguf") == ("x-Q8_0.gguf",)  # the repository has changed
    split = [f"Q8_0/m-Q8_0-0000{n}-of-00002.gguf" for n in (1, 2)]
    assert pick(gguf_source(), "q8_0", *split, "m-Q4_0.gguf") == tuple(split)
    assert pick(gguf_source(), "BF16", "BF16/m.gguf", "m-Q4_0.gguf") == ("BF16/m.gguf",)
    assert pick(gguf_source(), "none", "m-Q8_0.gguf", "m-Q4_K_M.gguf", "README.md") == ("m-Q4_K_M.gguf",)
    assert pick(gguf_source(file="x/only.gguf"), "none", "x/only.gguf", "y.gguf") == ("x/only.gguf",)


def test_selection_of_projectors() -> None:
    names = ("m-Q8_0.gguf", "mmproj-BF16.gguf", "mmproj-F16.gguf", "mmproj-F32.gguf")
    chosen = select(gguf_source(), "gguf", "Q8_0", dict.fromkeys(names, 1))
    assert (chosen.entry, chosen.projector) == ("m-Q8_0.gguf", "mmproj-F16.gguf")
    named = gguf_source(projectors=("mmproj-F32.gguf",))
    assert select(named, "gguf", "Q8_0", dict.fromkeys(names, 1)).projector == "mmproj-F32.gguf"


@pytest.mark.parametrize(
    ("source", "quantization", "names", "reason"),
    [
        (gguf_source(), "Q2_K", ["m-Q8_0.gguf"], "no GGUF file with quantization 'Q2_K'"),
        (gguf_source(), "none", ["config.json", "model.safetensors"], "holds no GGUF files"),
        (gguf_source(file="n.gguf"), "none", ["m.gguf"], "no file 'n.gguf'"),
        (gguf_source(), "Q8_0", ["m-Q8_0-00001-of-00003.gguf"], "1 of the 3 parts"),
        (gguf_source(), "none", ["../m.gguf", "/m.gguf"], "holds no GGUF files"),
    ],
)
def test_selections_that_fail(source: Source, quantization: str, names: list[str], reason: str) -> None:
    with pytest.raises(LaunchFailed, match=reason) as caught:
        pick(source, quantization, *names)
    assert caught.value.remedy


def test_packages_are_looked_up_without_importing_them() -> None:
    assert missing_modules(replace(LLAMA, requires=("wave", "xml.dom.pulldom"))) == []
    assert "wave" not in sys.modules and "xml.dom.pulldom" not in sys.modules
    absent = ("no_such_module", "xml.no_such", "no.such.module", "wave.none")
    assert missing_modules(replace(LLAMA, requires=absent)) == list(absent)


def test_the_machine_is_seen() -> None:
    seen = machine.probe()
    assert seen.cores >= 1 and seen.platform == sys.platform and seen.architecture
    assert 0 < seen.memory_free_bytes <= seen.memory_total_bytes
    assert seen.memory_total_bytes > 100 << 20
    for device in seen.accelerators:
        assert 0 <= device.memory_free_bytes <= device.memory_total_bytes


@pytest.mark.parametrize(
    ("files", "memory", "cpus"),
    [
        (
            {"memory.max": "2000", "memory.current": "900", "memory.stat": "anon 1\ninactive_file 400\n"},
            (2000, 500),
            None,
        ),
        ({"memory.max": "max", "cpu.max": "150000 100000"}, (None, 0), 1.5),
        ({"cpu.max": "max 100000"}, (None, 0), None),
        (
            {
                "memory.limit_in_bytes": "2000",
                "memory.usage_in_bytes": "900",
                "memory.stat": "total_inactive_file 100",
                "cpu.cfs_quota_us": "50000",
                "cpu.cfs_period_us": "100000",
            },
            (2000, 800),
            0.5,
        ),
        ({"memory.limit_in_bytes": "9223372036854771712", "cpu.cfs_quota_us": "-1"}, (None, 0), None),
        ({}, (None, 0), None),
    ],
)
def test_limits_of_control_groups(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    files: dict[str, str],
    memory: tuple[int | None, int],
    cpus: float | None,
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(machine, "_cgroup_folders", lambda controller: [tmp_path])
    assert machine._cgroup_memory() == memory
    assert machine._cgroup_cpus() == cpus


def test_the_cores_own_plugin() -> None:
    plugins = load_plugins("builtin")
    assert plugins.row("builtin").state == "loaded"
    assert list(plugins.model_types) == ["LLM", "embedding", "rerank", "image", "audio", "video"]
    assert list(plugins.hubs) == ["huggingface", "modelscope"]
    routes = {route.path: route for route in plugins.model_types["LLM"].routes}
    assert set(routes) == {
        *("/v1/chat/completions", "/v1/completions", "/v1/tokenize", "/tokenize", "/v1/detokenize", "/detokenize"),
        "/v1/convert_ids_to_tokens",
    }
    for route in routes.values():
        for path in filter(None, (route.request, route.response, route.chunk)):
            module, _, name = path.partition(":")
            assert hasattr(import_module(module), name), path
    for hub in builtin.register_hubs():
        module, _, name = hub.fetch.partition(":")
        assert callable(getattr(import_module(module), name))
