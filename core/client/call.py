"""What a request is, apart from how it is sent: one description serves the sync and the async client."""

import json
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Generic, TypeVar

from .errors import ServerUnreachable, error_from_event

__all__ = ["Call", "EventDecoder", "File", "Flow", "Pause", "Reply", "Step"]

T = TypeVar("T")

File = tuple[str, bytes]
"""File name and content of one multipart part."""


class Reply(Enum):
    """How the body of a good answer is read."""

    JSON = "json"
    AUTO = "auto"
    """JSON if the server says so, else text."""
    BYTES = "bytes"
    EVENTS = "events"
    CHUNKS = "chunks"


@dataclass(frozen=True, slots=True, kw_only=True)
class Call(Generic[T]):
    """One request.

    Args:
        path: below the server's root, already quoted.
        action: what is being done, for messages ("launch the model").
        params: query parameters; those that are None are left out.
        form: multipart text fields; those that are None are left out, a list repeats the field.
        files: multipart files, as (field, (name, content)).
        parse: from the decoded body to the result.
        waits: the answer may take as long as it takes; no read time-out.
    """

    method: str
    path: str
    action: str
    params: Mapping[str, Any] = field(default_factory=dict)
    body: Any = None
    form: Mapping[str, Any] | None = None
    files: tuple[tuple[str, File], ...] = ()
    reply: Reply = Reply.JSON
    parse: Callable[[Any], T] | None = None
    waits: bool = False

    @property
    def query(self) -> dict[str, str]:
        """Return the query parameters as text."""
        return {key: _text(value) for key, value in self.params.items() if value is not None}

    @property
    def parts(self) -> list[tuple[str, tuple[str | None, bytes | str, str | None]]] | None:
        """Return the parts of a multipart body, or None where the body is JSON."""
        if self.form is None:
            return None
        parts: list[tuple[str, tuple[str | None, bytes | str, str | None]]] = []
        for key, value in self.form.items():
            for item in value if isinstance(value, list | tuple) else [value]:
                if item is not None:
                    parts.append((key, (None, _text(item), None)))
        for key, (name, content) in self.files:
            parts.append((key, (name, content, "application/octet-stream")))
        return parts


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait a moment between two calls."""

    seconds: float


Step = Call[Any] | Pause
Flow = Generator[Step, Any, T]
"""Several calls that lead to one result: yields a step, is sent the step's result, or is thrown its error."""


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


class EventDecoder:
    """Cut a stream of server-sent events into the JSON values of its `data` lines, up to `[DONE]`."""

    def __init__(self) -> None:
        self._rest = b""
        self.is_done = False

    def feed(self, chunk: bytes) -> list[dict[str, Any]]:
        """Return the events that this chunk completes."""
        lines = (self._rest + chunk).split(b"\n")
        self._rest = lines.pop()
        events: list[dict[str, Any]] = []
        for line in lines:
            if self.is_done:
                break
            if line.startswith(b"data:"):
                self._take(line[5:].strip(), events)
        return events

    def finish(self) -> list[dict[str, Any]]:
        """Return what is left at the end of the stream.

        Raises: ServerUnreachable: the stream broke off before it said that it was done.
        """
        events = self.feed(b"\n") if self._rest else []
        if not self.is_done and not any("error" in event for event in events):
            raise ServerUnreachable("The stream broke off before the answer was complete.")
        return events

    def _take(self, data: bytes, events: list[dict[str, Any]]) -> None:
        if data == b"[DONE]":
            self.is_done = True
            return
        try:
            event = json.loads(data)
        except ValueError as error:
            raise ServerUnreachable(f"The stream holds something that is no JSON: {data[:80]!r}.") from error
        if not isinstance(event, dict):
            raise ServerUnreachable(f"The stream holds something that is no object: {data[:80]!r}.")
        events.append(event)


def check_event(event: dict[str, Any]) -> dict[str, Any]:
    """Return the event, or raise the error that it tells of."""
    if event.get("error") is not None:
        raise error_from_event(event)
    return event
