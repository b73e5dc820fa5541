"""Every setting of the server: the only place that reads `MODELRACK_*` variables."""

import re
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, FiniteFloat, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

__all__ = ["Settings", "get_settings"]


_PUBLIC_URL = re.compile(
    r"https?://([A-Za-z0-9._-]{1,255}|\[[0-9A-Fa-f:.]{2,64}\])(:[0-9]{1,5})?(/[A-Za-z0-9._~-]+)*/?"
)


def _absolute(path: Path) -> Path:
    try:
        return path.expanduser().absolute()
    except RuntimeError as error:  # as in a container that runs as a user whom nobody has entered
        raise ValueError(f"there is no home folder for {path}: give the full path of a folder") from error


Folder = Annotated[Path, AfterValidator(_absolute)]
"""A folder by its full path: workers have another working directory, and no shell has expanded `~` in a variable."""


class Settings(BaseSettings):
    """Settings with their defaults; each is read from `MODELRACK_<NAME>`."""

    model_config = SettingsConfigDict(env_prefix="MODELRACK_", env_ignore_empty=True, extra="ignore", frozen=True)

    home: Folder = Field(
        Path("~/.modelrack"), validate_default=True, description="Folder of the store, logs, sockets and environments."
    )
    cache: Folder | None = Field(
        None, description="Folder of downloaded models; default: `models` under the home folder."
    )
    host: str = Field("127.0.0.1", min_length=1, description="Address to listen on.")
    port: int = Field(9997, ge=0, le=65535, description="Port to listen on; 0 takes any free one.")
    api_keys: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Keys that clients must send, comma-separated."
    )
    plugins: str | None = Field(None, description="Comma-separated names of the plugins to load; default: all.")
    max_body_mb: FiniteFloat = Field(64, gt=0, description="Largest request body, in MiB; above: 413.")
    lease_s: FiniteFloat = Field(60, gt=0, description="Seconds after which a worker without a server ends itself.")
    start_stall_s: FiniteFloat = Field(120, gt=0, description="Seconds a start may go without any progress.")
    start_limit_s: FiniteFloat = Field(3600, gt=0, description="Seconds a start may take at most.")
    drain_s: FiniteFloat = Field(30, ge=0, description="Seconds a stopping worker may take to answer what it has.")
    stop_s: FiniteFloat = Field(5, ge=0, description="Seconds between SIGTERM and SIGKILL.")
    restart_limit: int = Field(5, ge=0, description="Starts that may fail in a row before a model is given up.")
    log_format: Literal["text", "json"] = Field("text", description="Form of the log lines.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level that is logged.")
    hub: str = Field("huggingface", description="Hub that downloads come from where the request names none.")
    fetch_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Hosts (`name` or `name:port`, comma-separated) that URLs in requests may name although their "
        "addresses are not public.",
    )
    public_url: str | None = Field(
        None,
        description="Address at which clients see the server (`https://models.example.org/rack`), for URLs in answers; "
        "default: what a request's `Host` says.",
    )
    files_ttl_s: FiniteFloat = Field(3600, gt=0, description="Seconds for which URLs of files in answers are good.")
    files_max_mb: FiniteFloat = Field(
        1024, gt=0, description="Size of all such files together, in MiB; the oldest go first."
    )
    trust_remote_code: bool = Field(
        False, description="Whether launches may ask engines to run the Python code that comes with a model."
    )

    @field_validator("api_keys", "fetch_hosts", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("public_url")
    @classmethod
    def _check_public_url(cls, value: str | None) -> str | None:
        if value is not None and not _PUBLIC_URL.fullmatch(value):
            raise ValueError("must be an http or https address with nothing after its path")
        return value

    @property
    def cache_dir(self) -> Path:
        """Return the folder of downloaded models."""
        return self.cache or self.home / "models"


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """Return the settings of this process, read once."""
    return Settings()
