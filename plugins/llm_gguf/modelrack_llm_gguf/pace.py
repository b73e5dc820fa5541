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
_BLOCK = 16
"""Kernels compute rows in blocks of this: rows that fill one up cost little, the first of another cost much."""
_CHEAPER = 0.5
"""Fewer tokens at once are read if each of them takes at most this share of what more take."""
_TRY_EVERY = 24
"""After so many steps with a choice of amounts, the other one is tried."""


class Pace:
    """Learns what a step takes without prompts, and how many tokens of them it can read without being too slow.

    There are two amounts: `small` fills up the block of rows that the running sequences have begun, `large` is all that
    the time allows. Which takes less time for a token depends on the machine, the model and how it was compiled.

    Args:
        most: tokens of a prompt that a step can read.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._least = min(_LEAST, most)
        self._plain: dict[int, float] = {}
        self._amount = float(min(_FIRST, most))
        self._alone_token_s: float | None = None
        self._in_a_row = 0
        self._planned = ("large", 0)
        self._token_s: dict[str, float] = {}
        self._turns = 0

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
            self._alone_token_s = _mix(self._alone_token_s, seconds / prompt)
        else:
            self._in_a_row += 1
            self._correct(running, prompt, seconds)

    def _correct(self, running: int, prompt: int, seconds: float) -> None:
        base = self._base(running)
        if base is None:
            return
        name, planned = self._planned
        if planned * 3 / 4 <= prompt <= planned:
            self._token_s[name] = _mix(self._token_s.get(name), max(seconds - base, base / 100) / prompt)
        if prompt < self._amount / 2 or prompt > planned > 0:
            return
        added = seconds - base
        wanted = base * (_SLOWER - 1)
        factor = min(1.5, max(0.6, wanted / added)) if added > 0 else 1.5
        # Other work on the machine only ever makes a step longer, so "too slow" is believed less.
        self._amount += (0.5 if factor > 1 else 0.3) * (prompt * factor - self._amount)
        self._amount = min(float(self._most), max(float(self._least), self._amount))

    def budget(self, running: int, waiting: int = 0) -> int:
        """Return how many tokens of prompts the next step may read.

        Args:
            waiting: sequences that have a place but no first token yet. Where they are more than those that run, more
                is read: their waiting counts as much.
        """
        if running == 0:
            alone = self._alone_token_s
            return self._most if alone is None else max(self._least, min(self._most, int(_ALONE_S / alone)))
        base = self._base(running)
        if self._in_a_row >= _MOST_IN_A_ROW or base is None:
            return 0 if self._in_a_row else self._least
        amounts = self._amounts(running)
        name = "large"
        if "small" in amounts:
            self._turns += 1
            costs = self._token_s
            is_cheaper = costs.get("small", 0.0) < _CHEAPER * costs.get("large", 0.0)
            # Now and then the other one: what it takes changes with what is in the cache.
            name = "small" if is_cheaper != (self._turns % _TRY_EVERY == 0) else "large"
        self._planned = (name, amounts[name])
        return min(self._most, amounts[name] * max(1, waiting // running))

    def _amounts(self, running: int) -> dict[str, int]:
        """Return the amounts that come into question."""
        limit = int(self._amount)
        large = (running + limit) // _BLOCK * _BLOCK - running
        amounts = {"large": large if large >= limit * 3 / 4 else limit}
        small = -running % _BLOCK or _BLOCK
        if 4 <= small < amounts["large"]:
            amounts["small"] = small
        return amounts

    def _base(self, running: int) -> float | None:
        """Return what a step of so many sequences takes, or one of the nearest number that is known."""
        known = self._plain.get(running)
        if known is None and self._plain:
            nearest = min(self._plain, key=lambda count: abs(count - running))
            known = self._plain[nearest]
        return known


def _mix(old: float | None, new: float) -> float:
    return new if old is None else old + _WEIGHT * (min(new, _OUTLIER * old) - old)
