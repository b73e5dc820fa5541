"""The launch request: which model, on which engine, with which options."""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

__all__ = ["LaunchRequest", "LoraModule", "PeftConfig", "parse_size"]

UID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._:@+-]{0,127}$"


def parse_size(value: Any) -> float | None:
    """Read a size in billions of parameters: `7`, `1.8`, `"1.8"` and Xinference's `"1_8"` mean what they say.

    Raises: ValueError: it is no positive number.
    """
    if value is None or value == "":
        return None
    if isinstance(value, bool):
        raise ValueError("must be a number of billions, such as 7, 1.8 or '1_8'")
    try:
        size = float(value.strip().lower().removesuffix("b").replace("_", ".") if isinstance(value, str) else value)
    except (TypeError, ValueError):
        raise ValueError("must be a number of billions, such as 7, 1.8 or '1_8'") from None
    if not 0 < size < 1e6:
        raise ValueError("must be a positive number of billions, such as 7, 1.8 or '1_8'")
    return size


def _drop_empty(value: Any) -> Any:
    return None if value == "" else value


def _check_environment(value: Any) -> Any:
    if value in (None, "", "auto"):
        return None
    if not isinstance(value, str):
        raise ValueError("must be 'server', 'isolated', or the path of an environment or interpreter")
    if value in ("server", "isolated"):
        return value
    if "\0" in value or not ("/" in value or value.startswith("~")):
        raise ValueError("must be 'server', 'isolated', or the path of an environment or interpreter (with a '/')")
    return value


def _check_packages(value: list[str] | None) -> list[str] | None:
    """Take requirements by name alone: what is installed comes from the indexes that the operator has chosen."""
    from packaging.requirements import InvalidRequirement, Requirement

    requirements = []
    for item in value or ():
        try:
            requirement = Requirement(item)
        except InvalidRequirement:
            raise ValueError(f"{item[:100]!r} is no requirement, such as 'package>=1.2'") from None
        if requirement.url:
            raise ValueError(f"{item[:100]!r} names an address; only names are taken, such as 'package>=1.2'")
        requirements.append(str(requirement))
    return requirements or None


def _check_uid(value: str | None) -> str | None:
    if value is None:
        return None
    if not re.fullmatch(UID_PATTERN, value):
        raise ValueError("must be 1 to 128 letters, digits and . _ : @ + -, the first one a letter or digit")
    return value


_VIRTUAL = {True: "isolated", False: "server"}


class LoraModule(BaseModel):
    """A LoRA adapter, by name."""

    model_config = ConfigDict(extra="forbid")

    lora_name: str
    local_path: str


class PeftConfig(BaseModel):
    """Adapters to load beside the model, in Xinference's shape."""

    model_config = ConfigDict(extra="forbid")

    lora_list: list[LoraModule] = []
    image_lora_load_kwargs: dict[str, Any] | None = None
    image_lora_fuse_kwargs: dict[str, Any] | None = None


class LaunchRequest(BaseModel):
    """Launch parameters. Any other key is an option of the engine, checked by the engine's typed options."""

    model_config = ConfigDict(
        extra="allow",
        protected_namespaces=(),
        json_schema_extra={"examples": [{"model_name": "demo-chat", "model_uid": "my-chat"}]},
    )

    model_name: str = Field(min_length=1, max_length=1024, description="Family, `.gguf` file, folder or hub reference.")
    model_type: str = "LLM"
    model_engine: Annotated[str | None, BeforeValidator(_drop_empty)] = None
    model_uid: Annotated[str | None, BeforeValidator(_drop_empty), AfterValidator(_check_uid)] = None
    model_size_in_billions: Annotated[float | None, BeforeValidator(parse_size)] = Field(
        None, description="A number, or a string such as `7`, `1.8` or `1_8`."
    )
    model_format: Annotated[str | None, BeforeValidator(_drop_empty)] = None
    quantization: Annotated[str | None, BeforeValidator(_drop_empty)] = None
    replica: int = Field(1, ge=1, le=64)
    n_worker: Literal[1] | None = Field(None, description="One machine runs a replica; Xinference's clients say so.")
    n_gpu: int | Literal["auto"] | None = Field("auto", description='"auto", null for the CPU alone, or a count.')
    gpu_idx: list[int] | int | None = None
    worker_ip: str | None = None
    request_limits: int | None = Field(None, ge=1, description="Concurrent requests per replica; above: 429.")
    peft_model_config: PeftConfig | None = None
    download_hub: str | None = None
    model_path: Annotated[str | None, BeforeValidator(_drop_empty)] = None
    envs: dict[str, str] | None = None
    environment: Annotated[str | None, BeforeValidator(_check_environment)] = Field(
        None,
        description="Python environment of the workers: `server`, `isolated` (one made for the engine), or the path of "
        "an environment or interpreter. Default: beside the server if the engine can be imported there.",
    )
    enable_virtual_env: bool | None = Field(None, description="true: `isolated`, false: `server`.")
    virtual_env_packages: Annotated[list[str] | None, AfterValidator(_check_packages)] = Field(
        None, description="Further requirements of the engine's own environment, such as `package>=1.2`."
    )
    enable_thinking: bool | None = None

    @model_validator(mode="after")
    def _agree_on_the_environment(self) -> "LaunchRequest":
        """Refuse fields that contradict each other about the environment."""
        told = {
            "environment": self.environment,
            "enable_virtual_env": None if self.enable_virtual_env is None else _VIRTUAL[self.enable_virtual_env],
            "virtual_env_packages": "isolated" if self.virtual_env_packages else None,
        }
        wanted = {value: name for name, value in reversed(told.items()) if value is not None}
        if len(wanted) > 1:
            names = " and ".join(name for name in told if name in wanted.values())
            raise ValueError(f"{names} contradict each other about the environment of the workers")
        return self

    @property
    def wanted_environment(self) -> str | None:
        """Return the environment that is asked for: `server`, `isolated`, a path, or None for the default."""
        if self.environment is not None:
            return self.environment
        if self.enable_virtual_env is not None:
            return _VIRTUAL[self.enable_virtual_env]
        return "isolated" if self.virtual_env_packages else None

    @property
    def gpu_indices(self) -> list[int] | None:
        """Return the accelerators that the user named, or None."""
        return [self.gpu_idx] if isinstance(self.gpu_idx, int) else self.gpu_idx

    @property
    def engine_options(self) -> dict[str, Any]:
        """Return the keys that are none of the above, without those that are null."""
        return {key: value for key, value in (self.model_extra or {}).items() if value is not None}
