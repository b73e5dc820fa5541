import asyncio
import threading
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Any

import orjson

from modelrack.worker import Call, Handler, Report
from modelrack_echo.worker import EchoLoader

EXTRAS = ("top_p", "top_k", "min_p", "typical_p", "seed", "n", "ignore_eos")


class BrokenLoader(EchoLoader):
    """Echo, with a fault in the way to answer."""

    def load(self, report: Report) -> Mapping[str, Handler]:
        options = dict(self.plan.options)
        fault = options.pop("fault")
        self.plan = replace(self.plan, options=options)
        handlers = dict(super().load(report))
        for ability in ("chat", "generate"):
            handlers[ability] = Broken(handlers[ability], fault)
        return handlers


class Broken:
    """A handler of echo's, spoilt."""

    latest: Any = None
    active = 0

    def __init__(self, sound: Any, fault: str) -> None:
        self.sound = sound
        self.fault = fault
        self.unsupported = {} if fault == "obeys_silently" else dict(sound.unsupported)
        if fault == "refuses":
            self.unsupported |= dict.fromkeys(EXTRAS, "nothing but the plainest is done here")

    async def __call__(self, request: Any, call: Call) -> Any:
        if self.fault == "mixes":
            request = await self.swap(request)
        if self.fault == "runs_on":
            request.stop = None
        if self.fault == "fails" and "🐋" in str(request):
            raise ValueError("no whales")
        if self.fault == "works_on":
            threading.Thread(target=self.compute, daemon=True).start()
        reply = await self.sound(request, call)
        if isinstance(reply, dict):
            if self.fault == "miscounts":
                reply["usage"]["completion_tokens"] += 1
            return reply
        return self.spoil(reply)

    async def swap(self, request: Any) -> Any:
        """Answer what came last, if several are answered at once."""
        Broken.latest = request
        Broken.active += 1
        await asyncio.sleep(0.02)
        Broken.active -= 1
        if hasattr(request, "messages"):
            request.messages = getattr(Broken.latest, "messages", request.messages)
        return request

    async def spoil(self, events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        number = 0
        async for event in events:
            number += 1
            if self.fault == "drops" and number == 4 and b'"usage"' not in event:
                continue
            yield event

    def compute(self) -> None:
        """Go on for good, whoever has left."""
        value: Any = {}
        while True:
            value = orjson.loads(orjson.dumps({"a": [1] * 10_000, "b": len(value)}))
