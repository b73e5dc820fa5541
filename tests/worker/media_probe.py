"""A loader for tests of forms, progress and results."""

import asyncio
from collections.abc import Mapping

from pydantic import AliasChoices, Field

from modelrack.api.files import Upload
from modelrack.api.kwargs import KwargsRequest
from modelrack.worker import Call, Handler, Loader, Reply, Report


class PaintRequest(KwargsRequest):
    """A request with files."""

    image: list[Upload] = Field(validation_alias=AliasChoices("image", "images"))
    prompt: str = ""
    n: int | None = None


class Painter:
    """Tell what came, or do what the prompt says."""

    def __init__(self) -> None:
        self.released = asyncio.Event()

    async def __call__(self, request: PaintRequest, call: Call) -> Reply:
        if request.prompt == "wait":
            return {"told": await self.wait(call)}
        if request.prompt == "release":
            self.released.set()
        if request.prompt == "save":
            content = request.image[0].content if request.n is None else bytes(request.n)
            return {"url": await asyncio.to_thread(call.save, content, "image/png")}
        images = [[image.file_name, image.media_type, len(image.content)] for image in request.image]
        return {"images": images, "prompt": request.prompt, "n": request.n}

    async def wait(self, call: Call) -> list[float]:
        """Tell progress from threads; some of it is less than before, too much, or no number."""
        told = []
        for fraction in (0.5, 0.25, float("nan")):
            await asyncio.to_thread(call.progress, fraction)
            told.append(call.fraction)  # type: ignore[attr-defined]  # the host's own
        await self.released.wait()
        call.progress(7)
        return [*told, call.fraction]  # type: ignore[attr-defined]  # the host's own


class MediaLoader(Loader):
    """Serve a painter."""

    def load(self, report: Report) -> Mapping[str, Handler]:
        return {"paint": Painter()}
