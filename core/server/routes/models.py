"""Launch, list, describe and terminate models."""

from typing import Annotated, Any

from fastapi import APIRouter, Query

from ...api.launch import LaunchRequest
from ...api.management import (
    EventItem,
    InstanceItem,
    LaunchAnswer,
    ModelDescription,
    ModelList,
    ProgressAnswer,
    RemainingReplicas,
    ReplicaItem,
)
from ...errors import ModelNotFound
from ...lifecycle.rack import Rack
from ...lifecycle.state import State
from ..describe import describe_instance, describe_model, describe_replica
from . import JsonRoute, failures

__all__ = ["router"]


def router(rack: Rack) -> APIRouter:
    """Return the routes below `/v1/models`."""
    routes = APIRouter(tags=["models"], route_class=JsonRoute)

    @routes.post("/v1/models", response_model=LaunchAnswer, responses=failures(400, 404, 409, 500))
    async def launch_model(request: LaunchRequest, wait_ready: bool = True) -> dict[str, str]:
        """Launch a model; with `wait_ready`, answer when it is ready or has failed."""
        instance = await rack.launch(request)
        if wait_ready:
            await rack.wait_ready(instance.model_uid)
        return {"model_uid": instance.model_uid}

    @routes.get("/v1/models", response_model=ModelList, responses=failures())
    async def list_models() -> dict[str, Any]:
        """List the running models."""
        ready = [instance for instance in rack.instances() if instance.state is State.READY]
        return {"object": "list", "data": [describe_model(instance) for instance in ready]}

    @routes.get("/v1/models/instances", response_model=list[InstanceItem], responses=failures())
    async def list_instances(
        model_name: Annotated[str | None, Query()] = None, model_uid: Annotated[str | None, Query()] = None
    ) -> list[dict[str, Any]]:
        """List the launched models, ready or not, with the state of each replica."""
        return [
            describe_instance(instance)
            for instance in rack.instances()
            if model_name in (None, "", instance.resolved.family.name) and model_uid in (None, "", instance.model_uid)
        ]

    _add_family_routes(routes, rack)

    @routes.get("/v1/models/{model_uid}", response_model=ModelDescription, responses=failures(404))
    async def describe(model_uid: str) -> dict[str, Any]:
        """Describe a running model."""
        instance = rack.get(model_uid)
        if instance.state is not State.READY:
            raise instance.unavailable()
        return describe_model(instance)

    @routes.delete("/v1/models/{model_uid}", response_model=None, responses=failures(404))
    async def terminate_model(model_uid: str) -> None:
        """Terminate a model; one that is being launched is cancelled."""
        await rack.terminate(model_uid)

    @routes.get("/v1/models/{model_uid}/progress", response_model=ProgressAnswer, responses=failures(404))
    async def launch_progress(model_uid: str) -> dict[str, Any]:
        """Tell how far a launch is."""
        instance = rack.get(model_uid)
        progress, stage = instance.progress()
        fetched = instance.fetched
        building = instance.building if stage == "environment" else None
        return {
            "progress": round(progress, 4),
            "stage": stage,
            "state": instance.state.value,
            "error_message": instance.reason or None,
            "error": instance.failure.body()["error"] if instance.failure else None,
            "done_bytes": building.done_bytes if building else fetched.downloaded_bytes if fetched else None,
            "total_bytes": building.total_bytes if building else fetched.total_bytes if fetched else None,
            "file": fetched.file if fetched else None,
            "detail": building.detail if building else None,
        }

    @routes.post("/v1/models/{model_uid}/cancel", response_model=None, responses=failures(400, 404))
    async def cancel_launch(model_uid: str) -> None:
        """Cancel a launch that is under way."""
        await rack.cancel(model_uid)

    _add_replica_routes(routes, rack)
    return routes


def _add_family_routes(routes: APIRouter, rack: Rack) -> None:
    """Add the lists below `/v1/models` that are of families; before `/v1/models/{model_uid}`, which would take them."""

    @routes.get("/v1/models/vllm-supported", response_model=dict[str, list[str]], responses=failures())
    async def vllm_supported() -> dict[str, list[str]]:
        """Answer Xinference's clients, which ask for this."""
        return {"chat": [], "generate": []}

    @routes.get("/v1/models/families", response_model=dict[str, list[str]], responses=failures())
    async def families() -> dict[str, list[str]]:
        """List the names of the LLM families by ability."""
        known = rack.catalog.families("LLM")
        abilities = sorted({ability for family in known for ability in family.abilities})
        return {ability: [family.name for family in known if ability in family.abilities] for ability in abilities}

    @routes.get("/v1/models/prompts", response_model=dict[str, Any], responses=failures())
    async def prompts() -> dict[str, Any]:
        """Give the chat templates that families bring themselves."""
        return {family.name: family.chat_template for family in rack.catalog.families("LLM") if family.chat_template}


def _add_replica_routes(routes: APIRouter, rack: Rack) -> None:
    @routes.get("/v1/models/{model_uid}/replicas", response_model=list[ReplicaItem], responses=failures(404))
    async def list_replicas(model_uid: str) -> list[dict[str, Any]]:
        """List the replicas of a model."""
        return [describe_replica(replica) for replica in rack.get(model_uid).replicas.values()]

    @routes.post("/v1/models/{model_uid}/replicas", response_model=ReplicaItem, responses=failures(400, 404))
    async def add_replica(model_uid: str) -> dict[str, Any]:
        """Start one more replica; it is not ready yet when this answers."""
        return describe_replica(rack.add_replica(model_uid))

    @routes.delete(
        "/v1/models/{model_uid}/replicas/{replica_id}", response_model=RemainingReplicas, responses=failures(400, 404)
    )
    async def remove_replica(model_uid: str, replica_id: int) -> dict[str, int]:
        """Stop one replica."""
        return {"remaining_replicas": await rack.remove_replica(model_uid, replica_id)}

    @routes.get("/v1/models/{model_uid}/events", response_model=list[EventItem], responses=failures(404))
    async def list_events(model_uid: str) -> list[dict[str, Any]]:
        """List what happened to a model, oldest first: the last 100 events, also after it has ended."""
        events = rack.store.events(model_uid)
        if not events:
            raise ModelNotFound(f"Model '{model_uid}' has never been launched.", param="model_uid")
        return [{"event_type": kind, "event_ts": int(ts), "event_content": content} for ts, kind, content in events]
