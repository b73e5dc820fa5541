"""Make sure that a constraint will hold before it is used.

llguidance, which llama.cpp (b11549) hands JSON schemas, regular expressions and Lark grammars to, only logs that it
cannot read one, and llama.cpp then answers without any constraint. So each new one is tried on two tokens (after the
first its parser finds that there are too many ways on), with an eye on the log: while a constraint is tried, no other
unknown one is under way.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import orjson

from modelrack.errors import BadRequest

from .capture import StderrCapture
from .faults import explain_exception, explain_fault
from .threads import Method

__all__ = ["GrammarCheck"]

_KEEP = 256
_COMPLAINT = "llg error: "
_OUR_OWN = (b"Prompt contains invalid tokens", b"failed to launch slot with task")
_END = "Prompt contains invalid tokens"
"""What llama.cpp logs for a token that does not exist. Its log is in order: what came before is there by then."""


class GrammarCheck:
    """Checks constraints, and remembers those that are good.

    Args:
        method: the engine's call for completions.
        n_vocab: number of tokens.
    """

    def __init__(self, method: Method, n_vocab: int) -> None:
        self._method = method
        self._n_vocab = n_vocab
        self._known: OrderedDict[bytes, str | None] = OrderedDict()
        self._lock = asyncio.Lock()

    async def check(self, name: str, limits: Mapping[str, Any]) -> None:
        """Return if a constraint can be honoured.

        Args:
            name: the request's field, for the error.
            limits: the body's fields.

        Raises: BadRequest: it is malformed, or uses what is not supported.
        """
        key = orjson.dumps(limits)
        if key not in self._known:
            async with self._lock:
                if key not in self._known:
                    self._known[key] = await asyncio.to_thread(self._try, limits)
        else:
            self._known.move_to_end(key)
        while len(self._known) > _KEEP:
            self._known.popitem(last=False)
        problem = self._known.get(key)
        if problem is not None:
            raise BadRequest(f"'{name}' cannot be used: {problem}", param=name)

    def _try(self, limits: Mapping[str, Any]) -> str | None:
        """Return what is wrong with a constraint, or None."""
        found: list[str] = []

        def take(event: bytes) -> bool:
            data = orjson.loads(event)
            if isinstance(data, dict) and "error" in data:
                found.append(explain_fault(data["error"]).message)
            return False

        with StderrCapture(hide=_OUR_OWN) as capture:
            try:
                self._method(orjson.dumps({"prompt": [0], "n_predict": 2, "cache_prompt": False, **limits}), take)
            except Exception as error:
                return explain_exception(error).message
            problem = next(iter(found), None)
            self._method(orjson.dumps({"prompt": [self._n_vocab], "n_predict": 1}), take)
            capture.wait_for(_END)
            lines = list(capture.lines)
        if problem is not None:
            return problem
        complaint = next((line.partition(_COMPLAINT)[2] for line in lines if _COMPLAINT in line), None)
        return complaint.strip() if complaint is not None else None
