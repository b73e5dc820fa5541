"""What is loaded beside a model: adapters, what drafts tokens ahead, and a projector for images."""

from dataclasses import dataclass
from typing import Any

from modelrack.catalog.gguf import GgufMetadata
from modelrack.errors import LaunchFailed
from modelrack.hooks import LoadPlan

from .bindings import Handle
from .draft import load_draft_model
from .lora import Adapters
from .memory import Sizes
from .params import build_model_params, existing
from .speculation import Speculator
from .vision import Vision, VisionLimits
from .vocabulary import Vocabulary

__all__ = ["Extras", "load_extras"]


@dataclass(slots=True)
class Extras:
    """What was loaded; None: nothing of the kind was asked for."""

    adapters: Adapters | None = None
    speculator: Speculator | None = None
    vision: Vision | None = None

    def close(self) -> None:
        """Free them; before the model, and after the decode loop has ended. Adapters go with the model."""
        if self.speculator is not None:
            self.speculator.free()
        if self.vision is not None:
            self.vision.close()


def load_extras(
    plan: LoadPlan,
    metadata: GgufMetadata,
    sizes: Sizes,
    model: Handle,
    vocabulary: Vocabulary,
    context_params: Any,
    *,
    whole: bool,
) -> Extras:
    """Load what the plan asks for; blocks.

    Args:
        context_params: of the model's context.
        whole: what a sequence has in the cache cannot be cut back.

    Raises: LaunchFailed: something cannot be loaded, or does not fit the model.
    """
    extras = Extras()
    try:
        if plan.lora:
            extras.adapters = Adapters(model, plan.lora, metadata.architecture)
        extras.speculator = _load_speculator(plan, sizes, vocabulary, context_params, whole=whole)
        extras.vision = _load_vision(plan, sizes, model, vocabulary, context_params)
    except BaseException:
        extras.close()
        raise
    return extras


def _load_speculator(
    plan: LoadPlan, sizes: Sizes, vocabulary: Vocabulary, context_params: Any, *, whole: bool
) -> Speculator | None:
    options = plan.options
    path, looks_up = options["draft_model"], options["prompt_lookup"]
    if not path and not looks_up:
        return None
    if whole:
        raise LaunchFailed(
            f"{'draft_model' if path else 'prompt_lookup'} is not possible with this model: it is recurrent, so tokens "
            "that were drafted in vain cannot be taken back."
        )
    if options["draft_min"] > options["draft_max"]:
        raise LaunchFailed(f"draft_min ({options['draft_min']}) is more than draft_max ({options['draft_max']}).")
    model = None
    if path:
        model_params, _keep = build_model_params(plan)
        model = load_draft_model(
            existing(path, "the draft model"),
            vocabulary.handle,
            model_params,
            context_params,
            sequences=sizes.n_parallel,
            least_probability=options["draft_p_min"],
        )
    return Speculator(
        model=model,
        most=options["draft_max"],
        least=options["draft_min"],
        shortest=options["lookup_min"] if looks_up else 0,
        longest=options["lookup_max"],
        adaptive=options["draft_adaptive"],
    )


def _load_vision(
    plan: LoadPlan, sizes: Sizes, model: Handle, vocabulary: Vocabulary, context_params: Any
) -> Vision | None:
    options = plan.options
    path = options["mmproj"] or plan.files.projector
    if not path:
        return None
    bos = b""
    if vocabulary.adds_bos and vocabulary.bos_id is not None:
        bos = vocabulary.special_bytes(vocabulary.bos_id)
    return Vision(
        model,
        existing(path, "the projector"),
        bos=bos.decode("utf-8", "replace"),
        n_threads=context_params.n_threads_batch,
        use_gpu=bool(plan.accelerators),
        limits=VisionLimits(
            image_bytes=options["image_max_bytes"],
            image_pixels=options["image_max_pixels"],
            waiting=sizes.n_parallel + options["max_queue"],
            image_tokens=sizes.n_ubatch,
            batch_tokens=sizes.n_batch,
        ),
    )
