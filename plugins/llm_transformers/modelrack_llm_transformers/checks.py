"""Finds out, by trying, what a loaded model can do."""

from typing import Any

import torch

__all__ = ["can_pad"]

_LENGTHS = (5, 9)


def can_pad(model: Any, pad_id: int) -> bool:
    """Tell whether prompts of different lengths can be computed together: padding changes nothing of what follows."""
    text = model.config.get_text_config(decoder=False) if model.config.is_encoder_decoder else model.config
    size = text.get_text_config().vocab_size
    short, long = (
        (torch.arange(length, device=model.device) * 7919 % max(2, min(size, 256) - 1)).unsqueeze(0)
        for length in _LENGTHS
    )
    padding = torch.full_like(long[:, : _LENGTHS[1] - _LENGTHS[0]], pad_id)
    padded = torch.cat([torch.cat([padding, short], 1), long])
    mask = torch.ones_like(padded)
    mask[0, : padding.shape[1]] = 0
    try:
        with torch.inference_mode():
            alone = _last(model, short, torch.ones_like(short))[0]
            together = _last(model, padded, mask)[0]
    except (RuntimeError, ValueError, TypeError, IndexError):
        return False
    # What is computed in another order is rounded otherwise; what is computed of padding too differs as much as logits.
    tolerance = 0.01 if model.dtype == torch.float32 else 0.25
    return bool((alone - together).abs().max() <= tolerance * alone.std() + 1e-6)


def _last(model: Any, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the logits behind each row, as `generate` computes them."""
    if model.config.is_encoder_decoder:
        flipped, seen = ids.flip(1), mask.flip(1)
        start = torch.full_like(ids[:, :1], model.config.decoder_start_token_id)
        found: torch.Tensor = model(input_ids=flipped, attention_mask=seen, decoder_input_ids=start).logits
        return found[:, -1].float()
    inputs = model.prepare_inputs_for_generation(ids, attention_mask=mask, use_cache=False, is_first_iteration=True)
    inputs["use_cache"] = False
    logits: torch.Tensor = model(**inputs, return_dict=True).logits
    return logits[:, -1].float()
