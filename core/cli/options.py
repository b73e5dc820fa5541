"""Options that many commands share, and the client they lead to."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from ..client import Client

__all__ = ["CONTEXT", "connect", "json_option", "server_options"]

F = TypeVar("F", bound=Callable[..., Any])

CONTEXT: dict[str, Any] = {
    "help_option_names": ["-h", "--help"],
    # Xinference's users write --max_tokens and --model_uid; both spellings mean the same.
    "token_normalize_func": lambda name: name.replace("_", "-"),
}
"""Context settings of every command."""


def server_options(function: F) -> F:
    """Add `--endpoint` and `--api-key`."""
    function = click.option(
        "-ak", "--api-key", metavar="KEY", help="Key to send; default: MODELRACK_API_KEY.", default=None
    )(function)
    return click.option(
        "-e",
        "--endpoint",
        metavar="URL",
        help="The server's address; default: MODELRACK_ENDPOINT, else http://127.0.0.1:9997.",
        default=None,
    )(function)


def json_option(function: F) -> F:
    """Add `--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)


def connect(endpoint: str | None, api_key: str | None) -> Client:
    """Return a client; it connects at its first request.

    Raises: click.BadParameter: the endpoint is no address.
    """
    try:
        return Client(endpoint, api_key)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="'--endpoint'") from error
