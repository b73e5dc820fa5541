"""Connections to llama.cpp's embedded HTTP server, for threads: each question is asked and waited for.

It listens on a Unix socket in the worker's own folder; nobody else can open it.
"""

import http.client
import socket
from collections.abc import Mapping
from threading import Lock
from typing import Any

import orjson

from modelrack.errors import EngineError

from .faults import explain_fault

__all__ = ["Connection"]

_GONE = (http.client.HTTPException, OSError)


class _Unix(http.client.HTTPConnection):
    """A connection to a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("llama")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self._path)


class Connection:
    """A connection that stays open; one question at a time, others wait.

    Args:
        path: of the server's socket.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._in_use = Lock()
        self._http: _Unix | None = None
        self._is_stopped = False

    def ask(self, path: str, body: Mapping[str, Any]) -> Any:
        """Send a request and return the JSON of its answer.

        Raises: ModelrackError: what the server answered, if it was no success; EngineError: `stop` was called.
        """
        data = orjson.dumps(body)
        with self._in_use:
            self._is_stopped = False
            status, content = self._send(path, data)
        found = orjson.loads(content) if content else None
        if status == 200:
            return found
        fault = found.get("error") if isinstance(found, dict) else None
        if isinstance(fault, dict):
            raise explain_fault(fault)
        raise EngineError(f"llama.cpp answered {status} to {path}.")

    def _send(self, path: str, data: bytes) -> tuple[int, bytes]:
        # The server closes what was idle for some seconds or has served long; that shows only when it is used again.
        while True:
            is_new = self._http is None
            if self._http is None:
                self._http = _Unix(self._path)
            try:
                self._http.request("POST", path, data)
                response = self._http.getresponse()
                return response.status, response.read()
            except _GONE as error:
                self._http.close()
                self._http = None
                if self._is_stopped:
                    raise EngineError("The computing was stopped.") from error
                if is_new:
                    raise EngineError("llama.cpp closed the connection without an answer.") from error

    def stop(self) -> None:
        """Give up the question under way: the server notices, and its `ask` raises. Callable from any thread."""
        opened = self._http
        self._is_stopped = True
        if opened is not None and opened.sock is not None:
            try:
                opened.sock.shutdown(socket.SHUT_RDWR)
            except OSError:  # it is closed already
                return

    def close(self) -> None:
        """Close it, after the last question."""
        if self._http is not None:
            self._http.close()
            self._http = None
