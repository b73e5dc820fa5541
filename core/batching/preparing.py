"""Requests on their way into the queue: prepared together, and apart where that fails."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from ..errors import ModelrackError
from .contract import Done, Prepared
from .queue import Flow, Item
from .running import as_known

__all__ = ["Piece", "Request", "prepare_apart"]

log = logging.getLogger(__name__)

_Prepare = Callable[[Sequence[Any]], Sequence[Prepared[Any] | ModelrackError]]


@dataclass(slots=True, eq=False, kw_only=True)
class Request(Flow):
    """A request. `done` holds the results that are there; it is complete when `left` is 0.

    Args:
        weight: about how many tokens it has.
        prepared: how many of the works are, or are about to be.
        since: when it came.
    """

    works: Sequence[Any]
    weight: int
    future: asyncio.Future[Any]
    prepared: int = 0
    since: float = field(default_factory=perf_counter)
    left: int = field(init=False)
    done: list[Done[Any] | None] = field(init=False)

    def __post_init__(self) -> None:
        self.left = len(self.works)
        self.done = [None] * self.left


@dataclass(slots=True)
class Piece:
    """Successive works of one request."""

    request: Request
    start: int
    works: Sequence[Any]


def prepare_apart(
    prepare: _Prepare, pieces: Sequence[Piece]
) -> tuple[list[tuple[Request, list[Item[Request]]]], list[tuple[Request, ModelrackError]]]:
    """Prepare pieces in one call, or each in its own if that raises; return items by request, and what failed."""
    found: list[tuple[Piece, Sequence[Prepared[Any] | ModelrackError]]] = []
    failed: list[tuple[Request, ModelrackError]] = []
    try:
        prepared = _call(prepare, [work for piece in pieces for work in piece.works])
    except Exception:
        for piece in pieces:
            try:
                found.append((piece, _call(prepare, piece.works)))
            except Exception as error:
                if not isinstance(error, ModelrackError):
                    log.exception("%d items could not be prepared", len(piece.works))
                failed.append((piece.request, as_known(error.with_traceback(None))))
    else:
        start = 0
        for piece in pieces:
            found.append((piece, prepared[start : start + len(piece.works)]))
            start += len(piece.works)
    ready = []
    for piece, its in found:
        items = [Item(piece.request, i, one) for i, one in enumerate(its, piece.start) if isinstance(one, Prepared)]
        if len(items) == len(its):
            ready.append((piece.request, items))
        else:
            failed.append((piece.request, next(one for one in its if isinstance(one, ModelrackError))))
    return ready, failed


def _call(prepare: _Prepare, works: Sequence[Any]) -> Sequence[Prepared[Any] | ModelrackError]:
    prepared = prepare(works)
    if len(prepared) != len(works):
        raise RuntimeError(f"the model has prepared {len(prepared)} of {len(works)} items")
    return prepared
