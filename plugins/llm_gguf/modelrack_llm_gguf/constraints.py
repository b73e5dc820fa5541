"""Honour constraints: what an answer must be decides which tokens may come next.

`Constraints` belongs to a loaded model. `prepare` compiles a constraint, away from the event loop and the decode loop,
to a `Matcher`, which belongs to one sequence and to the thread that decodes. At each token:

    if matcher.mask(row):       # row: the logits, float32 [n_vocab]; read log probabilities before
        ...                     # the answer is complete and nothing can come: the sequence ends with "stop"
    token = ...                 # whatever chooses from the row
    matcher.accept(token)

A matcher that fails raises EngineError, and the request with it: no text goes unconstrained.
"""

import asyncio
import threading
import time
import warnings
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
import orjson
from llguidance import LLMatcher, LLTokenizer
from llguidance.llamacpp import lltokenizer_from_vocab
from numpy.typing import NDArray

from modelrack.errors import BadRequest, EngineError, TooManyRequests
from modelrack.llm.contract import Constraint

from .guidance import KINDS, refusal
from .marks import Mark, Position
from .vetting import LIMITS, Vetting

__all__ = ["Constraints", "Matcher"]

_KEEP = 32
_KEEP_REFUSALS = 256
_MOST_WAITING = 64
_MOST_BYTES = 1024**2
_FIRST_S = 0.25
_GRACE_S = 0.5
_TOKEN_S = 0.005
"""CPU time of a matcher before it is too slow: this much for each token, and some more once."""

Logits = NDArray[np.float32]


class _Vocabulary:
    """The model's tokens as llguidance sees them, and the room to work in; for the thread that decodes."""

    def __init__(self, vocab: int, end_ids: frozenset[int]) -> None:
        import llama_cpp

        self.size = int(llama_cpp.llama_vocab_n_tokens(vocab))
        # A model without an end token never ends by itself; a token past its last one stands for the end here.
        ends = sorted(end_ids) or [self.size]
        with warnings.catch_warnings():
            # llguidance 1.9 asks llama-cpp-python 0.3.36 for a token's kind by an older name.
            warnings.simplefilter("ignore", DeprecationWarning)
            most = max(self.size, ends[-1] + 1)
            self.tokenizer: LLTokenizer = lltokenizer_from_vocab(vocab, n_vocab=most, eos_token=ends)
        self.ends = np.array(sorted(end_ids), dtype=np.intp)
        words = (self.tokenizer.vocab_size + 31) // 32
        self._bits = np.zeros(words * 4, dtype=np.uint8)
        self.address, self.bytes = self._bits.ctypes.data, words * 4
        self._others = np.full(words * 4, 255, dtype=np.uint8)
        for end in ends:
            self._others[end >> 3] &= ~(1 << (end & 7)) & 255
        bit = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
        self._ceilings = np.where(bit == 1, np.float32(np.inf), np.float32(-np.inf)).astype(np.float32)
        self._ceiling = np.empty((words * 4, 8), dtype=np.float32)

    def goes_on(self) -> bool:
        """Return whether the mask at `address` allows a token that does not end the answer."""
        return bool(np.any(self._bits & self._others))

    def allows_any(self) -> bool:
        """Return whether the mask at `address` allows a token."""
        return bool(self._bits.any())

    def apply(self, logits: Logits) -> None:
        """Take away what the mask at `address` does not allow. It costs the same whatever that is."""
        np.take(self._ceilings, self._bits, axis=0, out=self._ceiling, mode="clip")
        np.minimum(logits, self._ceiling.reshape(-1)[: len(logits)], out=logits)

    def token_texts(self) -> list[bytes]:
        """Return what each token writes; special tokens their names."""
        return [self.tokenizer.decode_bytes([token]) for token in range(self.size)]


@dataclass(slots=True)
class _Compiled:
    """A grammar's first matcher. Those made from it share what they learn of the grammar, and so its limits.

    Args:
        is_spoilt: one of them ran into a limit.
    """

    first: LLMatcher
    is_spoilt: bool = False


class Matcher:
    """Follows one answer, and says what may come next."""

    def __init__(
        self, compiled: _Compiled, grammar: LLMatcher, vocabulary: _Vocabulary, start: Position | None
    ) -> None:
        self._compiled = compiled
        self._grammar = grammar
        self._vocabulary = vocabulary
        self._before = start
        self._earlier: list[Position] = []
        self._taken = 0
        self._spent_s = -_GRACE_S

    def mask(self, logits: Logits) -> bool:
        """Take away what may not come next: its logits become -inf.

        Args:
            logits: of all tokens, changed in place.

        Returns: whether the answer is complete, and nothing can follow; the logits are as they were.
        Raises: EngineError: the grammar has become too complex, or nothing in the vocabulary fits.
        """
        vocabulary = self._vocabulary
        if self._before is not None:
            logits[vocabulary.ends] = -np.inf
            logits[self._before.forbidden] = -np.inf
            return False
        grammar = self._grammar
        begun = time.thread_time()
        grammar.unsafe_compute_mask_ptr(vocabulary.address, vocabulary.bytes)
        self._spent_s += time.thread_time() - begun - _TOKEN_S
        if grammar.is_error():
            raise self._failed(grammar.get_error())
        if grammar.is_stopped():
            return True
        if not vocabulary.goes_on():
            if not vocabulary.allows_any():
                raise self._failed("no token of the model fits")
            return True
        if self._spent_s > 0:
            raise self._failed("it takes too long")
        vocabulary.apply(logits)
        return False

    def accept(self, token: int) -> None:
        """Take the token that was chosen, be it one that ends the answer.

        Raises: EngineError: it does not fit.
        """
        if self._before is not None:
            self._earlier.append(self._before)
            self._before = self._before.after(token)
        elif not self._grammar.consume_token(token):
            raise self._failed(self._grammar.get_error())
        else:
            self._taken += 1

    def valid(self, tokens: Sequence[int]) -> int:
        """Return how many of some tokens could come next, one after another. Nothing changes."""
        before = self._before
        for index, token in enumerate(tokens):
            if before is None:
                return index + int(self._grammar.validate_tokens(list(tokens[index:])))
            if not before.allows(token):
                return index
            before = before.after(token)
        return len(tokens)

    def rollback(self, count: int) -> None:
        """Take back the last `count` accepted tokens."""
        within = min(count, self._taken)
        if within and not self._grammar.rollback(within):
            raise self._failed(self._grammar.get_error())
        self._taken -= within
        for _ in range(count - within):
            self._before = self._earlier.pop()

    def fork(self) -> "Matcher":
        """Return one that goes its own way from here."""
        other = Matcher(self._compiled, self._grammar.deep_copy(), self._vocabulary, self._before)
        other._earlier = list(self._earlier)
        other._taken = self._taken
        other._spent_s = self._spent_s
        return other

    def _failed(self, reason: str) -> EngineError:
        self._compiled.is_spoilt = True
        line = reason.strip().partition("\n")[0][:300]
        return EngineError(f"The constraint could not be followed any further: {line}.")


class Constraints:
    """Compiles constraints for one model.

    Args:
        vocab: llama.cpp's vocabulary (`llama_vocab *`); the model must stay loaded until `close`.
        end_ids: the tokens that end an answer.
    """

    kinds = KINDS

    def __init__(self, vocab: int, end_ids: frozenset[int]) -> None:
        self._vocabulary = _Vocabulary(vocab, end_ids)
        self._vetting = Vetting()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="constraints")
        self._waiting = 0
        self._lock = threading.Lock()
        self._ready: OrderedDict[bytes, _Compiled] = OrderedDict()
        self._refused: OrderedDict[bytes, tuple[type[BadRequest], str]] = OrderedDict()
        self._marks: dict[tuple[int, ...], Mark] = {}
        self._texts: list[bytes] = []

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
        return Matcher(compiled, compiled.first.deep_copy(), self._vocabulary, start)

    def close(self) -> None:
        """Give everything back; waits for what is being compiled."""
        self._thread.shutdown(cancel_futures=True)
        self._vetting.close()

    def _known(self, key: bytes, name: str) -> _Compiled | None:
        with self._lock:
            if key in self._refused:
                kind, message = self._refused[key]
                raise kind(message, param=name)
            compiled = self._ready.get(key)
            if compiled is None or compiled.is_spoilt:
                return None
            self._ready.move_to_end(key)
            return compiled

    def _prepare(self, constraint: Constraint, key: bytes) -> tuple[_Compiled, Mark | None]:
        compiled = self._known(key, constraint.field) or _Compiled(self._compile(constraint, key))
        with self._lock:
            self._ready[key] = compiled
            if len(self._ready) > _KEEP:
                self._ready.popitem(last=False)
        return compiled, self._mark(constraint.begins_after)

    def _compile(self, constraint: Constraint, key: bytes) -> LLMatcher:
        try:
            grammar = self._vetting.grammar(constraint)
            matcher = LLMatcher(self._vocabulary.tokenizer, grammar, log_level=0, limits=LIMITS)
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
            if not self._texts:
                self._texts = self._vocabulary.token_texts()
            text = b"".join(self._texts[token] for token in tokens)
            if not text:
                raise BadRequest("The mark that the constraint is to begin after has no text.", param="begins_after")
            if len(self._marks) >= _KEEP:
                self._marks.clear()
            mark = Mark(text, self._texts)
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
