"""Show families and engines in the shapes that Xinference's clients read."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..hooks.loader import Plugins
from ..hooks.types import Candidate, Family, Machine, Source, Variant
from .cache import Record, by_version, find_cached, read_records
from .custom import FACT_FIELDS
from .engines import IsBuilt, Verdict, ask, engines_of
from .finder import forms_of
from .local import source_path
from .names import format_size
from .resolution import available_forms

__all__ = ["describe_families", "describe_family", "engines_for"]


def engines_for(
    family: Family, plugins: Plugins, machine: Machine, is_built: IsBuilt | None = None
) -> dict[str, list[dict[str, Any]] | str]:
    """Return for each engine of the type what of a family it takes here, or why it takes nothing.

    The engine that would be preferred comes first. Each item says beside the form how the engine ranks for it, and in
    which environment it would run.

    Args:
        is_built: tells whether an engine's own environment is on this machine.
    """
    forms = forms_of(family)
    candidates = [
        Candidate(family=family, variant=variant, quantization=quantization) for variant, quantization in forms
    ]
    engines = engines_of(plugins, family.model_type)
    verdicts = [ask(engine, candidates, machine, is_built=is_built) for engine in engines]
    verdicts.sort(key=lambda verdict: (not verdict.ranks, -max(verdict.ranks.values(), default=0)))
    return {verdict.engine.name: _rows(family, forms, verdict) or verdict.reason for verdict in verdicts}


def _rows(family: Family, forms: Sequence[tuple[Variant, str]], verdict: Verdict) -> list[dict[str, Any]]:
    by_rank: dict[int, list[tuple[Variant, str]]] = {}
    for place in verdict.accepted:
        by_rank.setdefault(verdict.ranks[place], []).append(forms[place])
    return [
        {
            "model_name": family.name,
            **row,
            "rank": rank,
            "environment": verdict.where,
            "environment_is_built": verdict.is_built,
        }
        for rank, alike in sorted(by_rank.items(), reverse=True)
        for row in available_forms(alike)
    ]


def describe_family(family: Family, cache_dir: Path, is_builtin: bool) -> dict[str, Any]:
    """Return a family in Xinference's detailed shape; registered again under another name it gives an equal family."""
    return describe_families([(family, is_builtin)], cache_dir)[0]


def describe_families(families: Iterable[tuple[Family, bool]], cache_dir: Path) -> list[dict[str, Any]]:
    """Describe several families (with whether each is built in), reading the cache once."""
    records = by_version(read_records(cache_dir))
    return [_describe(family, is_builtin, records, cache_dir) for family, is_builtin in families]


def _describe(
    family: Family, is_builtin: bool, records: Mapping[str, Sequence[Record]], cache_dir: Path
) -> dict[str, Any]:
    start, end = family.reasoning_tags or (None, None)
    further = {name: value for name, value in family.facts.items() if name not in FACT_FIELDS}
    return {
        "version": 2,
        "model_name": family.name,
        "model_type": family.model_type,
        "model_lang": list(family.languages),
        "language": list(family.languages),
        "model_ability": list(family.abilities),
        "model_description": family.description or None,
        "context_length": family.context_length,
        "architectures": list(family.architectures),
        "chat_template": family.chat_template,
        "stop": list(family.stop) or None,
        "reasoning_start_tag": start,
        "reasoning_end_tag": end,
        "tool_parser": family.tool_format,
        "model_specs": [
            _describe_source(family, variant, source, records, cache_dir)
            for variant in family.variants
            for source in variant.sources or (Source(hub="file", repo=""),)
        ],
        "is_builtin": is_builtin,
        **{name: family.facts.get(name) for name in FACT_FIELDS if name in family.facts or name in _ALWAYS},
        **({"facts": further} if further else {}),
    }


_ALWAYS = frozenset({"model_family", "dimensions", "max_tokens", "multilingual"})
"""Facts that clients index without a fallback."""


def _describe_source(
    family: Family, variant: Variant, source: Source, records: Mapping[str, Sequence[Record]], cache_dir: Path
) -> dict[str, Any]:
    names = source.quantizations or ("none",)
    is_local = source.hub == "file"
    only = Variant(format=variant.format, size_b=variant.size_b, active_b=variant.active_b, sources=(source,))
    return {
        "model_format": variant.format,
        "model_size_in_billions": format_size(variant.size_b),
        "activated_size_in_billions": format_size(variant.active_b),
        "quantizations": list(names),
        "model_id": None if is_local else source.repo,
        "model_hub": None if is_local else source.hub,
        "model_uri": _uri(source) if is_local else None,
        "model_revision": source.revision,
        "model_file_name_template": source.file,
        "model_file_name_split_template": source.split_file,
        "quantization_parts": asdict(source)["parts"] or None,
        "multimodal_projectors": list(source.projectors) or None,
        "cache_status": [
            not source.repo or source_path(source, name).exists()
            if is_local
            else find_cached(records, cache_dir, family, only, name) is not None
            for name in names
        ],
    }


def _uri(source: Source) -> str | None:
    if not source.repo:
        return None
    return Path(source.repo).as_uri() if source.repo.startswith("/") else source.repo
