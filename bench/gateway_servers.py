"""The servers that bench/gateway.py compares, each in a process of its own; prints `ready PORT` once it listens.

- fastapi: a bare FastAPI route that reads and returns the same JSON;
- fastapi-raw: the same by hand, without FastAPI's parsing of the body: `JSONResponse(await request.json())`;
- starlette: a bare StreamingResponse of the same events;
- gateway: the real gateway, with metrics and log lines, in front of a worker's socket;
- with-aiohttp, with-httpx, with-httpcore, with-streams: the same gateway with another client for the hop to the worker;
- worker: a small worker on a Unix socket that returns the same JSON, or the same events.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import AsyncIterator
from typing import Any

from gateway_hops import HOPS

PATH = "/v1/chat/completions"
EVENT = (
    b'data: {"id":"chatcmpl-0123456789abcdef01234567","object":"chat.completion.chunk","created":1763812345,'
    b'"model":"echo","choices":[{"index":0,"delta":{"content":" token"},"logprobs":null,"finish_reason":null}]}\n\n'
)
DONE = b"data: [DONE]\n\n"
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def make_fastapi() -> Any:
    from fastapi import FastAPI

    app = FastAPI()

    @app.post(PATH)
    async def echo(body: dict[str, Any]) -> dict[str, Any]:
        return body

    return app


def make_fastapi_raw() -> Any:
    from fastapi import FastAPI, Request
    from fastapi.responses import JSONResponse

    app = FastAPI()

    @app.post(PATH)
    async def echo(request: Request) -> JSONResponse:
        return JSONResponse(await request.json())

    return app


async def _events(chunks: int, interval_s: float) -> AsyncIterator[bytes]:
    for _ in range(chunks):
        yield EVENT
        if interval_s:
            await asyncio.sleep(interval_s)
    yield DONE


def make_starlette() -> Any:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import StreamingResponse
    from starlette.routing import Route

    async def stream(request: Request) -> StreamingResponse:
        body = await request.json()
        return StreamingResponse(_events(body["chunks"], body["interval_s"]), media_type="text/event-stream")

    return Starlette(routes=[Route(PATH, stream, methods=["POST"])])


def make_gateway(socket: str, hop: Any = None) -> Any:
    from fastapi import FastAPI

    from modelrack.errors import NotReady
    from modelrack.lifecycle.directory import Directory, Endpoint, Target
    from modelrack.server.access_log import AccessLog
    from modelrack.server.errors import install
    from modelrack.server.gateway import Gateway
    from modelrack.server.metrics import Metrics
    from modelrack.settings import Settings

    app = FastAPI()
    install(app)
    directory = Directory()
    endpoint = Endpoint(0, socket, frozenset({PATH}), limit=1000)
    directory.put(Target("echo", "echo", lambda: NotReady("not ready"), [endpoint]))
    # The log goes where a server's log goes in use: to a file.
    log = AccessLog("text", open("/dev/null", "w"))  # noqa: SIM115  # open as long as the process
    gateway = Gateway(app, directory, [PATH], Settings(), metrics=Metrics(), log=log)
    if hop is not None:
        gateway.hop = hop
    return gateway


async def serve_worker(socket: str) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")
                )
                body = await reader.readexactly(length)
                if b'"stream": true' in body:
                    asked = json.loads(body)
                    writer.write(
                        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
                    )
                    async for event in _events(asked["chunks"], asked["interval_s"]):
                        writer.write(b"%x\r\n%s\r\n" % (len(event), event))
                        await writer.drain()
                    writer.write(b"0\r\nx-modelrack-usage: 12,%d\r\n\r\n" % asked["chunks"])
                else:
                    writer.write(
                        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-modelrack-usage: 12,16\r\n"
                        b"content-length: %d\r\n\r\n%s" % (len(body), body)
                    )
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_unix_server(answer, socket, backlog=1024)
    print("ready 0", flush=True)
    await server.serve_forever()


async def serve_app(app: Any, options: dict[str, Any]) -> None:
    import uvicorn

    server = uvicorn.Server(uvicorn.Config(app, port=0, access_log=False, log_level="warning", **options))
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    print("ready", server.servers[0].sockets[0].getsockname()[1], flush=True)
    await task


BARE = {"fastapi": make_fastapi, "fastapi-raw": make_fastapi_raw, "starlette": make_starlette}
OTHERS = {f"with-{name}": make for name, make in HOPS.items()}


def make_app(kind: str, socket: str) -> Any:
    return BARE[kind]() if kind in BARE else make_gateway(socket, OTHERS[kind]() if kind in OTHERS else None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["worker", "gateway", *OTHERS, *BARE])
    parser.add_argument("--socket", default="", help="the worker's Unix socket")
    parser.add_argument("--loop", default="uvloop", choices=["uvloop", "asyncio"])
    parser.add_argument("--options", default="{}", help="further uvicorn settings, JSON")
    parser.add_argument("--profile", help="write a cProfile of the server's work to this file on SIGINT")
    arguments = parser.parse_args()
    if arguments.kind == "worker":
        work = serve_worker(arguments.socket)
    else:
        options = json.loads(arguments.options)
        if arguments.kind not in BARE:
            from modelrack.server.protocol import Protocol

            options.setdefault("http", Protocol)  # as the server does; the bare ones have uvicorn's own
        work = serve_app(make_app(arguments.kind, arguments.socket), options)
    factory = asyncio.new_event_loop
    if arguments.loop == "uvloop":
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        if arguments.profile:
            import cProfile

            profile = cProfile.Profile()
            profile.enable()
            try:
                runner.run(work)
            finally:
                profile.disable()
                profile.dump_stats(arguments.profile)
        else:
            runner.run(work)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(0)
