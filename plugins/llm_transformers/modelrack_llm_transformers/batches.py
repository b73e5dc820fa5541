"""Builds what `generate` is given out of the choices that are computed together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor

from .slots import Slot

__all__ = ["Batches", "Key", "Prepared"]

Key: TypeAlias = tuple[Any, ...]
"""Choices of one key can be computed together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A prompt with images, as the model's processor has it.

    Args:
        tokens: with as many tokens for each image as it takes.
        tensors: what the model reads beside the tokens (`pixel_values`, …); of several prompts they are put one behind
            the other, along their first dimension.
        by_token: of these, what has a value for each token, of which further tokens have 0.
    """

    tokens: list[int]
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    by_token: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def key(self) -> Key:
        """Return what must be the same for prompts whose tensors are put together."""
        return tuple(sorted((name, tensor.shape[1:], str(tensor.dtype)) for name, tensor in self.tensors.items()))


class Batches:
    """Puts choices together.

    Args:
        pad_id: fills up shorter prompts; the model does not look at it.
        start_id: what an answer begins with, of a model that reads prompts by an encoder; None: it has no encoder.
        pads: prompts of different lengths can be computed together.
    """

    def __init__(
        self,
        device: torch.device,
        dtype: torch.dtype,
        *,
        pad_id: int,
        start_id: int | None = None,
        pads: bool = True,
    ) -> None:
        self._device = device
        self._dtype = dtype
        self._pad_id = pad_id
        self._start_id = start_id
        self._pads = pads

    @property
    def has_encoder(self) -> bool:
        """Tell whether prompts are read by an encoder."""
        return self._start_id is not None

    def key(self, slot: Slot) -> Key:
        """Return which others a choice can be computed with."""
        media: Prepared | None = slot.job.media
        shape = media.key if media is not None else ()
        if self.has_encoder:
            # What was written of the answers is not padded: not all decoders know where they are then.
            return slot.job.lora, shape, slot.generated, 0 if self._pads else len(slot.job.prompt)
        return slot.job.lora, shape, 0, 0 if self._pads else len(slot.tokens)

    def length(self, slot: Slot) -> int:
        """Return how many tokens the decoder reads of a choice before it goes on."""
        return slot.generated + 1 if self.has_encoder else len(slot.tokens)

    def build(self, slots: Sequence[Slot]) -> dict[str, Tensor]:
        """Return the arguments of `generate` for choices of one key."""
        media = [slot.job.media for slot in slots if slot.job.media is not None]
        if self.has_encoder:
            prompts = [slot.job.prompt for slot in slots]
            built = self._rows(prompts, left=False)
            answers = [[self._start_id, *slot.tokens[len(slot.job.prompt) :]] for slot in slots]
            built["decoder_input_ids"] = torch.tensor(answers, dtype=torch.long, device=self._device)
        else:
            built = self._rows([slot.tokens for slot in slots], left=True)
            for name in media[0].by_token if media else ():
                built[name] = self._by_token(name, slots, built["input_ids"])
        for name in media[0].tensors if media else ():
            together = torch.cat([one.tensors[name] for one in media])
            dtype = self._dtype if together.is_floating_point() else together.dtype
            built[name] = together.to(self._device, dtype)
        return built

    def _rows(self, rows: Sequence[Sequence[int]], *, left: bool) -> dict[str, Tensor]:
        longest = max(len(row) for row in rows)
        ids = torch.full((len(rows), longest), self._pad_id, dtype=torch.long)
        mask = torch.zeros((len(rows), longest), dtype=torch.long)
        for number, row in enumerate(rows):
            place = slice(longest - len(row), longest) if left else slice(0, len(row))
            ids[number, place] = torch.tensor(row, dtype=torch.long)
            mask[number, place] = 1
        return {"input_ids": ids.to(self._device), "attention_mask": mask.to(self._device)}

    def _by_token(self, name: str, slots: Sequence[Slot], ids: Tensor) -> Tensor:
        longest = ids.shape[1]
        values = torch.zeros_like(ids)
        for number, slot in enumerate(slots):
            own = slot.job.media.by_token[name]
            start = longest - len(slot.tokens)
            values[number, start : start + len(own)] = own.to(ids)
        return values
