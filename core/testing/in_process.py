"""Test an engine for language models in the test's own process: without a server, and down to its tokens.

`InProcess` says how the engine is loaded; then `engine.run(engine.make_plan(path), scenario)` loads a model and lets a
scenario use it: an async function of the model, which asks it something (`ask`) and looks at what was heard.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import pytest

from ..errors import LaunchFailed, ModelrackError
from ..hooks.types import Family, LoadPlan, ModelFiles, Options, Variant
from ..llm.contract import EndReason, Generation, LanguageModel, MediaPrompt, Sampling, TokenLogprob
from ..worker.contract import Report

__all__ = ["GREEDY", "Closable", "Heard", "InProcess", "ask", "begin", "chat"]

GREEDY = Sampling(temperature=0)

_SCENARIO_S = 60.0


class Closable(LanguageModel, Protocol):
    """A loaded model."""

    def close(self) -> None:
        """Free it."""


T = TypeVar("T")
ModelT = TypeVar("ModelT", bound=Closable)


class Heard:
    """A listener that keeps what it hears.

    Args:
        choices: that the generation has.
    """

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
        """A first token has come."""
        self.over = asyncio.Event()
        """All choices have ended, or the generation has failed."""

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


def chat(text: str) -> str:
    """Return a prompt as the chat template of the models of `modelrack.testing` writes it."""
    return f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"


async def begin(model: LanguageModel, prompt: str | MediaPrompt, **fields: Any) -> Heard:
    """Submit a prompt, greedily unless told otherwise, and return what will be heard of it.

    Args:
        fields: of `Generation`.
    """
    given: Any = prompt
    if isinstance(prompt, str):
        given = model.encode(prompt, add_special=False, parse_special=True)
    generation = Generation(prompt=given, **{"sampling": GREEDY, "max_tokens": 32, **fields})
    heard = Heard(generation.n)
    await model.submit(generation, heard)
    return heard


async def ask(model: LanguageModel, prompt: str | MediaPrompt, **fields: Any) -> Heard:
    """Submit a prompt, as `begin` does, and wait for the answer.

    Raises: ModelrackError: what the listener was told.
    """
    heard = await begin(model, prompt, **fields)
    await heard.over.wait()
    if heard.error is not None:
        raise heard.error
    return heard


class InProcess(Generic[ModelT]):
    """An engine, to be loaded in this process.

    Args:
        load: loads a model as the engine's loader does.
        options: the engine's typed options.
        form: the format of its models (`Variant.format`).
        defaults: options for every launch.
    """

    def __init__(
        self,
        load: Callable[[LoadPlan, Report], ModelT],
        options: type[Options],
        *,
        form: str,
        defaults: Mapping[str, Any] | None = None,
    ) -> None:
        self._load = load
        self._options = options
        self._form = form
        self._defaults = dict(defaults or {})

    def make_plan(self, model: Path, *, lora: Sequence[tuple[str, Path]] = (), **options: Any) -> LoadPlan:
        """Return the plan of a launch."""
        checked = self._options.model_validate({**self._defaults, **options})
        return LoadPlan(
            model_uid="tiny",
            family=Family(name="tiny", model_type="LLM"),
            variant=Variant(format=self._form),
            quantization="none",
            files=ModelFiles(path=str(model), format=self._form),
            options=checked.model_dump(),
            lora=tuple((name, str(path)) for name, path in lora),
        )

    @contextmanager
    def opened(self, plan: LoadPlan) -> Iterator[ModelT]:
        """Load a model, and close it again."""
        model = self._load(plan, lambda progress, stage: None)
        try:
            yield model
        finally:
            model.close()

    def run(self, plan: LoadPlan, scenario: Callable[[ModelT], Awaitable[T]]) -> T:
        """Load a model, let a scenario use it, and close it."""
        with self.opened(plan) as model:
            return self.start(model, scenario)

    def start(self, model: ModelT, scenario: Callable[[ModelT], Awaitable[T]]) -> T:
        """Let a scenario use a model in an event loop; one model, one scenario."""

        async def bounded() -> T:
            async with asyncio.timeout(_SCENARIO_S):
                return await scenario(model)

        return asyncio.run(bounded())

    def assert_refused(self, plan: LoadPlan, reason: str, remedy: str = "") -> None:
        """Check that a launch fails with a reason that matches, and a remedy that has these words."""
        with pytest.raises(LaunchFailed, match=reason) as caught, self.opened(plan):
            pass
        assert remedy in (caught.value.remedy or "")
