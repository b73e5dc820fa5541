"""Find in a sequence's own tokens what came after its last ones before: drafts that cost nothing. Pure."""

from collections.abc import Sequence

__all__ = ["Lookup"]

_CANDIDATES = 16
"""Places that are compared for one draft; the latest ones."""


class Lookup:
    """An index over a list of tokens that only grows.

    The list is read, never changed. Each new token costs one entry of a dictionary, whatever the length of the list.

    Args:
        tokens: of the sequence. Negative numbers stand for what is no text; they may be looked up, but are not drafted.
        shortest: least last tokens that must have stood together before.
        longest: more than this many are not compared.
    """

    __slots__ = ("_before", "_latest", "_longest", "_seen", "_shortest", "_tokens")

    def __init__(self, tokens: Sequence[int], shortest: int, longest: int) -> None:
        self._tokens = tokens
        self._shortest = shortest
        self._longest = max(shortest, longest)
        self._latest: dict[tuple[int, ...], int] = {}
        # By the place after a run of tokens: the place after the same run the time before; 0 for none.
        self._before = [0] * shortest
        self._seen = shortest

    def advance(self, most: int) -> bool:
        """Index up to `most` further tokens; returns whether all are."""
        tokens, latest, before, size = self._tokens, self._latest, self._before, self._shortest
        # The run that ends with the last token is what is looked for, so it is not indexed yet.
        end = min(len(tokens), self._seen + most)
        for place in range(self._seen, end):
            run = tuple(tokens[place - size : place])
            before.append(latest.get(run, 0))
            latest[run] = place
        self._seen = max(self._seen, end)
        return self._seen >= len(tokens)

    def draft(self, limit: int) -> list[int]:
        """Return up to `limit` tokens that came after the longest run that ends like the list; the latest of several.

        Where the run overlaps the end of the list, as in a text that repeats itself, the draft goes on round and round.
        """
        tokens = self._tokens
        place = self._find()
        if not place:
            return []
        length = len(tokens)
        drafted: list[int] = []
        for source in range(place, place + limit):
            token = tokens[source] if source < length else drafted[source - length]
            if token < 0:
                break
            drafted.append(token)
        return drafted

    def _find(self) -> int:
        tokens, size, longest = self._tokens, self._shortest, self._longest
        length = len(tokens)
        place = self._latest.get(tuple(tokens[length - size :]), 0) if length > size else 0
        best = most = 0
        for _ in range(_CANDIDATES):
            if not place:
                break
            same = size
            while same < longest and same < place and tokens[place - same - 1] == tokens[length - same - 1]:
                same += 1
            if same > most:
                best, most = place, same
                if same == longest:
                    break
            place = self._before[place]
        return best
