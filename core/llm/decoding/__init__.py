"""Run an engine that computes token by token: the decode loop, and all around it that is no engine's own.

An engine derives its loop from `DecodeLoop` and says what a step computes. The loop's thread, the inbox, choices that
are cancelled, what fails and what a step brought are looked after here:

    class Loop(DecodeLoop[Slot]):
        slot_type = Slot

        def take_in(self, job): ...        # a job has come
        def has_work(self): ...            # is there anything to compute?
        def step(self): ...                # compute; `slot.take(token, logprob, self.events)` for each token
        def leave(self, slot, *, keep): ...  # a choice is over, cancelled or has failed
        def clear(self): ...               # let go of everything

    loop = Loop(on_broken)
    loop.start()
    model = DecodingModel(loop=loop, vocabulary=vocabulary, traits=traits, …)  # a `LanguageModel`

`DecodingLoader` makes a worker of it. The page `docs/plugins/language_models.md` has a whole engine.
"""

from .jobs import Event, Job, Slot
from .loader import DecodingLoader
from .loop import DecodeLoop
from .mailbox import Mailbox
from .model import DecodingModel, Media, Vocabulary
from .sampling import COLD, SEEDS, is_greedy, seed_of

__all__ = [
    "COLD",
    "SEEDS",
    "DecodeLoop",
    "DecodingLoader",
    "DecodingModel",
    "Event",
    "Job",
    "Mailbox",
    "Media",
    "Slot",
    "Vocabulary",
    "is_greedy",
    "seed_of",
]
