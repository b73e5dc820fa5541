"""Build the server from its parts, and run it."""

import asyncio
import contextlib
import logging
import signal
import socket
import sys
from collections.abc import Callable, Iterable, Iterator

import uvicorn
from fastapi import FastAPI, Response
from fastapi.responses import HTMLResponse

from .. import __version__
from ..catalog.catalog import Catalog
from ..errors import Conflict, NotReady
from ..hooks.loader import Plugins, load_plugins
from ..lifecycle.directory import Directory
from ..lifecycle.rack import Rack
from ..machine import probe
from ..settings import Settings
from . import errors, logs
from .access_log import AccessLog
from .docs import PAGE
from .files import FileStore
from .gateway import Gateway
from .metrics import Metrics, WorkerSample
from .openapi import describe_inference
from .protocol import Protocol
from .routes import cluster, files, models, plan, registrations, requests

__all__ = ["Server", "serve"]

log = logging.getLogger(__name__)

SHUTDOWN_DRAIN_S = 5.0
"""Seconds that requests under way may take once the server is told to end."""

FILE_LIMIT = 65536
"""Open files that the server allows itself, if the system does."""


class Server:
    """The parts of one server, put together. `gateway` is the ASGI application."""

    def __init__(self, settings: Settings, plugins: Plugins | None = None) -> None:
        self.settings = settings
        self.plugins = plugins or load_plugins(settings.plugins)
        self.catalog = Catalog(self.plugins, settings.home.expanduser() / "families")
        self.directory = Directory()
        self.rack = Rack(settings, self.plugins, self.catalog, self.directory, probe)
        self.metrics = Metrics(self._worker_samples)
        self.files = FileStore(self.rack.home.result_files(settings))
        app = self._application()
        paths = [route.path for model_type in self.plugins.model_types.values() for route in model_type.routes]
        self.gateway = Gateway(
            app, self.directory, paths, settings, metrics=self.metrics, log=AccessLog(settings.log_format)
        )

    def _application(self) -> FastAPI:
        app = FastAPI(
            title="modelrack",
            version=__version__,
            description="Launch, list, serve and terminate models.",
            docs_url=None,
            redoc_url=None,
        )
        errors.install(app)
        for family in (models, plan, registrations, cluster):
            app.include_router(family.router(self.rack))
        app.include_router(files.router(self.files))
        app.include_router(
            requests.router(
                self.rack,
                lambda uid, request_id: self.gateway.abort(uid, request_id),
                lambda request_id: self.gateway.progress(request_id),
            )
        )
        self._add_probes(app)
        app.openapi = describe_inference(  # type: ignore[method-assign]
            app, self.plugins.model_types.values(), wants_key=bool(self.settings.api_keys)
        )
        return app

    def _add_probes(self, app: FastAPI) -> None:
        @app.get("/health", tags=["server"], response_model=dict[str, str])
        async def health() -> dict[str, str]:
            """Tell that the server is alive."""
            return {"status": "ok"}

        @app.get("/ready", tags=["server"], response_model=dict[str, str])
        async def ready() -> dict[str, str]:
            """Tell whether the models of an earlier server have been taken up again: 503 until then."""
            if not self.rack.is_restored:
                raise NotReady("Models are still being restored.", headers={"Retry-After": "1"})
            return {"status": "ready"}

        @app.get("/docs", include_in_schema=False)
        async def docs() -> HTMLResponse:
            return HTMLResponse(PAGE)

        @app.get("/metrics", tags=["server"], response_class=Response)
        def metrics() -> Response:
            """Give the metrics in Prometheus' text format."""
            content, media_type = self.metrics.render()
            return Response(content, media_type=media_type)

    def _worker_samples(self) -> Iterable[WorkerSample]:
        for instance in self.rack.instances():
            for replica in instance.replicas.values():
                gauges = {"ready": float(replica.state.value == "ready"), "restarts": float(replica.restarts)}
                memory = replica.memory_bytes()
                if memory is not None:
                    gauges["memory_bytes"] = float(memory)
                yield WorkerSample(instance.model_uid, replica.spec.replica_id, gauges)

    async def close(self, drain_s: float) -> None:
        """Stop the workers, then close what is left."""
        await self.rack.close(drain_s)
        await self.gateway.close()


class _Listener(uvicorn.Server):
    """uvicorn without signal handlers of its own: `_run` decides what a signal means."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def serve(settings: Settings, restore: bool = True) -> None:
    """Run a server until SIGINT or SIGTERM; a second signal ends it at once.

    Args:
        restore: if False, models that an earlier server ran are forgotten.

    Raises: Conflict: the port is taken, or another server uses the home folder.
    """
    logs.set_up(settings.log_format, settings.log_level)
    _raise_file_limit()
    listening = _listen(settings.host, settings.port)
    try:
        server = Server(settings)
    except BaseException:
        listening.close()
        raise
    with contextlib.suppress(KeyboardInterrupt), asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_run(server, listening, restore))


def _raise_file_limit() -> None:
    """Allow more open files than the common 1024: each stream takes two."""
    try:
        import resource
    except ImportError:  # Windows
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILE_LIMIT if hard == resource.RLIM_INFINITY else min(FILE_LIMIT, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return uvloop's loop where there is one (not on Windows)."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


async def _run(server: Server, listening: socket.socket, restore: bool) -> None:
    config = uvicorn.Config(
        server.gateway,
        http=Protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(SHUTDOWN_DRAIN_S),
    )
    listener = _Listener(config)

    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        if listener.should_exit:
            listener.force_exit = True
            return
        listener.should_exit = True
        server.rack.release_waiters(NotReady("The server is ending; the launch goes on when it is started again."))
        # Before uvicorn's own limit, which cuts connections off.
        loop.call_later(SHUTDOWN_DRAIN_S - 1, server.gateway.stop, NotReady("The server is ending."))

    for number in _stop_signals():
        loop.add_signal_handler(number, on_signal)
    await server.rack.start(restore)
    announcing = loop.create_task(_announce(listener, listening))
    sweeping = loop.create_task(server.files.keep_swept())
    try:
        await listener.serve(sockets=[listening])
    finally:
        announcing.cancel()
        sweeping.cancel()
        closing = loop.create_task(server.close(0.0 if listener.force_exit else SHUTDOWN_DRAIN_S))
        while not closing.done():
            await asyncio.wait({closing}, timeout=0.1)
            if listener.force_exit:
                server.rack.kill()
        await closing


def _stop_signals() -> Iterator[signal.Signals]:
    """Return the signals that mean "end": SIGHUP too, which a terminal sends when it is closed, but not below nohup."""
    yield from (signal.SIGINT, signal.SIGTERM)
    hang_up = getattr(signal, "SIGHUP", None)
    if hang_up is not None and signal.getsignal(hang_up) is not signal.SIG_IGN:
        yield hang_up


async def _announce(listener: uvicorn.Server, listening: socket.socket) -> None:
    """Say where the server listens, once it does."""
    while not listener.started:
        await asyncio.sleep(0.005)
    host, port = listening.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    print(f"modelrack {__version__} listens on http://{shown}:{port} (Ctrl-C stops it)", file=sys.stdout, flush=True)


def _listen(host: str, port: int) -> socket.socket:
    """Bind the address.

    Raises: Conflict: it is taken or does not exist here.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(2048)
    except (OSError, UnicodeError, TypeError) as error:  # the latter two: a host that is no name
        listening.close()
        raise Conflict(
            f"Cannot listen on {host}:{port}: {getattr(error, 'strerror', None) or error}.",
            remedy="Choose another port: modelrack serve --port N (0 takes a free one), or stop what uses it.",
        ) from error
    listening.setblocking(False)
    return listening
