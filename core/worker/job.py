"""The job file: what the server writes for a worker's process, and the worker reads."""

import os
import secrets
from functools import lru_cache
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from ..errors import BadRequest
from .contract import Job

__all__ = ["read_job", "write_job"]


@lru_cache(maxsize=1)
def _adapter() -> TypeAdapter[Job]:
    return TypeAdapter(Job)


def write_job(path: str | Path, job: Job) -> None:
    """Write a job so that a reader sees all of it or nothing; only the owner can read it (it may hold tokens)."""
    target = Path(path)
    data = _adapter().dump_json(job, indent=1)
    draft = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        draft.replace(target)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def read_job(path: str | Path) -> Job:
    """Read a job.

    Raises: BadRequest: the file is no job, or cannot be read; the message names what is wrong.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise BadRequest(f"The job file {path} cannot be read: {error.strerror}.") from error
    try:
        return _adapter().validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise BadRequest(f"The job file {path} is no job: {where}: {first['msg']}.", param=where) from error
