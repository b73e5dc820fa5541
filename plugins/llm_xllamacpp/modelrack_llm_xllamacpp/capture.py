"""Read along with what a native library writes to stderr: the only place where llama.cpp says why it fails."""

import os
import re
import threading
from collections import deque
from time import monotonic
from types import TracebackType

__all__ = ["StderrCapture", "find_reason"]

_LINE = re.compile(r"^[\d.]+ E +(?P<text>.*)$")
_NOISE = re.compile(r"^(?:srv|cmn|slot|que)\s+\S+:\s*|^\w+:\s*")
_VAGUE = ("failed to load model", "exiting due to", "failed to create", "failed to create_context")
_WAIT_S = 0.5


class StderrCapture:
    """While it is entered, what goes to stderr goes through a pipe that keeps the last lines and passes them on.

    Args:
        hide: lines with one of these texts are kept, but not passed on.
    """

    def __init__(self, hide: tuple[bytes, ...] = (), keep: int = 60) -> None:
        self.lines: deque[str] = deque(maxlen=keep)
        self._hide = hide
        self._saved = -1
        self._reader: threading.Thread | None = None

    def __enter__(self) -> "StderrCapture":
        source, target = os.pipe()
        self._saved = os.dup(2)
        os.dup2(target, 2)
        os.close(target)
        self._reader = threading.Thread(target=self._copy, args=(source,), name="stderr", daemon=True)
        self._reader.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.wait_for("exiting due to")
        os.dup2(self._saved, 2)
        assert self._reader is not None
        self._reader.join(_WAIT_S)
        os.close(self._saved)

    def wait_for(self, text: str) -> None:
        """Wait a moment for a line with this text: the library writes its log from a thread of its own."""
        deadline = monotonic() + _WAIT_S
        while monotonic() < deadline and not any(text in line for line in list(self.lines)):
            threading.Event().wait(0.001)

    def _copy(self, source: int) -> None:
        rest = b""
        with os.fdopen(source, "rb", buffering=0) as pipe:
            while True:
                data = pipe.read(65536)
                if not data:
                    break
                *lines, rest = (rest + data).split(b"\n")
                shown = [line for line in lines if not any(text in line for text in self._hide)]
                if shown:
                    os.write(self._saved, b"\n".join((*shown, b"")))
                self.lines.extend(line.decode("utf-8", "replace") for line in lines)
            if rest:
                os.write(self._saved, rest)


def find_reason(lines: list[str]) -> str | None:
    """Return the first cause among llama.cpp's log lines: the first error that is no mere consequence."""
    errors = [match["text"].strip() for line in lines if (match := _LINE.match(line))]
    texts = []
    for error in errors:
        text = error
        while (short := _NOISE.sub("", text, count=1)) != text:
            text = short
        text = text.removeprefix("error loading model: ").strip()
        texts.append(f"its chat template cannot be read: {text}" if "chat_template" in error else text)
    for text in texts:
        if text and not text.startswith(_VAGUE):
            return text
    return texts[0] if texts else None
