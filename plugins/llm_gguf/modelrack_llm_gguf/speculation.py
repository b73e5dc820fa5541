"""Draft tokens ahead, out of a sequence's own text or by a small model, so that one step can confirm several.

The model computes all drafted tokens of a sequence in one step, and the sequence's own sampler then chooses token by
token as it would have without: the first choice that differs from the draft is the last one of the step. Answers do not
change.
"""

from collections.abc import Sequence
from time import perf_counter
from typing import TYPE_CHECKING

from .lookup import Lookup
from .worth import Costs, Worth

if TYPE_CHECKING:
    from .draft import DraftModel, DraftSequence

__all__ = ["Speculation", "Speculator"]

_INDEXED = 4096
"""Tokens indexed for one sequence in one step: some milliseconds."""
_GUESSED = 8


class Speculation:
    """What is kept for one sequence. Made by `Speculator.open`.

    Args:
        tokens: of the sequence; the list grows.
        most: tokens of a draft.
    """

    __slots__ = ("_guess", "_guess_start", "drafting", "is_by_model", "lookup", "model_worth", "tokens", "worth")

    def __init__(self, tokens: Sequence[int], most: int, lookup: Lookup | None) -> None:
        self.tokens = tokens
        self.lookup = lookup
        self.worth = Worth(most)
        self.model_worth = Worth(most)
        self.drafting: DraftSequence | None = None
        self.is_by_model = False
        self._guess: list[int] = []
        self._guess_start = 0

    def judge(self, drafted: int, accepted: int) -> None:
        """Hear how many of the drafted tokens the sampler chose too."""
        (self.model_worth if self.is_by_model else self.worth).judge(drafted, accepted)

    def guess(self) -> None:
        """Look up what comes without having it computed, and see later whether it was right: that costs nothing."""
        guess, start = self._guess, self._guess_start
        if guess:
            come = self.tokens[start : start + len(guess)]
            right = next(
                (place for place, (one, other) in enumerate(zip(come, guess, strict=False)) if one != other), None
            )
            if right is None and len(come) < len(guess):
                return
            self.worth.judge(len(guess), len(guess) if right is None else right)
        assert self.lookup is not None
        self._guess, self._guess_start = self.lookup.draft(_GUESSED), len(self.tokens)


class Speculator:
    """Drafts for all sequences of a model. Belongs to the thread that decodes.

    Args:
        model: drafts where the text itself gives nothing.
        most: most tokens of a draft.
        least: shorter drafts are not tried.
        shortest: least tokens looked up in the text; 0: none are.
        longest: most tokens looked up.
        adaptive: draft only as many as make answers come sooner; else always `most`.
    """

    def __init__(
        self,
        *,
        model: "DraftModel | None" = None,
        most: int = 16,
        least: int = 0,
        shortest: int = 0,
        longest: int = 0,
        adaptive: bool = True,
    ) -> None:
        self._model = model
        self._adaptive = adaptive
        self._most = most
        self._least = max(1, least)
        self._shortest = shortest
        self._longest = longest
        self._costs = Costs()

    def open(self, tokens: Sequence[int]) -> Speculation:
        """Begin with a sequence.

        Args:
            tokens: the list that the sequence's tokens are appended to, as long as it runs: its prompt, what it has
                generated, and last the token that is to be computed next. It is only read.
        """
        lookup = Lookup(tokens, self._shortest, self._longest) if self._shortest else None
        return Speculation(tokens, self._most, lookup)

    def close(self, speculation: Speculation) -> None:
        """End with a sequence."""
        if self._model is not None and speculation.drafting is not None:
            self._model.release(speculation.drafting)
            speculation.drafting = None

    def propose(self, wanted: Sequence[tuple[Speculation, int]]) -> list[list[int]]:
        """Return a draft for each sequence, in this order; many are empty. Called once for each step.

        Args:
            wanted: sequences, and how many tokens each has room for.
        """
        drafts: list[list[int]] = [[] for _ in wanted]
        asked: list[tuple[int, Speculation, int]] = []
        count = len(wanted)
        for place, (speculation, limit) in enumerate(wanted):
            if limit < self._least:
                continue
            speculation.is_by_model = False
            drafts[place] = self._look_up(speculation, limit, count)
            if not drafts[place] and self._model is not None:
                size = speculation.model_worth.next(self._costs, count) if self._adaptive else self._most
                room = min(limit, size)
                if room >= self._least:
                    asked.append((place, speculation, room))
        if asked and self._model is not None:
            self._ask(self._model, asked, drafts)
        return drafts

    def learn(self, rows: int, seconds: float) -> None:
        """Take the time of a step.

        Args:
            rows: tokens of all sequences, drafted ones too; steps that read prompts are not told.
        """
        self._costs.learn(rows, seconds)

    def _look_up(self, speculation: Speculation, limit: int, count: int) -> list[int]:
        lookup = speculation.lookup
        if lookup is None or not lookup.advance(_INDEXED):
            return []
        size = speculation.worth.size(self._costs, count) if self._adaptive else self._most
        room = min(limit, size)
        if room < self._least:
            speculation.guess()
            return []
        draft = lookup.draft(room)
        return draft if len(draft) >= self._least else []

    def _ask(self, model: "DraftModel", asked: list[tuple[int, Speculation, int]], drafts: list[list[int]]) -> None:
        for _, speculation, _ in asked:
            if speculation.drafting is None:
                speculation.drafting = model.acquire()
        asked = [one for one in asked if one[1].drafting is not None]
        started = perf_counter()
        given = model.draft(
            [
                (speculation.drafting, speculation.tokens, room)
                for _, speculation, room in asked
                if speculation.drafting is not None
            ]
        )
        drafted = sum(map(len, given))
        if drafted and not model.has_read:
            self._costs.learn_draft(drafted, perf_counter() - started)
        for (place, _, _), draft in zip(asked, given, strict=True):
            if len(draft) >= self._least:
                drafts[place] = draft
                speculation.is_by_model = True

    def free(self) -> None:
        """Free the draft model."""
        if self._model is not None:
            self._model.free()
            self._model = None
