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
        self._alone_token_s: float | None = None
        self._in_a_row = 0

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
        if base is None or prompt < self._amount / 2:
            return
        added = seconds - base
        wanted = base * (_SLOWER - 1)
        factor = min(1.5, max(0.6, wanted / added)) if added > 0 else 1.5
        # Other work on the machine only ever makes a step longer, so "too slow" is believed less.
        self._amount += (0.5 if factor > 1 else 0.3) * (prompt * factor - self._amount)
        self._amount = min(float(self._most), max(float(self._least), self._amount))

    def budget(self, running: int) -> int:
        """Return how many tokens of prompts the next step may read."""
        if running == 0:
            alone = self._alone_token_s
            return self._most if alone is None else max(self._least, min(self._most, int(_ALONE_S / alone)))
        if self._in_a_row >= _MOST_IN_A_ROW or not self._plain:
            return 0 if self._in_a_row else self._least
        return int(self._amount)

    def _base(self, running: int) -> float | None:
        """Return what a step of so many sequences takes, or one of the nearest number that is known."""
        known = self._plain.get(running)
        if known is None and self._plain:
            nearest = min(self._plain, key=lambda count: abs(count - running))
            known = self._plain[nearest]
        return known


def _mix(old: float | None, new: float) -> float:
    return new if old is None else old + _WEIGHT * (min(new, _OUTLIER * old) - old)
