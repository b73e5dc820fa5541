"""Take random ways through what a constraint allows."""

import random
from typing import TYPE_CHECKING

from ..llm.guided import Masks, Matcher

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["allowed", "tokens_of", "walk"]


def tokens_of(words: "NDArray[np.uint32]") -> list[int]:
    """Return the tokens that a row of `modelrack.llm.guided.Masks` allows."""
    import numpy as np

    bits = np.unpackbits(words.astype("<u4").view(np.uint8), bitorder="little")
    return [int(token) for token in np.flatnonzero(bits)]


def allowed(matcher: Matcher) -> list[int] | None:
    """Return what may come next; None where the answer is over."""
    masks = Masks(matcher.vocabulary)
    return None if matcher.fill(masks) else tokens_of(masks.words[0])


def walk(matcher: Matcher, seed: int, most: int = 400) -> tuple[list[int], bool]:
    """Take one allowed token after another, and return them, without the end token, and whether there was an end."""
    chance = random.Random(seed)
    ends = set(matcher.vocabulary.ends)
    taken: list[int] = []
    while len(taken) < most:
        choices = allowed(matcher)
        if choices is None:
            return taken, True
        assert choices
        closing = [token for token in choices if token in ends]
        token = chance.choice(closing if closing and chance.random() < 0.2 else choices)
        matcher.accept(token)
        if token in ends:
            return taken, True
        taken.append(token)
    return taken, False
