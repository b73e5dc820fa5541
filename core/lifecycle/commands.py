"""Have a plugin make the command of its worker."""

import asyncio
import logging
from typing import Any

from ..errors import LaunchFailed, ModelrackError
from ..hooks.types import Command, CommandWorker, LoadPlan
from .threads import in_thread

__all__ = ["make_command"]

log = logging.getLogger(__name__)


async def make_command(
    worker: CommandWorker, plan: LoadPlan, socket: str, engine: str, stop: asyncio.Event, limit_s: float
) -> Command | None:
    """Return the command, or None if `stop` comes first; the plugin may take its time, to ask the engine, say.

    Args:
        engine: its name, for errors.

    Raises: LaunchFailed: it took too long, or failed. Whatever else the plugin raises as a ModelrackError.
    """
    making = in_thread(lambda: worker.build(plan, socket), name=f"command of {plan.model_uid}")
    stopping = asyncio.ensure_future(stop.wait())
    waits: set[asyncio.Future[Any]] = {making, stopping}
    try:
        await asyncio.wait(waits, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
    if not making.done():  # the thread cannot be ended, and keeps nobody from ending
        making.add_done_callback(lambda future: future.cancelled() or future.exception())
        if stop.is_set():
            return None
        raise LaunchFailed(
            f"engine '{engine}' did not make its command within {limit_s:g} s (MODELRACK_START_STALL_S sets this limit)"
        )
    try:
        return making.result()
    except ModelrackError:
        raise
    except Exception as error:  # a plugin's code: whatever it raises is the reason
        log.exception("engine %s could not make the command of %s", engine, plan.model_uid)
        raise LaunchFailed(f"engine '{engine}' could not make its command: {error}") from error
