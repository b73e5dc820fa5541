"""What a launch asks for that cannot be, beside what the request's own types refuse."""

import os

from ..api.launch import LaunchRequest
from ..catalog.names import expand_home
from ..catalog.resolution import Resolved
from ..errors import BadRequest

__all__ = ["check_adapters", "check_request"]


def check_request(request: LaunchRequest) -> None:
    """Refuse what cannot be honoured on one machine, and variables that would change which code a worker runs.

    Raises: BadRequest: names the field.
    """
    if request.worker_ip not in (None, "", "127.0.0.1", "localhost", "0.0.0.0"):
        raise BadRequest(f"There is no worker at {request.worker_ip}: models run on this machine.", param="worker_ip")
    for name, value in (request.envs or {}).items():
        if not name.isidentifier() or name == "PATH" or name.startswith(("LD_", "DYLD_", "PYTHON", "MODELRACK_")):
            raise BadRequest(f"Environment variable '{name}' may not be set for a worker.", param=f"envs.{name}")
        if "\0" in value:
            raise BadRequest(f"Environment variable '{name}' holds a zero byte.", param=f"envs.{name}")


def check_adapters(request: LaunchRequest, resolved: Resolved) -> None:
    """Refuse adapters that the engine cannot load, or that are not there.

    Raises: BadRequest: names the field.
    """
    config = request.peft_model_config
    if config is None:
        return
    if config.lora_list and not resolved.engine.takes_lora:
        raise BadRequest(
            f"Engine '{resolved.engine.name}' takes no LoRA adapters.", param="peft_model_config.lora_list"
        )
    for number, adapter in enumerate(config.lora_list):
        if not os.path.exists(expand_home(adapter.local_path)):  # also of what cannot be looked at
            reason = f"The adapter '{adapter.lora_name}' is not at {adapter.local_path}."
            raise BadRequest(reason, param=f"peft_model_config.lora_list.{number}.local_path")
    for name in ("image_lora_load_kwargs", "image_lora_fuse_kwargs"):
        if getattr(config, name):
            raise BadRequest(
                f"Engine '{resolved.engine.name}' does not take {name}.", param=f"peft_model_config.{name}"
            )
