"""Download a model's files in a process of its own, which can be killed at any moment and continued later."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import EngineUnavailable, LaunchFailed
from ..hooks.types import Hub, ModelFiles
from .engines import missing_modules
from .resolution import Resolved
from .suggest import listing

__all__ = ["FetchProgress", "fetch", "measure"]

_MAX_LINE_BYTES = 1 << 20
_STDERR_LINES = 20
_KILL_AFTER_S = 2.0


@dataclass(frozen=True, slots=True)
class FetchProgress:
    """How far a download is.

    Args:
        total_bytes: 0 until it is known.
        file: the file under way, by its path in the repository.
    """

    downloaded_bytes: int
    total_bytes: int
    file: str = ""

    @property
    def fraction(self) -> float:
        """Return the part that is done, from 0 to 1."""
        return min(1.0, self.downloaded_bytes / self.total_bytes) if self.total_bytes > 0 else 0.0


async def fetch(
    resolved: Resolved, hubs: Mapping[str, Hub], cache_dir: Path, report: Callable[[FetchProgress], None]
) -> ModelFiles:
    """Download what was resolved; returns at once if it is on this machine.

    Cancelling the task ends the download's process; what it has so far is kept, and the next call continues there.

    Args:
        report: called in the event loop, a few times a second.

    Raises: LaunchFailed: with reason and remedy (no network, no access, no such repository, disk full);
        EngineUnavailable: the hub's package is not installed.
    """
    if resolved.files is not None:
        return resolved.files
    return ModelFiles(**await _run(_job(resolved, hubs, cache_dir), report))


async def measure(resolved: Resolved, hubs: Mapping[str, Hub], cache_dir: Path, limit_s: float) -> int | None:
    """Return how many bytes `fetch` would download: 0 if the files are here, None if the hub does not say in time."""
    if resolved.files is not None:
        return 0
    try:
        job = {**_job(resolved, hubs, cache_dir), "measures": True}
        answer = await asyncio.wait_for(_run(job, lambda progress: None), limit_s)
    except (TimeoutError, EngineUnavailable, LaunchFailed):  # the launch itself says why
        return None
    size = answer.get("bytes")
    return size if isinstance(size, int) else None


def _job(resolved: Resolved, hubs: Mapping[str, Hub], cache_dir: Path) -> dict[str, Any]:
    """Return what the download's process is told.

    Raises: LaunchFailed: no hub has the files; EngineUnavailable: the hub's package is not installed.
    """
    source = resolved.source
    hub = hubs.get(source.hub) if source else None
    if source is None or hub is None:
        raise LaunchFailed(f"No hub has the files of '{resolved.family.name}'.")
    missing = missing_modules(hub)
    if missing:
        reason = f"Hub '{hub.name}' is not installed here: {listing(missing)} cannot be found."
        raise EngineUnavailable(reason, remedy=hub.remedy or None)
    return {
        "fetch": hub.fetch,
        "cache_dir": str(cache_dir),
        "model_name": resolved.family.name,
        "model_type": resolved.family.model_type,
        "format": resolved.variant.format,
        "size_b": resolved.variant.size_b,
        "quantization": resolved.quantization,
        "is_adhoc": resolved.is_adhoc,
        "source": asdict(source),
    }


async def _run(job: Mapping[str, Any], report: Callable[[FetchProgress], None]) -> dict[str, Any]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",
        "-m",
        "modelrack.catalog.fetcher",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=_MAX_LINE_BYTES,
        start_new_session=True,
        env={**os.environ, "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"},
    )
    assert process.stdin and process.stdout and process.stderr
    last_lines: deque[str] = deque(maxlen=_STDERR_LINES)
    errors = asyncio.create_task(_keep_last(process.stderr, last_lines))
    try:
        # The pipe stays open: its end tells the process that the server is gone.
        process.stdin.write(json.dumps(job).encode() + b"\n")
        with contextlib.suppress(ConnectionError):
            await process.stdin.drain()
        outcome = await _follow(process.stdout, report)
        await process.wait()
        await errors
    finally:
        await asyncio.shield(asyncio.ensure_future(_end(process, errors)))
    if outcome is not None:
        return outcome
    reason = next((line for line in reversed(last_lines) if line.strip()), "it said nothing")
    raise LaunchFailed(
        f"The download of '{job['model_name']}' ended with status {process.returncode}: {reason.strip()}",
        remedy="Try again: what was downloaded so far is kept.",
    )


async def _follow(stream: asyncio.StreamReader, report: Callable[[FetchProgress], None]) -> dict[str, Any] | None:
    """Read what the process says; returns its result, or None if it ended without a word.

    Raises: LaunchFailed: what it gives as the reason.
    """
    outcome: dict[str, Any] | None = None
    async for line in stream:
        try:
            message = json.loads(line)
        except ValueError:  # something that a hub's client prints
            continue
        if not isinstance(message, dict):
            continue
        if isinstance(progress := message.get("progress"), dict):
            report(FetchProgress(**progress))
        elif isinstance(error := message.get("error"), dict):
            raise LaunchFailed(str(error["message"]), remedy=error.get("remedy"))
        elif isinstance(result := message.get("result"), dict):
            outcome = result
    return outcome


async def _keep_last(stream: asyncio.StreamReader, lines: deque[str]) -> None:
    with contextlib.suppress(ValueError):  # a line over the limit
        async for line in stream:
            lines.append(line.decode(errors="replace"))


async def _end(process: asyncio.subprocess.Process, errors: "asyncio.Task[None]") -> None:
    """End the process group and collect it."""
    if process.returncode is None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), _KILL_AFTER_S)
                break
    if process.stdin:
        process.stdin.close()
    errors.cancel()
    await asyncio.gather(errors, return_exceptions=True)
