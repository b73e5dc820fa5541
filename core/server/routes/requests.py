"""Single requests that are under way."""

from collections.abc import Callable

from fastapi import APIRouter

from ...api.management import AbortAnswer
from ...lifecycle.rack import Rack
from . import failures

__all__ = ["router"]


def router(rack: Rack, abort: Callable[[str, str], bool]) -> APIRouter:
    """Return the routes about requests.

    Args:
        abort: from a model's uid and a request's id: ends it, and tells whether it was there.
    """
    routes = APIRouter(tags=["requests"])

    @routes.post(
        "/v1/models/{model_uid}/requests/{request_id}/abort", response_model=AbortAnswer, responses=failures(404)
    )
    async def abort_request(model_uid: str, request_id: str) -> dict[str, str]:
        """Abort a request that is under way, by its `X-Request-ID` header or the `request_id` of its body."""
        rack.get(model_uid)
        return {"msg": "DONE" if abort(model_uid, request_id) else "NOT_FOUND"}

    return routes
