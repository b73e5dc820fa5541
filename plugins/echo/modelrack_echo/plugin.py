"""What the plugin registers: the model `echo` and two engines that run it."""

import orjson

from modelrack.hooks import (
    Candidate,
    Command,
    CommandWorker,
    Engine,
    Environment,
    Family,
    LoadPlan,
    Machine,
    MemoryEstimate,
    PythonWorker,
    Variant,
    hookimpl,
)

from .options import EchoCommandOptions, EchoOptions

MODELRACK_API = 1

FORMAT = "echo"


def accepts(candidate: Candidate, machine: Machine) -> str | None:
    """Take the echo model only."""
    return None if candidate.variant.format == FORMAT else f"it runs the format {FORMAT} only"


def estimate(plan: LoadPlan, machine: Machine) -> MemoryEstimate:
    """Return what a worker without a model takes."""
    return MemoryEstimate(weights_bytes=0, host_bytes=48 * 1024 * 1024)


def build_command(plan: LoadPlan, socket: str) -> Command:
    """Return the command that runs the stand-alone server."""
    options = orjson.dumps(dict(plan.options)).decode()
    return Command(
        argv=(
            *(plan.python, "-P", "-m", "modelrack_echo.server"),
            *("--socket", socket, "--model", plan.model_uid, "--options", options),
        ),
        env={"PYTHONUNBUFFERED": "1"},
        ready_path="/health",
    )


@hookimpl
def register_families() -> list[Family]:
    """Describe the model `echo`; it has no files, so nothing is downloaded."""
    return [
        Family(
            name="echo",
            model_type="LLM",
            abilities=("chat", "generate"),
            description="Repeats what it is told. For tests and measurements.",
            context_length=8192,
            variants=(Variant(format=FORMAT),),
        )
    ]


@hookimpl
def register_engines() -> list[Engine]:
    """Describe the engine `echo`, and `echo-command`, the same as a command."""
    return [
        Engine(
            name="echo",
            model_types=("LLM",),
            worker=PythonWorker(loader="modelrack_echo.worker:EchoLoader"),
            accepts=accepts,
            options=EchoOptions,
            environment=Environment(),
            rank=1,
            estimate=estimate,
            # There is one answer to each prompt: sampling has nothing to choose, and every seed gives it.
            features=("sampling", "seed", "n", "ignore_eos"),
        ),
        Engine(
            name="echo-command",
            model_types=("LLM",),
            worker=CommandWorker(build=build_command, routes=("/v1/chat/completions",)),
            accepts=accepts,
            options=EchoCommandOptions,
            environment=Environment(),
            estimate=estimate,
        ),
    ]
