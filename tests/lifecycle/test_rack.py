"""Launches by memory: real workers of the echo engine, on a machine whose accelerators are but figures."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from modelrack.api.launch import LaunchRequest
from modelrack.catalog.catalog import Catalog
from modelrack.errors import InsufficientMemory
from modelrack.hooks import Accelerator, LoadPlan, Machine, MemoryEstimate
from modelrack.hooks.loader import load_plugins
from modelrack.lifecycle.directory import Directory
from modelrack.lifecycle.rack import Rack
from modelrack.lifecycle.state import State
from modelrack.server.describe import describe_model
from modelrack.settings import Settings

GB = 10**9
Start = Callable[..., AbstractAsyncContextManager[Rack]]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Return what runs a rack on a machine with GPUs of 10 GB, all free; the echo engine says that it needs `need`."""

    @asynccontextmanager
    async def run(gpus: int, **need: int) -> AsyncIterator[Rack]:
        devices = tuple(
            Accelerator(index=index, kind="cuda", name="x", memory_total_bytes=10 * GB, memory_free_bytes=10 * GB)
            for index in range(gpus)
        )
        machine = Machine(
            platform="linux",
            architecture="x86_64",
            cores=2,
            memory_total_bytes=20 * GB,
            memory_free_bytes=20 * GB,
            accelerators=devices,
        )
        plugins = load_plugins("echo")

        def estimate(plan: LoadPlan, machine: Machine) -> MemoryEstimate:
            return MemoryEstimate(**{"weights_bytes": 0, **need})

        plugins.engines["echo"] = replace(plugins.engines["echo"], estimate=estimate)
        settings = Settings(home=tmp_path / "home", stop_s=1)
        rack = Rack(settings, plugins, Catalog(plugins, tmp_path / "families"), Directory(), lambda: machine)
        await rack.start()
        try:
            yield rack
        finally:
            await rack.close(0)

    return run


def request(uid: str, **more: Any) -> LaunchRequest:
    return LaunchRequest(model_name="echo", model_engine="echo", model_uid=uid, **more)


async def launched(rack: Rack, uid: str, **more: Any) -> None:
    await rack.launch(request(uid, **more))
    await asyncio.wait_for(rack.wait_ready(uid), 30)


async def until(condition: Callable[[], bool], limit_s: float = 20) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def test_what_cannot_fit_is_refused_before_anything_starts(start: Start) -> None:
    async with start(1, weights_bytes=14 * GB, cache_bytes=2 * GB) as rack:
        with pytest.raises(InsufficientMemory, match=r"16\.0 GB on GPU 0, and 10\.0 GB are free"):
            await rack.launch(request("big"))
        assert not rack.instances() and not rack.store.instances()
        await launched(rack, "cpu", n_gpu=None)
        assert rack.get("cpu").accelerators == []


async def test_a_little_too_much_is_a_warning(start: Start) -> None:
    async with start(1, weights_bytes=12 * GB, host_bytes=21 * GB) as rack:
        await launched(rack, "tight")
        (text,) = [content for _, kind, content in rack.store.events("tight") if kind == "warning"]
        assert "12.0 GB on GPU 0" in text and "21.0 GB of main memory" in text


async def test_what_loads_has_its_memory_reserved(start: Start) -> None:
    """Both would take the first GPU if only free memory counted: neither has taken any yet."""
    async with start(2, weights_bytes=8 * GB) as rack:
        for uid in ("a", "b"):
            await rack.launch(request(uid, load_delay_s=60))
            await until(lambda uid=uid: bool(rack.get(uid).replicas))  # type: ignore[misc]  # bound at once
        assert [rack.get(uid).accelerators for uid in ("a", "b")] == [["0"], ["1"]]
        with pytest.raises(InsufficientMemory, match=r"and 2\.0 GB are free"):
            await rack.launch(request("c"))
        await asyncio.wait_for(rack.terminate("a"), 20)
        await rack.launch(request("c", load_delay_s=60))
        await until(lambda: bool(rack.get("c").replicas))
        assert rack.get("c").accelerators == ["0"]


async def test_what_loads_is_not_free_for_what_is_chosen(start: Start) -> None:
    """A size was chosen that fitted only as long as nothing else was loading."""
    async with start(1, weights_bytes=8 * GB, host_bytes=15 * GB) as rack:
        _, choices, _ = await rack.examine(request("b"))
        assert choices.options[0].fit.fits is True
        await rack.launch(request("a", load_delay_s=60))
        await until(lambda: bool(rack.get("a").replicas))
        machine, choices, _ = await rack.examine(request("b"))
        (device,) = machine.accelerators
        assert (device.memory_free_bytes, machine.memory_free_bytes) == (2 * GB, 5 * GB)
        fit = choices.options[0].fit
        assert fit.fits is False and fit.lacking_device_bytes >= 6 * GB and fit.lacking_host_bytes >= 10 * GB
        await asyncio.wait_for(rack.terminate("a"), 20)
        assert (await rack.examine(request("b")))[1].options[0].fit.fits is True


async def test_engines_reckon_with_what_is_really_free(start: Start) -> None:
    async with start(1, weights_bytes=4 * GB) as rack:

        def half(plan: LoadPlan, machine: Machine) -> MemoryEstimate:
            return MemoryEstimate(weights_bytes=0, cache_bytes=machine.accelerators[0].memory_free_bytes // 2)

        await rack.launch(request("a", load_delay_s=60))
        await until(lambda: bool(rack.get("a").replicas))
        rack.plugins.engines["echo"] = replace(rack.plugins.engines["echo"], estimate=half)
        await launched(rack, "b")
        expected = rack.get("b").replicas[0].spec.expected
        assert expected.estimated_bytes == 3 * GB


async def test_models_of_other_types_are_described_with_their_facts(start: Start, tmp_path: Path) -> None:
    async with start(0) as rack:
        engine = rack.plugins.engines["echo"]
        rack.plugins.engines["echo"] = replace(engine, model_types=("embedding", "rerank"), accepts=lambda *_: None)
        (tmp_path / "config.json").write_text('{"hidden_size": 32, "num_hidden_layers": 1}')
        own: dict[str, Any] = {"model_name": "mine", "language": ["en"], "model_uri": str(tmp_path)}
        rack.catalog.register("embedding", {**own, "dimensions": 32, "max_tokens": 64}, persist=False)
        rack.catalog.register("rerank", own, persist=False)
        described = {}
        for kind in ("embedding", "rerank"):
            asked = LaunchRequest(model_name="mine", model_type=kind, model_uid=kind)
            described[kind] = describe_model(await rack.launch(asked))
        one = described["embedding"]
        assert (one["dimensions"], one["max_tokens"], one["language"]) == (32, 64, ["en"])
        assert one["model_ability"] == ["embed"] and one["model_size_in_billions"] is None
        other = described["rerank"]
        assert (other["type"], other["max_tokens"], other["model_ability"]) == (None, None, ["rerank"])


async def test_one_more_replica_needs_room_too(start: Start) -> None:
    async with start(1, weights_bytes=8 * GB) as rack:
        await launched(rack, "first")
        await rack.launch(request("loading", load_delay_s=60))
        await until(lambda: bool(rack.get("loading").replicas))
        with pytest.raises(InsufficientMemory):
            rack.add_replica("first")
        await asyncio.wait_for(rack.terminate("loading"), 20)
        replica = rack.add_replica("first")
        await until(lambda: replica.state is State.READY)


async def test_what_was_measured_is_kept_with_the_estimate(start: Start) -> None:
    async with start(0, overhead_bytes=3 * GB) as rack:
        await launched(rack, "m")
        key = rack.get("m").replicas[0].spec.expected.key
        assert key is not None
        await until(lambda: rack.store.measured(key) is not None)
        measured = rack.store.measured(key)
        assert measured is not None and measured.estimated_bytes == 3 * GB and 1 << 20 < measured.host_bytes < GB
        await rack.terminate("m")
        await launched(rack, "m")  # and next time it is what is expected
        expected = rack.get("m").replicas[0].spec.expected
        assert expected.key == key and expected.estimated_bytes == 3 * GB
        assert expected.memory is not None and expected.memory.overhead_bytes < GB
