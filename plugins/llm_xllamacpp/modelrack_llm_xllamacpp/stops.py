"""Stop strings.

llama.cpp (b11549) finds them too, but a stream that ends at its limit loses the text that was held back because a stop
string might have begun with it, and so does an answer in one piece that is a stream inside.
"""

from modelrack.llm.text import StopFinder, StopStrings

from .logprobs import Entry

__all__ = ["StopGate"]


class StopGate:
    """Lets the text of one answer through as far as no stop string has begun, and its tokens as far as their text."""

    __slots__ = ("_fed", "_finder", "_passed", "_waiting")

    def __init__(self, strings: StopStrings) -> None:
        self._finder = StopFinder(strings)
        self._fed = 0
        self._passed = 0
        self._waiting: list[tuple[int, Entry]] = []

    @property
    def found(self) -> bool:
        """Tell whether a stop string has ended the answer."""
        return self._finder.found

    def feed(self, text: str, entries: list[Entry], *, is_last: bool) -> tuple[str, list[Entry]]:
        """Return the text that is certain by now, and the tokens that begin in it.

        Args:
            entries: the tokens of the text.
            is_last: nothing more comes, so nothing is held back.
        """
        begin = self._fed
        for entry in entries:
            self._waiting.append((begin, entry))
            begin += len(entry["token"])
        self._fed += len(text)
        passed = self._finder.feed(text) if text else ""
        if is_last and not self._finder.found:
            passed += self._finder.finish()
        self._passed += len(passed)
        is_all = is_last and not self._finder.found
        ready = [entry for at, entry in self._waiting if is_all or at < self._passed]
        self._waiting = [] if is_all else [(at, entry) for at, entry in self._waiting if at >= self._passed]
        return passed, ready
