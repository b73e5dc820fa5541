"""Follow one answer, and say what may come next."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...errors import EngineError
from .marks import Position
from .masks import Ceilings, Masks

if TYPE_CHECKING:
    import numpy as np
    from llguidance import LLMatcher
    from numpy.typing import NDArray

__all__ = ["Compiled", "Matcher"]

_GRACE_S = 0.5
_TOKEN_S = 0.005
"""CPU time of a matcher before it is too slow: this much for each token, and some more once."""
_NOTHING = float("-inf")


@dataclass(slots=True)
class Compiled:
    """A grammar's first matcher. Those made from it share what they learn of the grammar, and so its limits.

    Args:
        is_spoilt: one of them ran into a limit.
    """

    first: LLMatcher
    is_spoilt: bool = False


class Matcher:
    """Follows one answer. Made by `Constraints.prepare`; belongs to the thread that chooses the tokens.

    Args:
        ceilings: for `mask`; shared by the matchers of a model.
        start: where it waits for a mark after which the constraint begins to hold; None: it holds from the beginning.
    """

    def __init__(self, compiled: Compiled, grammar: LLMatcher, ceilings: Ceilings, start: Position | None) -> None:
        self.vocabulary = ceilings.vocabulary
        self._compiled = compiled
        self._grammar = grammar
        self._ceilings = ceilings
        self._before = start
        self._earlier: list[Position] = []
        self._taken = 0
        self._after = 0
        self._spent_s = -_GRACE_S

    def fill(self, masks: Masks, row: int = 0) -> bool:
        """Write into a row of the masks which tokens may come next.

        Returns: whether the answer is complete, and nothing can follow: the row allows the end tokens and no others.
        Raises: EngineError: the grammar has become too complex, or nothing in the vocabulary fits.
        """
        if self._before is not None:
            masks.words[row] = self._before.words
            return False
        grammar = self._grammar
        begun = time.thread_time()
        grammar.unsafe_compute_mask_ptr(masks.addresses[row], masks.row_bytes)
        self._spent_s += time.thread_time() - begun - _TOKEN_S
        if grammar.is_error():
            raise self._failed(grammar.get_error())
        if grammar.is_stopped():
            return True
        if not masks.goes_on(row):
            if not masks.allows_any(row):
                raise self._failed("no token of the model fits")
            return True
        if self._spent_s > 0:
            raise self._failed("it takes too long")
        return False

    def mask(self, logits: NDArray[np.float32]) -> bool:
        """Take away what may not come next: its logits become -inf.

        Args:
            logits: of all tokens, in main memory, changed in place.

        Returns: whether the answer is complete, and nothing can follow; the logits are as they were.
        Raises: EngineError: the grammar has become too complex, or nothing in the vocabulary fits.
        """
        ceilings = self._ceilings
        if self._before is not None:
            logits[ceilings.closed] = _NOTHING
            logits[self._before.forbidden] = _NOTHING
            return False
        if self.fill(ceilings.masks):
            return True
        ceilings.apply(logits)
        return False

    def accept(self, token: int) -> None:
        """Take the token that was chosen, be it one that ends the answer.

        Raises: EngineError: it does not fit.
        """
        if self._before is not None:
            self._earlier.append(self._before)
            self._before = self._before.after(token)
            return
        grammar = self._grammar
        is_after = token in self._ceilings.ends and grammar.is_stopped()
        if not grammar.consume_token(token):
            raise self._failed(grammar.get_error())
        # Behind an answer that could not go on, llguidance takes end tokens, but does not count them.
        if is_after:
            self._after += 1
        else:
            self._taken += 1

    def valid(self, tokens: Sequence[int]) -> int:
        """Return how many of some tokens could come next, one after another. Nothing changes."""
        before = self._before
        for index, token in enumerate(tokens):
            if before is None:
                return index + int(self._grammar.validate_tokens(list(tokens[index:])))
            if not before.allows(token):
                return index
            before = before.after(token)
        return len(tokens)

    def forced(self) -> list[int]:
        """Return the tokens that must come next, as far as there is no choice; often none. Nothing changes.

        Raises: EngineError: the grammar has become too complex.
        """
        if self._before is not None:
            return []
        tokens = self._grammar.compute_ff_tokens()
        if self._grammar.is_error():
            raise self._failed(self._grammar.get_error())
        return list(tokens)

    def rollback(self, count: int) -> None:
        """Take back the last `count` accepted tokens."""
        after = min(count, self._after)
        self._after -= after
        count -= after
        within = min(count, self._taken)
        if within and not self._grammar.rollback(within):
            raise self._failed(self._grammar.get_error())
        self._taken -= within
        for _ in range(count - within):
            self._before = self._earlier.pop()

    def fork(self) -> Matcher:
        """Return one that goes its own way from here."""
        other = Matcher(self._compiled, self._grammar.deep_copy(), self._ceilings, self._before)
        other._earlier = list(self._earlier)
        other._taken = self._taken
        other._after = self._after
        other._spent_s = self._spent_s
        return other

    def _failed(self, reason: str) -> EngineError:
        self._compiled.is_spoilt = True
        line = reason.strip().partition("\n")[0][:300]
        return EngineError(f"The constraint could not be followed any further: {line}.")
