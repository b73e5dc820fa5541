"""Take the steps of llm_gguf's decode loop apart, by the counters that the loop keeps itself."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from modelrack.errors import ModelrackError
from modelrack.hooks import LoadPlan
from modelrack.llm.contract import EndReason, Generation, Sampling, TokenLogprob

__all__ = ["Share", "run_loop"]


@dataclass(frozen=True)
class Share:
    """Where the time of some steps went.

    Args:
        step_ms: what one took.
        decode: share spent inside of `llama_decode`.
        choose: share spent choosing tokens, llama.cpp's samplers and the Python around them.
        rest: share of everything else: filling the batch, book-keeping, handing over what came.
        busy_s: what all of them took.
    """

    step_ms: float
    decode: float
    choose: float
    rest: float
    busy_s: float


class _Counter:
    """Hears of a generation, and does nothing with it but notice its end."""

    def __init__(self) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def begin(
        self, prompt_tokens: int, cached_tokens: int, prompt_logprobs: Sequence[TokenLogprob | None] | None = None
    ) -> None:
        """Hear that the prompt has been read."""

    def take(self, index: int, tokens: Sequence[int], logprobs: Sequence[TokenLogprob] | None) -> None:
        """Take tokens."""

    def end(self, index: int, reason: EndReason, tokens: int) -> None:
        """Notice the end."""
        self.done.set_result(None)

    def fail(self, error: ModelrackError) -> None:
        """Pass the error on."""
        self.done.set_exception(error)


def run_loop(plan: LoadPlan, rounds: Sequence[Sequence[Sequence[int]]], *, max_tokens: int) -> list[Share]:
    """Load a model in this process, generate from the prompts of each round together, and return the rounds' shares."""
    from modelrack_llm_gguf.model import load_model

    model = load_model(plan, lambda progress, stage: None)

    async def generate(prompts: Sequence[Sequence[int]]) -> None:
        listeners = [_Counter() for _ in prompts]
        for prompt, listener in zip(prompts, listeners, strict=True):
            await model.submit(
                Generation(prompt=list(prompt), max_tokens=max_tokens, sampling=Sampling(temperature=0.0)), listener
            )
        await asyncio.gather(*(listener.done for listener in listeners))

    async def work() -> list[Share]:
        shares = []
        counters = model.loop.counters
        for prompts in rounds:
            before = (counters.steps, counters.busy_s, counters.decode_s, counters.sample_s)
            await generate(prompts)
            after = (counters.steps, counters.busy_s, counters.decode_s, counters.sample_s)
            steps, busy, decode, choose = (b - a for a, b in zip(before, after, strict=True))
            rest = (busy - decode - choose) / busy
            shares.append(Share(busy / steps * 1000, decode / busy, choose / busy, rest, busy))
        return shares

    try:
        return asyncio.run(work())
    finally:
        model.close()
