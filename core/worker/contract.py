"""What a plugin's worker half implements: a loader that makes handlers, and handlers that answer requests."""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from pydantic import BaseModel

from ..hooks.types import Command, LoadPlan, Route

__all__ = ["Call", "Event", "Handler", "Job", "Loader", "Raw", "Reply", "Report", "ResultFiles"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultFiles:
    """Where a worker keeps the files that it makes for clients.

    Args:
        key_file: holds the key that signs their URLs; read for each, since a server may make a new one.
        ttl_s: seconds after which a URL is good no more, and its file goes.
        max_bytes: of all files together; the oldest go first.
    """

    folder: str
    key_file: str
    ttl_s: float
    max_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What the server hands to a worker's process, as one JSON file.

    Args:
        incarnation: random token of this start; the worker proves its identity with it.
        replica_id: number of the replica within its instance, from 0.
        socket: path of the Unix socket to bind.
        lease: path of a file the server touches; a worker whose lease is older than `lease_s` ends itself.
        loader: dotted path of the loader's class (`package.module:Class`); empty for a command worker.
        command: what a command worker runs.
        routes: the routes of the model's type that this worker may be asked for.
        files: where results for clients are kept; None: nowhere.
    """

    incarnation: str
    replica_id: int
    socket: str
    lease: str | None
    lease_s: float
    plan: LoadPlan
    routes: tuple[Route, ...]
    loader: str = ""
    command: Command | None = None
    max_body_bytes: int = 64 * 1024 * 1024
    files: ResultFiles | None = None


Report: TypeAlias = Callable[[float, str], None]
"""`report(progress, stage)`: progress from 0 to 1; any call counts as a sign of life. Callable from any thread."""


@dataclass(frozen=True, slots=True)
class Raw:
    """An answer that is not JSON (audio, an image, plain text)."""

    content: bytes
    media_type: str
    status: int = 200


Event: TypeAlias = BaseModel | Mapping[str, Any] | bytes
"""One server-sent event: a model or mapping to encode, or JSON bytes that are sent as they are (one line, bare)."""

Reply: TypeAlias = BaseModel | Mapping[str, Any] | bytes | Raw | AsyncIterator[Event]
"""What a handler gives back. An async iterator is streamed as server-sent events, closed by `data: [DONE]`."""


class Call(Protocol):
    """One request as its handler sees it, beside the validated body.

    A client that leaves cancels the handler's task: `asyncio.CancelledError` at its await, or `aclose()` of its
    iterator.
    """

    request_id: str
    """The request's id: the client's `X-Request-ID`, else made by the server."""

    model_uid: str
    """What the answer's `model` must say."""

    path: str

    def usage(self, prompt_tokens: int, completion_tokens: int) -> None:
        """Tell the counts of this request once they are known; they go to the log and the metrics."""

    def progress(self, fraction: float) -> None:
        """Tell how much of a long request is done, from 0 to 1; clients can ask. Less than before counts for nothing.

        Callable from any thread.
        """

    def save(self, content: bytes, media_type: str) -> str:
        """Keep a result as a file, and return the URL at which the client can get it from the server until it expires.

        Blocks while it writes; callable from any thread. Keep small answers in the answer itself.

        Raises: ValueError: a media type that is not among `modelrack.worker.results.MEDIA_TYPES`. EngineError: there is
            no room, or no folder for results.
        """


class Handler(Protocol):
    """Answers one ability.

    `unsupported` names request fields that the engine cannot honour, with the reason: the host answers 400 when one of
    them is given (not null, and not a value that asks for nothing). `supported` names fields that the request model
    refuses by itself (see `modelrack.api.common.InferenceRequest`) but that this handler honours. Both may be absent.
    """

    def __call__(self, request: Any, call: Call) -> Awaitable[Reply]:
        """Answer a request, validated as the route's request model.

        Raises: `modelrack.errors.ModelrackError` for what a client should see; anything else is a 500 that tells
            nothing.
        """


class Loader(ABC):
    """Puts a model's weights on its devices and makes the handlers.

    One is made in each worker's process, with the job's plan. The process has the engine to itself.
    """

    def __init__(self, plan: LoadPlan) -> None:
        self.plan = plan

    @abstractmethod
    def load(self, report: Report) -> Mapping[str, Handler]:
        """Load the model and return the handlers by ability.

        Runs in a thread; block as long as it takes, and call `report` when there is progress. The event loop already
        answers status requests.

        Raises: anything; its message becomes the reason of the failed launch.
        """

    def describe(self) -> Mapping[str, Any]:
        """Return facts known only after loading (`context_length`, …); they replace the family's in the description."""
        return {}

    def close(self) -> None:
        """Free what `load` took; called once, after the last request, in a thread. The process ends afterwards."""
