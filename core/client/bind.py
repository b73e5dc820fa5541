"""Turn the description of a call into a method: one for the blocking client, one for the async client."""

import functools
from collections.abc import Awaitable, Callable
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from .call import Call, Flow

__all__ = ["asynchronous", "blocking"]

P = ParamSpec("P")
T = TypeVar("T")


class Runner(Protocol):
    """What a client or a handle has: the way to run what its methods describe."""

    def _run(self, work: Any) -> Any: ...


def blocking(describe: Callable[Concatenate[Any, P], Call[T] | Flow[T]]) -> Callable[Concatenate[Any, P], T]:
    """Return the method that sends what `describe` describes and returns the result."""

    @functools.wraps(describe)
    def method(self: Runner, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._run(describe(self, *args, **kwargs))  # type: ignore[no-any-return]

    return method


def asynchronous(
    describe: Callable[Concatenate[Any, P], Call[T] | Flow[T]],
) -> Callable[Concatenate[Any, P], Awaitable[T]]:
    """Return the coroutine method that sends what `describe` describes and returns the result."""

    @functools.wraps(describe)
    async def method(self: Runner, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._run(describe(self, *args, **kwargs))  # type: ignore[no-any-return]

    return method
