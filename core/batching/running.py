"""Runs a batch such that who is not at fault for a failure does not see it."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

from ..errors import EngineError, ModelrackError
from .queue import Item

__all__ = ["as_known", "is_memory_error", "run_apart"]

log = logging.getLogger(__name__)

_Run = Callable[[Sequence[Any]], Sequence[Any]]


def run_apart(
    run: _Run, batch: Sequence[Item[Any]], lower: Callable[[Sequence[Item[Any]]], None]
) -> list[tuple[Item[Any], Any]]:
    """Run a batch; return each item with its result, or with the error of its request; those nobody wants are left out.

    A batch that fails is run again in halves, down to single requests: at most twice as many runs as there are
    requests. One that fails for want of memory is run in halves down to single items.

    Args:
        run: of the model.
        lower: told of a batch for which the memory does not suffice.
    """
    found: list[tuple[Item[Any], Any]] = []
    todo = [batch]
    while todo:
        part = [item for item in todo.pop() if not item.flow.is_over]
        if not part:
            continue
        results, error = _try(run, part)
        if error is None:
            found += zip(part, results, strict=True)
            continue
        if is_memory_error(error):
            lower(part)
            halves = _halve(part)
        else:
            halves = _halve_by_request(part)
        if halves is None:
            known = as_known(error)
            found += [(item, known) for item in part]
        else:
            todo += halves
    return found


def _try(run: _Run, part: Sequence[Item[Any]]) -> tuple[Sequence[Any], Exception | None]:
    try:
        results = run([item.prepared.payload for item in part])
        if len(results) != len(part):
            raise RuntimeError(f"the model has {len(results)} results for {len(part)} items")
    except Exception as error:
        is_wanted = any(not item.flow.is_over for item in part)
        if is_wanted and not isinstance(error, ModelrackError):
            log.exception("a batch of %d items failed", len(part))
        # Its frames hold what the model had made so far, which is memory that the next attempt may need.
        return (), error.with_traceback(None)
    return results, None


def _halve(part: Sequence[Item[Any]]) -> list[Sequence[Item[Any]]] | None:
    if len(part) == 1:
        return None
    middle = len(part) // 2
    return [part[middle:], part[:middle]]


def _halve_by_request(part: Sequence[Item[Any]]) -> list[Sequence[Item[Any]]] | None:
    flows = list(dict.fromkeys(item.flow for item in part))
    if len(flows) == 1:
        return None
    first = set(flows[: len(flows) // 2])
    return [[item for item in part if item.flow not in first], [item for item in part if item.flow in first]]


def is_memory_error(error: BaseException) -> bool:
    """Tell whether there was not enough memory; torch's errors are known by their name or text."""
    if isinstance(error, MemoryError) or any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def as_known(error: Exception) -> ModelrackError:
    """Return what a client sees of an error."""
    if isinstance(error, ModelrackError):
        return error
    if is_memory_error(error):
        return EngineError("There is not enough memory to run this; shorter inputs may fit.")
    return EngineError("The model failed inside; its log has the details.")
