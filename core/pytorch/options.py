"""Options of engines on PyTorch that must mean the same everywhere."""

from typing import Annotated, TypeAlias

from pydantic import AfterValidator, Field

__all__ = ["RemoteCode"]


def _ask_operator(value: bool) -> bool:
    if value:
        from ..settings import get_settings

        if not get_settings().trust_remote_code:
            raise ValueError(
                "the server runs no code that comes with models; its operator can allow it by "
                "MODELRACK_TRUST_REMOTE_CODE=1"
            )
    return value


RemoteCode: TypeAlias = Annotated[
    bool,
    Field(
        description="Run the Python code that comes with the model; only if the server's operator allows it by "
        "MODELRACK_TRUST_REMOTE_CODE=1."
    ),
    AfterValidator(_ask_operator),
]
"""The option `trust_remote_code`; its default is False."""
