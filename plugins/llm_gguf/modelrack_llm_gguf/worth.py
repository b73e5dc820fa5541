"""How many tokens are worth drafting: what longer steps cost, against what they bring. Pure: it learns from times."""

from bisect import bisect_left
from math import log

__all__ = ["Costs", "Worth"]

_WEIGHT = 0.2
_OUTLIER = 4.0
_OPTIMISM = 0.05
"""Before it is known better, a further row of a step is taken to cost so much of one."""
_REMEMBERED = 32
"""Steps for which a decision is kept."""
_FADING = 0.98
_GAIN = 0.03
"""What drafts must bring at least: times are known to no more than this."""
_LEVELS = 32
_TRIALS = 0.03
"""So much of the time may go to drafts that are not worth it, to see whether they are by now."""
_LONGEST_PAUSE = 512
_EVEN = 0.5


class Costs:
    """What steps take, by their rows, and what a draft model takes for each token."""

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}
        self._rows: list[int] = []
        self._draft_s = 0.0
        self._decisions: dict[tuple[int, int, bool], int] = {}
        self._age = 0
        self._fresh: set[int] = set()

    def learn(self, rows: int, seconds: float) -> None:
        """Take the time of a step."""
        known = self._seconds.get(rows)
        if known is None:
            self._rows.insert(bisect_left(self._rows, rows), rows)
            self._seconds[rows] = seconds
        else:
            # Something else had the processor.
            self._seconds[rows] = known + _WEIGHT * (min(seconds, _OUTLIER * known) - known)
        self._fresh.add(rows)
        self._age += 1
        if self._age >= _REMEMBERED:
            self._grow_hopeful()

    def _grow_hopeful(self) -> None:
        """Believe less in what was not seen again: a step that something disturbed shall not decide for ever."""
        least = self._seconds[self._rows[0]]
        for rows in self._rows:
            if rows not in self._fresh:
                self._seconds[rows] = max(least, self._seconds[rows] * _FADING)
        self._age = 0
        self._fresh.clear()
        self._decisions.clear()

    def learn_draft(self, tokens: int, seconds: float) -> None:
        """Take the time that a draft model took for some tokens."""
        each = seconds / max(1, tokens)
        self._draft_s = each if not self._draft_s else self._draft_s + _WEIGHT * (each - self._draft_s)

    def step(self, rows: int) -> float:
        """Return what a step of so many rows probably takes; 0 if nothing is known."""
        known = self._seconds.get(rows)
        if known is not None or not self._rows:
            return known or 0.0
        place = bisect_left(self._rows, rows)
        if place == 0:
            return self._seconds[self._rows[0]]
        low = self._rows[place - 1]
        start = self._seconds[low]
        if place < len(self._rows):
            high = self._rows[place]
            return start + (self._seconds[high] - start) * (rows - low) / (high - low)
        slope = start / low * _OPTIMISM
        if place > 1:
            lower = self._rows[place - 2]
            slope = max(slope, (start - self._seconds[lower]) / (low - lower))
        return start + slope * (rows - low)

    def best(self, sequences: int, chance: float, most: int, *, by_model: bool) -> int:
        """Return how many tokens each sequence should draft for the most tokens in a second; 0: none.

        Args:
            chance: that a drafted token is right, if all before it are; of less than a few hundredths nothing comes.
            by_model: a draft model drafts them, which takes time too.
        """
        level = int(chance * _LEVELS)
        key = sequences, level, by_model
        found = self._decisions.get(key)
        if found is None:
            found = self._decisions[key] = self._find(sequences, (level + 0.5) / _LEVELS, most, by_model)
        return min(found, most)

    def price(self, sequences: int, size: int) -> float:
        """Return what drafts of a model take of all sequences, in steps."""
        plain = max(self.step(sequences), 1e-9)
        return (self.step(sequences * (1 + size)) + self._draft_s * sequences * size) / plain - 1

    def _find(self, sequences: int, chance: float, most: int, by_model: bool) -> int:
        draft_s = self._draft_s * sequences if by_model else 0.0
        best, size = (1.0 + _GAIN) / max(self.step(sequences), 1e-9), 0
        tokens, right = 1.0, 1.0
        for count in range(1, most + 1):
            right *= chance
            tokens += right
            speed = tokens / max(self.step(sequences * (1 + count)) + draft_s * count, 1e-9)
            if speed > best:
                best, size = speed, count
        return size


class Worth:
    """How many tokens to draft for one sequence, by how its drafts have fared.

    Args:
        most: never more.
    """

    __slots__ = ("_most", "_pause", "_refusals", "_right", "_tried")

    def __init__(self, most: int) -> None:
        self._most = most
        self._right, self._tried = 1.5, 2.0
        self._pause = 0
        self._refusals = 0

    @property
    def chance(self) -> float:
        """Return the chance that a drafted token is right, if all before it are."""
        return self._right / self._tried

    def size(self, costs: Costs, sequences: int) -> int:
        """Return how many tokens to draft in this step, if that takes no time."""
        return costs.best(sequences, self.chance, self._most, by_model=False)

    def next(self, costs: Costs, sequences: int) -> int:
        """Return how many tokens a draft model should draft in this step. Called once for each step.

        Where none are worth it, some are tried now and then: texts change.
        """
        if self._pause:
            self._pause -= 1
            return 0
        chance = self.chance
        size = costs.best(sequences, chance, self._most, by_model=True)
        if size:
            self._refusals = 0
            return size
        # As many as will probably all be right.
        size = max(1, min(self._most, int(log(_EVEN) / log(min(max(chance, 0.05), 0.99)))))
        self._refusals = min(self._refusals + 1, 8)
        self._pause = min(_LONGEST_PAUSE, max(1 << self._refusals, int(costs.price(sequences, size) / _TRIALS)))
        return size

    def judge(self, drafted: int, accepted: int) -> None:
        """Hear how many of the drafted tokens were right."""
        if not drafted:
            return
        tried = accepted + (accepted < drafted)
        keep = 0.7 ** min(tried, 3)
        self._right = self._right * keep + accepted
        self._tried = self._tried * keep + tried
        # However long a draft was, it does not count for ever; and nothing is ever quite sure.
        scale = min(1.0, 16 / self._tried)
        self._right, self._tried = self._right * scale, self._tried * scale + 0.02
