"""One line for each request, written so that neither a slow disk nor a stopped terminal holds a request up."""

import atexit
import os
import sys
import threading
import time
from dataclasses import dataclass
from typing import Literal, TextIO

import orjson

__all__ = ["AccessLog", "Entry"]

FLUSH_S = 0.1
"""Longest time a line waits before it is written."""

LIMIT = 20_000
"""Lines that wait for a blocked stream before further ones are dropped, and counted."""


PATH_LIMIT = 512
"""Characters of a path that are written."""


@dataclass(slots=True)
class Entry:
    """What is known of one request at its end. Times in seconds; None is "not known", written as `-`.

    Args:
        ttfb_s: time to the first byte of the answer's body.
        status: of the answer; 499 if the client left before there was one.
        error: code of the failure, also of one after the first byte.
        client: address and port.
    """

    method: str
    path: str
    request_id: str
    client: str = "-"
    uid: str | None = None
    status: int = 0
    duration_s: float = 0.0
    ttfb_s: float | None = None
    usage: tuple[int, int] | None = None
    error: str | None = None


class AccessLog:
    """Take entries at once; a thread formats and writes them at most `FLUSH_S` later, the rest at `close` or at exit.

    Args:
        form: `text` (key=value) or `json`, one line each.
        stream: default: standard error.
    """

    def __init__(self, form: Literal["text", "json"] = "text", stream: TextIO | None = None) -> None:
        self._format = _as_json if form == "json" else _as_text
        self._stream = stream or sys.stderr
        self._entries: list[tuple[float, Entry]] = []
        self._dropped = 0
        self._asleep = False
        self._closed = False
        self._wake = threading.Event()
        self._writing = threading.Lock()
        self._thread: threading.Thread | None = None

    def write(self, entry: Entry) -> None:
        """Take an entry; never blocks. To be called from one thread only."""
        if len(self._entries) >= LIMIT:
            self._dropped += 1
            return
        self._entries.append((time.time(), entry))
        if self._asleep:
            self._asleep = False
            self._wake.set()
        elif self._thread is None and not self._closed:
            self._thread = threading.Thread(target=self._run, name="access-log", daemon=True)
            self._thread.start()
            atexit.register(self.close)

    def flush(self) -> None:
        """Write what has been taken so far; blocks as long as the stream does."""
        with self._writing:
            entries, self._entries = self._entries, []
            dropped, self._dropped = self._dropped, 0
            lines = [self._format(moment, entry) for moment, entry in entries]
            if dropped:
                lines.append(f"{_clock(time.time())} WARNING {dropped} request lines dropped: the stream was blocked")
            if lines:
                self._stream.write("\n".join(lines) + "\n")
                self._stream.flush()

    def close(self) -> None:
        """Write the rest and end the thread."""
        if self._closed:
            return
        self._closed = True
        self._wake.set()
        if self._thread is not None:
            atexit.unregister(self.close)
            self._thread.join(timeout=1.0)
            if self._thread.is_alive():
                return  # the stream is blocked, and would block this thread too
        self._flush_safely()

    def _run(self) -> None:
        while not self._closed:
            self._flush_safely()
            self._asleep = True
            if not self._entries and not self._closed:
                self._wake.wait()
            self._asleep = False
            self._wake.clear()
            if not self._closed:
                time.sleep(FLUSH_S)

    def _flush_safely(self) -> None:
        try:
            self.flush()
        except (OSError, ValueError):
            # A closed pipe must not end the server, and there is nowhere left to say so.
            self._stream = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  # kept until the process ends


def _clock(moment: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(moment))


def _plain(text: str) -> str:
    """Quote what would break the line apart, and cut what is very long."""
    text = text[:PATH_LIMIT]
    return text if text.isprintable() and " " not in text and '"' not in text else orjson.dumps(text).decode()


def _as_text(moment: float, entry: Entry) -> str:
    ttfb = "-" if entry.ttfb_s is None else f"{entry.ttfb_s * 1000:.1f}"
    prompt, completion = entry.usage or ("-", "-")
    line = (
        f"{_clock(moment)} INFO    {entry.method} {_plain(entry.path)} status={entry.status} "
        f"uid={_plain(entry.uid or '-')} ms={entry.duration_s * 1000:.1f} ttfb_ms={ttfb} "
        f"prompt_tokens={prompt} completion_tokens={completion} id={entry.request_id} client={entry.client}"
    )
    return f"{line} error={entry.error}" if entry.error else line


def _as_json(moment: float, entry: Entry) -> str:
    prompt, completion = entry.usage or (None, None)
    fields = {
        "ts": round(moment, 3),
        "level": "info",
        "logger": "modelrack.access",
        "message": "request",
        "method": entry.method,
        "path": entry.path[:PATH_LIMIT],
        "uid": entry.uid,
        "status": entry.status,
        "ms": round(entry.duration_s * 1000, 1),
        "ttfb_ms": None if entry.ttfb_s is None else round(entry.ttfb_s * 1000, 1),
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "id": entry.request_id,
        "client": entry.client,
    }
    if entry.error:
        fields["error"] = entry.error
    return orjson.dumps(fields).decode()
