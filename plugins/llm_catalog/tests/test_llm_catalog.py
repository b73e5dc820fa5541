import re
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import pytest

from modelrack.catalog.catalog import Catalog
from modelrack.catalog.describe import describe_family
from modelrack.catalog.names import NAME_PATTERN
from modelrack.catalog.selection import expand, select
from modelrack.hooks import Family, Source, Variant
from modelrack.hooks.loader import load_plugins
from modelrack_llm_catalog.plugin import register_families


@cache
def families() -> dict[str, Family]:
    return {family.name: family for family in register_families()}


def sources() -> list[tuple[Family, Variant, Source]]:
    return [
        (family, variant, source)
        for family in families().values()
        for variant in family.variants
        for source in variant.sources
    ]


def split_sources() -> list[tuple[Source, str, int]]:
    return [
        (source, quantization, parts)
        for _, _, source in sources()
        for quantization, parts in source.parts.items()
        if isinstance(parts, int)
    ]


def test_every_family_is_complete() -> None:
    assert len(register_families()) == len(families()) == 162
    for family in families().values():
        assert family.model_type == "LLM"
        assert re.fullmatch(NAME_PATTERN, family.name)
        assert family.abilities and family.languages and family.architectures and family.variants
        assert family.context_length and family.context_length >= 512
        assert all(variant.size_b and variant.size_b > 0 for variant in family.variants)


def test_the_server_takes_all_of_it(tmp_path: Path) -> None:
    plugins = load_plugins("llm_catalog")
    catalog = Catalog(plugins, tmp_path)
    assert plugins.row("llm_catalog").state == "loaded", plugins.row("llm_catalog").problems
    assert {family.name for family in catalog.families("LLM")} == set(families())
    assert catalog.is_builtin("LLM", "qwen3")
    (split,) = (v for v in catalog.get("LLM", "llama-2").variants if (v.format, v.size_b) == ("gguf", 70))
    assert {"Q2_K", "Q6_K", "Q8_0"} <= set(split.quantizations)  # the last two are in parts


def test_every_source_can_be_named() -> None:
    for family, variant, source in sources():
        assert source.hub in ("huggingface", "modelscope")
        for quantization in source.quantizations or ("none",):
            for template in (source.repo, source.file or "", source.split_file or ""):
                name = expand(template, quantization, "00001")
                assert "{" not in name and ".." not in name and not name.startswith("/"), (family.name, template)
        assert re.fullmatch(r"[\w.-]+/[\w.-]+", expand(source.repo, "Q4_K_M")), source.repo
        if variant.format == "gguf":
            assert source.quantizations or source.parts, (family.name, source)
            assert source.file or source.split_file, (family.name, source)
        assert bool(source.parts) == bool(source.split_file)


def test_parts_are_found_among_the_files_of_the_hub() -> None:
    """The facts give numbers of parts; their names, of whatever kind, come from the hub."""
    for source, quantization, count in split_sources():
        assert source.split_file
        standard = [f"{number:05d}-of-{count:05d}" for number in range(1, count + 1)]
        for kind in (standard, [f"split-{chr(97 + number)}" for number in range(min(count, 26))]):
            if len(kind) != count:
                continue
            names = [expand(source.split_file, quantization, part) for part in kind]
            selection = select(source, "gguf", quantization, dict.fromkeys(["README.md", "other-Q9.gguf", *names], 1))
            assert selection.files == tuple(names), (source.repo, quantization)
            assert selection.entry == names[0]


def test_single_files_are_found_among_the_files_of_the_hub() -> None:
    for _, variant, source in sources():
        if variant.format != "gguf" or source.file is None:
            continue
        for quantization in source.quantizations:
            if quantization in source.parts:
                continue
            name = expand(source.file, quantization)
            others = [expand(source.file, other) for other in source.quantizations if other not in source.parts]
            selection = select(source, "gguf", quantization, dict.fromkeys([*others, *source.projectors], 1))
            assert name in selection.files, (source.repo, quantization)
            assert (selection.projector is not None) == bool(source.projectors)


@pytest.mark.parametrize("name", ["qwen3", "llama-2-chat", "deepseek-r1-distill-llama", "minicpm-v-4.6"])
def test_a_family_can_be_read_and_registered_under_another_name(name: str, tmp_path: Path) -> None:
    catalog = Catalog(load_plugins("llm_catalog"), tmp_path)
    family = catalog.get("LLM", name)
    shown = describe_family(family, tmp_path, is_builtin=True)
    copy = catalog.register("LLM", {**shown, "model_name": "a-copy"}, persist=False)
    assert {**_members(copy), "name": family.name} == _members(family)


def _members(family: Family) -> dict[str, object]:
    return {name: getattr(family, name) for name in family.__dataclass_fields__}


def test_it_loads_fast_and_alone() -> None:
    start = time.process_time()
    register_families()
    assert time.process_time() - start < 0.1  # 6 ms where it was written; loaded machines take longer
    probe = (
        "import sys, modelrack_llm_catalog.plugin as p; p.register_families();"
        "print([m for m in ('fastapi', 'huggingface_hub', 'torch', 'httpx') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True).stdout == "[]\n"
