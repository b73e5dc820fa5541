"""Chooses the tokens of a step out of its logits."""

from collections.abc import Sequence

import torch
from torch import Tensor

from modelrack.errors import ModelrackError
from modelrack.llm.contract import TokenLogprob
from modelrack.llm.decoding import Event, seed_of
from modelrack.llm.guided import Masks
from modelrack.llm.guided import Vocabulary as GuidedVocabulary

from .logprobs import Logprobs
from .sampling import Sampler, draw
from .slots import Slot

__all__ = ["Chooser"]


class _DeviceMasks:
    """Applies constraints to logits that are not in main memory: only a bit for each token travels."""

    def __init__(self, vocabulary: GuidedVocabulary, device: torch.device) -> None:
        self._words = torch.zeros((1, vocabulary.words), dtype=torch.int32, pin_memory=device.type == "cuda")
        self._masks = Masks(vocabulary, 1, self._words.numpy())
        self._shifts = torch.arange(32, dtype=torch.int32, device=device)

    def apply(self, slot: Slot, logits: Tensor) -> bool:
        """Take away what the constraint of a choice does not allow; True: the answer is complete."""
        assert slot.matcher is not None
        if slot.matcher.fill(self._masks, 0):
            return True
        # The copy is awaited: the next choice's mask is written to the same place.
        bits = (self._words[0].to(logits.device).unsqueeze(-1) >> self._shifts) & 1
        logits.masked_fill_(bits.flatten()[: len(logits)] == 0, -torch.inf)
        return False


class Chooser:
    """Samples, holds to constraints, and tells when a choice is over.

    Args:
        end_ids: the model's end tokens.
        device: where logits lie.
        guided: the vocabulary as constraints see it; None: there are none.
        seed: for requests that bring none; None is a new one each time.
    """

    def __init__(
        self,
        end_ids: frozenset[int],
        device: torch.device,
        guided: GuidedVocabulary | None = None,
        seed: int | None = None,
    ) -> None:
        self._end_ids = torch.tensor(sorted(end_ids), dtype=torch.long, device=device)
        self._device = device
        self._seed = seed
        self._masks = _DeviceMasks(guided, device) if guided is not None and device.type != "cpu" else None

    def begin(self, slot: Slot) -> None:
        """Prepare a choice whose prompt has been read, if that is not done already."""
        if slot.sampler is None:
            sampling = slot.job.generation.sampling
            seed = seed_of(sampling, slot.index, self._seed)
            slot.sampler = Sampler(sampling, seed, slot.job.prompt, self._device)

    def choose(self, slots: Sequence[Slot], logits: Tensor, events: list[Event]) -> list[bool]:
        """Choose the next token of each choice.

        Args:
            logits: of shape (len(slots), vocabulary), float32; they change.
            events: gets what there is to tell.

        Returns: for each whether it is over. One that has failed is over too: its job has an `error` then, and the
            events say nothing of it.
        """
        over = [False] * len(slots)
        known = self._logprobs(slots, logits)
        for row, slot in enumerate(slots):
            self.begin(slot)
            if _changes_logits(slot) and not self._prepare(slot, logits[row], events):
                over[row] = True
        open_rows = [row for row, is_over in enumerate(over) if not is_over]
        tokens = self._pick([slots[row] for row in open_rows], logits, open_rows)
        chosen = dict(zip(open_rows, tokens, strict=True))
        logprobs = self._look_up(known, chosen)
        for row, token in chosen.items():
            over[row] = self._take(slots[row], token, logprobs.get(row), events)
        return over

    def _logprobs(self, slots: Sequence[Slot], logits: Tensor) -> tuple[list[int], Logprobs] | None:
        rows = [row for row, slot in enumerate(slots) if slot.job.generation.logprobs is not None]
        if not rows:
            return None
        counts = [slots[row].job.generation.logprobs or 0 for row in rows]
        return rows, Logprobs(logits if len(rows) == len(slots) else logits[rows], counts)

    def _look_up(self, known: tuple[list[int], Logprobs] | None, chosen: dict[int, int]) -> dict[int, TokenLogprob]:
        if known is None:
            return {}
        rows, logprobs = known
        return dict(zip(rows, logprobs.of([chosen.get(row, 0) for row in rows]), strict=True))

    def _prepare(self, slot: Slot, logits: Tensor, events: list[Event]) -> bool:
        """Change the logits of one choice so that only what may come is chosen; False: it is over."""
        assert slot.sampler is not None
        if slot.matcher is not None:
            try:
                if self._mask(slot, logits):
                    events.append((slot, -1, None, "stop"))
                    return False
            except ModelrackError as error:
                slot.job.error = error
                return False
        slot.bar_ends(logits, self._end_ids)
        if slot.sampler.adjusts:
            slot.sampler.adjust(logits)
        return True

    def _mask(self, slot: Slot, logits: Tensor) -> bool:
        """Take away what a constraint does not allow; True: the answer is complete."""
        assert slot.matcher is not None
        if self._masks is None:
            return slot.matcher.mask(logits.numpy())
        return self._masks.apply(slot, logits)

    def _pick(self, slots: Sequence[Slot], logits: Tensor, rows: Sequence[int]) -> list[int]:
        if not slots:
            return []
        samplers = [slot.sampler for slot in slots if slot.sampler is not None]
        if len(rows) < logits.shape[0]:
            logits = logits[list(rows)]
        greedy = [place for place, sampler in enumerate(samplers) if sampler.is_greedy]
        if len(greedy) == len(slots):
            found: list[int] = logits.argmax(-1).tolist()
            return found
        if not greedy:
            return draw(logits, samplers)
        warm = [place for place, sampler in enumerate(samplers) if not sampler.is_greedy]
        tokens = [0] * len(slots)
        for places, chosen in (
            (greedy, logits[greedy].argmax(-1).tolist()),
            (warm, draw(logits[warm], [samplers[place] for place in warm])),
        ):
            for place, token in zip(places, chosen, strict=True):
                tokens[place] = token
        return tokens

    def _take(self, slot: Slot, token: int, logprob: TokenLogprob | None, events: list[Event]) -> bool:
        """Give a choice its token; True: it is over."""
        assert slot.sampler is not None
        if slot.matcher is not None:
            try:
                slot.matcher.accept(token)
            except ModelrackError as error:
                slot.job.error = error
                return True
        slot.sampler.accept(token)
        return slot.take(token, logprob, events)

    def read_prompt(self, slot: Slot, logits: Tensor, start: int) -> None:
        """Take the log probabilities of a prompt's tokens.

        Args:
            logits: of shape (positions, vocabulary), float32: what follows each of the prompt's tokens from `start` on.
        """
        job = slot.job
        known = job.prompt_logprobs
        assert known is not None
        top = job.generation.logprobs or 0
        first = len(known) - 1 - start
        wanted = job.prompt[len(known) : start + logits.shape[0] + 1]
        if wanted and first >= 0:
            known += Logprobs(logits[first : first + len(wanted)], [top] * len(wanted)).of(wanted)


def _changes_logits(slot: Slot) -> bool:
    """Return whether anything but the temperature and cuts decides what may come."""
    generation = slot.job.generation
    assert slot.sampler is not None
    return (
        slot.matcher is not None
        or slot.sampler.adjusts
        or generation.ignore_eos
        or slot.generated < generation.min_tokens
    )
