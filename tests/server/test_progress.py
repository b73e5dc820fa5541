"""How far requests are: asked of the workers that have them, remembered once they have ended."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from gateway_rig import CHAT, FORM, Rig, WorkerProcess, wait_for
from modelrack.server import progress
from modelrack.server.progress import Ended


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_ended_are_known_for_a_while() -> None:
    clock = Clock()
    ended = Ended(limit=3, keep_s=10, clock=clock)
    ended.put({"a", "b"}, "m", "finished")
    ended.put({"a"}, "n", "failed")
    assert (ended.get("a"), ended.get("b"), ended.get("c")) == (("n", "failed"), ("m", "finished"), None)
    clock.now = 5
    ended.put({"c"}, "m", "cancelled")
    ended.put({"d"}, "m", "finished")
    assert ended.get("b") is None and ended.get("a") is not None  # the oldest went
    ended.put({"x" * 257}, "m", "finished")
    assert ended.get("x" * 257) is None
    clock.now = 10.5
    assert ended.get("a") is None and ended.get("c") == ("m", "cancelled")


def ask(rig: Rig, request_id: str) -> dict[str, Any] | None:
    """Ask the gateway, on its loop."""
    return asyncio.run_coroutine_threadsafe(rig.gateway.progress(request_id), rig._loop).result(10)


async def tell(rig: Rig, what: Any) -> None:
    async with rig.client() as client:
        assert (await client.post(CHAT, json={"model": "m", "do": "told", "what": what})).status_code == 200


class Asking:
    """A request that hangs until it is left."""

    def __init__(self, rig: Rig, **options: Any) -> None:
        self.rig = rig
        self.options = {"json": {"model": "m", "do": "hang"}, **options}

    async def __aenter__(self) -> "Asking":
        self.client = self.rig.client()
        self.task = asyncio.ensure_future(self.client.post(CHAT, **self.options))
        while not self.rig.gateway._running:
            await asyncio.sleep(0.005)
        return self

    async def __aexit__(self, *error: object) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        await self.client.aclose()


PACKED = json.dumps({"request_id": "mine", "steps": 3})


@pytest.mark.parametrize(
    "options",
    [
        {"headers": {"x-request-id": "mine"}},
        {"json": {"model": "m", "do": "hang", "request_id": "mine"}},
        {"json": {"model": "m", "do": "hang", "kwargs": PACKED}},
    ],
    ids=["header", "body", "kwargs"],
)
async def test_a_request_by_each_of_its_names(rig: Rig, worker: WorkerProcess, options: dict[str, Any]) -> None:
    async with Asking(rig, **options):
        assert ask(rig, "mine") == {"progress": 0.0, "status": "running", "model": "m", "request_id": "mine"}
        await tell(rig, {"progress": 0.5})
        told = ask(rig, "mine")
        assert told and told["progress"] == 0.5
        wait_for(lambda: worker.state()["asked_for"])
        await tell(rig, {"progress": 0.25})
        told = ask(rig, "mine")
        assert told and told["progress"] == 0.5
        assert ask(rig, "other") is None
    told = wait_for(lambda: (found := ask(rig, "mine")) and found["status"] != "running" and found)
    assert told == {"progress": 1.0, "status": "cancelled", "model": "m", "request_id": "mine"}


async def test_the_id_of_a_form(rig: Rig, worker: WorkerProcess) -> None:
    """And forms that are refused by their worker, or that have `kwargs` which are its business."""
    async with rig.client() as client:
        for kwargs in (PACKED, '{"request_id": 5}', "{request_id", "[1, 2]", " " * 70_000 + PACKED):
            form = {"model": "m", "kwargs": kwargs}
            answer = await client.post(FORM, data=form, files={"file": ("a", b"\xff" * 100)})
            assert answer.status_code == 200
        await client.post(FORM, data={"model": "m", "request_id": "own", "kwargs": PACKED}, files={"file": b"x"})
    for name in ("mine", "own"):
        assert ask(rig, name) == {"progress": 1.0, "status": "finished", "model": "m", "request_id": name}


@pytest.mark.parametrize("told", [5, {"progress": "x"}, {"progress": None}, [], {"progress": -1}, {"progress": "nan"}])
async def test_workers_that_talk_nonsense(rig: Rig, worker: WorkerProcess, told: Any) -> None:
    await tell(rig, told)
    async with Asking(rig, headers={"x-request-id": "mine"}):
        found = ask(rig, "mine")
        assert found and found["progress"] == 0.0


async def test_workers_that_do_not_answer(rig: Rig, worker: WorkerProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "ASK_S", 0.05)
    await tell(rig, "silence")
    async with Asking(rig, headers={"x-request-id": "mine"}):
        found = ask(rig, "mine")
        assert found and (found["progress"], found["status"]) == (0.0, "running")
        worker.kill()
        found = ask(rig, "mine")
        assert found is None or found["status"] in ("running", "failed")
    assert wait_for(lambda: (found := ask(rig, "mine")) and found["status"] == "failed")


async def test_command_workers_are_not_asked(rig: Rig) -> None:
    worker = rig.add("m", is_foreign=True)
    async with Asking(rig, headers={"x-request-id": "mine"}):
        found = ask(rig, "mine")
        assert found and found["status"] == "running"
    assert "asked_for" not in worker.state()


async def test_failures_and_those_without_a_name(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig()
    rig.add("m")
    async with rig.client() as client:
        for request_id, do in (("a", "refuse"), ("b", "cut"), ("c", "echo")):
            try:
                await client.post(CHAT, json={"model": "m", "do": do, "request_id": request_id})
            except Exception:  # the answer that is cut off
                assert do == "cut"
        answer = await client.post(CHAT, json={"model": "m", "do": "echo"})
        await client.post(CHAT, json={"model": "nobody", "do": "echo", "request_id": "d"})
    endings = {name: found and found["status"] for name in "abcd" for found in [ask(rig, name)]}
    assert endings == {"a": "failed", "b": "failed", "c": "finished", "d": None}
    assert ask(rig, answer.headers["x-request-id"]) is None
