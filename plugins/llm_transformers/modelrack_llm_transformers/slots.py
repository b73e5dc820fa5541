"""A choice under way, as the runners want it."""

from typing import TYPE_CHECKING, Any

from modelrack.llm import decoding

if TYPE_CHECKING:
    from .sampling import Sampler

__all__ = ["Job", "Slot"]


class Slot(decoding.Slot):
    """One choice and its tokens; its states are the runner's own words."""

    __slots__ = ("place", "sampler")

    job: "Job"

    def __init__(self, job: "Job", index: int) -> None:
        super().__init__(job, index)
        self.place: Any = None
        """What the runner keeps of it."""
        self.sampler: Sampler | None = None


Job = decoding.Job[Slot]
