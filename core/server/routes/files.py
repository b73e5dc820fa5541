"""Files that models made, at the URLs that their answers gave."""

import re

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse

from ...worker.results import media_type_of
from ..errors import HttpError
from ..files import FILES_PATH, FileStore
from . import failures

__all__ = ["router"]

_RANGE = re.compile(r"bytes=(?:([0-9]{1,18})-([0-9]{0,18})|-([0-9]{1,18}))")


def router(files: FileStore) -> APIRouter:
    """Return the route of the files."""
    routes = APIRouter(tags=["files"])

    @routes.head(FILES_PATH + "{name}", include_in_schema=False)
    @routes.get(
        FILES_PATH + "{name}",
        response_class=FileResponse,
        openapi_extra={"security": []},
        responses={206: {"description": "The range that was asked for"}, **failures(403, 404, 416)},
    )
    def send(request: Request, name: str, expires: str = "", signature: str = "") -> FileResponse:
        """Give a file that a model made, or a range of it, at the URL from its answer; no key is needed."""
        path = files.find(name, expires, signature)
        _settle_range(request, path.stat().st_size)
        headers = {"Cache-Control": f"private, max-age={int(files.place.ttl_s)}", "X-Content-Type-Options": "nosniff"}
        return FileResponse(path, media_type=media_type_of(name), headers=headers)

    return routes


def _settle_range(request: Request, size: int) -> None:
    """Leave a range that can be served; others are ignored, as RFC 9110 (14.2) allows, or refused in our one body.

    Raises: HttpError: 416, the range begins after the end.
    """
    asked = request.headers.get("range")
    if asked is None:
        return
    found = _RANGE.fullmatch(asked.strip().lower())
    first, last, suffix = found.groups(default="") if found else ("", "", "0")
    if int(suffix) > 0 if suffix else not last or int(last) >= int(first):
        if suffix or int(first) < size:
            return
        if "if-range" not in request.headers:
            text = f"The range begins after the end: the file has {size} bytes."
            raise HttpError(416, text, headers={"Content-Range": f"bytes */{size}"})
    request.scope["headers"] = [item for item in request.scope["headers"] if item[0] != b"range"]
