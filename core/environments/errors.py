"""Why an environment cannot be made."""

from ..errors import ModelrackError

__all__ = ["EnvironmentFailed"]


class EnvironmentFailed(ModelrackError):
    """An environment could not be made or used; the message ends with the reason."""

    status = 500
    code = "environment_failed"
