"""The worker half: loads the model into llama.cpp's server core. The only module that imports the engine."""

import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import orjson

from modelrack.catalog.gguf import GgufMetadata
from modelrack.catalog.gguf_memory import free_memory, read_model
from modelrack.hooks import LoadPlan
from modelrack.machine import probe
from modelrack.worker import Handler, Loader, Report

from .embedded import Embedded
from .facts import ModelFacts
from .grammars import GrammarCheck
from .handlers import Chat, ConvertIds, Detokenize, Generate, Tokenize
from .memory import choose_sizes, extra_weights
from .params import build_params, count_threads
from .speed import Speed
from .starting import start
from .templates import PlainTemplate, is_plain
from .threads import Threads

__all__ = ["LlamaCppLoader"]

_AHEAD = 2
"""Calls made beyond the slots, so that a slot that falls free is not idle until the next one comes."""
_CLOSE_S = 20.0


class _Engine:
    """Holds the engine, so that it can be let go of while handlers still hold this."""

    def __init__(self, server: Any) -> None:
        self.server = server

    def chat(self, body: bytes, take: Callable[[bytes], bool]) -> None:
        self.server.handle_chat_completions(body, take)

    def text(self, body: bytes, take: Callable[[bytes], bool]) -> None:
        self.server.handle_completions(body, take)


class LlamaCppLoader(Loader):
    """Loads a GGUF file into llama.cpp."""

    def __init__(self, plan: LoadPlan) -> None:
        super().__init__(plan)
        self._engine: _Engine | None = None
        self._threads: Threads | None = None
        self._socket = f"llama-{secrets.token_hex(4)}.sock"
        self._facts: Mapping[str, Any] = {}

    def load(self, report: Report) -> Mapping[str, Handler]:
        """Load the model; blocks as long as it takes.

        Raises: BadRequest: the file is no sound GGUF. LaunchFailed: it does not fit, or llama.cpp refuses it.
        """
        plan = self.plan
        report(0.02, "reading the model's header")
        metadata = read_model(plan.files.path)
        machine = probe()
        sizes = choose_sizes(
            plan.options,
            metadata,
            free_memory(machine, plan.accelerators),
            on_accelerator=bool(plan.accelerators),
            extra_bytes=extra_weights(plan),
        )
        report(0.1, "loading the model")
        import xllamacpp

        params = build_params(xllamacpp, plan, sizes, machine.cores, self._socket)
        self._engine = _Engine(start(xllamacpp, params, plan))
        report(0.95, "preparing")
        embedded = Embedded(self._socket)
        properties = _ask_properties(embedded)
        facts = _find_facts(xllamacpp, plan, metadata, properties, sizes.n_batch)
        self._threads = Threads(facts.n_parallel + _AHEAD)
        self._facts = {
            "context_length": facts.n_ctx,
            "n_parallel": facts.n_parallel,
            "n_threads": count_threads(plan.options["n_threads"], machine.cores),
        }
        plain = PlainTemplate(embedded) if is_plain(str(properties.get("chat_template") or "")) else None
        return self._handlers(embedded, facts, plain)

    def _handlers(self, embedded: Embedded, facts: ModelFacts, template: PlainTemplate | None) -> Mapping[str, Handler]:
        engine, threads, speed = self._engine, self._threads, Speed()
        assert engine is not None
        assert threads is not None
        chat, text = engine.chat, engine.text
        grammars = GrammarCheck(text, facts.n_vocab)
        return {
            "chat": Chat(chat, text, threads, embedded, facts, speed, grammars, template),
            "generate": Generate(chat, text, threads, embedded, facts, speed, grammars),
            "tokenize": Tokenize(embedded, facts),
            "detokenize": Detokenize(embedded, facts),
            "convert_ids_to_tokens": ConvertIds(self.plan.files.path, facts),
        }

    def describe(self) -> Mapping[str, Any]:
        """Return what is known only after loading."""
        return self._facts

    def close(self) -> None:
        """Free the model.

        A call that is still under way (of a client that left during a long prompt) keeps it from being freed: the
        engine aborts the process if it is destroyed under a call. The process is about to end anyway.
        """
        if self._threads is not None and not self._threads.close(_CLOSE_S):
            return
        if self._engine is not None:
            self._engine.server = None
        Path(self._socket).unlink(missing_ok=True)


def _ask_properties(embedded: Embedded) -> dict[str, Any]:
    import asyncio

    return asyncio.run(embedded.properties())


def _find_facts(
    engine: Any, plan: LoadPlan, metadata: GgufMetadata, properties: dict[str, Any], n_batch: int
) -> ModelFacts:
    keys = metadata.keys
    fill_in = tuple(
        _token_id(keys, f"tokenizer.ggml.fim_{short}_token_id", f"tokenizer.ggml.{long}_token_id")
        for short, long in (("pre", "prefix"), ("suf", "suffix"), ("mid", "middle"))
    )
    grammar = engine.json_schema_to_grammar(orjson.dumps({"type": "object"}).decode())
    template = str(properties.get("chat_template") or "")
    return ModelFacts(
        n_ctx=properties["default_generation_settings"]["n_ctx"],
        n_parallel=properties["total_slots"],
        n_batch=n_batch,
        n_vocab=metadata.vocabulary_size or 0,
        bos_id=_token_id(keys, "tokenizer.ggml.bos_token_id"),
        fill_in=None if None in fill_in else fill_in,  # type: ignore[arg-type]  # three numbers by now
        stop=plan.family.stop,
        lora=tuple(name for name, _ in plan.lora),
        takes_media=any((properties.get("modalities") or {}).values()),
        has_llguidance=grammar.startswith("%llguidance"),
        template=properties.get("chat_template_caps") or {},
        may_think="think" in template or "reasoning" in template,
        has_developer_role="developer" in template,
        fetch_hosts=plan.fetch_hosts,
    )


def _token_id(keys: Mapping[str, Any], *names: str) -> int | None:
    return next((keys[name] for name in names if isinstance(keys.get(name), int)), None)
