"""Calculate what a model needs for one sequence of a given length, by its facts alone: `modelrack cal-model-mem`."""

from dataclasses import dataclass
from typing import Literal

from ..errors import BadRequest
from .memory import CUDA_BYTES, activation_bytes, cache_bytes
from .names import FORMATS
from .shapes import Shape, typical_shape
from .suggest import did_you_mean, listing
from .weights import check_quantization, weights_by_size

__all__ = ["Needs", "calculate"]

_BATCHED_TOKENS = 2048
"""Tokens of a prompt that engines compute at once, at most: longer ones are read piece by piece."""

_MAX_CONTEXT = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """Bytes by what they are for.

    Args:
        basis: what the cache and the activations are reckoned from: the model's own shape, or that of a model of its
            size.
        weights_are_counted: the weights are those of files on this machine.
    """

    model_mem: int
    kv_cache_mem: int
    overhead: int
    activation_mem: int
    basis: Literal["config", "gguf", "typical"]
    weights_are_counted: bool

    @property
    def total(self) -> int:
        """Return the sum."""
        return self.model_mem + self.kv_cache_mem + self.overhead + self.activation_mem


def calculate(
    form: str,
    quantization: str,
    context: int,
    *,
    size_b: float | None = None,
    shape: Shape | None = None,
    weights: int | None = None,
    cache_bits: int = 16,
) -> Needs:
    """Calculate what one sequence of `context` tokens takes on one device.

    Args:
        form: format of the model (`gguf`, `pytorch`, …).
        size_b: parameters in billions; may be left out where both `shape` and `weights` are known.
        shape: of the model; None: that of a model of its size.
        weights: bytes of its files; None: by size and quantization.
        cache_bits: of a number in the cache: 8, 16 or 32.

    Raises: BadRequest: the context is too long or not positive, nothing says how large the model is, or format or
        quantization are not known and the bytes of the files not either.
    """
    if not 0 < context <= _MAX_CONTEXT:
        raise BadRequest(f"The context must be 1 to {_MAX_CONTEXT} tokens, not {context}.", param="context_length")
    if size_b is None and (shape is None or weights is None):
        raise BadRequest(
            "Nothing says how large the model is.", param="model_size_in_billions", remedy="Give its size."
        )
    if weights is None:
        if form not in FORMATS:
            raise BadRequest(
                f"'{form[:64]}' is no known format; known are: {listing(FORMATS)}." + did_you_mean(form, FORMATS),
                param="model_format",
            )
        check_quantization(quantization)
    own = shape or typical_shape(size_b or 1.0)
    return Needs(
        model_mem=weights_by_size(size_b or 0.0, quantization, form, own) if weights is None else weights,
        kv_cache_mem=cache_bytes(own, context, 1, cache_bits / 8),
        overhead=CUDA_BYTES,
        activation_mem=activation_bytes(own, min(context, _BATCHED_TOKENS)),
        basis=own.source,
        weights_are_counted=weights is not None,
    )
