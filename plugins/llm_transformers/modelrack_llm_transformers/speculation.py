"""Tokens drafted ahead: by a smaller model, or looked up in what was read and written."""

from pathlib import Path
from typing import Any

from modelrack.errors import LaunchFailed
from modelrack.hooks import LoadPlan

from .slots import Slot

__all__ = ["Speculation", "load_speculation"]


class Speculation:
    """Drafts for choices that are computed alone: with several, a step brings enough tokens as it is.

    A draft changes no answer: `generate` computes what the model itself would say behind each drafted token, and the
    chooser goes on only as long as the drafts are what it chose.

    Args:
        draft: a model with the same vocabulary; None: tokens are looked up.
        most: tokens drafted at a time.
        tokenizers: the model's and the draft model's, where their output is not of the same width.
    """

    def __init__(self, draft: Any, most: int, tokenizers: tuple[Any, Any] | None = None) -> None:
        self._draft = draft
        self._most = most
        self._tokenizers = tokenizers
        if draft is not None:
            config = draft.generation_config
            config.num_assistant_tokens = most
            config.num_assistant_tokens_schedule = "constant"
            # Whether a draft is worth going on with would be measured with scikit-learn, if that happens to be there.
            config.assistant_confidence_threshold = 0.0

    def arguments(self, slot: Slot) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return what `generate` and its config are given so that tokens of a choice are drafted; nothing: none are."""
        if slot.job.media is not None:
            return {}, {}
        if self._draft is None:
            return {}, {"prompt_lookup_num_tokens": self._most}
        arguments = {"assistant_model": self._draft}
        if self._tokenizers is not None:
            arguments["tokenizer"], arguments["assistant_tokenizer"] = self._tokenizers
        return arguments, {}


def load_speculation(plan: LoadPlan, model: Any, tokenizer: Any) -> Speculation | None:
    """Return what drafts for a model, by the launch's options `draft_model`, `prompt_lookup` and `draft_max`; or None.

    Raises: LaunchFailed: the model cannot take back what was drafted wrong, or the draft model does not fit it.
    """
    options = plan.options
    path: str | None = options["draft_model"]
    if path is None and not options["prompt_lookup"]:
        return None
    if path is not None and options["prompt_lookup"]:
        raise LaunchFailed("draft_model and prompt_lookup are two ways to draft tokens; choose one.")
    if getattr(model, "_is_stateful", False) or model.config.is_encoder_decoder:
        raise LaunchFailed(
            f"{type(model).__name__} cannot take back tokens that were drafted wrong, so none can be drafted.",
            remedy="Launch it without draft_model and prompt_lookup.",
        )
    if path is None:
        return Speculation(None, options["draft_max"])
    return _load_draft(plan, path, model, tokenizer)


def _load_draft(plan: LoadPlan, path: str, model: Any, tokenizer: Any) -> Speculation:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if not Path(path, "config.json").is_file():
        raise LaunchFailed(f"draft_model: there is no model in {path}; it must be a folder as Transformers reads it.")
    try:
        own = AutoTokenizer.from_pretrained(path, local_files_only=True)
        draft = AutoModelForCausalLM.from_pretrained(
            path, dtype=model.dtype, local_files_only=True, use_safetensors=True
        )
    except Exception as error:
        # Files of any content may lie there.
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise LaunchFailed(f"draft_model: Transformers could not load {path}: {reason}.") from error
    if own.get_vocab() != tokenizer.get_vocab():
        raise LaunchFailed(
            "The draft model has another vocabulary than the model.",
            remedy="Choose a smaller model of the same family, or prompt_lookup.",
        )
    if getattr(draft, "_is_stateful", False) or draft.config.is_encoder_decoder:
        raise LaunchFailed(f"{type(draft).__name__} cannot take back tokens, so it cannot draft any.")
    draft = draft.to(model.device).eval()
    widths = [one.config.get_text_config().vocab_size for one in (model, draft)]
    return Speculation(draft, plan.options["draft_max"], (tokenizer, own) if widths[0] != widths[1] else None)
