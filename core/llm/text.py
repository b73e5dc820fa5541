"""From tokens to text: characters that span tokens stay whole, and stop strings are found wherever they are cut."""

import codecs
from collections import deque
from collections.abc import Callable, Iterable, Sequence

__all__ = ["StopFinder", "StopStrings", "TextDecoder", "TokenTexts"]

_utf8 = codecs.getincrementaldecoder("utf-8")


class TokenTexts(dict[int, str | None]):
    """What each token adds to a text, if that is whole characters; None if it begins, goes on or is broken in one.

    Filled as tokens come up, so that a token costs one look-up from the second time on.

    Args:
        read: returns a token's bytes.
    """

    def __init__(self, read: Callable[[int], bytes]) -> None:
        super().__init__()
        self.read = read

    def __missing__(self, token: int) -> str | None:
        try:
            text = self.read(token).decode()
        except UnicodeDecodeError:
            text = None
        self[token] = text
        return text


class TextDecoder:
    """Turns the tokens of one answer into text. A character comes out once it is complete, broken bytes as U+FFFD.

    How the tokens are cut into calls changes nothing; joined, it is what decoding all the bytes at once gives.
    """

    __slots__ = ("_decoder", "_texts", "is_whole")

    def __init__(self, texts: TokenTexts) -> None:
        self._texts = texts
        self._decoder: codecs.IncrementalDecoder | None = None
        self.is_whole = True
        """Nothing of a character is waiting for its rest."""

    def feed(self, tokens: Sequence[int]) -> str:
        """Return the text that is certain by now."""
        texts = self._texts
        if self.is_whole:
            if len(tokens) == 1:
                text = texts[tokens[0]]
                if text is not None:
                    return text
            else:
                pieces = [texts[token] for token in tokens]
                if None not in pieces:
                    return "".join(pieces)  # type: ignore[arg-type]  # no None among them
        if self._decoder is None:
            self._decoder = _utf8("replace")
        text = self._decoder.decode(b"".join([texts.read(token) for token in tokens]))
        self.is_whole = not self._decoder.getstate()[0]
        return text

    def finish(self) -> str:
        """Return what stands for bytes that never became a character."""
        if self.is_whole or self._decoder is None:
            return ""
        self.is_whole = True
        return self._decoder.decode(b"", final=True)


class StopStrings:
    """The stop strings of a request, prepared for searching (an Aho-Corasick automaton, in time linear in the text).

    The string that is complete first ends the answer; of several that are complete at the same character, the longest.
    """

    __slots__ = ("depth", "firsts", "hits", "links", "moves")

    def __init__(self, strings: Iterable[str]) -> None:
        self.moves: list[dict[str, int]] = [{}]
        self.depth = [0]
        self.hits = [0]
        for string in strings:
            state = 0
            for character in string:
                following = self.moves[state].get(character)
                if following is None:
                    following = len(self.moves)
                    self.moves[state][character] = following
                    self.moves.append({})
                    self.depth.append(self.depth[state] + 1)
                    self.hits.append(0)
                state = following
            self.hits[state] = self.depth[state]
        self.firsts = frozenset(self.moves[0])
        self.links = [0] * len(self.moves)
        self._link()

    def _link(self) -> None:
        """Find for each state the longest proper end of it that is itself a beginning."""
        queue = deque(self.moves[0].values())
        while queue:
            state = queue.popleft()
            if not self.hits[state]:
                self.hits[state] = self.hits[self.links[state]]
            for character, following in self.moves[state].items():
                queue.append(following)
                link = self.links[state]
                while link and character not in self.moves[link]:
                    link = self.links[link]
                self.links[following] = self.moves[link].get(character, 0)


class StopFinder:
    """Looks for stop strings in one answer. Held back is only what may yet become one."""

    __slots__ = ("_held", "_state", "_strings", "found")

    def __init__(self, strings: StopStrings) -> None:
        self._strings = strings
        self._state = 0
        self._held = ""
        self.found = False

    def feed(self, text: str) -> str:
        """Return the text that is certain by now; after `found` there is no more."""
        strings = self._strings
        if not self._state and strings.firsts.isdisjoint(text):
            return text
        moves, links, hits = strings.moves, strings.links, strings.hits
        state = self._state
        for position, character in enumerate(text, 1):
            while True:
                following = moves[state].get(character)
                if following is not None:
                    state = following
                    break
                if not state:
                    break
                state = links[state]
            if hits[state]:
                self.found = True
                whole = self._held + text[:position]
                self._held, self._state = "", 0
                return whole[: len(whole) - hits[state]]
        self._state = state
        depth = strings.depth[state]
        whole = self._held + text if self._held else text
        if not depth:
            self._held = ""
            return whole
        self._held = whole[-depth:]
        return whole[:-depth]

    def finish(self) -> str:
        """Return what was held back for nothing."""
        held, self._held, self._state = self._held, "", 0
        return held
