"""A real server with the models of a subject, of whatever type."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil
import pytest

from ...hooks import CommandWorker, Engine
from ..serving import Server, wait_until
from .answers import check_error
from .subject import BaseSubject

__all__ = ["BaseRig", "BaseTarget", "together"]

T = TypeVar("T")
V = TypeVar("V")


def together(work: Callable[[T], V], items: Sequence[T]) -> list[V]:
    """Do something with all items at once, and return the results in their order."""
    with ThreadPoolExecutor(max(1, len(items))) as pool:
        return list(pool.map(work, items))


class BaseTarget:
    """A model that runs.

    Args:
        cue: see `Model.cue`; for language models.
    """

    def __init__(
        self,
        http: httpx.Client,
        uid: str,
        subject: BaseSubject,
        engine: Engine,
        cue: Callable[[str], str] | None = None,
    ) -> None:
        self.http = http
        self.uid = uid
        self.subject = subject
        self._engine = engine
        self._cue = cue

    def post(self, path: str, body: Mapping[str, Any], **more: Any) -> httpx.Response:
        """Send a request, with the model's uid in it. A test that needs a path which is not served is skipped."""
        worker = self._engine.worker
        if isinstance(worker, CommandWorker) and path not in worker.routes:
            pytest.skip(f"the engine '{self._engine.name}' does not serve {path}")
        return self.http.post(path, json={"model": self.uid, **body}, **more)

    def refused(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Send a request that must be refused with a 400, and return the error."""
        response = self.post(path, body)
        assert response.status_code == 400, f"{_short(body)} is answered with {response.status_code}: {response.text}"
        return check_error(response.json())

    def replica(self) -> dict[str, Any]:
        """Return what is known of its only replica."""
        response = self.http.get(f"/v1/models/{self.uid}/replicas")
        assert response.status_code == 200, response.text
        (replica,) = response.json()
        return dict(replica)

    def wait_until_idle(self) -> None:
        """Wait until its worker computes no more.

        Raises: AssertionError: it still does after a while.
        """
        process = psutil.Process(self.replica()["pid"])
        subject = self.subject
        deadline = time.monotonic() + subject.idle_s
        quiet = 0
        while quiet < 4:  # on a busy machine it may get no turn for a moment
            quiet = quiet + 1 if _cpu_share(process) < subject.idle_share else 0
            assert time.monotonic() < deadline or quiet, f"the worker still computes after {subject.idle_s:g} s"

    def kill(self) -> int:
        """Kill the process that computes, and return the pid that the replica had.

        Of a command worker that is the command, whose death its guard has to notice.
        """
        pid = int(self.replica()["pid"])
        process = psutil.Process(pid)
        if isinstance(self._engine.worker, CommandWorker):
            process = min(process.children(), key=psutil.Process.create_time)
        process.kill()
        return pid


class BaseRig:
    """A server, the subject, and the subject's models as they are needed."""

    target_class: type[BaseTarget] = BaseTarget
    names: dict[str, str]
    """What the models were launched as, a family or a path, by their roles."""

    def __init__(self, server: Server, subject: BaseSubject, engine: Engine, folder: Path, http: httpx.Client) -> None:
        self.server = server
        self.subject = subject
        self._engine = engine
        self._folder = folder
        self._http = http
        self.names: dict[str, str] = {}
        self._targets: dict[str, Any] = {}
        self._failed: dict[str, str] = {}

    def has(self, role: str) -> bool:
        """Tell whether the subject brings a model for a role."""
        return role in self.subject.models

    def target(self, role: str) -> Any:
        """Return the model for a role, launched if it does not run yet."""
        if role in self._failed:
            raise AssertionError(self._failed[role])
        if role not in self._targets:
            model = self.subject.models[role]
            folder = self._folder / role
            folder.mkdir(exist_ok=True)
            name = model.name if isinstance(model.name, str) else str(model.name(folder))
            self.names[role] = name
            options = model.options(folder) if callable(model.options) else model.options
            self.launch(role, name, options, {key: make(folder) for key, make in model.adapters.items()})
            self._targets[role] = self.target_class(self._http, role, self.subject, self._engine, model.cue)
        return self._targets[role]

    def named(self, name: str) -> Any:
        """Return a model that is launched by its name."""
        if name not in self._targets:
            self.launch(name, name, {}, {})
            self._targets[name] = self.target_class(self._http, name, self.subject, self._engine)
        return self._targets[name]

    def launch(self, uid: str, name: str, options: Mapping[str, Any], adapters: Mapping[str, Path]) -> None:
        """Launch a model with the subject's engine, and wait until it is ready."""
        subject = self.subject
        body: dict[str, Any] = {"model_name": name, "model_engine": subject.engine, "model_uid": uid}
        body["model_type"] = subject.model_type
        if adapters:
            modules = [{"lora_name": one, "local_path": str(path)} for one, path in adapters.items()]
            body["peft_model_config"] = {"lora_list": modules}
        if subject.environment is not None:
            body["environment"] = subject.environment
        response = self._http.post(
            "/v1/models",
            json={**body, **subject.options, **options},
            timeout=subject.launch_s,
            params={"wait_ready": 1},
        )
        if response.status_code != 200:
            # It is not tried again for each test.
            self._failed[uid] = f"'{name}' cannot be launched: {response.text}"
            raise AssertionError(self._failed[uid])

    def wait_until_back(self, target: BaseTarget, pid: int) -> None:
        """Wait until a model whose worker has died is ready again."""

        def is_back() -> bool:
            replica = target.replica()
            return replica["status"] == "READY" and replica["pid"] not in (None, pid)

        wait_until(is_back, self.subject.launch_s, f"'{target.uid}' to come back")


def _short(body: Mapping[str, Any]) -> str:
    text = repr(dict(body))
    return text if len(text) < 300 else f"{text[:300]}…"


def _cpu_share(process: psutil.Process) -> float:
    """Return what part of one processor a process and its children use for a moment."""

    def used() -> float:
        times: Iterable[Any] = [one.cpu_times() for one in (process, *process.children(recursive=True))]
        return float(sum(one.user + one.system for one in times))

    before, begin = used(), time.monotonic()
    time.sleep(0.2)  # a rate needs a span
    return (used() - before) / (time.monotonic() - begin)
