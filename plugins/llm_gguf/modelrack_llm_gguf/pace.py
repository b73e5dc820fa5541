"""How much of a prompt is read along with a step of running sequences. Pure: it only learns from times."""

__all__ = ["Pace"]

_SLOWER = 2.0
"""A step that reads from a prompt may take so many times what it takes without."""
_ALONE_S = 0.5
"""Without running sequences, a step reads for about so long: then clients that left are noticed."""
_FIRST = 32
_LEAST = 16
_MOST_IN_A_ROW = 8
"""After so many steps with prompts one goes without: what a step takes grows with what is in the cache."""
_WEIGHT = 0.2
_OUTLIER = 3.0
"""Times are taken as at most so many times the usual: the machine may have been busy with something else."""
_MANY = 64
_BLOCKS = (16, 8, 4)
"""Kernels compute rows in blocks of these: rows that fill one up cost little, the first of another cost much."""


class Pace:
    """Learns what a step takes without prompts, and how many tokens of them it can read without being too slow.

    Args:
        most: tokens of a prompt that a step can read.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._least = min(_LEAST, most)
        self._plain: dict[int, float] = {}
        self._amount = float(min(_FIRST, most))
        self._token_s: float | None = None
        self._in_a_row = 0
        self._planned = 0

    def learn(self, running: int, prompt: int, seconds: float) -> None:
        """Take the time of a step.

        Args:
            running: sequences that got a token of their own.
            prompt: tokens of prompts that were read.
        """
        if prompt == 0:
            self._in_a_row = 0
            self._plain[running] = _mix(self._plain.get(running), seconds)
        elif running == 0:
            self._learn_token(prompt, seconds)
        else:
            self._in_a_row += 1
            self._correct(running, prompt, seconds)

    def _learn_token(self, prompt: int, seconds: float) -> None:
        # What a handful takes says little about many.
        if prompt >= self._least:
            self._token_s = _mix(self._token_s, seconds / prompt, prompt / (prompt + _MANY))

    def _correct(self, running: int, prompt: int, seconds: float) -> None:
        base = self._base(running)
        if base is None:
            return
        added = seconds - base
        wanted = base * (_SLOWER - 1)
        if running in self._plain:
            self._learn_token(prompt, max(added, 0.0))
        if prompt < self._amount / 2 or prompt > self._planned > 0:
            return
        factor = min(1.5, max(0.6, wanted / added)) if added > 0 else 1.5
        # Other work on the machine only ever makes a step longer, so "too slow" is believed less.
        self._amount += (0.5 if factor > 1 else 0.3) * (prompt * factor - self._amount)
        self._amount = min(float(self._most), max(float(self._least), self._amount))

    def budget(self, running: int, waiting: int = 0, tokens: int = 0) -> int:
        """Return how many tokens of prompts the next step may read.

        Args:
            waiting: sequences that have a place but no first token yet.
            tokens: of their prompts, still to be read.
        """
        token_s = self._token_s
        if running == 0:
            return self._most if token_s is None else max(self._least, min(self._most, int(_ALONE_S / token_s)))
        base = self._base(running)
        if self._in_a_row >= _MOST_IN_A_ROW or base is None:
            return 0 if self._in_a_row else self._least
        limit = int(self._amount)
        filled = ((running + limit) // block * block - running for block in _BLOCKS)
        amount = self._planned = next((one for one in filled if one >= limit * 3 / 4), limit)
        # Where those that wait are as many as those that run, their waiting counts as much: it is over at once.
        pause = _ALONE_S * waiting / (running + waiting)
        if token_s is not None and waiting >= running and tokens * token_s <= pause:
            amount = max(amount, tokens)
        return min(self._most, amount)

    def _base(self, running: int) -> float | None:
        """Return what a step of so many sequences takes, or one of the nearest number that is known."""
        known = self._plain.get(running)
        if known is None and self._plain:
            nearest = min(self._plain, key=lambda count: abs(count - running))
            known = self._plain[nearest]
        return known


def _mix(old: float | None, new: float, weight: float = _WEIGHT) -> float:
    return new if old is None else old + weight * (min(new, _OUTLIER * old) - old)
