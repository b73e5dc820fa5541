"""Errors of requests to language models, and who could have honoured them."""

from collections.abc import Mapping

from ..errors import BadRequest, UnsupportedParameter
from .features import who_can

__all__ = ["ContextLengthExceeded", "Refusals", "context_overflow"]


class ContextLengthExceeded(BadRequest):
    """The prompt does not fit into the context."""

    code = "context_length_exceeded"


def context_overflow(prompt_tokens: int, n_ctx: int) -> ContextLengthExceeded:
    """Return the error for a prompt that leaves no room for an answer."""
    return ContextLengthExceeded(
        f"The prompt has {prompt_tokens} tokens, and the context of this model holds {n_ctx}, the answer among them.",
        details={"prompt_tokens": prompt_tokens, "context_length": n_ctx},
    )


class Refusals:
    """Makes the errors for what cannot be honoured.

    Args:
        engines: names of engines by feature, as in `LoadPlan.feature_engines`.
    """

    def __init__(self, engines: Mapping[str, tuple[str, ...]]) -> None:
        self._engines = engines

    def __call__(self, field: str, reason: str, *, param: str | None = None) -> UnsupportedParameter:
        """Return the error that a field cannot be honoured.

        Args:
            reason: one clause.
            param: what the error points at, if that is not the field.
        """
        return UnsupportedParameter(
            f"'{field}' cannot be honoured: {reason}.", param=param or field, remedy=who_can(field, self._engines)
        )

    def with_engines(self, error: UnsupportedParameter, field: str) -> UnsupportedParameter:
        """Return an error that also names the engines that can honour a field."""
        error.remedy = error.remedy or who_can(field, self._engines)
        return error
