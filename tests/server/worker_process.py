"""A small worker on a Unix socket that misbehaves on request: `python worker_process.py SOCKET`.

The body's `do` names what happens; GET /state tells what the worker has seen.
"""

import asyncio
import json
import os
import sys
from typing import Any

state: dict[str, Any] = {"connections": 0, "requests": 0, "left": 0, "sent_bytes": 0, "last_head": ""}
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def whole(body: bytes, *lines: str, status: str = "200 OK") -> bytes:
    head = [f"HTTP/1.1 {status}", "content-type: application/json", f"content-length: {len(body)}", *lines, "", ""]
    return "\r\n".join(head).encode() + body


class Worker:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.drop_next = False
        self.running = True

    async def serve(self) -> None:
        state["connections"] += 1
        while self.running:
            head = await self.reader.readuntil(b"\r\n\r\n")
            if self.drop_next:
                return
            if head.startswith(b"GET /state "):
                self.writer.write(whole(json.dumps(state).encode()))
                continue
            if head.startswith(b"GET /_worker/requests/"):
                self.tell_progress(head)
                continue
            length = int(head.lower().partition(b"content-length:")[2].split(None, 1)[0])
            body = await self.reader.readexactly(length)
            state["requests"] += 1
            state["last_head"] = head.decode()
            asked = json.loads(body) if b"multipart" not in head else {"do": "echo"}
            work = asyncio.ensure_future(getattr(self, asked["do"])(asked, body))
            ended = asyncio.ensure_future(self.reader.read(1))
            await asyncio.wait((work, ended), return_when=asyncio.FIRST_COMPLETED)
            if not work.done() or isinstance(work.exception(), ConnectionError):
                state["left"] += 1
                work.cancel()
                return
            ended.cancel()
            await asyncio.gather(ended, return_exceptions=True)
            work.result()

    def tell_progress(self, head: bytes) -> None:
        """Answer as the state says, by the id that is asked for."""
        state["asked_for"] = head.split()[1].decode().removeprefix("/_worker/requests/")
        told = state.get("told")
        if told is None:
            self.writer.write(whole(b"{}", status="404 Not Found"))
        elif told != "silence":
            self.writer.write(whole(json.dumps(told).encode()))

    async def told(self, asked: dict[str, Any], body: bytes) -> None:
        """Set what is told of progress."""
        state["told"] = asked["what"]
        self.writer.write(whole(b"{}"))

    async def echo(self, asked: dict[str, Any], body: bytes) -> None:
        self.drop_next = asked.get("drop_next", False)
        self.writer.write(whole(body, "x-modelrack-usage: 3,5", "date: Thu, 01 Jan 1970 00:00:00 GMT"))

    async def refuse(self, asked: dict[str, Any], body: bytes) -> None:
        self.writer.write(whole(b'{"error":{"message":"no"},"detail":"no"}', status="400 Bad Request"))

    async def fail(self, asked: dict[str, Any], body: bytes) -> None:
        """Answer with the text given and a status of 500, in chunks; `cut` goes away in the middle."""
        self.writer.write(b"HTTP/1.1 500 Oh\r\ncontent-type: text/plain\r\ntransfer-encoding: chunked\r\n\r\n")
        for _ in range(asked.get("times", 1)):
            self.writer.write(chunk(asked["text"].encode()))
            await self.writer.drain()
        if asked.get("cut"):
            self.running = False
        else:
            self.writer.write(b"0\r\n\r\n")

    async def hang(self, asked: dict[str, Any], body: bytes) -> None:
        await asyncio.Event().wait()

    async def die(self, asked: dict[str, Any], body: bytes) -> None:
        os._exit(1)

    async def cut(self, asked: dict[str, Any], body: bytes) -> None:
        self.writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n[1, 2")
        await self.writer.drain()
        self.running = False

    async def garbage(self, asked: dict[str, Any], body: bytes) -> None:
        self.writer.write(b"SSH-2.0-OpenSSH_9.9\r\n")

    async def until_closed(self, asked: dict[str, Any], body: bytes) -> None:
        self.writer.write(b"HTTP/1.0 200 OK\r\ncontent-type: text/plain\r\n\r\nno length")
        self.running = False

    async def interim(self, asked: dict[str, Any], body: bytes) -> None:
        self.writer.write(b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + whole(b"{}"))

    async def stream(self, asked: dict[str, Any], body: bytes) -> None:
        """Send `events` events; `endless` then waits, `part` then sends half of one and ends, `lost_end` ends early."""
        self.writer.write(STREAM)
        newline = b"\r\n" if asked.get("crlf") else b"\n"
        for number in range(asked["events"]):
            event = b'data: {"n": %d, "pad": "%s"}' % (number, b"x" * asked.get("pad", 0)) + newline * 2
            halves = (event[:9], event[9:]) if asked.get("split") else (event,)
            for half in halves:
                self.writer.write(chunk(half))
                state["sent_bytes"] += len(half)
                await self.writer.drain()
                if "interval_s" in asked:
                    await asyncio.sleep(asked["interval_s"])
        if asked.get("endless"):
            await asyncio.Event().wait()
        if asked.get("part"):
            self.writer.write(chunk(b'data: {"n": 99'))
        else:
            self.writer.write(chunk(b"data: [DONE]" + newline * 2))
        if asked.get("part") or asked.get("lost_end"):
            self.running = False
            return
        self.writer.write(b"0\r\nX-Modelrack-Usage: 7,%d\r\n\r\n" % asked["events"])


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        await Worker(reader, writer).serve()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def main() -> None:
    server = await asyncio.start_unix_server(answer, sys.argv[1], backlog=20)
    print("ready", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
