"""Loads weights and tokenizers from a model's folder."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    GenerationConfig,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
)

from modelrack.errors import LaunchFailed
from modelrack.hooks import LoadPlan
from modelrack.pytorch import attempt, choose_device, telling
from modelrack.worker import Report

from .devices import choose_dtype
from .quantization import quantization_config
from .vision import can_see

__all__ = ["Loaded", "load"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model's parts, as Transformers has them.

    Args:
        ends: the tokens that end an answer, by the model's files.
        recommended: values of requests that the model's files recommend.
    """

    model: Any
    tokenizer: Any
    device: torch.device
    ends: frozenset[int]
    recommended: dict[str, float]


def load(plan: LoadPlan, report: Report) -> Loaded:
    """Load a model; blocks as long as it takes.

    Raises: LaunchFailed: Transformers refuses it, or it does not fit.
    """
    path, options = plan.files.path, plan.options
    common: dict[str, Any] = {"local_files_only": True, "trust_remote_code": options["trust_remote_code"]}
    report(0.02, "reading the model's configuration")
    config = _attempt(plan, "read the configuration of", lambda: AutoConfig.from_pretrained(path, **common))
    device = choose_device(torch, plan)
    weight_bytes = _weight_bytes(Path(path))
    arguments = _arguments(plan, config, device, weight_bytes)
    kind = _model_class(config, plan)
    tokenizer = _attempt(plan, "read the tokenizer of", lambda: AutoTokenizer.from_pretrained(path, **common))
    taken = partial(torch.cuda.memory_allocated, device) if device.type == "cuda" else None
    with telling(report, weight_bytes, taken):
        model = _attempt(plan, "load", lambda: kind.from_pretrained(path, config=config, **arguments, **common))
    model.eval()
    model.requires_grad_(False)
    told: GenerationConfig = model.generation_config or GenerationConfig()
    return Loaded(model, tokenizer, device, _ends(told, config, tokenizer), _recommended(told))


def _attempt(plan: LoadPlan, verb: str, call: Callable[[], T]) -> T:
    return attempt(plan, "Transformers", call, verb=verb, smaller="with a quantization")


def _arguments(plan: LoadPlan, config: Any, device: torch.device, weight_bytes: int) -> dict[str, Any]:
    """Return what `from_pretrained` is told."""
    options = plan.options
    dtype = choose_dtype(options["dtype"], config, device, weight_bytes)
    arguments: dict[str, Any] = {"dtype": dtype}
    quantization = quantization_config(options, config, device, dtype)
    if quantization is not None:
        arguments["quantization_config"] = quantization
    if options["attn_implementation"] is not None:
        arguments["attn_implementation"] = options["attn_implementation"]
    elif device.type == "cuda" and options["batching"] != "generate":
        found = _flash_attention()
        if found is not None:
            arguments["attn_implementation"] = found
    several = len(plan.accelerators) > 1 and device.type == "cuda"
    if options["device_map"] == "single":
        arguments["device_map"] = "balanced" if several else {"": device}
    else:
        arguments["device_map"] = options["device_map"]
    return arguments


def _flash_attention() -> str | None:
    """Return the newest flash attention that is installed."""
    from transformers.utils import is_flash_attn_2_available, is_flash_attn_3_available

    if is_flash_attn_3_available():
        return "flash_attention_3"
    return "flash_attention_2" if is_flash_attn_2_available() else None


def _model_class(config: Any, plan: LoadPlan) -> Any:
    kind = type(config)
    if can_see(config):
        return AutoModelForImageTextToText
    if kind in MODEL_FOR_CAUSAL_LM_MAPPING:
        return AutoModelForCausalLM
    if kind in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING:
        return AutoModelForSeq2SeqLM
    if plan.options["trust_remote_code"] and getattr(config, "auto_map", None):
        return AutoModelForCausalLM
    raise LaunchFailed(f"{plan.files.path} ('{config.model_type}') is no model that writes text.")


def _weight_bytes(folder: Path) -> int:
    found = list(folder.glob("*.safetensors")) or list(folder.glob("*.bin"))
    return sum(path.stat().st_size for path in found)


def _ends(told: GenerationConfig, config: Any, tokenizer: Any) -> frozenset[int]:
    """Return the tokens that end an answer."""
    found: set[int] = set()
    for value in (told.eos_token_id, getattr(config.get_text_config(), "eos_token_id", None), tokenizer.eos_token_id):
        found.update(value if isinstance(value, (list, tuple)) else () if value is None else (value,))
    return frozenset(token for token in found if token >= 0)


def _recommended(told: GenerationConfig) -> dict[str, float]:
    """Return what a model's file recommends for requests; nothing where it says that it shall not be sampled from."""
    if not told.do_sample:
        return {}
    names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
    values = {name: getattr(told, name, None) for name in names}
    return {name: value for name, value in values.items() if isinstance(value, (int, float))}
