"""A loader for tests of the host: what its handlers do is said by the request's prompt."""

import asyncio
import os
import sys
import threading
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from modelrack.api.completions import CompletionRequest
from modelrack.errors import BadRequest, EngineError, LaunchFailed
from modelrack.worker import Call, Handler, Loader, Raw, Reply, Report


class Answer(BaseModel):
    """A typed answer."""

    text: str
    nothing: None = None


class Probe:
    """Do what the prompt says."""

    unsupported: Mapping[str, str] = {"top_k": "the probe has no k"}
    supported = ("suffix",)

    def __init__(self) -> None:
        self.record: list[str] = []

    async def __call__(self, request: CompletionRequest, call: Call) -> Reply:
        word, _, argument = str(request.prompt).partition(" ")
        method: Any = getattr(self, f"do_{word}")
        reply: Reply = await method(argument, call)
        return reply

    async def do_say(self, text: str, call: Call) -> Reply:
        call.usage(3, 5)
        return {"text": text, "model": call.model_uid, "request_id": call.request_id, "path": call.path}

    async def do_typed(self, text: str, call: Call) -> Reply:
        return Answer(text=text)

    async def do_bytes(self, text: str, call: Call) -> Reply:
        return b'{"text": "raw"}'

    async def do_raw(self, text: str, call: Call) -> Reply:
        return Raw(b"\x00\x01", "audio/wav")

    async def do_record(self, text: str, call: Call) -> Reply:
        return {"record": self.record, "path": sys.path, "cwd": os.getcwd(), "thread": threading.current_thread().name}

    async def do_refuse(self, text: str, call: Call) -> Reply:
        raise BadRequest("no such thing", param="prompt", remedy="Ask for another.", headers={"X-Test": "yes"})

    async def do_break(self, text: str, call: Call) -> Reply:
        raise RuntimeError("a secret of the engine")

    async def do_strange(self, text: str, call: Call) -> Reply:
        return 5  # type: ignore[return-value]

    async def do_hang(self, text: str, call: Call) -> Reply:
        self.record.append(f"begin {text}")
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            self.record.append(f"end {text}")
        raise AssertionError

    async def do_wait(self, seconds: str, call: Call) -> Reply:
        self.record.append("begin wait")
        await asyncio.sleep(float(seconds))
        return {"text": "waited"}

    async def do_count(self, number: str, call: Call) -> Reply:
        return self.events(int(number), call)

    async def do_slow(self, number: str, call: Call) -> Reply:
        return self.events(int(number), call, 0.02)

    async def do_stream(self, plan: str, call: Call) -> Reply:
        return self.planned(plan.split(), call)

    async def events(self, number: int, call: Call, delay_s: float | None = None) -> AsyncIterator[Any]:
        for index in range(number):
            if delay_s is not None:
                await asyncio.sleep(delay_s)
            yield b'{"n":%d}' % index
        call.usage(1, number)

    async def planned(self, steps: list[str], call: Call) -> AsyncIterator[Any]:
        self.record.append("begin stream")
        try:
            for step in steps:
                if step == "refuse":
                    raise EngineError("the engine gave up")
                if step == "break":
                    raise RuntimeError("a secret of the engine")
                if step == "hang":
                    await asyncio.get_running_loop().create_future()
                if step == "pause":
                    await asyncio.sleep(0)
                    continue
                yield {"word": step} if step != "typed" else Answer(text=step)
        finally:
            self.record.append("end stream")


class ProbeLoader(Loader):
    """Load as the options say, and serve `Probe` for completions."""

    def load(self, report: Report) -> Mapping[str, Handler]:
        options = self.plan.options
        report(0.5, "half")
        if options.get("wait_for"):
            done = threading.Event()
            while not Path(str(options["wait_for"])).exists():
                done.wait(0.01)
        if options.get("fail"):
            raise LaunchFailed(str(options["fail"]), remedy="Do something.")
        if options.get("break"):
            raise ValueError(str(options["break"]))
        if options.get("miss"):
            raise KeyError(str(options["miss"]))
        if options.get("returns_class"):
            return {"generate": Probe}  # type: ignore[dict-item]
        if options.get("exit"):
            sys.exit(3)
        if options.get("steal_signals"):
            import ctypes
            import signal

            ctypes.CDLL(None).signal(int(signal.SIGTERM), 1)
        return {"generate": Probe()}

    def describe(self) -> Mapping[str, Any]:
        return {"context_length": 77}

    def close(self) -> None:
        if self.plan.options.get("closed"):
            Path(str(self.plan.options["closed"])).write_text("closed")
