"""Answers of the management routes, in the shapes that Xinference's clients read."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "AbortAnswer",
    "AuthAnswer",
    "CacheFilesAnswer",
    "CacheListAnswer",
    "ClusterNode",
    "ErrorAnswer",
    "EventItem",
    "InstanceItem",
    "LaunchAnswer",
    "ModelDescription",
    "ModelList",
    "ProgressAnswer",
    "RegistrationItem",
    "RegistrationRequest",
    "RemainingReplicas",
    "ReplicaItem",
    "RequestProgress",
    "ResultAnswer",
    "StatusAnswer",
    "VersionAnswer",
]

InstanceStatus = Literal["CREATING", "UPDATING", "TERMINATING", "TERMINATED", "READY", "ERROR", "LOADING"]


class _Answer(BaseModel):
    model_config = ConfigDict(protected_namespaces=(), extra="allow")


class ErrorDetail(_Answer):
    """What went wrong, for programs and for people."""

    message: str
    type: str
    param: str | None = None
    code: str


class ErrorAnswer(_Answer):
    """The one body of every error; `detail` repeats the message for Xinference's clients."""

    error: ErrorDetail
    detail: str


class RegistrationItem(_Answer):
    """A family in the short list."""

    model_name: str
    is_builtin: bool


class RegistrationRequest(BaseModel):
    """A family to register."""

    model_config = ConfigDict(protected_namespaces=(), extra="forbid")

    model: str | dict[str, Any] = Field(description="The family: an object, or the same as a JSON string.")
    persist: bool = True
    worker_ip: str | None = None


class LaunchAnswer(_Answer):
    """The uid of a launched model."""

    model_uid: str


class ModelDescription(_Answer):
    """A running model, for OpenAI's, Anthropic's and Xinference's clients at once.

    `environment` is `server`, or the name or path of the Python environment that its workers run in.
    """

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "modelrack"
    model_type: str
    model_name: str
    model_ability: list[str]
    model_engine: str
    environment: str | None
    model_format: str
    model_size_in_billions: float | int | None
    quantization: str
    address: str
    accelerators: list[str]
    replica: int
    status: str


class ModelList(_Answer):
    """The running models."""

    object: Literal["list"] = "list"
    data: list[ModelDescription]


class ReplicaItem(_Answer):
    """One replica. `created_ts` in seconds since 1970."""

    replica_id: int
    replica_model_uid: str
    worker_address: str
    status: InstanceStatus
    state: str
    created_ts: int
    error_message: str | None
    accelerators: list[str]
    pid: int | None
    restarts: int
    log: str
    environment: str


class InstanceItem(_Answer):
    """A launched model, ready or not."""

    model_name: str
    model_uid: str
    model_version: str | None
    model_ability: list[str]
    model_type: str
    model_engine: str
    environment: str | None
    model_format: str | None
    model_size_in_billions: float | int | None
    quantization: str | None
    replica: int
    status: InstanceStatus
    state: str
    error_message: str | None
    instance_created_ts: int
    replica_statuses: list[ReplicaItem]


class ProgressAnswer(_Answer):
    """Progress of a launch, 0 to 1; bytes while downloading; `detail` is what is done at the moment, as a clause."""

    progress: float
    stage: str
    state: str
    error_message: str | None = None
    error: dict[str, Any] | None = None
    done_bytes: int | None = None
    total_bytes: int | None = None
    file: str | None = None
    detail: str | None = None


class EventItem(_Answer):
    """Something that happened to a model. `event_ts` in seconds since 1970."""

    event_type: str
    event_ts: int
    event_content: str


class RemainingReplicas(_Answer):
    """How many replicas are left."""

    remaining_replicas: int


class AuthAnswer(_Answer):
    """Whether clients must send a key."""

    auth: bool


class VersionAnswer(_Answer):
    """The server's version."""

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    version: str
    full_revision_id: str | None = Field(None, alias="full-revisionid")


class ClusterNode(_Answer):
    """This machine, as a cluster of one. Memory in bytes."""

    node_type: Literal["Supervisor", "Worker"]
    ip_address: str
    gpu_count: int
    gpu_vram_total: int
    gpu_vram_available: int
    cpu_available: int
    cpu_count: int
    mem_used: int
    mem_available: int
    mem_total: int


class StatusAnswer(_Answer):
    """How long the server has been up, in seconds, and its workers by address."""

    uptime: int
    workers: dict[str, Any]


class CacheListAnswer(_Answer):
    """Downloaded models."""

    list: list[dict[str, Any]]


class CacheFilesAnswer(_Answer):
    """Files of a downloaded model."""

    model_version: str
    paths: list[str]
    worker_ip: str


class ResultAnswer(_Answer):
    """Whether it was done."""

    result: bool


class AbortAnswer(_Answer):
    """What became of the wish to abort a request."""

    msg: Literal["DONE", "NOT_FOUND", "NO_OP"]


class RequestProgress(_Answer):
    """How far a request is."""

    progress: float = Field(ge=0, le=1)
    status: Literal["running", "finished", "failed", "cancelled"]
    model: str
    request_id: str
