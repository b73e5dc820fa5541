"""Ask llama.cpp's embedded HTTP server what its in-process API has no call for: tokens, and templates.

It listens on a Unix socket in the worker's own folder; nobody else can open it. One connection for each question: they
are rare, and it needs a thread of its own for each connection that stays open.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

import orjson

from modelrack.errors import EngineError

from .faults import explain_fault

__all__ = ["Embedded"]

_LIMIT_S = 600.0


class Embedded:
    """A client of the embedded server.

    Args:
        path: of its Unix socket.
    """

    def __init__(self, path: str) -> None:
        self._path = path

    async def tokenize(self, text: str, *, add_special: bool, pieces: bool = False) -> list[Any]:
        """Return a text's tokens: ids, or with `pieces` objects with `id` and `piece`. Special tokens are seen."""
        body = {"content": text, "add_special": add_special, "parse_special": True, "with_pieces": pieces}
        return list((await self.ask("POST", "/tokenize", body))["tokens"])

    async def detokenize(self, ids: list[int]) -> str:
        """Return the text of tokens."""
        return str((await self.ask("POST", "/detokenize", {"tokens": ids}))["content"])

    async def apply_template(self, body: Mapping[str, Any]) -> str:
        """Return the prompt that a chat's body becomes."""
        return str((await self.ask("POST", "/apply-template", body))["prompt"])

    async def properties(self) -> dict[str, Any]:
        """Return what the server says of the model and its template."""
        return dict(await self.ask("GET", "/props"))

    async def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Send a request and return the JSON of its answer.

        Raises: BadRequest, EngineError: what the server answered, if it was no success.
        """
        async with asyncio.timeout(_LIMIT_S):
            reader, writer = await asyncio.open_unix_connection(self._path)
            try:
                data = orjson.dumps(body) if body is not None else b""
                lines = (
                    f"{method} {path} HTTP/1.1",
                    "host: llama",
                    "connection: close",
                    f"content-length: {len(data)}",
                )
                writer.write("\r\n".join((*lines, "", "")).encode() + data)
                answer = await reader.read()
            finally:
                writer.close()
        status, content = _split(answer)
        found = orjson.loads(content) if content else None
        if status == 200:
            return found
        fault = found.get("error") if isinstance(found, dict) else None
        if isinstance(fault, dict):
            # Its handlers let exceptions of the chat template through as 500, though the request is at fault.
            raise explain_fault({**fault, "code": 400 if path == "/apply-template" else fault.get("code", status)})
        raise EngineError(f"llama.cpp answered {status} to {path}.")


def _split(answer: bytes) -> tuple[int, bytes]:
    head, _, content = answer.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    try:
        status = int(lines[0].split()[1])
    except (IndexError, ValueError):
        raise EngineError("llama.cpp closed the connection without an answer.") from None
    if any(line.lower().replace(b" ", b"") == b"transfer-encoding:chunked" for line in lines):
        content = b"".join(_chunks(content))
    return status, content


def _chunks(content: bytes) -> list[bytes]:
    pieces: list[bytes] = []
    position = 0
    while True:
        line = content.index(b"\r\n", position)
        size = int(content[position:line].split(b";")[0], 16)
        if size == 0:
            return pieces
        pieces.append(content[line + 2 : line + 2 + size])
        position = line + 2 + size + 2
