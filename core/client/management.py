"""The management calls: what each sends and how its answer is read. Nothing here does I/O."""

import json
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from .call import Call, Flow, Pause
from .errors import Conflict, LaunchError, NotFound, RequestTimeout, error_from_event

Json = dict[str, Any]
OnProgress = Callable[[Json], object]

PAUSES_S = (0.02, 0.5)
"""Shortest and longest pause between two questions; it grows with the wait, so that little is added to it."""


def _model_path(model_uid: str, rest: str = "") -> str:
    return f"/v1/models/{quote(model_uid, safe='')}{rest}"


def _family_path(model_type: str, model_name: str | None = None) -> str:
    path = f"/v1/model_registrations/{quote(model_type, safe='')}"
    return path if model_name is None else f"{path}/{quote(model_name, safe='')}"


def _by_id(answer: Json) -> dict[str, Json]:
    return {item["id"]: item for item in answer["data"]}


def list_models(self: Any, /) -> Call[dict[str, Json]]:
    """List the running models: description by uid."""
    return Call(method="GET", path="/v1/models", action="list the models", parse=_by_id)


def describe_model(self: Any, /, model_uid: str) -> Call[Json]:
    """Describe a model."""
    return Call(method="GET", path=_model_path(model_uid), action="describe the model")


def launch_model(
    self: Any,
    /,
    model_name: str,
    model_type: str = "LLM",
    model_engine: str | None = None,
    model_uid: str | None = None,
    model_size_in_billions: int | str | float | None = None,
    model_format: str | None = None,
    quantization: str | None = None,
    replica: int = 1,
    n_worker: int = 1,
    n_gpu: int | str | None = "auto",
    peft_model_config: Json | None = None,
    request_limits: int | None = None,
    worker_ip: str | None = None,
    gpu_idx: int | list[int] | None = None,
    replica_config: list[Json] | None = None,
    model_path: str | None = None,
    enable_thinking: bool | None = None,
    enable_virtual_env: bool | None = None,
    virtual_env_packages: list[str] | None = None,
    envs: dict[str, str] | None = None,
    virtual_env_find_links: list[str] | None = None,
    *,
    environment: str | None = None,
    wait_ready: bool = True,
    on_progress: OnProgress | None = None,
    **kwargs: Any,
) -> Flow[str]:
    """Launch a model and return its uid.

    Args:
        model_name: a family's name, a `.gguf` file, a folder or a hub reference.
        model_engine: may be left out, as may format, size and quantization: the best that runs is taken.
        n_gpu: "auto", None for the CPU alone, or a count.
        environment: Python environment of its workers: "server", "isolated" or a path; default: beside the server if
            the engine can be imported there, else one of its own.
        wait_ready: wait until the model can answer. There is no time-out as long as the launch makes progress.
        on_progress: called with each new state of the launch (`progress` from 0 to 1, `stage`, …).
        **kwargs: options of the engine; an unknown one is refused.

    Raises: BadRequest, NotFound: it cannot be launched. LaunchError: it failed on the way. Conflict: it was cancelled.
    """
    given = {
        "model_uid": model_uid,
        "model_engine": model_engine,
        "model_size_in_billions": model_size_in_billions,
        "model_format": model_format,
        "quantization": quantization,
        "peft_model_config": peft_model_config,
        "request_limits": request_limits,
        "worker_ip": worker_ip,
        "gpu_idx": gpu_idx,
        "replica_config": replica_config,
        "model_path": model_path,
        "enable_thinking": enable_thinking,
        "enable_virtual_env": enable_virtual_env,
        "virtual_env_packages": virtual_env_packages,
        "virtual_env_find_links": virtual_env_find_links,
        "envs": envs,
        "environment": environment,
        **kwargs,
    }
    body: Json = {"model_name": model_name, "model_type": model_type, "replica": replica, "n_gpu": n_gpu}
    body.update((key, value) for key, value in given.items() if value is not None)
    if n_worker != 1:
        body["n_worker"] = n_worker
    answer: Json = yield Call(
        method="POST",
        path="/v1/models",
        params={"wait_ready": False},
        body=body,
        action="launch the model",
        waits=True,
    )
    uid = str(answer["model_uid"])
    if wait_ready:
        yield from wait_until_ready(self, uid, on_progress=on_progress)
    return uid


def wait_until_ready(self: Any, /, model_uid: str, *, on_progress: OnProgress | None = None) -> Flow[None]:
    """Wait until a launched model can answer, for as long as its launch makes progress.

    Args:
        on_progress: called with each new state of the launch.

    Raises: LaunchError, Conflict (it was cancelled), RequestTimeout (no progress within the client's `stall_timeout`;
        the launch itself goes on).
    """
    last: Json = {}
    started = moved = time.monotonic()
    while True:
        try:
            state: Json = yield get_launch_model_progress(self, model_uid)
            if state != last:
                last, moved = state, time.monotonic()
                if on_progress is not None:
                    on_progress(state)
            if _is_running(model_uid, state):
                instances: list[Json] = yield get_instance_info(self, model_uid=model_uid)
                if _are_ready(instances):
                    return
        except NotFound as error:
            raise _cancelled(model_uid) from error
        if self.stall_timeout is not None and time.monotonic() - moved > self.stall_timeout:
            raise RequestTimeout(
                f"The launch of '{model_uid}' made no progress for {self.stall_timeout:g} s.",
                remedy="It goes on in the server; cancel it there, or wait longer: Client(..., stall_timeout=SECONDS).",
            )
        yield Pause(min(max(PAUSES_S[0], (time.monotonic() - started) / 10), PAUSES_S[1]))


def _is_running(model_uid: str, state: Json) -> bool:
    """Return whether the launch is as good as over: at least one replica is ready.

    Raises: the error that it failed with.
    """
    if state.get("error"):
        raise error_from_event(state)
    if state.get("state") == "failed":
        raise LaunchError(state.get("error_message") or f"The launch of '{model_uid}' failed.", status=500)
    return float(state.get("progress") or 0.0) >= 1.0


def _are_ready(instances: list[Json]) -> bool:
    """Return whether all replicas are ready."""
    replicas = [replica for item in instances for replica in item.get("replica_statuses") or [item]]
    return bool(replicas) and all(replica.get("status") == "READY" for replica in replicas)


def _cancelled(model_uid: str) -> Conflict:
    return Conflict(f"The launch of '{model_uid}' was cancelled.", status=409, code="launch_cancelled")


def terminate_model(self: Any, /, model_uid: str) -> Call[None]:
    """Stop a model and free what it holds; a launch that is under way is cancelled."""
    return Call(
        method="DELETE", path=_model_path(model_uid), action="terminate the model", parse=lambda _: None, waits=True
    )


def plan(
    self: Any,
    /,
    model_name: str,
    model_type: str = "LLM",
    replica: int = 1,
    n_gpu: int | str | None = "auto",
    **parameters: Any,
) -> Call[Json]:
    """Tell what `launch_model` with the same parameters would do; nothing is downloaded, built or started.

    Returns: the engine, its environment, the bytes to download, the memory needed and free, what would have to go for
        it to fit, and the alternatives.
    Raises: BadRequest, NotFound: it cannot be launched.
    """
    body: Json = {"model_name": model_name, "model_type": model_type, "replica": replica, "n_gpu": n_gpu}
    body.update((key, value) for key, value in parameters.items() if value is not None)
    return Call(method="POST", path="/v1/plan", body=body, action="plan the launch")


def get_launch_model_progress(self: Any, /, model_uid: str) -> Call[Json]:
    """Return the state of a launch: `progress` from 0 to 1, `stage`, and more."""
    return Call(method="GET", path=_model_path(model_uid, "/progress"), action="read the launch's progress")


def cancel_launch_model(self: Any, /, model_uid: str) -> Call[None]:
    """Cancel a launch."""
    return Call(
        method="POST",
        path=_model_path(model_uid, "/cancel"),
        action="cancel the launch",
        parse=lambda _: None,
        waits=True,
    )


def get_instance_info(self: Any, /, model_name: str | None = None, model_uid: str | None = None) -> Call[list[Json]]:
    """List instances with their status, of all models or of the one named; launching ones are among them."""
    return Call(
        method="GET",
        path="/v1/models/instances",
        params={"model_name": model_name, "model_uid": model_uid},
        action="read the instances",
    )


def list_model_replicas(self: Any, /, model_uid: str) -> Call[list[Json]]:
    """List the replicas of a model."""
    return Call(method="GET", path=_model_path(model_uid, "/replicas"), action="list the replicas")


def add_model_replica(
    self: Any,
    /,
    model_uid: str,
    replica_config: Json | list[Json] | None = None,
    replica: int = 1,
    model_engine: str | None = None,
    n_gpu: int | str | None = None,
) -> Call[Json]:
    """Add replicas to a running model."""
    body: Json = {"replica_config": replica_config, "model_engine": model_engine, "n_gpu": n_gpu}
    body = {key: value for key, value in body.items() if value is not None}
    if replica != 1:
        body["replica"] = replica
    return Call(method="POST", path=_model_path(model_uid, "/replicas"), body=body, action="add a replica", waits=True)


def terminate_model_replica(self: Any, /, model_uid: str, replica_id: int) -> Call[int]:
    """Stop one replica of a model; return how many remain."""
    return Call(
        method="DELETE",
        path=_model_path(model_uid, f"/replicas/{int(replica_id)}"),
        action="terminate the replica",
        parse=lambda answer: int(answer["remaining_replicas"]),
        waits=True,
    )


def get_model_events(self: Any, /, model_uid: str) -> Call[list[Json]]:
    """List the last events of a model, oldest first."""
    return Call(method="GET", path=_model_path(model_uid, "/events"), action="read the model's events")


def register_model(
    self: Any, /, model_type: str, model: str | Json, persist: bool, worker_ip: str | None = None
) -> Call[None]:
    """Register a family.

    Args:
        model: the family, as a dict or as JSON text.
        persist: keep it over a restart of the server.
    """
    text = model if isinstance(model, str) else json.dumps(model)
    return Call(
        method="POST",
        path=_family_path(model_type),
        body={"model": text, "worker_ip": worker_ip, "persist": persist},
        action="register the model",
        parse=lambda _: None,
    )


def unregister_model(self: Any, /, model_type: str, model_name: str) -> Call[None]:
    """Forget a family that was registered."""
    return Call(
        method="DELETE",
        path=_family_path(model_type, model_name),
        action="unregister the model",
        parse=lambda _: None,
    )


def list_model_registrations(self: Any, /, model_type: str, detailed: bool = False) -> Call[list[Json]]:
    """List the families of a type: `model_name` and `is_builtin`; with `detailed` all their facts."""
    return Call(
        method="GET", path=_family_path(model_type), params={"detailed": detailed}, action="list the registrations"
    )


def get_model_registration(self: Any, /, model_type: str, model_name: str) -> Call[Json]:
    """Return the facts of a family."""
    return Call(method="GET", path=_family_path(model_type, model_name), action="read the registration")


def query_engine_by_model_name(
    self: Any, /, model_name: str, model_type: str | None = "LLM", enable_virtual_env: bool | None = None
) -> Call[dict[str, list[Json] | str]]:
    """Return, by engine, the forms of a family that it can run here, or the reason why it cannot."""
    middle = f"{quote(model_type, safe='')}/" if model_type else ""
    return Call(
        method="GET",
        path=f"/v1/engines/{middle}{quote(model_name, safe='')}",
        params={"enable_virtual_env": enable_virtual_env},
        action="query the engines",
    )


def list_cached_models(self: Any, /, model_name: str | None = None, worker_ip: str | None = None) -> Call[list[Json]]:
    """List the downloaded models."""
    return Call(
        method="GET",
        path="/v1/cache/models",
        params={"model_name": model_name, "worker_ip": worker_ip},
        action="list the cached models",
        parse=lambda answer: answer["list"],
    )


def list_deletable_models(self: Any, /, model_version: str, worker_ip: str | None = None) -> Call[Json]:
    """Return the files of a downloaded model."""
    return Call(
        method="GET",
        path="/v1/cache/models/files",
        params={"model_version": model_version, "worker_ip": worker_ip},
        action="list the files of the cached model",
    )


def confirm_and_remove_model(self: Any, /, model_version: str, worker_ip: str | None = None) -> Call[bool]:
    """Delete a downloaded model; return whether there was one."""
    return Call(
        method="DELETE",
        path="/v1/cache/models",
        params={"model_version": model_version, "worker_ip": worker_ip},
        action="remove the cached model",
        parse=lambda answer: bool(answer.get("result", False)),
        waits=True,
    )


def abort_request(self: Any, /, model_uid: str, request_id: str, block_duration: int = 30) -> Call[Json]:
    """Abort a request that is under way."""
    return Call(
        method="POST",
        path=_model_path(model_uid, f"/requests/{quote(request_id, safe='')}/abort"),
        body={"block_duration": block_duration},
        action="abort the request",
    )


def get_progress(self: Any, /, request_id: str) -> Call[Json]:
    """Return how far a long request (a video, say) has come."""
    return Call(
        method="GET", path=f"/v1/requests/{quote(request_id, safe='')}/progress", action="read the request's progress"
    )


def get_workers_info(self: Any, /) -> Call[list[Json]]:
    """List the workers of the cluster."""
    return Call(method="GET", path="/v1/workers", action="list the workers")


def get_supervisor_info(self: Any, /) -> Call[Json]:
    """Describe the supervisor of the cluster."""
    return Call(method="GET", path="/v1/supervisor", action="describe the supervisor")


def get_version(self: Any, /) -> Call[Json]:
    """Return the server's version."""
    return Call(method="GET", path="/v1/cluster/version", action="read the server's version")


def vllm_models(self: Any, /) -> Call[Json]:
    """Return the names that Xinference lists under vLLM."""
    return Call(method="GET", path="/v1/models/vllm-supported", action="list the models")
