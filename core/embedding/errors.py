"""Errors of inputs, which name the item and the limit."""

from ..errors import BadRequest

__all__ = ["InputTooLong", "too_long"]


class InputTooLong(BadRequest):
    """An input has more tokens than the model reads."""

    code = "context_length_exceeded"


def too_long(index: int, tokens: int | None, max_tokens: int, *, field: str = "input") -> InputTooLong:
    """Return the error for an input that is over the limit.

    Args:
        tokens: how many it has; None if that was not worth counting.
        field: the request's field that holds the inputs.
    """
    has = f"has {tokens} tokens" if tokens is not None else "is far too long"
    return InputTooLong(
        f"'{field}': item {index} {has}, and this model reads {max_tokens}.",
        param=f"{field}.{index}",
        remedy="Shorten it, or send truncate: true to have it cut.",
        details={"max_tokens": max_tokens} | ({"tokens": tokens} if tokens is not None else {}),
    )
