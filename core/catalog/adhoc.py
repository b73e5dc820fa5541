"""Describe a model that no family knows, by what its files say of themselves."""

from collections.abc import Mapping
from typing import Any

from ..errors import BadRequest
from ..hooks.types import Family, ModelType
from .local import Inspected
from .purpose import describe_use, uses_of

__all__ = ["adhoc_family", "served_abilities"]

_USES: Mapping[str, tuple[str, str]] = {
    "generate": ("a language model", "LLM"),
    "embed": ("an embedding model", "embedding"),
    "rerank": ("a rerank model", "rerank"),
}
"""What a model with a use is called, and the type that it is launched as."""


def served_abilities(model_type: ModelType) -> tuple[str, ...]:
    """Return those of a type's abilities that its routes need or serve, in their order."""
    named = (name for route in model_type.routes for name in (*route.needs, route.ability))
    return tuple(dict.fromkeys(name for name in named if name in model_type.abilities))


def adhoc_family(name: str, model_type: ModelType, found: Inspected) -> Family:
    """Describe a model that no family knows, by what its files say.

    Raises: BadRequest: it is a model of another type, or one of its files is broken.
    """
    served = served_abilities(model_type)
    wanted = next((use for use in _USES if use in served), None)
    abilities: tuple[str, ...] = ()
    facts: dict[str, Any] = {}
    if wanted is not None:
        _refuse_other_uses(wanted, model_type, found)
        can, facts = describe_use(wanted, found)
        abilities = tuple(ability for ability in can if ability in model_type.abilities)
    return Family(
        name=name,
        model_type=model_type.name,
        abilities=abilities,
        context_length=found.context_length,
        architectures=found.architectures,
        reasoning_tags=("<think>", "</think>") if "reasoning" in abilities else None,
        facts=facts,
    )


def _refuse_other_uses(wanted: str, model_type: ModelType, found: Inspected) -> None:
    if found.gguf is not None and found.gguf.is_projector:
        raise BadRequest(
            f"{found.gguf.path} is a multimodal projector, which is no model by itself.",
            remedy="Give the model's own GGUF file.",
        )
    uses = uses_of(found)
    if not uses or wanted in uses:
        return
    name, its_type = _USES[uses[0]]
    remedy = f"Launch it with: --model-type {its_type}"
    if uses[0] == "generate":  # made into something else by training alone, which not every file tells
        remedy += f"; if it is {_USES[wanted][0]} all the same, register it: modelrack register -t {model_type.name}"
    raise BadRequest(f"{found.files.path} is {name}, by what its files say.", param="model_type", remedy=f"{remedy}.")
