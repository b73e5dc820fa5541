"""Chooses between continuous batching and `generate`, and makes the one or the other."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers

from modelrack.errors import LaunchFailed
from modelrack.hooks import LoadPlan

from .adapters import Adapters
from .batches import Batches
from .checks import can_pad
from .choosing import Chooser
from .compiling import compile_settings
from .continuous import ContinuousRunner, check
from .generate import BatchRunner, clean_config
from .loading import Loaded
from .loop import Runner
from .paged import Paged, PagedSizes
from .sizes import Sizes
from .speculation import load_speculation
from .vision import can_see, load_vision

__all__ = ["Extras", "make_runner"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Extras:
    """What some models have beside their weights; None where this one has it not.

    Args:
        adapters: LoRA adapters.
        vision: reads images.
        drafting: drafts tokens ahead.
        compiled: what `generate` is told about a compiled model.
    """

    adapters: Any = None
    vision: Any = None
    drafting: Any = None
    compiled: Any = None

    @classmethod
    def load(cls, plan: LoadPlan, loaded: Loaded, chat_template: str | None) -> "Extras":
        """Load what the launch and the model bring.

        Raises: LaunchFailed: some of it cannot be had.
        """
        model = loaded.model
        return cls(
            adapters=Adapters(model, plan.lora) if plan.lora else None,
            vision=load_vision(plan, chat_template) if can_see(model.config) else None,
            drafting=load_speculation(plan, model, loaded.tokenizer),
            compiled=compile_settings(plan.options, model, loaded.device),
        )


def make_runner(
    plan: LoadPlan,
    loaded: Loaded,
    chooser: Chooser,
    sizes: Sizes,
    extras: Extras,
    on_broken: Callable[[], None] | None,
) -> tuple[Runner, dict[str, Any]]:
    """Return what computes a model's requests, and what there is to say of it.

    Raises: LaunchFailed: continuous batching was asked for and is not possible.
    """
    wanted = plan.options["batching"]
    reason = "" if wanted == "generate" else _obstacle(loaded, extras)
    if wanted == "generate" or reason:
        if wanted == "continuous":
            raise LaunchFailed(f"Continuous batching is not possible: {reason}.")
        return _make_batches(loaded, chooser, sizes, extras, on_broken, reason)
    try:
        paged = check(loaded.model, lambda: Paged(loaded.model, _paged_sizes(plan, sizes)))
    except Exception as error:
        reason = str(error).strip().partition("\n")[0][:300] or type(error).__name__
        if wanted == "continuous":
            raise LaunchFailed(f"Continuous batching is not possible: {reason}.") from error
        log.warning("continuous batching is not possible, generate is used: %s", reason)
        return _make_batches(loaded, chooser, sizes, extras, on_broken, reason)
    if plan.options["warmup"]:
        paged.warm_up()
    runner = ContinuousRunner(paged, chooser, most=sizes.most, on_broken=on_broken)
    facts = _facts(loaded, sizes)
    facts.update(
        batching="continuous",
        context_length=min(sizes.context, paged.capacity),
        kv_tokens=paged.tokens,
        prefix_cache=paged.shares_prefixes,
    )
    return runner, facts


def _obstacle(loaded: Loaded, extras: Extras) -> str:
    """Return the clause that says why continuous batching is out of the question; empty: it may be tried."""
    if extras.adapters is not None:
        return "the model has LoRA adapters"
    if extras.vision is not None:
        return "the model reads images"
    if extras.drafting is not None:
        return "tokens are drafted ahead"
    if loaded.model.config.is_encoder_decoder:
        return "the model has an encoder"
    if extras.compiled is not None:
        return "the model is compiled"
    return ""


def _paged_sizes(plan: LoadPlan, sizes: Sizes) -> PagedSizes:
    graphs = {"auto": None, "on": True, "off": False}[plan.options["cuda_graphs"]]
    return PagedSizes(
        most=sizes.most,
        max_batch_tokens=sizes.step,
        page_size=sizes.page,
        pages=None if sizes.tokens is None else max(2, sizes.tokens // sizes.page),
        memory_fraction=sizes.fraction,
        shares_prefixes=plan.options["prefix_cache"],
        cuda_graphs=graphs,
    )


def _make_batches(
    loaded: Loaded,
    chooser: Chooser,
    sizes: Sizes,
    extras: Extras,
    on_broken: Callable[[], None] | None,
    reason: str,
) -> tuple[Runner, dict[str, Any]]:
    model = loaded.model
    if model.config.get_text_config()._attn_implementation.startswith("paged|"):
        model.set_attn_implementation("eager")
    pad_id = _pad_id(loaded)
    batches = Batches(
        loaded.device,
        model.dtype,
        pad_id=pad_id,
        start_id=model.config.decoder_start_token_id if model.config.is_encoder_decoder else None,
        pads=can_pad(model, pad_id),
    )
    runner = BatchRunner(
        model,
        chooser,
        batches,
        clean_config(model, pad_id),
        most=sizes.most,
        room=sizes.tokens,
        adapters=extras.adapters,
        drafting=extras.drafting,
        compiled=extras.compiled,
        on_broken=on_broken,
    )
    facts = _facts(loaded, sizes)
    facts.update(batching="generate", context_length=sizes.context)
    if reason:
        facts["batching_reason"] = reason
    return runner, facts


def _pad_id(loaded: Loaded) -> int:
    candidates = (loaded.tokenizer.pad_token_id, *sorted(loaded.ends), 0)
    return next(token for token in candidates if isinstance(token, int) and token >= 0)


def _facts(loaded: Loaded, sizes: Sizes) -> dict[str, Any]:
    return {
        "max_num_seqs": sizes.most,
        "dtype": str(loaded.model.dtype).removeprefix("torch."),
        "device": str(loaded.device),
        "attn_implementation": str(loaded.model.config.get_text_config()._attn_implementation),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
