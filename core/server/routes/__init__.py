"""Management routes, a file for each family; each builds its router from the parts it needs."""

from collections.abc import Callable, Coroutine
from typing import Any

import orjson
from fastapi import Request, Response
from fastapi.routing import APIRoute

from ...api.management import ErrorAnswer

__all__ = ["JsonRoute", "failures"]


class _JsonRequest(Request):
    async def json(self) -> Any:
        return orjson.loads(await self.body())


class JsonRoute(APIRoute):
    """A route whose body is parsed as strictly as those of inference.

    Python's own parser takes NaN and halves of characters, which can then neither be stored nor be written back.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler, given requests that parse so."""
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            return await handler(_JsonRequest(request.scope, request.receive))

        return handle


def failures(*codes: int) -> dict[int | str, dict[str, Any]]:
    """Return the documented error answers of a route."""
    reasons = {
        400: "Bad input; the message names the field",
        401: "Credentials are missing or wrong",
        403: "Not allowed; the message says why",
        404: "Nothing of this name",
        409: "The present state does not allow it",
        413: "The body is too large",
        416: "The range begins after the end",
        429: "The model is at its limit",
        500: "The launch, or the engine, failed; the message says how",
        502: "The worker was lost while it answered",
        503: "Not ready yet; see Retry-After",
    }
    return {code: {"model": ErrorAnswer, "description": reasons[code]} for code in (*codes, 401)}
