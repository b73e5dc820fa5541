"""End a batch that nobody waits for any more, in the middle of the model."""

import threading
from typing import Any

__all__ = ["Interrupted", "Interruption"]


class Interrupted(Exception):
    """Nobody waits for the batch any more."""


class Interruption:
    """Looks before each layer of a model whether anybody still waits; the model may be called in one thread at a time.

    Args:
        model: a PyTorch module. Its layers are the longest list of modules in it; one without any is not interrupted.
    """

    def __init__(self, model: Any) -> None:
        lists = [module for module in model.modules() if type(module).__name__ == "ModuleList"]
        self._asked = threading.Event()
        layers = max(lists, key=len, default=())
        self._hooks = [layer.register_forward_pre_hook(self._look_up) for layer in layers]

    def begin(self) -> None:
        """Begin a batch: what was asked before it was meant for another."""
        self._asked.clear()

    def ask(self) -> None:
        """End the batch that is computed before its next layer, with `Interrupted`; from any thread."""
        self._asked.set()

    def remove(self) -> None:
        """Look no more: in a model that is compiled it would cost more than it saves."""
        for hook in self._hooks:
            hook.remove()

    def _look_up(self, *_: Any) -> None:
        if self._asked.is_set():
            raise Interrupted
