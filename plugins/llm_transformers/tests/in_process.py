"""The engine in the test's own process: a model, and what its listeners hear."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from modelrack.errors import LaunchFailed, ModelrackError
from modelrack.hooks import Family, LoadPlan, ModelFiles, Variant
from modelrack.llm.contract import EndReason, Generation, MediaPrompt, Sampling, TokenLogprob
from modelrack_llm_transformers.language import TransformersModel
from modelrack_llm_transformers.model import load_model
from modelrack_llm_transformers.options import TransformersOptions

__all__ = ["GREEDY", "Heard", "ask", "assert_refused", "begin", "chat", "make_plan", "opened", "run", "start"]

ANSWER_S = 60.0
GREEDY = Sampling(temperature=0)
T = TypeVar("T")


class Heard:
    """A listener that keeps what it hears."""

    def __init__(self, choices: int) -> None:
        self.prompt_tokens = 0
        self.cached_tokens = 0
        self.prompt_logprobs: Sequence[TokenLogprob | None] | None = None
        self.tokens: list[list[int]] = [[] for _ in range(choices)]
        self.logprobs: list[list[TokenLogprob]] = [[] for _ in range(choices)]
        self.ends: dict[int, tuple[EndReason, int]] = {}
        self.error: ModelrackError | None = None
        self.turns = 0
        self.begun = asyncio.Event()
        self.over = asyncio.Event()

    def begin(
        self, prompt_tokens: int, cached_tokens: int, prompt_logprobs: Sequence[TokenLogprob | None] | None = None
    ) -> None:
        """Keep the counts."""
        self.prompt_tokens, self.cached_tokens = prompt_tokens, cached_tokens
        self.prompt_logprobs = prompt_logprobs

    def take(self, index: int, tokens: Sequence[int], logprobs: Sequence[TokenLogprob] | None) -> None:
        """Keep the tokens."""
        self.turns += 1
        self.tokens[index].extend(tokens)
        self.logprobs[index].extend(logprobs or ())
        self.begun.set()

    def end(self, index: int, reason: EndReason, tokens: int) -> None:
        """Keep the end."""
        self.ends[index] = reason, tokens
        if len(self.ends) == len(self.tokens):
            self.over.set()

    def fail(self, error: ModelrackError) -> None:
        """Keep the error."""
        self.error = error
        self.over.set()


def make_plan(model: Path, *, lora: Sequence[tuple[str, Path]] = (), **options: Any) -> LoadPlan:
    """Return the plan of a launch."""
    checked = TransformersOptions.model_validate({"n_threads": 1, "warmup": False, **options})
    return LoadPlan(
        model_uid="tiny",
        family=Family(name="tiny", model_type="LLM"),
        variant=Variant(format="pytorch"),
        quantization="none",
        files=ModelFiles(path=str(model), format="pytorch"),
        options=checked.model_dump(),
        lora=tuple((name, str(path)) for name, path in lora),
    )


@contextmanager
def opened(plan: LoadPlan) -> Iterator[TransformersModel]:
    """Load a model and close it again."""
    model = load_model(plan, lambda progress, stage: None)
    try:
        yield model
    finally:
        model.close()


def assert_refused(plan: LoadPlan, reason: str, remedy: str = "") -> None:
    """Check that a launch fails with a reason, and a remedy, that match."""
    with pytest.raises(LaunchFailed, match=reason) as caught, opened(plan):
        pass
    assert remedy in (caught.value.remedy or "")


def run(plan: LoadPlan, scenario: Callable[[TransformersModel], Awaitable[T]]) -> T:
    """Load a model, let a scenario use it in an event loop, close it."""
    with opened(plan) as model:
        return start(model, scenario)


def start(model: TransformersModel, scenario: Callable[[TransformersModel], Awaitable[T]]) -> T:
    """Let a scenario use a model, once, in an event loop."""

    async def bounded() -> T:
        async with asyncio.timeout(ANSWER_S):
            return await scenario(model)

    return asyncio.run(bounded())


def chat(text: str) -> str:
    """Return a prompt as the tiny models' chat template writes it."""
    return f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"


async def begin(model: TransformersModel, prompt: str | MediaPrompt, **fields: Any) -> Heard:
    """Submit a prompt, greedily unless told otherwise, and return what will be heard of it."""
    given: Any = prompt
    if isinstance(prompt, str):
        given = model.encode(prompt, add_special=False, parse_special=True)
    generation = Generation(prompt=given, **{"sampling": GREEDY, "max_tokens": 32, **fields})
    heard = Heard(generation.n)
    await model.submit(generation, heard)
    return heard


async def ask(model: TransformersModel, prompt: str | MediaPrompt, **fields: Any) -> Heard:
    """Submit a prompt and wait for the answer.

    Raises: ModelrackError: what the listener was told.
    """
    heard = await begin(model, prompt, **fields)
    await heard.over.wait()
    if heard.error is not None:
        raise heard.error
    return heard
