"""What the ways of computing have in common."""

import torch

from modelrack.llm.decoding import DecodeLoop

from .slots import Slot

__all__ = ["Runner"]


class Runner(DecodeLoop[Slot]):
    """A decode loop that computes with PyTorch."""

    slot_type = Slot

    def run(self) -> None:
        """Compute without keeping what only training needs."""
        with torch.inference_mode():
            super().run()
