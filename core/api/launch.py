"""The launch request: which model, on which engine, with which options."""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

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


def _check_uid(value: str | None) -> str | None:
    if value is None:
        return None
    if not re.fullmatch(UID_PATTERN, value):
        raise ValueError("must be 1 to 128 letters, digits and . _ : @ + -, the first one a letter or digit")
    return value


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
    enable_virtual_env: bool | None = None
    virtual_env_packages: list[str] | None = None
    enable_thinking: bool | None = None

    @property
    def gpu_indices(self) -> list[int] | None:
        """Return the accelerators that the user named, or None."""
        return [self.gpu_idx] if isinstance(self.gpu_idx, int) else self.gpu_idx

    @property
    def engine_options(self) -> dict[str, Any]:
        """Return the keys that are none of the above, without those that are null."""
        return {key: value for key, value in (self.model_extra or {}).items() if value is not None}
