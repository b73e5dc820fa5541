"""The worker half for models that embed or rank."""

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from modelrack.catalog.gguf_memory import free_memory, read_model
from modelrack.embedding import Embedding, EmbeddingLoader
from modelrack.hooks import LoadPlan
from modelrack.machine import probe
from modelrack.pooling.facts import PooledFacts, read_facts
from modelrack.pooling.memory import PooledSizes, choose_sizes
from modelrack.pooling.models import PooledEmbedding, PooledRanking
from modelrack.pooling.texts import Pair, PairTexts, TextTokens, find_marks
from modelrack.rerank import RerankLoader
from modelrack.worker import Report

from . import bindings
from .bindings import Handle
from .logs import set_verbosity
from .params import count_threads, init_numa
from .pooled_context import open_pooled_context
from .vocabulary import Vocabulary
from .weights import load_weights

__all__ = ["GgufEmbedding", "GgufEmbeddingLoader", "GgufRanking", "GgufRerankLoader"]

_SWITCH_S = 0.0002

Model = TypeVar("Model")


class _Texts:
    """Turns texts into tokens and back; any thread may use it."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary

    def encode(self, text: str, *, add_special: bool) -> list[int]:
        return self._vocabulary.encode(text, add_special=add_special, parse_special=True)

    def encode_all(self, texts: Sequence[str], *, parse_special: bool) -> list[list[int]]:
        encode = self._vocabulary.encode
        return [encode(text, add_special=False, parse_special=parse_special) for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        return b"".join(map(self._vocabulary.special_bytes, ids)).decode("utf-8", "replace")

    def names(self, ids: Sequence[int]) -> list[str]:
        return [self._vocabulary.token_name(token) for token in ids]


class GgufEmbedding(PooledEmbedding):
    """A model that embeds."""

    def __init__(self, core: "_Core") -> None:
        encode = core.texts.encode_all
        marks = find_marks(encode, lambda text: core.texts.encode(text, add_special=True))
        tokens = TextTokens(encode, marks, core.sizes.max_tokens)
        super().__init__(core.plan, core.facts, core.sizes, tokens, core.texts, core.vocabulary.size)
        self.facts = core.described
        self._core = core
        self.interrupt = core.context.interrupt

    def run(self, batch: Sequence[list[int]]) -> Sequence[Embedding]:
        """Embed what `prepare` made."""
        return [Embedding(dense=row) for row in self._core.context.run(batch)]

    def close(self) -> None:
        """Free the model."""
        self._core.close()


class GgufRanking(PooledRanking):
    """A model that ranks."""

    def __init__(self, core: "_Core") -> None:
        super().__init__(core.plan, core.facts, core.sizes, _make_pairs(core))
        self.facts = core.described
        self._core = core
        self.interrupt = core.context.interrupt

    def score(self, batch: Sequence[Pair]) -> Sequence[float]:
        """Return the score of each pair."""
        return [float(row[0]) for row in self._core.context.run([pair.tokens for pair in batch])]

    def close(self) -> None:
        """Free the model."""
        self._core.close()


def _make_pairs(core: "_Core") -> PairTexts:
    vocabulary = core.vocabulary
    handle = vocabulary.handle
    separator: int = bindings.vocab_sep(handle)
    end = separator if vocabulary.eos_id is None else vocabulary.eos_id
    ends = [end] if bindings.vocab_adds_eos(handle) else []
    return PairTexts(
        core.texts.encode_all,
        core.sizes.max_tokens,
        before=[vocabulary.bos_id] if vocabulary.adds_bos and vocabulary.bos_id is not None else [],
        between=[*ends, separator] if bindings.vocab_adds_sep(handle) else ends,
        after=ends,
        template=core.facts.template,
    )


class _Core:
    """What is loaded, for a model of either type. Made by `_open`."""

    def __init__(self, plan: LoadPlan, facts: PooledFacts, sizes: PooledSizes, weights: Handle, cores: int) -> None:
        self.plan = plan
        self.facts = facts
        self.sizes = sizes
        self._weights = weights
        self.context = open_pooled_context(plan, facts, sizes, cores, weights)
        self.vocabulary = Vocabulary(bindings.model_vocab(weights))
        self.texts = _Texts(self.vocabulary)
        self.described: Mapping[str, Any] = {
            "pooling": facts.pooling,
            "n_threads": count_threads(plan.options["n_threads"], cores),
            "llama_cpp_python": bindings.package_version(),
        }

    def close(self) -> None:
        self.vocabulary.close()
        self.context.close()
        if self._weights:
            bindings.free_model(self._weights)
            self._weights = 0


def _open(plan: LoadPlan, report: Report) -> _Core:
    # The thread that computes comes back from each batch to find others at work, and Python lets it wait so long.
    sys.setswitchinterval(_SWITCH_S)
    report(0.02, "reading the model's header")
    metadata = read_model(plan.files.path)
    facts = read_facts(plan, metadata)
    machine = probe()
    free = free_memory(machine, plan.accelerators)
    sizes = choose_sizes(plan.options, metadata, free, on_accelerator=bool(plan.accelerators), facts=facts)
    set_verbosity(plan.options["verbosity"])
    bindings.init_backend()
    init_numa(plan.options)
    report(0.1, "loading the model")
    weights = load_weights(plan, report)
    report(0.9, "making the context")
    try:
        return _Core(plan, facts, sizes, weights, machine.cores)
    except BaseException:
        bindings.free_model(weights)
        raise


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
