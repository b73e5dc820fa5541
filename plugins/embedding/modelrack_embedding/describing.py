"""What a loaded model says of itself: its length, its prompts, its tasks, and what may be cut off its vectors."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from sentence_transformers.base.modules import Router, Transformer

from modelrack.embedding import EmbeddingTraits
from modelrack.errors import LaunchFailed
from modelrack.hooks import LoadPlan

from .loading import Loaded

__all__ = ["describe", "set_length", "tasks_of"]

_MOST = 1 << 30
_INSTRUCTED = re.compile(r"(Instruct: )(.+?)(\nQuery: ?)", re.DOTALL)
_CARD = re.compile(r"\A---\n(.*?)\n---", re.DOTALL)
_SEARCH = ("query", "document")


def set_length(model: Any, plan: LoadPlan) -> int | None:
    """Have a model read as many tokens as the launch wants and its positions allow; return the number, None: any.

    Of a model with several ways for texts, it is the most that one of them reads.

    Raises: LaunchFailed: it has not so many positions.
    """
    wanted: int | None = plan.options["max_tokens"]
    readers = [one for one in model.modules() if isinstance(one, Transformer) and one.tokenizer is not None]
    lengths = [_set_length(one, wanted) for one in readers] or [_finite(model.max_seq_length)]
    return None if None in lengths else max(length for length in lengths if length is not None)


def _set_length(reader: Transformer, wanted: int | None) -> int | None:
    length, positions = _finite(reader.max_seq_length), _positions(reader.model)
    if positions is not None:
        length = positions if length is None else min(length, positions)
        if wanted is not None and wanted > positions:
            raise LaunchFailed(
                f"The model has positions for {positions} tokens, and max_tokens is {wanted}.",
                remedy="Launch it with a smaller max_tokens.",
            )
    length = wanted or length
    if length is not None:
        reader.max_seq_length = length
    return length


def _finite(length: float | None) -> int | None:
    return int(length) if length is not None and length < _MOST else None


def _positions(model: Any) -> int | None:
    """Return the rows of a table of positions, without those that RoBERTa and its like leave to the padding."""
    for module in model.modules():
        table = getattr(module, "position_embeddings", None)
        if isinstance(table, torch.nn.Embedding):
            padding = getattr(module, "padding_idx", None)
            return int(table.num_embeddings) - (padding + 1 if isinstance(padding, int) else 0)
    return None


def tasks_of(loaded: Loaded, plan: LoadPlan) -> tuple[tuple[str, ...], str | None]:
    """Return what inputs may be for, where the model computes them differently, and what they are for by default."""
    router = next((module for module in loaded.model if isinstance(module, Router)), None)
    if router is not None:
        routes = tuple(router.sub_modules)
        has_default = router.default_route is not None
        return routes, None if has_default else ("document" if "document" in routes else routes[0])
    if loaded.kind == "multi_vector":
        return _SEARCH, None
    if "task" not in loaded.model.get_model_kwargs():
        return (), None
    facts = plan.family.facts
    named = facts.get("tasks") or [name for name, text in loaded.model.prompts.items() if text]
    return tuple(named), facts.get("default_task")


def describe(loaded: Loaded, plan: LoadPlan, **known: Any) -> EmbeddingTraits:
    """Return a model's traits.

    Args:
        known: those that are known already.

    Raises: LaunchFailed: the launch names a prompt that the model has not.
    """
    facts = plan.family.facts
    own: Mapping[str, str] = {name: text or "" for name, text in loaded.model.prompts.items()}
    prompts = {**own, **facts.get("prompts", {}), **{name: text for name, text in own.items() if text}}
    wanted = plan.options["default_prompt"]
    if wanted is not None and wanted not in prompts:
        raise LaunchFailed(
            f"The model has no prompt '{wanted[:100]}', which default_prompt names.",
            remedy=f"It has: {', '.join(prompts)}.",
        )
    return EmbeddingTraits(
        prompts=prompts,
        default_prompt=wanted or loaded.model.default_prompt_name or facts.get("default_prompt"),
        instruction_template=facts.get("instruction_template") or _template(prompts),
        shorter_dimensions=_shorter(loaded, plan) if known["dimensions"] else (),
        **known,
    )


def _template(prompts: Mapping[str, str]) -> str | None:
    """Return a prompt with a place for an instruction, if there is one whose instruction can be told from the rest."""
    for text in prompts.values():
        found = _INSTRUCTED.fullmatch(text)
        if found:
            return f"{found[1]}{{instruction}}{found[3]}"
    return None


def _shorter(loaded: Loaded, plan: LoadPlan) -> tuple[int, ...] | None:
    """Return the lengths that a model's vectors may be cut to; None: any."""
    asked = plan.options["matryoshka"]
    if asked is not None:
        return None if asked else ()
    for source in (loaded.config, plan.family.facts):
        lengths = source.get("matryoshka_dimensions")
        if isinstance(lengths, (list, tuple)) and all(isinstance(length, int) for length in lengths):
            return tuple(sorted(lengths))
        if lengths is True or source.get("is_matryoshka") is True:
            return None
    return None if _is_matryoshka_by_card(Path(plan.files.path)) else ()


def _is_matryoshka_by_card(folder: Path) -> bool:
    """Tell whether the head of the model's card names the loss by which models learn it."""
    try:
        with (folder / "README.md").open(encoding="utf-8", errors="replace") as file:
            head = _CARD.match(file.read(1 << 20))
    except OSError:
        return False
    return head is not None and "loss:MatryoshkaLoss" in head[1]
