"""How a model's tokens are made of a query and a document."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

from modelrack.errors import LaunchFailed, ModelrackError
from modelrack.rerank import RerankWork, document_too_long, query_too_long

from .prompts import Layout
from .tokens import Tokens, beginning

__all__ = ["Format", "Pair", "PairFormat", "PromptFormat"]


@dataclass(frozen=True, slots=True)
class Pair:
    """What a model reads of a query and a document.

    Args:
        types: of each token, where the model tells the two texts apart by them.
    """

    ids: list[int]
    types: list[int] | None = None


class Format(Protocol):
    """Makes tokens of pairs."""

    takes_instruction: bool

    def encode(self, works: Sequence[RerankWork]) -> list[Pair | ModelrackError]:
        """Return the tokens of each pair, or why it has none."""


class PairFormat:
    """Two texts with special tokens around them, as tokenizers put pairs together.

    Each text is cut into tokens once, however many pairs it is in; where they and the special tokens go is found out
    with two pairs that the tokenizer puts together itself.

    Args:
        tokenizer: of Transformers.
        max_tokens: of a pair.
        query_layout: what is put around queries; without and with an instruction.
    """

    def __init__(
        self, tokenizer: Any, max_tokens: int, query_layout: Layout | None = None, instructed: Layout | None = None
    ) -> None:
        self._tokenizer = tokenizer
        self._tokens = Tokens(tokenizer)
        self._max_tokens = max_tokens
        self._plain, self._instructed = query_layout, instructed
        self.takes_instruction = instructed is not None
        self._cuts_left = tokenizer.truncation_side == "left"
        self._has_types = "token_type_ids" in tokenizer.model_input_names
        self._parts = self._learn("a", "b c d")
        if self._parts is None or self._parts != self._learn("one two three", "four"):
            raise LaunchFailed("The model's tokenizer puts pairs of texts together in a way that is not known here.")
        self._special = sum(len(ids) for ids, _ in self._parts[:3])

    def encode(self, works: Sequence[RerankWork]) -> list[Pair | ModelrackError]:
        """Return the tokens of each pair, or why it has none."""
        queries = list(dict.fromkeys(self._query(work) for work in works))
        most = self._max_tokens
        texts = [work.document if self._cuts_left else beginning(work, work.document, most) for work in works]
        ids = self._tokens.encode(queries + texts)
        by_query = dict(zip(queries, ids, strict=False))
        documents = ids[len(queries) :]
        # Beginnings with too few tokens to be all that is needed: the whole documents are read.
        few = [
            index
            for index, (work, text) in enumerate(zip(works, texts, strict=True))
            if len(text) < len(work.document) and len(documents[index]) < most
        ]
        for index, found in zip(few, self._tokens.encode([works[index].document for index in few]), strict=True):
            documents[index] = found
        pairs = zip(works, documents, strict=True)
        return [self._join(work, by_query[self._query(work)], document) for work, document in pairs]

    def _query(self, work: RerankWork) -> str:
        layout = self._instructed if work.instruction else self._plain
        return work.query if layout is None else layout.fill(query=work.query, instruction=work.instruction)

    def _join(self, work: RerankWork, query: list[int], document: list[int]) -> Pair | ModelrackError:
        room = self._max_tokens - self._special
        if len(query) >= room:
            return query_too_long(len(query) + self._special, self._max_tokens)
        if work.max_document_tokens is not None:
            document = self._cut(document, work.max_document_tokens)
        total = len(query) + len(document)
        if total > room:
            if not work.truncate:
                return document_too_long(work.index, total + self._special, self._max_tokens)
            first, second = _longest_first(len(query), len(document), room)
            query, document = self._cut(query, first), self._cut(document, second)
        before, between, after, (query_type, document_type) = self._parts
        ids = before[0] + query + between[0] + document + after[0]
        if not self._has_types:
            return Pair(ids)
        query_types, document_types = [query_type] * len(query), [document_type] * len(document)
        return Pair(ids, before[1] + query_types + between[1] + document_types + after[1])

    def _cut(self, ids: list[int], most: int) -> list[int]:
        if len(ids) <= most:
            return ids
        return ids[len(ids) - most :] if self._cuts_left else ids[:most]

    def _learn(self, first: str, second: str) -> Any:
        """Return the tokens before, between and behind two texts, with their types, and the types of the texts."""
        whole = self._tokenizer(first, second, return_token_type_ids=self._has_types, verbose=False)
        ids = list(whole["input_ids"])
        types = list(whole["token_type_ids"]) if self._has_types else [0] * len(ids)
        one, two = self._tokens.encode([first, second])
        for start in range(len(ids) - len(one) - len(two) + 1):
            for begin in range(start + len(one), len(ids) - len(two) + 1):
                if ids[start : start + len(one)] == one and ids[begin : begin + len(two)] == two:
                    end, stop = start + len(one), begin + len(two)
                    return (
                        (ids[:start], types[:start]),
                        (ids[end:begin], types[end:begin]),
                        (ids[stop:], types[stop:]),
                        (types[start], types[begin]),
                    )
        return None


class PromptFormat:
    """A text that the query and the document are put into.

    What is too long is cut off the end of the document, as sentence-transformers does it.

    Args:
        tokenizer: of Transformers.
        max_tokens: of the whole text.
        layout: the text, for requests without an instruction; instructed: for those with one.
        instruction: the one of `layout`, where it takes one.
    """

    def __init__(
        self, tokenizer: Any, max_tokens: int, layout: Layout, instructed: Layout | None = None, instruction: str = ""
    ) -> None:
        self._tokens = Tokens(tokenizer)
        self._max_tokens = max_tokens
        self._layout, self._instructed = layout, instructed or layout
        self._instruction = instruction
        self._has_types = "token_type_ids" in tokenizer.model_input_names
        self.takes_instruction = self._instructed.takes_instruction
        self._ids = lru_cache(maxsize=256)(lambda text: self._tokens.encode([text])[0])

    def encode(self, works: Sequence[RerankWork]) -> list[Pair | ModelrackError]:
        """Return the tokens of each pair, or why it has none."""
        whole = [self._document(work) for work in works]
        documents = [beginning(work, text, self._max_tokens) for work, text in zip(works, whole, strict=True)]
        found = self._encode(works, documents)
        # Beginnings with too few tokens to be all that is needed: the whole documents are read.
        few = [
            index
            for index, ids in enumerate(found)
            if len(documents[index]) < len(whole[index])
            and len(ids) < self._max_tokens + len(self._suffix(works[index]))
        ]
        read = self._encode([works[index] for index in few], [whole[index] for index in few])
        for index, ids in zip(few, read, strict=True):
            found[index] = ids
        return [self._fit(work, ids) for work, ids in zip(works, found, strict=True)]

    def _fields(self, work: RerankWork) -> tuple[Layout, dict[str, str]]:
        layout = self._instructed if work.instruction else self._layout
        return layout, {"query": work.query, "instruction": work.instruction or self._instruction}

    def _encode(self, works: Sequence[RerankWork], documents: Sequence[str]) -> list[list[int]]:
        texts = []
        for work, document in zip(works, documents, strict=True):
            layout, fields = self._fields(work)
            texts.append(layout.fill(document=document, **fields))
        return self._tokens.encode(texts)

    def _suffix(self, work: RerankWork) -> list[int]:
        layout, fields = self._fields(work)
        return self._ids(layout.after_document(**fields))

    def _document(self, work: RerankWork) -> str:
        """Return the document, cut where it has a limit of its own."""
        most = work.max_document_tokens
        return work.document if most is None else self._tokens.head(work.document, most)

    def _fit(self, work: RerankWork, ids: list[int]) -> Pair | ModelrackError:
        if len(ids) > self._max_tokens:
            layout, fields = self._fields(work)
            suffix = self._suffix(work)
            without = len(self._ids(layout.before_document(**fields))) + len(suffix)
            if without >= self._max_tokens:
                return query_too_long(without, self._max_tokens)
            if not work.truncate:
                return document_too_long(work.index, len(ids), self._max_tokens)
            ids = ids[: self._max_tokens - len(suffix)] + suffix
        return Pair(ids, [0] * len(ids) if self._has_types else None)


def _longest_first(first: int, second: int, room: int) -> tuple[int, int]:
    """Return how long two texts are when they are cut to the room there is, the longer one before the shorter.

    As the package tokenizers does it (strategy `longest_first`).
    """
    short, long = sorted((first, second))
    long = short if short > room else max(short, room - short)
    if short + long > room:
        short = room // 2
        long = short + room % 2
    return (long, short) if first > second else (short, long)
