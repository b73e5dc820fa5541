"""How far requests are: those under way are asked of their workers, those that have ended are remembered a while."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable
from time import monotonic
from typing import Any, Literal

import orjson

from ..errors import WorkerLost
from ..lifecycle.directory import Endpoint
from .hop import Hop

__all__ = ["ENDED_LIMIT", "ENDED_S", "Ended", "Ending", "ask_worker"]

ENDED_LIMIT = 4096
"""Requests that are remembered after their end; the oldest are forgotten first."""

ENDED_S = 600.0
"""Seconds for which they are remembered."""

ID_LIMIT = 256
"""Longest id that is remembered, in characters."""

ASK_S = 2.0
"""Seconds that a worker may take to say how far it is; one that is busy then answers the next time."""

_ASK = "GET /_worker/requests/%s HTTP/1.1\r\nhost: modelrack\r\n\r\n"
_ANSWER_LIMIT_BYTES = 16 * 1024

Ending = Literal["finished", "failed", "cancelled"]


class Ended:
    """Remember how requests have ended, by each of their ids."""

    def __init__(
        self, limit: int = ENDED_LIMIT, keep_s: float = ENDED_S, clock: Callable[[], float] = monotonic
    ) -> None:
        self._limit = limit
        self._keep_s = keep_s
        self._clock = clock
        self._requests: OrderedDict[str, tuple[float, str, Ending]] = OrderedDict()

    def put(self, ids: Iterable[str], model_uid: str, ending: Ending) -> None:
        """Remember one; ids that were used before are now its own, and those that are too long are left out."""
        for request_id in ids:
            if len(request_id) > ID_LIMIT:
                continue
            self._requests[request_id] = self._clock(), model_uid, ending
            self._requests.move_to_end(request_id)
            if len(self._requests) > self._limit:
                self._requests.popitem(last=False)

    def get(self, request_id: str) -> tuple[str, Ending] | None:
        """Return the model's uid and the ending; None if it is not known (any more)."""
        found = self._requests.get(request_id)
        if found is None or self._clock() - found[0] > self._keep_s:
            return None
        return found[1:]


async def ask_worker(hop: Hop, endpoint: Endpoint, request_id: str) -> float:
    """Ask a worker how much of a request it has done; 0 where it cannot tell, as a server of its own kind cannot."""
    if endpoint.is_foreign:
        return 0.0
    try:
        async with asyncio.timeout(ASK_S):
            answer = await hop.request(endpoint.socket, (_ASK % request_id).encode(), b"")
            try:
                body = b""
                while not answer.finished and len(body) < _ANSWER_LIMIT_BYTES:
                    body += await answer.read()
            finally:
                answer.release()
    except (TimeoutError, WorkerLost):
        return 0.0
    return _read(body) if answer.status == 200 else 0.0


def _read(body: bytes) -> float:
    try:
        told: Any = orjson.loads(body)["progress"]
        return min(max(float(told), 0.0), 1.0)
    except (ValueError, KeyError, TypeError):
        return 0.0
