"""What a launch would do, before it is done: the answer of `POST /v1/plan`, whose body is that of a launch."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "PlanAnswer",
    "PlanChoice",
    "PlanDevice",
    "PlanDownload",
    "PlanEnvironment",
    "PlanMemory",
    "PlanRelief",
    "PlanRoom",
]


class _Answer(BaseModel):
    model_config = ConfigDict(protected_namespaces=(), extra="forbid")


class PlanEnvironment(_Answer):
    """Where the workers would run."""

    where: Literal["server", "isolated", "path"] = Field(
        description="Beside the server, in an environment made for the engine, or in one that the request names."
    )
    is_built: bool = Field(description="False: it has to be built first.")
    path: str | None = Field(None, description="The environment that the request names.")
    name: str | None = Field(None, description="Of an environment that was made for the engine already.")
    size_bytes: int | None = Field(None, description="Of all its files, whether other environments share them or not.")
    requirements: list[str] = Field([], description="What one that has to be built is going to hold; else empty.")


class PlanDownload(_Answer):
    """What would be downloaded."""

    bytes: int | None = Field(description="0: the files are on this machine; null: not known.")
    path: str | None = Field(None, description="Where the files are on this machine.")
    hub: str | None = None
    repo: str | None = None


class PlanMemory(_Answer):
    """What one replica needs, in bytes: `host` in main memory, the rest on its devices (the CPU is one)."""

    weights_bytes: int
    cache_bytes: int
    overhead_bytes: int
    host_bytes: int
    total_bytes: int
    basis: Literal["measured", "files", "size", "unknown"] = Field(
        description="`measured`: a replica of the same kind ran before; `files`: reckoned from the model's files; "
        "`size`: from its size and quantization alone, an approximation."
    )


class PlanChoice(_Answer):
    """One form of the model on one engine."""

    model_engine: str
    model_format: str
    model_size_in_billions: float | int | None
    quantization: str
    rank: int
    environment: PlanEnvironment
    download: PlanDownload
    memory: PlanMemory | None
    fits: bool | None = Field(description="Whether all replicas fit into what is free; null: not known.")
    fit_reason: str
    reason: str = Field(description="Why it is taken, or why it is not preferred to what is.")


class PlanDevice(_Answer):
    """A device of this machine."""

    kind: str = Field(description="`cpu` (main memory), `cuda`, `rocm`, `mps` or `xpu`.")
    index: int | None
    name: str
    memory_total_bytes: int
    memory_free_bytes: int
    is_used: bool


class PlanRelief(_Answer):
    """A running model, and what would be free without it."""

    model_uid: str
    frees_bytes: int


class PlanRoom(_Answer):
    """What is lacking, and which running models would have to go. Nothing is terminated by itself."""

    lacking_bytes: int
    models: list[PlanRelief] = Field(description="To terminate for it to fit: the one that helps most comes first.")
    is_enough: bool = Field(description="It fits, or would fit without these models.")


class PlanAnswer(_Answer):
    """What a launch would do."""

    model_name: str
    model_type: str
    replica: int
    choice: PlanChoice = Field(description="What would be launched.")
    refused: dict[str, str] = Field(description="Why engines cannot run it, by name.")
    devices: list[PlanDevice]
    room: PlanRoom
    alternatives: list[PlanChoice] = Field(description="The best first.")
