"""LoRA adapters: loaded at launch, chosen by request.

llama.cpp applies adapters to a whole batch, so each step computes the sequences of one adapter (or of none) alone.
"""

import ctypes
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from modelrack.catalog.gguf import read_metadata
from modelrack.errors import BadRequest, EngineError, LaunchFailed

from . import bindings
from .bindings import Handle
from .logs import Reasons

__all__ = ["Adapters", "Turns"]

_POINTER = ctypes.c_void_p
_init_adapter = bindings.function("llama_adapter_lora_init", _POINTER, _POINTER, ctypes.c_char_p, quick=False)
_count_invocation = bindings.function("llama_adapter_get_alora_n_invocation_tokens", ctypes.c_uint64, _POINTER)
_set_adapters = bindings.function(
    "llama_set_adapters_lora", ctypes.c_int32, _POINTER, _POINTER, ctypes.c_size_t, _POINTER
)

_STEPS = 4
"""Steps that one adapter's sequences have before it is the others' turn: a change costs up to a quarter of a step."""


class Turns:
    """Whose turn it is, of groups that cannot be computed together. Pure.

    As many steps for each group, so that every sequence comes forward alike, and nobody waits for ever.
    """

    def __init__(self, steps: int = _STEPS) -> None:
        self._steps = steps
        self._current: str | None = None
        self._taken = 0
        self._turns = 0
        self._latest: dict[str | None, int] = {}

    def choose(self, work: Mapping[str | None, int]) -> str | None:
        """Return the group that the next step is for.

        Args:
            work: the number of sequences with something to compute, by group; at least one.
        """
        if self._current not in work or (self._taken >= self._steps and len(work) > 1):
            # Who has never had a turn comes first, then who had it longest ago; the order of `work` decides a tie.
            self._current = min(work, key=lambda name: self._latest.get(name, -1))
            self._taken = 0
        self._turns += 1
        self._latest[self._current] = self._turns
        self._taken += 1
        return self._current


class Adapters:
    """The adapters of a model. They are freed together with it.

    Args:
        model: llama.cpp's model.
        files: name and path of each.
        architecture: of the model's file.

    Raises: LaunchFailed: one of them cannot be loaded; the message says why.
    """

    def __init__(self, model: Handle, files: Sequence[tuple[str, str]], architecture: str) -> None:
        self.names = tuple(name for name, _ in files)
        self._handles = {name: _load(model, name, path, architecture) for name, path in files}
        self._turns = Turns()
        self._applied: str | None = None
        self._adapter = (_POINTER * 1)()
        self._scale = (ctypes.c_float * 1)(1.0)

    def choose(self, work: Mapping[str | None, int]) -> str | None:
        """Return the adapter (or None) whose sequences the next step computes.

        Args:
            work: the number of sequences with something to compute, by adapter; at least one.
        """
        return self._turns.choose(work)

    def apply(self, context: Handle, name: str | None) -> None:
        """Let the next batches of a context be computed with an adapter, or with none.

        There is one context for each object of this class.
        """
        if name == self._applied:
            return
        if name is None:
            status = _set_adapters(context, None, 0, None)
        else:
            self._adapter[0] = self._handles[name]
            status = _set_adapters(context, ctypes.addressof(self._adapter), 1, ctypes.addressof(self._scale))
        if status != 0:
            raise EngineError(f"llama.cpp could not apply the adapter '{name}' (status {status}).")
        self._applied = name


def _load(model: Handle, name: str, path: str, architecture: str) -> Handle:
    _check(name, path, architecture)
    with Reasons() as reasons:
        handle: Handle | None = _init_adapter(model, os.fsencode(path))
    if not handle:
        reason = reasons.text("it gave no reason")
        raise LaunchFailed(f"llama.cpp could not load the adapter '{name}' ({path}): {reason}.")
    if _count_invocation(handle):
        raise LaunchFailed(
            f"The adapter '{name}' ({path}) is an activated LoRA, which counts from certain words on: this engine "
            "applies an adapter to all of a prompt."
        )
    return handle


def _check(name: str, path: str, architecture: str) -> None:
    """Refuse files whose header says that they are no adapter for the model: llama.cpp's own words tell less."""
    if Path(path).is_dir():
        raise LaunchFailed(
            f"The adapter '{name}' ({path}) is a folder: this engine takes adapters as GGUF files.",
            remedy="Convert it with llama.cpp's convert_lora_to_gguf.py.",
        )
    try:
        metadata = read_metadata(path)
    except BadRequest as error:
        raise LaunchFailed(f"The adapter '{name}' cannot be read: {error.message}") from error
    kind = metadata.text("general.type")
    if kind != "adapter":
        raise LaunchFailed(f"The adapter '{name}' ({path}) is no adapter: its header says it is a {kind or 'model'}.")
    if metadata.architecture != architecture:
        raise LaunchFailed(
            f"The adapter '{name}' ({path}) is for models of the architecture '{metadata.architecture}'; this one is a "
            f"'{architecture}'."
        )
