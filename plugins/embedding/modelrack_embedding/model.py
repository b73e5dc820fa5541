"""An embedding model of sentence-transformers, as the handlers see it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from modelrack.batching import Prepared
from modelrack.embedding import Embedding, EmbeddingTraits, EmbeddingWork, too_long
from modelrack.encoders import Interruption, attempt, batch_limits
from modelrack.errors import ModelrackError
from modelrack.hooks import LoadPlan

from .describing import describe, set_length, tasks_of
from .loading import LIBRARY, Loaded
from .outputs import outputs_of
from .texts import Tokens, find_tokens

__all__ = ["SentenceModel"]


@dataclass(frozen=True, slots=True)
class _Read:
    """A text as token ids."""

    ids: Sequence[int]
    prompt_length: int | None
    task: str | None
    outputs: frozenset[str]


@dataclass(frozen=True, slots=True)
class _Text:
    """A text that the library reads by itself."""

    text: str
    prompt: str
    task: str | None
    outputs: frozenset[str]


class SentenceModel:
    """Embeds texts just as the library's `encode` does, whatever else is in their batch."""

    def __init__(self, loaded: Loaded, plan: LoadPlan) -> None:
        self._model = loaded.model
        self._device = loaded.device
        self._interruption = Interruption(loaded.model)
        if plan.options["compile"]:
            self._interruption.remove()
        self._max = set_length(loaded.model, plan)
        tasks, self._default_task = tasks_of(loaded, plan)
        tokens, reads_tokens = find_tokens(loaded.model, self._max, has_tasks=bool(tasks))
        self.tokenizer: Tokens | None = tokens
        self._tokens = tokens if reads_tokens else None
        self._outputs = outputs_of(loaded, Path(plan.files.path))
        self._keeps_prompt = all(getattr(module, "include_prompt", True) for module in loaded.model)
        self._prompt_length = lru_cache(maxsize=256)(self._measure_prompt)
        if plan.options["warmup"] or plan.options["compile"] or self._outputs.dimensions is None:
            attempt(plan, LIBRARY, self._warm_up)
        limits = batch_limits(plan.options, on_cpu=loaded.device.type == "cpu")
        self.traits: EmbeddingTraits = describe(
            loaded,
            plan,
            limits=self._outputs.limits(limits, plan.options["batch_tokens"]),
            outputs=self._outputs.names,
            dimensions=self._outputs.dimensions or 0,
            is_normalized=self._outputs.is_normalized,
            max_tokens=self._max,
            n_vocab=_n_vocab(loaded.model, tokens),
            tasks=tasks,
            takes_token_ids=reads_tokens,
        )
        self.facts: Mapping[str, Any] = {
            "similarity": loaded.model.similarity_fn_name,
            "prompts": dict(self.traits.prompts),
            "tasks": list(tasks),
        }

    def prepare(self, works: Sequence[EmbeddingWork]) -> Sequence[Prepared[Any] | ModelrackError]:
        """Turn texts into tokens; an error stands for a text that is too long."""
        if self._tokens is None:
            return [self._read_by_library(work) for work in works]
        return self._read(self._tokens, works)

    def run(self, batch: Sequence[Any]) -> Sequence[Embedding]:
        """Embed texts of one task and one length of prompts."""
        self._interruption.begin()
        with torch.inference_mode():
            return self._outputs.read(self._compute(batch), batch)

    def interrupt(self) -> None:
        """End the batch that is computed before its next layer; nobody waits for it."""
        self._interruption.ask()

    def close(self) -> None:
        """Free the weights."""
        del self._model

    def _compute(self, batch: Sequence[Any]) -> dict[str, Any]:
        first = batch[0]
        arguments = self._outputs.arguments(first.task)
        if isinstance(first, _Read):
            assert self._tokens is not None
            features = self._tokens.join([one.ids for one in batch])
            features["modality"] = "text"
            if first.prompt_length is not None:
                features["prompt_length"] = first.prompt_length
        else:
            features = self._preprocess([one.text for one in batch], first.prompt, first.task)
        if self._device.type != "cpu":
            features = {name: _moved(value, self._device) for name, value in features.items()}
        found: dict[str, Any] = self._model(features, **arguments)
        return found

    # Texts that are read by the tokenizer alone

    def _read(self, tokens: Tokens, works: Sequence[EmbeddingWork]) -> list[Prepared[Any] | ModelrackError]:
        texts = [work.prompt + work.input for work in works if isinstance(work.input, str)]
        encoded = iter(tokens.encode_all(texts) if texts else ())
        found: list[Prepared[Any] | ModelrackError] = []
        for work in works:
            ids = next(encoded) if isinstance(work.input, str) else list(work.input)
            if self._max is not None and len(ids) > self._max:
                if not work.truncate:
                    found.append(too_long(work.index, len(ids), self._max))
                    continue
                ids = tokens.encode_cut(work.prompt + work.input) if isinstance(work.input, str) else ids[: self._max]
            length = None if self._keeps_prompt or not work.prompt else self._prompt_length(work.prompt)
            task = work.task or self._default_task
            found.append(Prepared(_Read(ids, length, task, work.outputs), len(ids), (task, length)))
        return found

    def _measure_prompt(self, prompt: str) -> int:
        """Return how many tokens a prompt has, but for a special token behind it, as the library counts them."""
        assert self._tokens is not None
        ids = self._tokens.encode_all([prompt])[0]
        return len(ids) - (1 if ids and ids[-1] in self._model.tokenizer.all_special_ids else 0)

    # Texts that only the library can read

    def _read_by_library(self, work: EmbeddingWork) -> Prepared[Any] | ModelrackError:
        assert isinstance(work.input, str)
        task = work.task or self._default_task
        text = _Text(work.input, work.prompt, task, work.outputs)
        tokens = _count(self._preprocess([work.input], work.prompt, task))
        if not work.truncate and self._max is not None:
            uncut = self._count_uncut(text)
            if uncut > tokens:
                return too_long(work.index, uncut, tokens)
        return Prepared(text, max(1, tokens), (task, work.prompt))

    def _count_uncut(self, text: _Text) -> int:
        try:
            uncut = {"text": {"truncation": False, "max_length": None}}
            return _count(self._preprocess([text.text], text.prompt, text.task, processing_kwargs=uncut))
        except (TypeError, ValueError):  # a module of the model's own code
            return len(self.tokenizer.encode_all([text.prompt + text.text])[0]) if self.tokenizer else 0

    def _preprocess(self, texts: list[str], prompt: str, task: str | None, **options: Any) -> dict[str, Any]:
        arguments = {**options, **({"task": task} if task is not None else {})}
        if self.tokenizer is None:
            made: dict[str, Any] = self._model.preprocess(texts, prompt=prompt or None, **arguments)
            return made
        with self.tokenizer.lock:
            made = self._model.preprocess(texts, prompt=prompt or None, **arguments)
        return made

    def _warm_up(self) -> None:
        """Compute once: what is wrong with a model is then known before it is said to be ready."""
        work = EmbeddingWork(0, "hello", truncate=True, outputs=self._outputs.names)
        (prepared,) = self.prepare([work])
        if isinstance(prepared, ModelrackError):
            raise prepared
        self._outputs.measure(self.run([prepared.payload])[0])


def _moved(value: Any, device: torch.device) -> Any:
    return value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value


def _n_vocab(model: Any, tokens: Tokens | None) -> int:
    """Return how many token ids may be sent: those that the tokenizer names and the model has a vector for."""
    named = tokens.n_vocab if tokens is not None else 0
    transformer = model.transformers_model
    table = transformer.get_input_embeddings() if transformer is not None else None
    return min(named, table.num_embeddings) if isinstance(table, torch.nn.Embedding) else named


def _count(features: Mapping[str, Any]) -> int:
    """Return how many tokens of one text are read."""
    mask = features.get("attention_mask")
    if isinstance(mask, torch.Tensor):
        return int(mask.sum())
    ids = features.get("input_ids")
    return int(ids.numel()) if isinstance(ids, torch.Tensor) else 0
