"""Families: list, look at, register and unregister; and which engines can run them."""

from typing import Any

from fastapi import APIRouter

from ...api.management import RegistrationItem, RegistrationRequest
from ...catalog.describe import describe_families, describe_family, engines_for
from ...lifecycle.rack import Rack
from . import JsonRoute, failures

__all__ = ["router"]


def router(rack: Rack) -> APIRouter:
    """Return the routes below `/v1/model_registrations` and `/v1/engines`."""
    routes = APIRouter(tags=["registrations"], route_class=JsonRoute)
    catalog, cache_dir = rack.catalog, rack.settings.cache_dir

    @routes.get("/v1/model_registrations/{model_type}", response_model=list[RegistrationItem], responses=failures(400))
    def list_registrations(model_type: str, detailed: bool = False) -> list[dict[str, Any]]:
        """List the families of a type, by name; in full with `detailed`."""
        families = catalog.families(model_type)
        known = [(family, catalog.is_builtin(model_type, family.name)) for family in families]
        if detailed:
            return describe_families(known, cache_dir)
        return [{"model_name": family.name, "is_builtin": is_builtin} for family, is_builtin in known]

    @routes.get(
        "/v1/model_registrations/{model_type}/{model_name}",
        response_model=dict[str, Any],
        responses=failures(400, 404),
    )
    def get_registration(model_type: str, model_name: str) -> dict[str, Any]:
        """Describe a family."""
        family = catalog.get(model_type, model_name)
        return describe_family(family, cache_dir, catalog.is_builtin(model_type, model_name))

    @routes.post("/v1/model_registrations/{model_type}", response_model=None, responses=failures(400))
    def register_model(model_type: str, request: RegistrationRequest) -> None:
        """Register a family of one's own."""
        catalog.register(model_type, request.model, request.persist)

    @routes.delete(
        "/v1/model_registrations/{model_type}/{model_name}", response_model=None, responses=failures(400, 404)
    )
    def unregister_model(model_type: str, model_name: str) -> None:
        """Forget a family of one's own."""
        catalog.unregister(model_type, model_name)

    @routes.get("/v1/engines/{model_type}/{model_name}", response_model=dict[str, Any], responses=failures(400, 404))
    def query_engines(model_type: str, model_name: str) -> dict[str, Any]:
        """Tell which engines can run a family here, in which forms; or why not."""
        machine = rack.free_machine()
        is_built = rack.is_built(next((device.kind for device in machine.accelerators), "cpu"))
        return engines_for(catalog.get(model_type, model_name), rack.plugins, machine, is_built)

    @routes.get("/v1/engines/{model_name}", response_model=dict[str, Any], responses=failures(404))
    def query_llm_engines(model_name: str) -> dict[str, Any]:
        """Tell which engines can run an LLM here, in which forms; or why not."""
        return query_engines("LLM", model_name)

    return routes
