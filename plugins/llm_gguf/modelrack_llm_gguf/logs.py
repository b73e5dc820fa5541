"""What llama.cpp logs: the only place where it says why it fails. Its log belongs to the whole process."""

import sys
from collections import deque
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any

from . import bindings

__all__ = ["Reasons", "find_reason", "set_verbosity", "take_log"]

_DEBUG, _INFO, _WARNING, _ERROR, _CONTINUED = 1, 2, 3, 4, 5
_LEAST_VERBOSITY = {_ERROR: 1, _WARNING: 2, _INFO: 3, _DEBUG: 4}
_NONE = 9
_VAGUE = ("failed to load model", "failed to create", "failed to initialize", "exiting due to")
_KEEP = 60


class _Log:
    """Takes every line, keeps errors for those who listen, and passes on what is wanted."""

    def __init__(self) -> None:
        self.verbosity = 1
        self.listeners: list[deque[str]] = []
        self._level = _DEBUG
        # llama.cpp holds no reference to it.
        self.callback = bindings.log_callback(self._take)

    def _take(self, level: int, text: bytes, data: Any) -> None:
        if level != _CONTINUED:
            self._level = level
        is_wanted = self.verbosity >= _LEAST_VERBOSITY.get(self._level, _NONE)
        if not is_wanted and self._level != _ERROR:
            return
        line = text.decode("utf-8", "replace")
        if self._level == _ERROR and line.strip():
            for listener in self.listeners:
                listener.append(line.strip())
        if is_wanted:
            sys.stderr.write(line)
            sys.stderr.flush()


_log = _Log()


def take_log(setter: Callable[[Any, None], Any] = bindings.set_log) -> None:
    """Take llama.cpp's log, or another library's; llama-cpp-python has put a function of its own there."""
    setter(_log.callback, None)


def set_verbosity(verbosity: int) -> None:
    """Choose what of the log goes to stderr: 0 nothing, 1 errors, 2 warnings, 3 facts, 4 traces."""
    _log.verbosity = verbosity
    take_log()


class Reasons:
    """While it is entered, keeps the errors that llama.cpp logs."""

    def __init__(self) -> None:
        self.errors: deque[str] = deque(maxlen=_KEEP)

    def __enter__(self) -> "Reasons":
        take_log()
        _log.listeners.append(self.errors)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _log.listeners = [one for one in _log.listeners if one is not self.errors]

    def text(self, default: str) -> str:
        """Return the first cause of a failure, without a full stop."""
        return (find_reason(self.errors) or default).rstrip(".")


def find_reason(errors: Iterable[str]) -> str | None:
    """Return the first cause among llama.cpp's errors: the first that is no mere consequence."""
    texts = []
    for error in errors:
        name, mark, rest = error.partition(": ")
        # They begin with the name of the function.
        text = rest if mark and " " not in name else error
        texts.append(text.removeprefix("error loading model: ").strip())
    for text in texts:
        if text and not text.startswith(_VAGUE):
            return text
    return texts[0] if texts else None
