"""Compile constraints, once for equal ones, away from the event loop and from the thread that chooses tokens."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from typing import TYPE_CHECKING

import orjson

from ...errors import BadRequest, TooManyRequests
from ..contract import Constraint
from .guidance import KINDS, refusal
from .marks import Mark
from .masks import Ceilings
from .matcher import Compiled, Matcher
from .vetting import Vetting, limits
from .vocabulary import Vocabulary

if TYPE_CHECKING:
    from llguidance import LLMatcher

__all__ = ["Constraints"]

_KEEP = 32
_KEEP_REFUSALS = 256
_MOST_WAITING = 64
_MOST_BYTES = 1024**2
_FIRST_S = 0.25


class Constraints:
    """Compiles constraints for one model.

    Args:
        vocabulary: what it is made of must stay until `close`.
    """

    kinds = KINDS

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._ceilings = Ceilings(vocabulary)
        self._vetting = Vetting()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="constraints")
        self._waiting = 0
        self._lock = threading.Lock()
        self._ready: OrderedDict[bytes, Compiled] = OrderedDict()
        self._refused: OrderedDict[bytes, tuple[type[BadRequest], str]] = OrderedDict()
        self._marks: dict[tuple[int, ...], Mark] = {}

    async def prepare(self, constraint: Constraint) -> Matcher:
        """Return a matcher that stands at the beginning of an answer. What is known by now is not waited for.

        Raises: BadRequest: the constraint is malformed, too complex, or asks for what cannot be honoured.
            TooManyRequests: too many others are to be compiled first.
        """
        key = _key(constraint)
        compiled = self._known(key, constraint.field)
        mark = self._marks.get(constraint.begins_after)
        if compiled is None or (mark is None and constraint.begins_after):
            if self._waiting >= _MOST_WAITING:
                raise TooManyRequests(
                    f"{_MOST_WAITING} constraints wait to be compiled already.", headers={"Retry-After": "5"}
                )
            self._waiting += 1
            loop = asyncio.get_running_loop()
            try:
                made, mark = await loop.run_in_executor(self._thread, self._prepare, constraint, key)
            finally:
                self._waiting -= 1
            compiled = made
        start = mark.start if mark is not None else None
        return Matcher(compiled, compiled.first.deep_copy(), self._ceilings, start)

    def close(self) -> None:
        """Give everything back; waits for what is being compiled."""
        self._thread.shutdown(cancel_futures=True)
        self._vetting.close()

    def _known(self, key: bytes, name: str) -> Compiled | None:
        with self._lock:
            if key in self._refused:
                kind, message = self._refused[key]
                raise kind(message, param=name)
            compiled = self._ready.get(key)
            if compiled is None or compiled.is_spoilt:
                return None
            self._ready.move_to_end(key)
            return compiled

    def _prepare(self, constraint: Constraint, key: bytes) -> tuple[Compiled, Mark | None]:
        compiled = self._known(key, constraint.field) or Compiled(self._compile(constraint, key))
        with self._lock:
            self._ready[key] = compiled
            if len(self._ready) > _KEEP:
                self._ready.popitem(last=False)
        return compiled, self._mark(constraint.begins_after)

    def _compile(self, constraint: Constraint, key: bytes) -> LLMatcher:
        from llguidance import LLMatcher

        try:
            grammar = self._vetting.grammar(constraint)
            matcher = LLMatcher(self._vocabulary.tokenizer, grammar, log_level=0, limits=limits())
            begun = time.thread_time()
            if not matcher.is_error():
                matcher.compute_bitmask()
            if matcher.is_error():
                raise refusal(constraint, matcher.get_error())
            if time.thread_time() - begun > _FIRST_S:
                raise refusal(constraint, "it takes too long to find what may come next")
        except BadRequest as error:
            with self._lock:
                self._refused[key] = type(error), error.message
                if len(self._refused) > _KEEP_REFUSALS:
                    self._refused.popitem(last=False)
            raise
        return matcher

    def _mark(self, tokens: tuple[int, ...]) -> Mark | None:
        if not tokens:
            return None
        mark = self._marks.get(tokens)
        if mark is None:
            texts = self._vocabulary.texts
            text = b"".join(texts[token] for token in tokens)
            if not text:
                raise BadRequest("The mark that the constraint is to begin after has no text.", param="begins_after")
            if len(self._marks) >= _KEEP:
                self._marks.clear()
            mark = Mark(text, texts, self._vocabulary.open_words)
            mark.prepare()
            self._marks[tokens] = mark
        return mark


def _key(constraint: Constraint) -> bytes:
    """Return what stands for a constraint in the cache.

    Raises: BadRequest: it is too long, or no text.
    """
    name = constraint.field
    try:
        text = orjson.dumps([constraint.kind, constraint.value, name])
    except orjson.JSONEncodeError as error:
        raise BadRequest(f"'{name}' cannot be used: {error}.", param=name) from None
    if len(text) > _MOST_BYTES:
        raise BadRequest(f"'{name}' is too long: {len(text)} bytes, and {_MOST_BYTES} are the most.", param=name)
    return sha256(text).digest()
