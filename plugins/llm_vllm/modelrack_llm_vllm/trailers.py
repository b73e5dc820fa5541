"""Trailers in uvicorn's answers over HTTP/1.1, which it has none for: what a stream took is known at its end only.

Its protocol makes an object of the class `RequestResponseCycle` for each request; the class is exchanged for one that
knows them. Where uvicorn has no such class there are no trailers, and all else goes on.
"""

from contextlib import suppress
from typing import Any

__all__ = ["TRAILERS", "add_trailers"]

TRAILERS = "modelrack.trailers"
"""Key of the last message of an answer: lines, each ended by CRLF."""

_END = b"0\r\n\r\n"


class _Ending:
    """A transport over which the last chunk is written with trailers."""

    def __init__(self, transport: Any, trailers: bytes) -> None:
        self._transport = transport
        self._trailers = trailers

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Write the last bytes of an answer."""
        if data.endswith(_END):
            data = data[:-2] + self._trailers + data[-2:]
        self._transport.write(data)


def add_trailers() -> None:
    """Let what uvicorn serves from now on, in this process, send trailers."""
    with suppress(ImportError, AttributeError):
        from uvicorn.protocols.http import httptools_impl

        known: Any = httptools_impl.RequestResponseCycle
        if not hasattr(known, "sends_trailers"):
            httptools_impl.RequestResponseCycle = _extended(known)  # type: ignore[misc]


def _extended(known: Any) -> Any:
    class Cycle(known):  # type: ignore[misc]
        sends_trailers = True

        async def send(self, message: Any) -> None:
            trailers = message.get(TRAILERS)
            if trailers is None or not self.chunked_encoding:
                await super().send(message)
                return
            transport: Any = self.transport
            self.transport: Any = _Ending(transport, trailers)
            try:
                await super().send(message)
            finally:
                self.transport = transport

    return Cycle
