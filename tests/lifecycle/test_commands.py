"""A plugin makes its command in a thread; whatever it does, the replica's owner goes on."""

import asyncio
import threading
from collections.abc import Callable, Iterator

import pytest

from modelrack.errors import EngineUnavailable, LaunchFailed
from modelrack.hooks import Command, CommandWorker, Family, LoadPlan, ModelFiles, Variant
from modelrack.lifecycle.commands import make_command
from modelrack.lifecycle.threads import in_thread

PLAN = LoadPlan(
    model_uid="m",
    family=Family(name="f", model_type="LLM"),
    variant=Variant(format="x"),
    quantization="none",
    files=ModelFiles(path="", format="x"),
)


async def make(build: Callable[[LoadPlan, str], Command], stop: asyncio.Event, limit_s: float = 20) -> Command | None:
    return await make_command(CommandWorker(build=build, routes=()), PLAN, "s.sock", "e", stop, limit_s)


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Give what a build can wait for; it is opened at the end, so that no thread stays."""
    event = threading.Event()
    yield event
    event.set()


async def test_the_loop_goes_on_while_a_command_is_made(gate: threading.Event) -> None:
    def build(plan: LoadPlan, socket: str) -> Command:
        assert gate.wait(20) and threading.current_thread() is not threading.main_thread()
        return Command(argv=(plan.python, socket))

    making = asyncio.ensure_future(make(build, asyncio.Event()))
    await asyncio.sleep(0)
    gate.set()
    command = await making
    assert command is not None and command.argv == (PLAN.python, "s.sock")


async def test_a_stop_does_not_wait_for_the_plugin(gate: threading.Event) -> None:
    stop = asyncio.Event()

    def build(plan: LoadPlan, socket: str) -> Command:
        gate.wait(20)
        raise AssertionError("too late to matter")

    making = asyncio.ensure_future(make(build, stop))
    await asyncio.sleep(0)
    stop.set()
    assert await asyncio.wait_for(making, 10) is None


async def test_a_plugin_that_hangs_is_given_up_naming_the_knob(gate: threading.Event) -> None:
    def build(plan: LoadPlan, socket: str) -> Command:
        gate.wait(20)
        return Command(argv=())

    with pytest.raises(LaunchFailed, match="MODELRACK_START_STALL_S"):
        await make(build, asyncio.Event(), limit_s=0.05)


async def test_what_a_plugin_raises_is_the_reason() -> None:
    def raising(error: BaseException) -> Callable[[LoadPlan, str], Command]:
        def build(plan: LoadPlan, socket: str) -> Command:
            raise error

        return build

    with pytest.raises(LaunchFailed, match="engine 'e' could not make its command: no seed"):
        await make(raising(ValueError("no seed")), asyncio.Event())
    with pytest.raises(EngineUnavailable, match="later"):
        await make(raising(EngineUnavailable("later")), asyncio.Event())
    for odd in (SystemExit(3), StopIteration("x")):
        with pytest.raises(LaunchFailed, match=type(odd).__name__):
            await make(raising(odd), asyncio.Event())


async def test_a_thread_returns_its_value() -> None:
    assert await in_thread(lambda: 7, name="seven") == 7
