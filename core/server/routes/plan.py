"""Tell what a launch would do, without doing it."""

import asyncio

from fastapi import APIRouter

from ...api.launch import LaunchRequest
from ...api.plan import PlanAnswer
from ...catalog.download import measure
from ...catalog.planning import Running, make_plan
from ...environments import device_kind
from ...lifecycle.policy import place
from ...lifecycle.rack import Rack
from . import JsonRoute, failures

__all__ = ["router"]

HUB_LIMIT_S = 5.0
"""Seconds that the hub may take to say how large files are; after that they are unknown."""


def router(rack: Rack) -> APIRouter:
    """Return the route `/v1/plan`."""
    routes = APIRouter(tags=["models"], route_class=JsonRoute)

    @routes.post("/v1/plan", response_model=PlanAnswer, responses=failures(400, 404))
    async def plan_launch(request: LaunchRequest) -> PlanAnswer:
        """Tell what a launch with this body would do: nothing is downloaded, built or started.

        The answer names the engine and why others were refused, the environment, the bytes to download (null where the
        hub cannot be asked within seconds), the memory that is needed and free, the running models that would have to
        go for it to fit (nothing is terminated by itself), and what could be launched instead. What cannot be launched
        at all is the same error as for a launch.
        """
        machine, choices, resolved = await rack.examine(request)
        size = await measure(resolved, rack.plugins.hubs, rack.settings.cache_dir, HUB_LIMIT_S)
        running = await asyncio.to_thread(running_models, rack)
        device = device_kind(machine, place(machine, request.n_gpu, request.gpu_indices))
        built = rack.built(device, request.virtual_env_packages or ())
        return await asyncio.to_thread(make_plan, choices, request, machine, running, size, built)

    return routes


def running_models(rack: Rack) -> list[Running]:
    """Return what the running models hold. Blocks for some milliseconds for each."""
    found = []
    for instance in rack.instances():
        host, devices = 0, dict[int, int]()
        for replica in list(instance.replicas.values()):
            replica_host, replica_device = replica.held_bytes()
            host += replica_host
            indices = replica.spec.plan.accelerators
            for index in indices:
                devices[index] = devices.get(index, 0) + replica_device // len(indices)
        if host or any(devices.values()):
            found.append(Running(model_uid=instance.model_uid, host_bytes=host, device_bytes=devices))
    return found
