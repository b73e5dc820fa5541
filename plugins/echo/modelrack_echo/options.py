"""The options of the echo engines."""

from pydantic import Field

from modelrack.hooks import Options

__all__ = ["EchoCommandOptions", "EchoOptions"]


class EchoCommandOptions(Options):
    """Options of both engines: how to answer, and which faults to show."""

    repeat: bool = Field(False, description="Start again at the text's end, so that max_tokens tokens come always.")
    token_delay_s: float = Field(0, ge=0, description="Seconds between two tokens.")
    load_delay_s: float = Field(0, ge=0, description="Seconds the load takes, with progress.")
    load_failure: str | None = Field(None, description="Fail the load with this message.")
    crash_on_load: bool = Field(False, description="Die in the load.")
    hang_on_load: bool = Field(False, description="Never finish the load.")
    crash_after_tokens: int | None = Field(None, ge=0, description="Die after so many tokens, over all requests.")
    hang_after_tokens: int | None = Field(None, ge=0, description="Stop each answer from coming after so many tokens.")
    ignore_sigterm: bool = Field(False, description="Be deaf to SIGTERM.")


class EchoOptions(EchoCommandOptions):
    """Options of the engine `echo`."""

    context_length: int = Field(8192, ge=1, description="Tokens that prompt and answer may have together.")
