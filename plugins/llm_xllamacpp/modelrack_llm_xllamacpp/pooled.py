"""The worker half for models that embed or rank, on llama.cpp's server core."""

import base64
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

import numpy as np

from modelrack.catalog.gguf import GgufMetadata
from modelrack.catalog.gguf_memory import free_memory, read_model
from modelrack.embedding import Embedding, EmbeddingLoader
from modelrack.errors import LaunchFailed
from modelrack.hooks import LoadPlan
from modelrack.machine import probe
from modelrack.pooling.facts import PooledFacts, read_facts
from modelrack.pooling.memory import PooledSizes, choose_sizes
from modelrack.pooling.models import PooledEmbedding, PooledRanking
from modelrack.pooling.texts import Marks, Pair, PairTexts, TextTokens, find_marks
from modelrack.rerank import RerankLoader
from modelrack.worker import Report

from .connection import Connection
from .params import count_threads, set_attention, set_devices, set_rope
from .specials import cut_at_specials, read_vocabulary
from .starting import start

__all__ = ["GgufEmbedding", "GgufEmbeddingLoader", "GgufRanking", "GgufRerankLoader"]

_AT_ONCE = 4
"""Queries whose documents are ranked at the same time: llama.cpp computes together what comes together."""
_HTTP_THREADS = _AT_ONCE + 4
"""It needs one for each connection that is open: those of the queries, two for tokens, and one that answers others."""
_APART = -1
"""Stands between texts that are tokenized by one request; no token has this id, and it is given back as it is."""
_SMALLER = "Launch it with a smaller max_tokens or batch_tokens."


class _Texts:
    """Turns texts into tokens and back; any thread may use it."""

    def __init__(self, socket: str, path: str) -> None:
        # One for the thread that prepares batches, one for questions about tokens.
        self._batches, self._questions = Connection(socket), Connection(socket)
        self._path = path

    def encode(self, text: str, *, add_special: bool) -> list[int]:
        (tokens,) = self._encode(self._questions, [text], parse_special=True)
        return [*self.marks.before, *tokens, *self.marks.after] if add_special else tokens

    def encode_all(self, texts: Sequence[str], *, parse_special: bool) -> list[list[int]]:
        return self._encode(self._batches, texts, parse_special=parse_special)

    @cached_property
    def marks(self) -> Marks:
        return find_marks(self.encode_all, self._mark)

    def _mark(self, text: str) -> list[int]:
        return list(self._questions.ask("/tokenize", {"content": text, "add_special": True})["tokens"])

    def _encode(self, connection: Connection, texts: Sequence[str], *, parse_special: bool) -> list[list[int]]:
        content: list[str | int] = []
        for text in texts:
            content += (*cut_at_specials(self._path, text, parse_special=parse_special), _APART)
        body = {"content": content, "add_special": False, "parse_special": parse_special}
        found: list[list[int]] = [[]]
        for token in connection.ask("/tokenize", body)["tokens"]:
            if token == _APART:
                found.append([])
            else:
                found[-1].append(token)
        return found[:-1]

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._questions.ask("/detokenize", {"tokens": list(ids)})["content"]) if ids else ""

    def names(self, ids: Sequence[int]) -> list[str]:
        vocabulary = read_vocabulary(self._path)
        return [vocabulary[one] for one in ids]

    def close(self) -> None:
        self._batches.close()
        self._questions.close()


class _Core:
    """What is loaded, for a model of either type. Made by `_open`."""

    def __init__(
        self, plan: LoadPlan, facts: PooledFacts, sizes: PooledSizes, metadata: GgufMetadata, server: Any, socket: str
    ) -> None:
        self.plan = plan
        self.facts = facts
        self.sizes = sizes
        self.metadata = metadata
        self.texts = _Texts(socket, plan.files.path)
        self.connections = [Connection(socket) for _ in range(_AT_ONCE)]
        self.described: Mapping[str, Any] = {"pooling": facts.pooling}
        self._server = server
        self._socket = socket

    def interrupt(self) -> None:
        for connection in self.connections:
            connection.stop()

    def close(self) -> None:
        self.texts.close()
        for connection in self.connections:
            connection.close()
        self._server = None
        Path(self._socket).unlink(missing_ok=True)


Item = TypeVar("Item")
Model = TypeVar("Model")


def _parts(items: Sequence[Item], lengths: Sequence[int], most: int) -> Iterator[list[Item]]:
    """Cut a batch into parts that fit into the cache: llama.cpp begins with as many texts as it has slots for."""
    part: list[Item] = []
    used = 0
    for item, length in zip(items, lengths, strict=True):
        if part and used + length > most:
            yield part
            part, used = [], 0
        part.append(item)
        used += length
    if part:
        yield part


class GgufEmbedding(PooledEmbedding):
    """A model that embeds."""

    def __init__(self, core: _Core) -> None:
        tokens = TextTokens(core.texts.encode_all, core.texts.marks, core.sizes.max_tokens)
        super().__init__(core.plan, core.facts, core.sizes, tokens, core.texts, core.metadata.vocabulary_size or 0)
        self.facts = core.described
        self._core = core
        self.interrupt = core.interrupt

    def run(self, batch: Sequence[list[int]]) -> Sequence[Embedding]:
        """Embed what `prepare` made."""
        found: list[Embedding] = []
        for part in _parts(batch, list(map(len, batch)), self._core.sizes.cells):
            body = {"input": part, "encoding_format": "base64", "embd_normalize": -1}
            answer = self._core.connections[0].ask("/v1/embeddings", body)
            rows = sorted(answer["data"], key=lambda row: row["index"])
            found += (Embedding(dense=np.frombuffer(base64.b64decode(row["embedding"]), dtype="<f4")) for row in rows)
        return found

    def close(self) -> None:
        """Free the model."""
        self._core.close()


class GgufRanking(PooledRanking):
    """A model that ranks."""

    def __init__(self, core: _Core) -> None:
        super().__init__(core.plan, core.facts, core.sizes, _make_pairs(core))
        self.facts = core.described
        self._core = core
        self.interrupt = core.interrupt
        self._threads = ThreadPoolExecutor(_AT_ONCE, "query")
        self._free: SimpleQueue[Connection] = SimpleQueue()
        for connection in core.connections:
            self._free.put(connection)

    def score(self, batch: Sequence[Pair]) -> Sequence[float]:
        """Return the score of each pair."""
        lengths = [len(pair.tokens) for pair in batch]
        return [score for part in _parts(batch, lengths, self._core.sizes.cells) for score in self._score(part)]

    def _score(self, batch: Sequence[Pair]) -> list[float]:
        places: dict[str, list[int]] = {}
        for place, pair in enumerate(batch):
            places.setdefault(pair.query, []).append(place)
        asked = [(query, [batch[place].document for place in found]) for query, found in places.items()]
        answers = list(self._threads.map(self._ask, asked)) if len(asked) > 1 else [self._ask(asked[0])]
        scores = [0.0] * len(batch)
        for found, answer in zip(places.values(), answers, strict=True):
            for place, score in zip(found, answer, strict=True):
                scores[place] = score
        return scores

    def _ask(self, asked: tuple[str, list[str]]) -> list[float]:
        query, documents = asked
        connection = self._free.get()
        try:
            answer = connection.ask("/v1/rerank", {"query": query, "documents": documents})
        finally:
            self._free.put(connection)
        results = sorted(answer["results"], key=lambda row: row["index"])
        return [float(row["relevance_score"]) for row in results]

    def close(self) -> None:
        """Free the model."""
        self._threads.shutdown()
        self._core.close()


def _make_pairs(core: _Core) -> PairTexts:
    """Say how llama.cpp writes a pair, so that its tokens can be counted and what is too long be cut."""
    encode = core.texts.encode_all
    if core.facts.template is not None:
        return PairTexts(encode, core.sizes.max_tokens, template=core.facts.template)
    marks = core.texts.marks
    keys = core.metadata.keys

    def wants(name: str, default: bool) -> bool:
        return bool(keys.get(f"tokenizer.ggml.add_{name}_token", default))

    is_wordpiece = core.metadata.text("tokenizer.ggml.model") == "bert"
    before = marks.before if wants("bos", bool(marks.before)) else ()
    adds_eos = wants("eos", core.metadata.text("tokenizer.ggml.model") == "t5")
    end = list(marks.after[-1:]) if adds_eos else []
    separator = keys.get("tokenizer.ggml.seperator_token_id", 102 if is_wordpiece else None)
    separators = [separator] if wants("sep", is_wordpiece) and isinstance(separator, int) else []
    return PairTexts(encode, core.sizes.max_tokens, before=before, between=[*end, *separators], after=end)


def _open(plan: LoadPlan, report: Report) -> _Core:
    report(0.02, "reading the model's header")
    metadata = read_model(plan.files.path)
    facts = read_facts(plan, metadata)
    machine = probe()
    free = free_memory(machine, plan.accelerators)
    sizes = choose_sizes(plan.options, metadata, free, on_accelerator=bool(plan.accelerators), facts=facts)
    sizes = _within_slots(plan, facts, sizes, metadata.context_length or facts.trained_tokens)
    report(0.1, "loading the model")
    import xllamacpp

    socket = f"llama-{secrets.token_hex(4)}.sock"
    params = _build_params(xllamacpp, plan, facts, sizes, machine.cores, socket)
    server = start(xllamacpp, params, plan, _SMALLER)
    report(0.95, "preparing")
    return _Core(plan, facts, sizes, metadata, server, socket)


def _within_slots(plan: LoadPlan, facts: PooledFacts, sizes: PooledSizes, trained: int) -> PooledSizes:
    """Keep texts as short as llama.cpp's server wants them: it keeps room for a token to come, also where none will.

    It gives no sequence more than the model was trained for, however the positions are stretched.
    """
    most = trained if facts.is_whole else trained - 1
    if sizes.max_tokens <= most:
        return sizes
    asked = plan.options["max_tokens"]
    if asked is not None:
        raise LaunchFailed(f"max_tokens is {asked}, and llama.cpp's server reads {most} tokens of this model at most.")
    return replace(sizes, max_tokens=most)


def _build_params(engine: Any, plan: LoadPlan, facts: PooledFacts, sizes: PooledSizes, cores: int, socket: str) -> Any:
    options = plan.options
    params = engine.CommonParams()
    params.model.path = plan.files.path
    params.model_alias = {plan.model_uid}
    params.hostnames = [socket]
    params.port = 0
    params.n_threads_http = _HTTP_THREADS
    params.ui = False
    params.endpoint_slots = False
    params.verbosity = options["verbosity"]
    params.warmup = options["warmup"]
    params.check_tensors = options["check_tensors"]
    params.embedding = True
    params.embd_normalize = -1
    params.pooling_type = getattr(engine.llama_pooling_type, f"LLAMA_POOLING_TYPE_{facts.pooling.upper()}")
    params.n_ctx = sizes.cells
    params.n_batch = params.n_ubatch = sizes.n_batch
    params.n_parallel = sizes.sequences
    params.kv_unified = True
    params.cache_prompt = False
    params.cache_ram_mib = 0
    params.cache_idle_slots = False
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = count_threads(options["n_threads"], cores)
    set_attention(engine, params, options)
    set_devices(engine, params, plan)
    set_rope(engine, params, options)
    return params


def _finish(make: Callable[[_Core], Model], core: _Core) -> Model:
    try:
        return make(core)
    except BaseException:
        core.close()
        raise


class GgufEmbeddingLoader(EmbeddingLoader):
    """Loads a GGUF file that embeds."""

    def load_model(self, report: Report) -> GgufEmbedding:
        """Load the model; blocks as long as it takes.

        Raises: BadRequest: the file is no sound GGUF. LaunchFailed: it cannot embed, or does not fit.
        """
        return _finish(GgufEmbedding, _open(self.plan, report))


class GgufRerankLoader(RerankLoader):
    """Loads a GGUF file that ranks."""

    def load_model(self, report: Report) -> GgufRanking:
        """Load the model; blocks as long as it takes.

        Raises: BadRequest: the file is no sound GGUF. LaunchFailed: it cannot rank, or does not fit.
        """
        return _finish(GgufRanking, _open(self.plan, report))
