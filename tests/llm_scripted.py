"""A small language model whose tokens are bytes, and which answers what it is told to."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from modelrack.errors import ModelrackError, TooManyRequests
from modelrack.llm.contract import EndReason, Generation, Listener, MediaPrompt, ModelTraits, TokenLogprob

__all__ = ["END", "SPECIAL", "Script", "ScriptedModel", "ids"]

SPECIAL = ("<bos>", "<end>", "<think>", "</think>", "<tool_call>", "</tool_call>", "<pre>", "<suf>", "<mid>", "<other>")
BOS, END = 256, 257
TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</{{ m.role }}>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
Script = Callable[[str, int], Sequence[int]]
"""Returns the tokens that follow a prompt, for one of several choices."""


def ids(text: str) -> list[int]:
    """Return the tokens of a text; names of special tokens in it are these tokens."""
    found: list[int] = []
    while text:
        name = next((name for name in SPECIAL if text.startswith(name)), None)
        if name is not None:
            found.append(256 + SPECIAL.index(name))
            text = text[len(name) :]
        else:
            found.extend(text[0].encode())
            text = text[1:]
    return found


class _Run:
    """A generation under way: the ticket of its requester."""

    def __init__(self, model: "ScriptedModel", generation: Generation, listener: Listener) -> None:
        self.model = model
        self.generation = generation
        self.listener = listener
        self.open = set(range(generation.n))
        self.tokens = [0] * generation.n
        prompt = generation.prompt
        self.prompt = list(prompt.text.encode()) if isinstance(prompt, MediaPrompt) else list(prompt)
        text = prompt.text if isinstance(prompt, MediaPrompt) else model.text(self.prompt)
        self.scripts = [list(model.script(text, index)) for index in range(generation.n)]

    def cancel(self, index: int | None = None) -> None:
        if index is None:
            self.open.clear()
        else:
            self.open.discard(index)
        self.model.cancelled.append(index)

    def begin(self) -> None:
        if not self.open:
            return
        if self.model.failure is not None and self.model.fails_after == 0:
            self.listener.fail(self.model.failure)
            self.open.clear()
            return
        count = len(self.prompt)
        logprobs = None
        if self.generation.prompt_logprobs:
            logprobs = [None, *(self.logprob(token) for token in self.prompt[1:])]
        self.listener.begin(count, min(self.model.cached, count), logprobs)

    def logprob(self, token: int) -> TokenLogprob:
        others = self.generation.logprobs or 0
        tops = [(token, -0.5), *(((token + other) % 256, -1.0 - other) for other in range(1, 20))]
        return TokenLogprob(-0.5, tuple(tops[:others]))

    def step(self) -> None:
        """Give each open choice its next tokens."""
        for index in sorted(self.open):
            self.advance(index)

    def advance(self, index: int) -> None:
        given, reason = [], None
        generation = self.generation
        for _ in range(self.model.step_tokens):
            reason, token = self.next_token(index)
            if token is not None:
                self.tokens[index] += 1
                if reason is None:
                    given.append(token)
            if reason is None and self.tokens[index] >= self.limit():
                reason = "length"
            if reason is not None:
                break
        if given:
            logprobs = [self.logprob(token) for token in given] if generation.logprobs is not None else None
            self.listener.take(index, given, logprobs)
        if self.model.failure is not None and self.tokens[index] >= self.model.fails_after:
            self.open.clear()
            self.listener.fail(self.model.failure)
        elif reason is not None and index in self.open:
            self.open.discard(index)
            self.listener.end(index, reason, self.tokens[index])

    def limit(self) -> int:
        room = self.model.traits.n_ctx - len(self.prompt)
        return min(room, self.generation.max_tokens or room)

    def next_token(self, index: int) -> tuple[EndReason | None, int | None]:
        generation, script = self.generation, self.scripts[index]
        ends = generation.stop_ids if generation.ignore_eos else generation.stop_ids | {END}
        token = script.pop(0) if script else END
        while (token == END and generation.ignore_eos) or (
            token in ends and self.tokens[index] < generation.min_tokens
        ):
            token = script.pop(0) if script else ord("~")
        return ("stop", token) if token in ends else (None, token)


class ScriptedModel:
    """The model.

    Args:
        script: what follows a prompt; a text is always the same answer.
        step_tokens: tokens that come at once.
        cached: tokens of each prompt that are said to come from a cache.
        failure: what fails after `fails_after` tokens.
        queue: most generations under way.
    """

    def __init__(
        self,
        script: Script | str = "",
        *,
        step_tokens: int = 1,
        cached: int = 0,
        failure: ModelrackError | None = None,
        fails_after: int = 0,
        queue: int = 1000,
        is_paused: bool = False,
        **traits: Any,
    ) -> None:
        answer = script
        self.script: Script = (lambda prompt, index: ids(answer)) if isinstance(answer, str) else answer
        self.step_tokens = step_tokens
        self.cached = cached
        self.failure = failure
        self.fails_after = fails_after
        self.queue = queue
        self.is_paused = is_paused
        self.generations: list[Generation] = []
        self.cancelled: list[int | None] = []
        self.runs: list[_Run] = []
        known: Mapping[str, Any] = {
            "n_ctx": 2048,
            "n_vocab": 256 + len(SPECIAL),
            "bos_id": BOS,
            "adds_bos": True,
            "end_ids": frozenset((END,)),
            "chat_template": TEMPLATE,
            "template_variables": {"bos_token": "<bos>", "eos_token": "<end>"},
            "constraints": frozenset(("json_schema", "regex", "choice", "grammar")),
        }
        self.traits = ModelTraits(**{**known, **traits})

    def encode(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Return the tokens of a text."""
        found = ids(text) if parse_special else list(text.encode())
        return [BOS, *found] if add_special and self.traits.adds_bos else found

    def token_bytes(self, token: int) -> bytes:
        """Return what a token adds to a text."""
        return bytes((token,)) if token < 256 else b""

    def special_bytes(self, token: int) -> bytes:
        """Return what a token adds when special tokens are written out."""
        return bytes((token,)) if token < 256 else SPECIAL[token - 256].encode()

    def token_name(self, token: int) -> str:
        """Return a token as the vocabulary writes it."""
        return f"<0x{token:02X}>" if token < 256 else SPECIAL[token - 256]

    def text(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens, with special ones."""
        return b"".join(self.special_bytes(token) for token in tokens).decode("utf-8", "replace")

    async def submit(self, generation: Generation, listener: Listener) -> _Run:
        """Queue a generation."""
        if sum(1 for run in self.runs if run.open) >= self.queue:
            raise TooManyRequests("The queue is full.")
        run = _Run(self, generation, listener)
        self.generations.append(generation)
        self.runs.append(run)
        if not self.is_paused:
            asyncio.get_running_loop().call_soon(self._begin, run)
        return run

    def _begin(self, run: _Run) -> None:
        run.begin()
        asyncio.get_running_loop().call_soon(self._step, run)

    def _step(self, run: _Run) -> None:
        run.step()
        if run.open:
            asyncio.get_running_loop().call_soon(self._step, run)
