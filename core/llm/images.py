"""Images that messages name by their address."""

import asyncio
import base64
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from ..errors import BadRequest
from ..fetching import fetch

__all__ = ["inline_images", "names_addresses"]

_MOST = 16
"""Images of one request that are fetched; more are refused."""


async def inline_images(messages: Sequence[Mapping[str, Any]], hosts: Collection[str]) -> Sequence[Mapping[str, Any]]:
    """Return the messages with `data:` URLs in place of the `http` and `https` URLs of images, fetched at once.

    Args:
        hosts: as `LoadPlan.fetch_hosts`.

    Raises: BadRequest: one of them may not be fetched, or cannot be; names it.
    """
    found = list(_addresses(messages))
    if not found:
        return messages
    if len(found) > _MOST:
        raise BadRequest(
            f"There are {len(found)} images to fetch, and {_MOST} are the most.",
            param="messages",
            remedy="Send further images as data: URLs.",
        )
    places = [f"messages.{index}.content.{number}" for index, number, _ in found]
    work = [fetch(url, param=place, hosts=hosts) for place, (_, _, url) in zip(places, found, strict=True)]
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        images = await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
    copies = [dict(message) for message in messages]
    for (index, number, _), image in zip(found, images, strict=True):
        content = list(copies[index]["content"])
        url = f"data:image/{_kind(image)};base64,{base64.b64encode(image).decode()}"
        content[number] = {**content[number], "image_url": {**content[number]["image_url"], "url": url}}
        copies[index]["content"] = content
    return copies


def names_addresses(messages: Sequence[Mapping[str, Any]]) -> bool:
    """Tell whether there is anything to fetch."""
    return any(True for _ in _addresses(messages))


def _addresses(messages: Sequence[Mapping[str, Any]]) -> Iterator[tuple[int, int, str]]:
    for index, message in enumerate(messages):
        content = message.get("content")
        for number, part in enumerate(content if isinstance(content, list) else ()):
            if part["type"] == "image_url" and part["image_url"]["url"].startswith(("http://", "https://")):
                yield index, number, part["image_url"]["url"]


def _kind(image: bytes) -> str:
    """Return what a file is by its first bytes; what is no image, the engine says."""
    for kind, mark in (("png", b"\x89PNG"), ("jpeg", b"\xff\xd8\xff"), ("gif", b"GIF8"), ("bmp", b"BM")):
        if image.startswith(mark):
            return kind
    return "webp" if image[:4] == b"RIFF" and image[8:12] == b"WEBP" else "unknown"
