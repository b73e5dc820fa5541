"""Merge what several plugins say of the same family; contradictory facts are refused, naming both owners."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..hooks.types import Family, Source, Variant

__all__ = ["Contradiction", "Merged", "merge_families", "merge_pair", "merge_variants"]

_SINGLE = ("context_length", "chat_template", "tool_format", "reasoning_tags")
_SETS = ("abilities", "languages", "architectures", "stop")


class Contradiction(ValueError):
    """Two plugins say different things of one family; the message names the fact and both values."""


@dataclass(frozen=True, slots=True)
class Merged:
    """A family and the plugins that brought it, in order."""

    family: Family
    owners: tuple[str, ...]


def merge_families(
    families: Iterable[tuple[str, Family]], refuse: Callable[[str, str], None]
) -> dict[tuple[str, str], Merged]:
    """Merge families by type and name.

    Args:
        families: (owner, family), in order of precedence.
        refuse: called with the owner and the reason for each family that contradicts what came before it.
    """
    merged: dict[tuple[str, str], Merged] = {}
    for owner, family in families:
        key = family.model_type, family.name
        try:
            family = replace(family, variants=merge_variants(family.variants))
            known = merged.get(key)
            if known is None:
                merged[key] = Merged(family, (owner,))
            else:
                owners = known.owners if owner in known.owners else (*known.owners, owner)
                merged[key] = Merged(merge_pair(known.family, family), owners)
        except Contradiction as error:
            others = " and ".join(f"'{name}'" for name in merged[key].owners) if key in merged else "itself"
            refuse(owner, f"family '{family.name}' ({family.model_type}) contradicts plugin {others}: {error}")
    return merged


def merge_pair(first: Family, second: Family) -> Family:
    """Merge two descriptions of one family; what one leaves out is taken from the other.

    Raises: Contradiction.
    """
    changes: dict[str, Any] = {name: _same(name, getattr(first, name), getattr(second, name)) for name in _SINGLE}
    for name in _SETS:
        mine, theirs = getattr(first, name), getattr(second, name)
        if mine and theirs and set(mine) != set(theirs):
            raise Contradiction(f"{name} are {list(mine)} and {list(theirs)}")
        changes[name] = mine or theirs
    facts = dict(first.facts)
    for name, value in second.facts.items():
        facts[name] = _same(name, facts.get(name), value)
    return replace(
        first,
        description=first.description or second.description,
        variants=merge_variants((*first.variants, *second.variants)),
        facts=facts,
        **changes,
    )


def merge_variants(variants: Iterable[Variant]) -> tuple[Variant, ...]:
    """Merge variants of the same format and size; their sources add up.

    Raises: Contradiction: the same variant with two numbers of active parameters.
    """
    merged: dict[tuple[str, float | None], Variant] = {}
    for variant in variants:
        variant = replace(variant, sources=tuple(_with_parts(source) for source in variant.sources))
        if len(variant.quantizations) == 1:
            variant = replace(variant, sources=tuple(_plain(source) for source in variant.sources))
        key = variant.format, variant.size_b
        known = merged.setdefault(key, variant)
        if known is not variant:
            active = _same(f"active parameters of {_label(variant)}", known.active_b, variant.active_b)
            merged[key] = replace(known, active_b=active, sources=_join(known, variant))
    return tuple(merged.values())


def _with_parts(source: Source) -> Source:
    """Count what a source has in parts among what it holds."""
    if source.parts.keys() <= set(source.quantizations):
        return source
    return replace(source, quantizations=tuple(dict.fromkeys((*source.quantizations, *source.parts))))


def _plain(source: Source) -> Source:
    """Write the absence of a quantization in one way."""
    return replace(source, quantizations=()) if source.quantizations == ("none",) else source


def _join(first: Variant, second: Variant) -> tuple[Source, ...]:
    """Join sources; one that names no quantization has all of its own variant's, which are said where others differ."""
    sources: list[Source] = []
    differ = set(first.quantizations) != set(second.quantizations)
    for variant in (first, second):
        for source in variant.sources:
            if differ and not source.quantizations:
                source = replace(source, quantizations=variant.quantizations)
            if source not in sources:
                sources.append(source)
    return tuple(sources)


def _same(name: str, first: Any, second: Any) -> Any:
    if first is None or second is None:
        return second if first is None else first
    if _comparable(first) != _comparable(second):
        raise Contradiction(f"{name} is {_short(first)} and {_short(second)}")
    return first


def _comparable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _comparable(item) for key, item in value.items()}
    return [_comparable(item) for item in value] if isinstance(value, list | tuple) else value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _label(variant: Variant) -> str:
    return variant.format if variant.size_b is None else f"{variant.format} {variant.size_b:g}B"
