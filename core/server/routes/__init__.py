"""Management routes, a file for each family; each builds its router from the parts it needs."""

from typing import Any

from ...api.management import ErrorAnswer

__all__ = ["failures"]


def failures(*codes: int) -> dict[int | str, dict[str, Any]]:
    """Return the documented error answers of a route."""
    reasons = {
        400: "Bad input; the message names the field",
        401: "Credentials are missing or wrong",
        404: "Nothing of this name",
        409: "The present state does not allow it",
        413: "The body is too large",
        429: "The model is at its limit",
        500: "The launch failed; the message gives the reason",
        502: "The worker was lost while it answered",
        503: "Not ready yet; see Retry-After",
    }
    return {code: {"model": ErrorAnswer, "description": reasons[code]} for code in (*codes, 401)}
