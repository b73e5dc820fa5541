"""Launched models as the management routes show them."""

from collections.abc import Mapping
from typing import Any

from ..lifecycle.instance import Instance
from ..lifecycle.replica import Replica
from ..lifecycle.state import State, xinference_status

__all__ = ["describe_instance", "describe_model", "describe_replica"]

ADDRESS = "127.0.0.1"
"""Where workers are, for clients that expect a cluster."""


_FACTS: Mapping[str, tuple[str, ...]] = {"embed": ("dimensions", "max_tokens"), "rerank": ("max_tokens", "type")}
"""Facts of models that have an ability, which clients index without a fallback: they are there, if need be as null."""


def describe_model(instance: Instance) -> dict[str, Any]:
    """Return the description of a running model: `GET /v1/models/{uid}`."""
    resolved = instance.resolved
    family, variant = resolved.family, resolved.variant
    source = resolved.source
    description: dict[str, Any] = {
        **{name: None for ability in family.abilities for name in _FACTS.get(ability, ())},
        **family.facts,
        "id": instance.model_uid,
        "object": "model",
        "created": int(instance.record.created_ts),
        "owned_by": "modelrack",
        "model_type": family.model_type,
        "model_name": family.name,
        "model_ability": list(family.abilities),
        "model_engine": resolved.engine.name,
        "environment": instance.interpreter.environment if instance.interpreter else None,
        "model_format": variant.format,
        "model_size_in_billions": _plain(variant.size_b),
        "model_family": family.facts.get("model_family", family.name),
        "model_lang": list(family.languages),
        "language": list(family.languages),
        "model_description": family.description,
        "quantization": resolved.quantization,
        "context_length": family.context_length,
        "revision": source.revision if source else None,
        "model_hub": source.hub if source else None,
        "model_id": source.repo if source else None,
        "address": ADDRESS,
        "accelerators": instance.accelerators,
        "replica": len(instance.record.replicas),
        "status": xinference_status(instance.state),
    }
    description.update(instance.facts)
    return description


def describe_instance(instance: Instance) -> dict[str, Any]:
    """Return a launched model, ready or not: an item of `GET /v1/models/instances`."""
    resolved = instance.resolved
    return {
        "model_name": resolved.family.name,
        "model_uid": instance.model_uid,
        "model_version": None,
        "model_ability": list(resolved.family.abilities),
        "model_type": resolved.family.model_type,
        "model_engine": resolved.engine.name,
        "environment": instance.interpreter.environment if instance.interpreter else None,
        "model_format": resolved.variant.format,
        "model_size_in_billions": _plain(resolved.variant.size_b),
        "quantization": resolved.quantization,
        "replica": len(instance.record.replicas),
        "status": xinference_status(instance.state),
        "state": instance.state.value,
        "error_message": instance.reason or None,
        "instance_created_ts": int(instance.record.created_ts),
        "replica_statuses": [describe_replica(replica) for replica in instance.replicas.values()],
    }


def describe_replica(replica: Replica) -> dict[str, Any]:
    """Return one replica: an item of `GET /v1/models/{uid}/replicas`."""
    return {
        "replica_id": replica.spec.replica_id,
        "replica_model_uid": f"{replica.spec.model_uid}-{replica.spec.replica_id}",
        "worker_address": ADDRESS,
        "status": xinference_status(replica.state),
        "state": replica.state.value,
        "created_ts": int(replica.created_ts),
        "error_message": replica.reason or None,
        "accelerators": [str(index) for index in replica.spec.plan.accelerators],
        "pid": replica.pid if replica.state is not State.STOPPED else None,
        "restarts": replica.restarts,
        "log": str(replica.log),
        "environment": replica.spec.interpreter.environment,
    }


def _plain(size_b: float | None) -> float | int | None:
    """Return whole sizes as ints, as Xinference writes them."""
    return int(size_b) if size_b is not None and size_b == int(size_b) else size_b
