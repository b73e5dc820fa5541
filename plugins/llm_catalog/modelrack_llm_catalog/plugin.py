"""Hook implementations: the families of `families.jsonl`, one a line."""

from pathlib import Path
from typing import Any

import orjson

from modelrack.hooks import Family, Source, Variant, hookimpl

MODELRACK_API = 1

_FILE = Path(__file__).with_name("families.jsonl")


@hookimpl
def register_families() -> list[Family]:
    """Read all families; takes some milliseconds."""
    return [_family(orjson.loads(line)) for line in _FILE.read_bytes().splitlines() if line]


def _family(data: dict[str, Any]) -> Family:
    tags = data.get("reasoning_tags")
    return Family(
        name=data["name"],
        model_type="LLM",
        abilities=tuple(data["abilities"]),
        languages=tuple(data["languages"]),
        context_length=data["context_length"],
        architectures=tuple(data["architectures"]),
        tool_format=data.get("tool_format"),
        reasoning_tags=(tags[0], tags[1]) if tags else None,
        variants=tuple(_variant(variant) for variant in data["variants"]),
    )


def _variant(data: dict[str, Any]) -> Variant:
    return Variant(
        format=data["format"],
        size_b=data["size_b"],
        active_b=data.get("active_b"),
        sources=tuple(_source(source) for source in data["sources"]),
    )


def _source(data: dict[str, Any]) -> Source:
    return Source(
        hub=data["hub"],
        repo=data["repo"],
        revision=data.get("revision"),
        quantizations=tuple(data.get("quantizations", ())),
        file=data.get("file"),
        split_file=data.get("split_file"),
        parts={name: tuple(part) if isinstance(part, list) else part for name, part in data.get("parts", {}).items()},
        projectors=tuple(data.get("projectors", ())),
    )
