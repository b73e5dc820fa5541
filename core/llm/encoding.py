"""Turn texts into tokens without holding up the answers that others are waiting for."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

from .contract import LanguageModel

__all__ = ["Encoder"]

_LONG = 8192
"""Characters from which it takes more than it costs to use a thread: some milliseconds."""


class Encoder:
    """Encodes texts for one model: long ones in a thread, one at a time, where the engine allows that."""

    def __init__(self, model: LanguageModel) -> None:
        self._model = model
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="encoder") if model.traits.encodes_in_threads else None

    async def __call__(self, text: str, *, add_special: bool, parse_special: bool = True) -> list[int]:
        """Return the tokens of a text; the arguments are those of `LanguageModel.encode`."""
        encode = self._model.encode
        if self._thread is None or len(text) < _LONG:
            return encode(text, add_special=add_special, parse_special=parse_special)
        return await asyncio.get_running_loop().run_in_executor(
            self._thread, lambda: encode(text, add_special=add_special, parse_special=parse_special)
        )
