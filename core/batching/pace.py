"""What the batches so far say about the next one: how long it will take, and how large it should be."""

from math import ceil

from .contract import BatchLimits

__all__ = ["Pace"]

_MEMORY = 0.9
"""Share that the past keeps in the measured speed, with each batch."""
_MUCH = 4
"""Items that are so many times longer than those of the last batch are long ones among short ones."""
_HOLD = 0.25
"""Share of a batch's time that it may be held back by."""
_PATIENCE = 0.5
"""How long it lets itself be held back, in times that all requests take if each is like it."""
_MOST_HOLD_S = 0.005
_MOST_RETRY_S = 60


class Pace:
    """Keeps count of batches. Not for threads."""

    def __init__(self, limits: BatchLimits) -> None:
        self._limits = limits
        self._most_tokens = limits.batch_tokens
        self._tokens = 0.0
        self._took_s = 0.0
        self._last_tokens = limits.batch_tokens
        self._last_end = 0.0

    def note(self, tokens: int, longest: int, begun: float, end: float) -> None:
        """Note a batch that is over: its tokens, those of its longest item, and when it ran."""
        self._tokens = self._tokens * _MEMORY + tokens
        self._took_s = self._took_s * _MEMORY + end - begun
        self._last_tokens, self._last_end = longest, end
        self._most_tokens = min(self._most_tokens + self._most_tokens // 64 + 1, self._limits.batch_tokens)

    def lower(self, tokens: int) -> None:
        """Make batches smaller after one of so many tokens that memory did not suffice for; they grow with time."""
        self._most_tokens = max(1, min(self._most_tokens, tokens // 2))

    def seconds(self, tokens: float) -> float:
        """Return about how long it takes to run so many tokens; 0 if nothing was run yet."""
        return tokens * self._took_s / self._tokens if self._tokens else 0.0

    def retry_s(self, tokens: float) -> int:
        """Return the whole seconds after which so many tokens should have been run."""
        return min(max(1, ceil(self.seconds(tokens))), _MOST_RETRY_S)

    def most_tokens(self, first: int) -> int:
        """Return the most tokens of the next batch, if the item that it begins with has so many.

        Long ones among short ones are run a few at a time, so that the short ones do not wait long for each batch.
        """
        if self._is_long(first):
            return min(4 * self._limits.padding_tokens, self._most_tokens)
        return self._most_tokens

    def hold_until(self, shortest: int, since: float, requests: int) -> float:
        """Return the time until which the next batch should wait for something shorter to come; it may be over already.

        Only a batch of long items right behind short ones waits. Whoever was just answered mostly asks again at once,
        and would then wait for all of it. So it waits for a quarter of the time that it takes, a few milliseconds at
        most, and not once it has waited for half as long as its request's share of the model would have taken.

        Args:
            shortest: tokens of the shortest item that waits.
            since: when its request came.
            requests: number of requests that wait.
        """
        if not self._is_long(shortest):
            return 0.0
        takes_s = self.seconds(shortest)
        return min(self._last_end + min(takes_s * _HOLD, _MOST_HOLD_S), since + _PATIENCE * requests * takes_s)

    def _is_long(self, tokens: int) -> bool:
        return tokens > _MUCH * self._last_tokens
