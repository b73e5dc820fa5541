"""Single requests that are under way."""

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter

from ...api.management import AbortAnswer, RequestProgress
from ...errors import NotFound
from ...lifecycle.rack import Rack
from . import failures

__all__ = ["router"]


def router(
    rack: Rack, abort: Callable[[str, str], bool], progress: Callable[[str], Awaitable[dict[str, Any] | None]]
) -> APIRouter:
    """Return the routes about requests.

    Args:
        abort: from a model's uid and a request's id: ends it, and tells whether it was there.
        progress: from a request's id: how far it is, or None if there is no such request.
    """
    routes = APIRouter(tags=["requests"])

    @routes.post(
        "/v1/models/{model_uid}/requests/{request_id}/abort", response_model=AbortAnswer, responses=failures(404)
    )
    async def abort_request(model_uid: str, request_id: str) -> dict[str, str]:
        """Abort a request that is under way, by its `X-Request-ID` header or the `request_id` of its body."""
        rack.get(model_uid)
        return {"msg": "DONE" if abort(model_uid, request_id) else "NOT_FOUND"}

    @routes.get("/v1/requests/{request_id:path}/progress", response_model=RequestProgress, responses=failures(404))
    async def request_progress(request_id: str) -> dict[str, Any]:
        """Tell how far a request is, by its `X-Request-ID` header or the `request_id` of its body.

        It is 1.0 for those that have ended, in whatever way (`status`): these are known for ten minutes, if their
        clients gave them the id. Models that do not say how far they are stay at 0 until then.
        """
        told = await progress(request_id)
        if told is None:
            raise NotFound(f"No request '{request_id}' is under way, or has ended a short time ago.")
        return told

    return routes
