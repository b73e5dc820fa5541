"""Computes choices in batches by Transformers' `generate`: any architecture that it can, continuous batching or not."""

import copy
import logging
from collections.abc import Callable, Iterable
from time import perf_counter
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from modelrack.errors import BadRequest, EngineError

from .batches import Batches
from .choosing import Chooser
from .loop import Runner
from .slots import Job, Slot
from .turns import ALONE, Line, Turn

__all__ = ["Adapting", "BatchRunner", "Drafting", "clean_config"]

log = logging.getLogger(__name__)


def clean_config(model: Any, pad_id: int) -> GenerationConfig:
    """Return what `generate` is told about a model, and leave the model no other settings of its own.

    How tokens are chosen and what ends an answer is not for `generate` to decide.
    """
    old = model.generation_config
    kept = {
        "bos_token_id": old.bos_token_id,
        "decoder_start_token_id": old.decoder_start_token_id,
        "cache_implementation": old.cache_implementation,
    }
    model.generation_config = GenerationConfig(pad_token_id=pad_id, **kept)
    return GenerationConfig(do_sample=False, pad_token_id=pad_id, **kept)


class Adapting(Protocol):
    """LoRA adapters of a model (see `adapters.Adapters`)."""

    def apply(self, name: str | None) -> None:
        """Let the model compute with one adapter, or with none."""


class Drafting(Protocol):
    """What drafts tokens ahead (see `speculation.Speculation`)."""

    def arguments(self, slot: Slot) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return what `generate` and its config are given so that tokens of a choice are drafted; nothing: none are."""


class BatchRunner(Runner):
    """Gathers what waits into turns, and computes each by one call of `generate`.

    A turn ends when its choices are over, or at a border where others can join: what was written up to there is read
    again then, like a prompt. Tokens are chosen by `chooser` for each choice on its own; `generate` only computes.

    Args:
        config: what `generate` is told about the model (special tokens, the kind of cache).
        most: choices computed together.
        room: tokens of all of them together; None is no limit.
        compiled: what a config must have besides where the model is compiled, by the length of the longest choice.
    """

    def __init__(
        self,
        model: Any,
        chooser: Chooser,
        batches: Batches,
        config: GenerationConfig,
        *,
        most: int,
        room: int | None = None,
        adapters: Adapting | None = None,
        drafting: Drafting | None = None,
        compiled: Callable[[int], dict[str, Any]] | None = None,
        on_broken: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(on_broken)
        self.model = model
        self._chooser = chooser
        self._batches = batches
        self._config = config
        self._adapters = adapters
        self._drafting = drafting
        self._compiled = compiled
        self._line = Line(batches.key, batches.length, most=most, room=room)
        self._turn: Turn | None = None
        self._criteria = StoppingCriteriaList([_Border(self)])
        self._processors = LogitsProcessorList([_Choice(self)])
        self._is_drafted = False
        self._has_computed = False
        if drafting is not None:
            model.register_forward_hook(self._hear_forward)

    # The runner's side.

    def take_in(self, job: Job) -> None:
        """Let all choices of a job wait for their turn."""
        self._line.enter(job.slots)

    def leave(self, slot: Slot, *, keep: bool) -> None:
        """End a choice; in a turn, its row is computed on, and looked at no more."""
        self._line.leave([slot])
        slot.state = "over"

    def has_work(self) -> bool:
        """Tell whether anybody waits."""
        return len(self._line) > 0

    def clear(self) -> Iterable[Job]:
        """Let go of everything."""
        slots = self._line.clear()
        if self._turn is not None:
            slots += [slot for slot in self._turn.slots if slot.state == "running"]
            self._turn = None
        for slot in slots:
            slot.state = "over"
        return dict.fromkeys(slot.job for slot in slots)

    def step(self) -> bool:
        """Compute one turn."""
        turn = self._turn = self._line.next_turn(perf_counter())
        try:
            self._read_prompts(turn)
            if turn.open_rows():
                self._generate(turn)
        except Exception as error:
            self._recover(turn, error)
        finally:
            self._turn = None
        self._line.take_back(turn)
        return True

    def _generate(self, turn: Turn) -> None:
        slots = turn.slots = [slot for slot in turn.slots if slot.state == "running"]
        if self._adapters is not None:
            self._adapters.apply(slots[0].job.lora)
        arguments, settings = self._arguments(slots)
        self._is_drafted = bool(arguments or settings)
        self._has_computed = False
        limit = max(slot.job.limit - slot.generated for slot in slots)
        if self._compiled is not None and not self._is_drafted:
            settings = self._compiled(limit + max(self._batches.length(slot) for slot in slots))
        config = copy.copy(self._config)
        for name, value in {"max_new_tokens": limit, **settings}.items():
            setattr(config, name, value)
        self.model.generate(
            **self._batches.build(slots),
            generation_config=config,
            logits_processor=self._processors,
            stopping_criteria=self._criteria,
            **arguments,
        )

    def _arguments(self, slots: list[Slot]) -> tuple[dict[str, Any], dict[str, Any]]:
        if self._drafting is None or len(slots) > 1:
            return {}, {}
        return self._drafting.arguments(slots[0])

    def _recover(self, turn: Turn, error: Exception) -> None:
        """Hear that a turn has failed: find out whose fault it is by computing its choices one by one."""
        slots = [slot for slot in turn.slots if slot.state == "running"]
        if _is_fatal(error):
            self._line.enter(slots)
            raise error
        log.warning("a batch of %d has failed", len(slots), exc_info=error)
        is_full = isinstance(error, torch.OutOfMemoryError)
        if len(slots) > 1:
            if is_full:
                self._line.most = max(1, len(slots) // 2)
            else:
                for slot in slots:
                    slot.place = ALONE
            return
        for slot in slots:
            reason = "memory ran out" if is_full else f"{type(error).__name__}: {error}"
            self.fail(slot.job, EngineError(f"The model could not compute this request ({reason})."))

    def _read_prompts(self, turn: Turn) -> None:
        """Take the log probabilities of those prompts for which they are wanted."""
        for job in dict.fromkeys(slot.job for slot in turn.slots):
            if job.prompt_logprobs is None or job.is_read:
                continue
            if self._batches.has_encoder:
                reason = "This model reads prompts by an encoder, which gives them no log probabilities."
                self.fail(job, BadRequest(reason, param="logprobs"))
                continue
            if self._adapters is not None:
                self._adapters.apply(job.lora)
            slot = next(slot for slot in turn.slots if slot.job is job)
            logits = self.model(**self._batches.build([slot]), use_cache=False, return_dict=True).logits[0]
            for start in range(0, logits.shape[0], 256):
                self._chooser.read_prompt(slot, logits[start : start + 256].float(), start)
            job.is_read = True

    # `generate`'s side.

    def _hear_forward(self, *_: Any) -> None:
        self._has_computed = True

    def choose(self, ids: Tensor, logits: Tensor) -> Tensor:
        """Choose the next token of every choice of the turn, and return logits that leave no other."""
        turn = self._turn
        assert turn is not None
        if self._is_drafted and not self._follows(turn.slots[0], ids):
            return logits
        rows = turn.open_rows()
        if turn.read is None:
            turn.read = perf_counter()
        self.read_inbox(wait=False)
        rows = turn.open_rows()
        slots = [turn.slots[row] for row in rows]
        before = [len(slot.tokens) for slot in slots]
        chosen = logits if len(rows) == len(turn.slots) else logits[rows]
        over = self._chooser.choose(slots, chosen.float(), self.events) if slots else []
        tokens = [self._config.pad_token_id] * len(turn.slots)
        for row, slot, length, is_over in zip(rows, slots, before, over, strict=True):
            slot.job.is_read = True
            if len(slot.tokens) > length:
                tokens[row] = slot.tokens[-1]
            if is_over:
                self._end(slot)
        turn.steps += 1
        self.post()
        forced = torch.full_like(logits, -torch.inf)
        return forced.scatter_(1, torch.tensor(tokens, device=logits.device).unsqueeze(1), 0.0)

    def _end(self, slot: Slot) -> None:
        slot.state = "over"
        job = slot.job
        if job.error is not None:
            self.fail(job, job.error)

    def _follows(self, slot: Slot, ids: Tensor) -> bool:
        """Tell whether logits are the model's own, behind just what was written: not a draft's, nor behind a wrong one.

        With drafts, `generate` asks the processors of logits about every token that was drafted, and the draft model
        asks the same ones about its own.
        """
        if not self._has_computed or slot.state != "running":
            return False
        return ids.shape[1] == len(slot.tokens) and int(ids[0, -1]) == slot.tokens[-1]

    def stop(self, ids: Tensor) -> Tensor:
        """Tell which choices are over; all are at a border."""
        turn = self._turn
        assert turn is not None
        self._has_computed = False
        if self.is_closing or self._line.is_over(turn, perf_counter()):
            over = [True] * ids.shape[0]
        else:
            over = [slot.state != "running" for slot in turn.slots]
        return torch.tensor(over, device=ids.device)


class _Choice(LogitsProcessor):  # type: ignore[misc, unused-ignore]
    def __init__(self, runner: BatchRunner) -> None:
        self._runner = runner

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return self._runner.choose(input_ids, scores)


class _Border(StoppingCriteria):  # type: ignore[misc, unused-ignore]
    def __init__(self, runner: BatchRunner) -> None:
        self._runner = runner

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        return self._runner.stop(input_ids)


def _is_fatal(error: Exception) -> bool:
    """Tell whether nothing can be computed any more after an error."""
    accelerator: type[Exception] | None = getattr(torch, "AcceleratorError", None)
    return accelerator is not None and isinstance(error, accelerator)
