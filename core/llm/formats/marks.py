"""Sets of strings that are looked for in a text of which more may come."""

import re
from functools import lru_cache

__all__ = ["Marks", "marks_of"]


class Marks:
    """Strings to look for. Where two begin at one place the longer is meant, so that one is waited for."""

    __slots__ = ("_firsts", "_pattern", "_prefixes", "longest", "words")

    def __init__(self, words: tuple[str, ...]) -> None:
        self.words = tuple(sorted(set(words), key=len, reverse=True))
        self.longest = len(self.words[0])
        self._pattern = re.compile("|".join(map(re.escape, self.words)))
        self._prefixes = frozenset(word[:length] for word in words for length in range(1, len(word)))
        self._firsts = re.compile("|".join(sorted({re.escape(word[0]) for word in words})))

    def find(self, text: str, at: int, end: int, is_over: bool) -> tuple[int, str | None]:
        """Return where the first mark begins, and which; or, with None, up to where certainly none begins."""
        hit = self._pattern.search(text, at, end)
        if hit is not None:
            if is_over or not self._may_grow(text, hit.start()):
                return hit.start(), hit.group()
            return hit.start(), None
        if is_over:
            return end, None
        start = max(at, end - self.longest + 1)
        while (first := self._firsts.search(text, start, end)) is not None:
            if text[first.start() : end] in self._prefixes:
                return first.start(), None
            start = first.start() + 1
        return end, None

    def match(self, text: str, at: int, is_over: bool) -> tuple[bool, str | None]:
        """Tell whether it is certain what stands at a place, and which mark it is."""
        if not is_over and self._may_grow(text, at):
            return False, None
        hit = self._pattern.match(text, at)
        return True, hit.group() if hit else None

    def _may_grow(self, text: str, at: int) -> bool:
        rest = len(text) - at
        return rest == 0 or (rest < self.longest and text[at:] in self._prefixes)


@lru_cache(maxsize=512)
def marks_of(words: tuple[str, ...]) -> Marks:
    """Return the marks of some words, made once. There must be at least one, and none empty."""
    return Marks(words)
