"""The server itself: authentication, version, machine, status; and what was downloaded."""

import time
from typing import Annotated, Any

from fastapi import APIRouter, Query

from ... import __version__
from ...api.management import (
    AuthAnswer,
    CacheFilesAnswer,
    CacheListAnswer,
    ClusterNode,
    ResultAnswer,
    StatusAnswer,
    VersionAnswer,
)
from ...catalog import cached_files, list_cached, remove_cached
from ...lifecycle.rack import Rack
from ..describe import ADDRESS
from . import JsonRoute, failures

__all__ = ["router"]


def router(rack: Rack) -> APIRouter:
    """Return the routes about the server, in the words of Xinference's clusters: this machine is one of one."""
    routes = APIRouter(tags=["server"], route_class=JsonRoute)

    @routes.get("/v1/cluster/auth", response_model=AuthAnswer)
    async def is_authenticated() -> dict[str, bool]:
        """Tell whether clients must send a key; answered without one."""
        return {"auth": bool(rack.settings.api_keys)}

    @routes.get("/v1/cluster/version", response_model=VersionAnswer, responses=failures())
    async def version() -> dict[str, str | None]:
        """Give the server's version."""
        return {"version": __version__, "full-revisionid": None}

    @routes.get("/v1/cluster/info", response_model=list[ClusterNode], responses=failures())
    def info(detailed: bool = False) -> list[dict[str, Any]]:
        """Describe this machine, once in each role of a cluster."""
        machine = rack.machine()
        node = {
            "ip_address": ADDRESS,
            "gpu_count": len(machine.accelerators),
            "gpu_vram_total": sum(device.memory_total_bytes for device in machine.accelerators),
            "gpu_vram_available": sum(device.memory_free_bytes for device in machine.accelerators),
            "cpu_available": machine.cores,
            "cpu_count": machine.cores,
            "mem_used": machine.memory_total_bytes - machine.memory_free_bytes,
            "mem_available": machine.memory_free_bytes,
            "mem_total": machine.memory_total_bytes,
        }
        return [{"node_type": role, **node} for role in ("Supervisor", "Worker")]

    @routes.get("/v1/cluster/devices", response_model=int, responses=failures())
    def devices() -> int:
        """Count the accelerators."""
        return len(rack.machine().accelerators)

    @routes.get("/v1/address", response_model=str, responses=failures())
    async def address() -> str:
        """Give the address of the machine."""
        return ADDRESS

    @routes.get("/v1/supervisor", response_model=dict[str, str], responses=failures())
    async def supervisor() -> dict[str, str]:
        """Give the address of the machine, as a supervisor."""
        return {"supervisor_ip": ADDRESS}

    @routes.get("/v1/workers", response_model=list[dict[str, Any]], responses=failures())
    async def workers() -> list[dict[str, Any]]:
        """List the machine with the models that run on it."""
        return [{"work-ip": ADDRESS, "models": [instance.model_uid for instance in rack.instances()]}]

    @routes.get("/status", response_model=StatusAnswer, responses=failures())
    async def status() -> dict[str, Any]:
        """Tell how long the server has been up, and the state of each model."""
        states = {instance.model_uid: instance.state.value for instance in rack.instances()}
        return {"uptime": int(time.time() - rack.started_ts), "workers": {ADDRESS: states}}

    _add_cache_routes(routes, rack)
    return routes


def _add_cache_routes(routes: APIRouter, rack: Rack) -> None:
    cache_dir = rack.settings.cache_dir

    @routes.get("/v1/cache/models", response_model=CacheListAnswer, responses=failures())
    def cached_models(
        model_name: Annotated[str | None, Query()] = None, worker_ip: Annotated[str | None, Query()] = None
    ) -> dict[str, Any]:
        """List what was downloaded."""
        return {"list": list_cached(cache_dir, model_name)}

    @routes.get("/v1/cache/models/files", response_model=CacheFilesAnswer, responses=failures(404))
    def cached_model_files(
        model_version: Annotated[str, Query()], worker_ip: Annotated[str | None, Query()] = None
    ) -> dict[str, Any]:
        """List the files of a downloaded model."""
        paths = cached_files(cache_dir, model_version)
        return {"model_version": model_version, "paths": [str(path) for path in paths], "worker_ip": ADDRESS}

    @routes.delete("/v1/cache/models", response_model=ResultAnswer, responses=failures(404))
    def remove_cached_model(
        model_version: Annotated[str, Query()], worker_ip: Annotated[str | None, Query()] = None
    ) -> dict[str, bool]:
        """Delete a downloaded model from the disk."""
        return {"result": remove_cached(cache_dir, model_version)}
