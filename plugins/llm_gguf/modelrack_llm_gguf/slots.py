"""A choice under way, as the scheduler wants it."""

from typing import Any, Protocol

from modelrack.llm import decoding

from .cache import Span
from .sampling import Chain

__all__ = ["Job", "Media", "Slot"]


class Media(Protocol):
    """A prompt with images, `Job.media` (see `vision.py`)."""

    tokens: list[int]
    positions: list[int] | None
    shift: int

    def image_at(self, index: int) -> Any:
        """Return the image that begins at a token, or None."""


class Slot(decoding.Slot):
    """One choice: its tokens, and what of them is in the cache.

    The first `n_past` of its tokens are in the cache, in the sequence `number`; the rest is to be computed. One that
    only has its last token left chooses a further one in every step.
    """

    __slots__ = ("age", "careful", "chain", "draft", "n_past", "number", "row", "shift", "span", "speculation")

    job: "Job"
    state: str
    """`new`, `waiting`, `reading`, `running`, `over`."""

    def __init__(self, job: "Job", index: int) -> None:
        super().__init__(job, index)
        self.n_past = 0
        self.number = -1
        self.span: Span | None = None
        self.age = 0
        self.row = -1
        self.shift: int = job.media.shift if job.media is not None else 0
        self.chain: Chain | None = None
        self.careful = False
        self.draft: list[int] = []
        self.speculation: Any = None

    def position(self, index: int) -> int:
        """Return the position of a token."""
        media: Media | None = self.job.media
        if media is not None and media.positions is not None and index < len(media.positions):
            return media.positions[index]
        return index + self.shift


Job = decoding.Job[Slot]
