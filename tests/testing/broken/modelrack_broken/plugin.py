from typing import Literal

from pydantic import Field

from modelrack.hooks import Engine, PythonWorker, hookimpl
from modelrack_echo.options import EchoOptions
from modelrack_echo.plugin import accepts

MODELRACK_API = 1


class BrokenOptions(EchoOptions):
    """Those of echo, and the fault."""

    fault: Literal[
        "none", "mixes", "miscounts", "drops", "runs_on", "obeys_silently", "fails", "works_on", "refuses"
    ] = Field("none", description="What it does wrong; `refuses` is no fault, but takes what echo can do away.")


def describe(name: str, *features: str) -> Engine:
    return Engine(
        name=name,
        model_types=("LLM",),
        worker=PythonWorker(loader="modelrack_broken.worker:BrokenLoader"),
        accepts=accepts,
        options=BrokenOptions,
        features=features,
    )


@hookimpl
def register_engines() -> list[Engine]:
    claims = ("sampling", "seed", "n", "ignore_eos")
    return [
        describe("broken", *claims),
        describe("boaster", *claims, "logit_bias", "echo"),
        describe("dreamer", *claims, "telepathy"),
        describe("modest"),
    ]
