"""A small stand-alone HTTP server, `python -m modelrack_echo.server`: the engine as a command worker.

It stands for any server that already speaks the public routes; it uses nothing but the standard library and this
package's way of cutting text.
"""

import argparse
import asyncio
import itertools
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Any

from .tokens import split


class BadInput(Exception):
    """The client's request makes no sense."""


class EchoServer:
    """Answer `GET /health` and `POST /v1/chat/completions`."""

    def __init__(self, model: str, options: dict[str, Any]) -> None:
        self.model = model
        self.options = options
        self.left: int | None = options.get("crash_after_tokens")
        self.numbers = itertools.count(1)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection until it ends."""
        try:
            while await self.answer(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; False at the end of the connection."""
        line = await reader.readline()
        if not line:
            return False
        method, path, _ = line.decode("latin-1").split(" ", 2)
        length = 0
        while (header := await reader.readline()) not in (b"\r\n", b""):
            name, _, value = header.decode("latin-1").partition(":")
            if name.lower() == "content-length":
                length = int(value)
        body = await reader.readexactly(length)
        if (method, path) == ("GET", "/health"):
            respond(writer, 200, {"status": "ok"})
        elif (method, path) == ("POST", "/v1/chat/completions"):
            try:
                await self.chat(body, writer)
            except BadInput as error:
                respond(writer, 400, {"error": {"message": str(error), "type": "invalid_request_error"}})
        else:
            respond(writer, 404, {"error": {"message": f"There is no {path} here.", "type": "invalid_request_error"}})
        await writer.drain()
        return True

    async def chat(self, body: bytes, writer: asyncio.StreamWriter) -> None:
        """Repeat the last user message."""
        try:
            request = json.loads(body)
            texts = [message["content"] for message in request["messages"] if message["role"] == "user"]
            tokens = split(texts[-1])
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise BadInput("The request is no chat with a user's message.") from error
        limit = request.get("max_completion_tokens") or request.get("max_tokens") or len(tokens)
        if self.options.get("repeat") and tokens:
            tokens = list(itertools.islice(itertools.cycle(tokens), limit))
        reason = "length" if len(tokens) > limit or self.options.get("repeat") else "stop"
        tokens = tokens[:limit]
        prompt = sum(len(split(text)) for text in texts)
        usage = {
            "prompt_tokens": prompt,
            "completion_tokens": len(tokens),
            "total_tokens": prompt + len(tokens),
        }
        if not request.get("stream"):
            text = "".join([token async for token in self.paced(tokens)])
            choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": reason}
            respond(writer, 200, self.frame("chat.completion", [choice]) | {"usage": usage})
            return
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        with_usage = (request.get("stream_options") or {}).get("include_usage")
        frame = self.frame("chat.completion.chunk", [])
        send_event(writer, frame | {"choices": [delta({"role": "assistant", "content": ""})]})
        async for token in self.paced(tokens):
            send_event(writer, frame | {"choices": [delta({"content": token})]})
            await writer.drain()
        send_event(writer, frame | {"choices": [delta({"content": ""}, reason)]})
        if with_usage:
            send_event(writer, frame | {"usage": usage})
        send_chunk(writer, b"data: [DONE]\n\n")
        writer.write(b"0\r\n\r\n")

    def frame(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        """Return what surrounds the choices."""
        number = f"chatcmpl-{os.getpid()}-{next(self.numbers)}"
        return {"id": number, "object": kind, "created": int(time.time()), "model": self.model, "choices": choices}

    async def paced(self, tokens: list[str]) -> AsyncIterator[str]:
        """Yield tokens; wait, hang or die as asked."""
        for index, token in enumerate(tokens):
            if self.left is not None:
                if self.left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                self.left -= 1
            hang_after = self.options.get("hang_after_tokens")
            if hang_after is not None and index >= hang_after:
                await asyncio.get_running_loop().create_future()
            await asyncio.sleep(self.options.get("token_delay_s") or 0)
            yield token


def delta(content: dict[str, str], reason: str | None = None) -> dict[str, Any]:
    """Return the choice of a chunk."""
    return {"index": 0, "delta": content, "finish_reason": reason}


def send_chunk(writer: asyncio.StreamWriter, data: bytes) -> None:
    """Write one chunk of a body."""
    writer.write(b"%x\r\n%b\r\n" % (len(data), data))


def send_event(writer: asyncio.StreamWriter, event: dict[str, Any]) -> None:
    """Write one server-sent event."""
    send_chunk(writer, b"data: " + json.dumps(event, ensure_ascii=False).encode() + b"\n\n")


def respond(writer: asyncio.StreamWriter, status: int, body: dict[str, Any]) -> None:
    """Write a whole answer."""
    data = json.dumps(body, ensure_ascii=False).encode()
    head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: application/json\r\n"
    writer.write(f"{head}content-length: {len(data)}\r\n\r\n".encode() + data)


async def load(options: dict[str, Any]) -> None:
    """Show the faults of loading."""
    if options.get("ignore_sigterm"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    if options.get("crash_on_load"):
        os.kill(os.getpid(), signal.SIGKILL)
    if options.get("hang_on_load"):
        await asyncio.get_running_loop().create_future()
    await asyncio.sleep(options.get("load_delay_s") or 0)
    if failure := options.get("load_failure"):
        sys.exit(failure)


async def main() -> None:
    """Parse the command line, load and serve until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m modelrack_echo.server")
    parser.add_argument("--socket", required=True, help="path of the Unix socket to bind")
    parser.add_argument("--model", default="echo", help="what answers say in their field model")
    parser.add_argument("--options", default="{}", help="JSON object with the engine's options")
    arguments = parser.parse_args()
    options = json.loads(arguments.options)
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    await load(options)
    server = EchoServer(arguments.model, options)
    before = os.umask(0o177)
    await asyncio.start_unix_server(server.serve, arguments.socket)
    os.umask(before)
    await stopping.wait()


if __name__ == "__main__":
    asyncio.run(main())
