"""What an engine that produces tokens implements, so that everything else about LLM requests is done once for all.

The engine gives tokens; the handlers of `modelrack.llm.handlers` do the rest: chat templates, stop strings, characters
that span tokens, tool calls, reasoning, log probabilities, answers and streams in the shapes of the public API.

Everything here runs on the event loop of the worker, unless a method says otherwise.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

from ..errors import ModelrackError

__all__ = [
    "Constraint",
    "EndReason",
    "Generation",
    "LanguageModel",
    "Listener",
    "MediaPrompt",
    "ModelTraits",
    "Sampling",
    "Ticket",
    "TokenLogprob",
]

EndReason: TypeAlias = Literal["stop", "length"]
"""Why an engine ended a sequence: an end token (or one of `stop_ids`), or the limit of tokens or of the context."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How tokens are chosen. The defaults change nothing: OpenAI's temperature of 1 over the whole vocabulary.

    Args:
        temperature: 0 is greedy.
        top_k: 0 is no limit.
        repetition_penalty: 1 is none; `frequency_penalty` and `presence_penalty` as OpenAI defines them.
        dry_multiplier: 0 switches DRY off; the other `dry_*` as in llama.cpp.
        seed: None is a new one for each sequence; choice `i` of several takes `seed + i`.
        logit_bias: added to the logits of tokens, by id, before anything else.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = -1
    dry_sequence_breakers: tuple[str, ...] = ("\n", ":", '"', "*")
    seed: int | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraint:
    """What the answer must be.

    Args:
        kind: `json_schema` (value: the schema, an object), `regex` (a pattern that the whole answer matches, without
            anchors), `choice` (a tuple of texts), `grammar` (a grammar in the engine's own language).
        field: the request's field that asked for it, for errors.
        begins_after: tokens after which it begins to hold (the mark that closes the reasoning); empty: at once.
    """

    kind: Literal["json_schema", "regex", "choice", "grammar"]
    value: Any
    field: str
    begins_after: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaPrompt:
    """A prompt with images: `text` has `ModelTraits.media_mark` where each of `images` stands, in this order.

    Args:
        images: the files as they came (PNG, JPEG, …).
    """

    text: str
    images: tuple[bytes, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """One prompt, and how to go on with it.

    Args:
        prompt: token ids, at least one; shorter than `ModelTraits.n_ctx`.
        max_tokens: most tokens of each choice; None is as many as the context holds.
        n: choices. They share the prompt's work.
        stop_ids: tokens that end a choice, beside the model's own end tokens.
        ignore_eos: never choose one of the model's end tokens.
        min_tokens: tokens before an end token or one of `stop_ids` may be chosen.
        logprobs: alternatives to give for each token; None is no log probabilities at all.
        prompt_logprobs: give them for the prompt's tokens too (`Listener.begin`).
        lora: name of the adapter to use.
        cache_salt: prompts of different salts share no cached work.
        request_id: for logs.
    """

    prompt: Sequence[int] | MediaPrompt
    max_tokens: int | None = None
    n: int = 1
    sampling: Sampling = field(default_factory=Sampling)
    stop_ids: frozenset[int] = frozenset()
    ignore_eos: bool = False
    min_tokens: int = 0
    constraint: Constraint | None = None
    logprobs: int | None = None
    prompt_logprobs: bool = False
    lora: str | None = None
    cache_salt: str | None = None
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token's log probability under the model as it is (before temperature, bias and the like; natural logarithm).

    Args:
        top: (token, log probability) of the likeliest tokens, best first, as many as were asked for.
    """

    logprob: float
    top: tuple[tuple[int, float], ...] = ()


class Listener(Protocol):
    """Hears of one generation. The engine calls it on the event loop, all that a step brought in one go."""

    def begin(
        self, prompt_tokens: int, cached_tokens: int, prompt_logprobs: Sequence[TokenLogprob | None] | None = None
    ) -> None:
        """Hear that the prompt has been read; called once, before anything else but `fail`.

        Args:
            prompt_tokens: as the engine counts them, media included.
            cached_tokens: of these, those that were taken from a cache.
            prompt_logprobs: one for each token of the prompt if they were asked for; the first is None.
        """

    def take(self, index: int, tokens: Sequence[int], logprobs: Sequence[TokenLogprob] | None) -> None:
        """Take further tokens of choice `index`. The end token that closes a choice is not among them."""

    def end(self, index: int, reason: EndReason, tokens: int) -> None:
        """Hear that a choice is over.

        Args:
            tokens: all that were generated, with the end token.
        """

    def fail(self, error: ModelrackError) -> None:
        """Hear that nothing more comes; the last call."""


class Ticket(Protocol):
    """A generation under way."""

    def cancel(self, index: int | None = None) -> None:
        """Stop one choice, or all of them, before the next step. The listener hears nothing more of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelTraits:
    """What requests depend on: facts of the loaded model, and what the engine can do with it.

    Args:
        n_ctx: tokens of prompt and answer together that one sequence holds.
        n_vocab: number of tokens.
        max_sequences: sequences that run and wait at most; with so many, a further generation is a 429. A request with
            more prompts than could ever be taken is a 400 instead. None: any number.
        bos_id: token that begins a text, or None.
        adds_bos: a text is begun with it when special tokens are added.
        begins_with_space: texts get a space before them when they are encoded (SentencePiece does so).
        end_ids: the tokens that end an answer.
        fill_in: tokens before a prefix, a suffix and the middle; None where the model cannot fill in.
        chat_template: Jinja source from the model's files or the launch; None: no chat.
        template_variables: what else templates read (`bos_token`, `eos_token`, …).
        lora: names of the adapters.
        media_mark: text that stands for an image in a prompt; empty: the model takes no images.
        constraints: kinds of `Constraint` that can be honoured.
        no_constraints: why the others cannot (one clause), where that is not the engine's own limit.
        defaults: request fields that a model's file recommends, for requests that leave them out (`temperature`, …).
        unsupported: request fields that the engine cannot honour, with the reason (one clause).
        supported: fields that the request models refuse by themselves, but this engine honours.
        encodes_in_threads: `encode` may be called in a thread while any method of the model is called in others. Long
            texts then hold up no other answer.
    """

    n_ctx: int
    n_vocab: int
    max_sequences: int | None = None
    bos_id: int | None = None
    adds_bos: bool = False
    begins_with_space: bool = False
    end_ids: frozenset[int] = frozenset()
    fill_in: tuple[int, int, int] | None = None
    chat_template: str | None = None
    template_variables: Mapping[str, Any] = field(default_factory=dict)
    lora: tuple[str, ...] = ()
    media_mark: str = ""
    constraints: frozenset[str] = frozenset()
    no_constraints: str = ""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    unsupported: Mapping[str, str] = field(default_factory=dict)
    supported: tuple[str, ...] = ()
    encodes_in_threads: bool = False


class LanguageModel(Protocol):
    """A loaded model that turns prompts into tokens."""

    traits: ModelTraits

    def encode(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Return the tokens of a text.

        Args:
            add_special: begin (and end) it as the model wants texts.
            parse_special: read the names of special tokens in the text as these tokens.
        """

    def token_bytes(self, token: int) -> bytes:
        """Return what a token adds to a text; nothing for a special token. The same each time, so it may be kept."""

    def special_bytes(self, token: int) -> bytes:
        """Return what a token adds when special tokens are written out too."""

    def token_name(self, token: int) -> str:
        """Return a token as the vocabulary writes it."""

    async def submit(self, generation: Generation, listener: Listener) -> Ticket:
        """Queue a generation. The listener hears of it from the next turn of the loop on, never during this call.

        Raises: BadRequest: the constraint cannot be had, or the context is too short for a prompt with media.
            TooManyRequests: the queue is full. Ids of tokens and names of adapters are checked by the caller.
        """
