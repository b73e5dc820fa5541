"""Ask the interpreter of an environment about itself."""

import asyncio
import contextlib
import json
import os
import signal
from pathlib import Path
from typing import Any

__all__ = ["InterpreterFailed", "ask_interpreter"]

_RUN_S = 60.0


class InterpreterFailed(Exception):
    """The interpreter gave no answer; the text is the reason, as a clause."""


async def ask_interpreter(python: Path, script: str, *arguments: str) -> Any:
    """Run a script in isolated mode, and return the JSON that it prints.

    Raises: InterpreterFailed: it cannot be started, does not end, or prints something else.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            str(python),
            *("-I", "-c", script, *arguments),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        raise InterpreterFailed(f"it cannot be started: {error.strerror}") from error
    try:
        output, errors = await asyncio.wait_for(process.communicate(), _RUN_S)
    except BaseException as error:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        if isinstance(error, TimeoutError):
            raise InterpreterFailed(f"it did not answer within {_RUN_S:g} s") from error
        raise
    try:
        return json.loads(output)
    except ValueError:
        reason = errors.decode(errors="replace").strip().rpartition("\n")[2]
        raise InterpreterFailed(f"it does not run: {reason or f'exit code {process.returncode}'}") from None
