"""Plugins as a server has them, with an engine that runs nothing."""

from typing import Any

from modelrack.builtin import register_hubs, register_model_types
from modelrack.hooks import Candidate, Engine, Family, Machine, Options, PythonWorker
from modelrack.hooks.loader import PluginRow, Plugins


class LlamaOptions(Options):
    n_ctx: int = 4096
    flash: bool = False
    lora: tuple[str, ...] = ()


def takes(*formats: str) -> Any:
    def accepts(candidate: Candidate, machine: Machine) -> str | None:
        form = candidate.variant.format
        return None if form in formats else f"it takes {' and '.join(formats)}, not {form}"

    return accepts


LLAMA = Engine(
    name="llama.cpp",
    model_types=("LLM",),
    worker=PythonWorker(loader="nowhere:Loader"),
    accepts=takes("gguf"),
    options=LlamaOptions,
    aliases=("llamacpp",),
    requires=("orjson",),
    rank=10,
)
ABSENT = Engine(
    name="vLLM",
    model_types=("LLM",),
    worker=PythonWorker(loader="nowhere:Loader"),
    accepts=takes("pytorch", "awq", "gptq"),
    requires=("no_such_engine_library",),
    remedy="pip install modelrack-llm-vllm",
    rank=20,
)
TORCH = Engine(
    name="Transformers",
    model_types=("LLM", "embedding"),
    worker=PythonWorker(loader="nowhere:Loader"),
    accepts=takes("pytorch"),
    rank=5,
)


def machine(memory_gb: float = 16) -> Machine:
    return Machine(
        platform="linux",
        architecture="x86_64",
        cores=4,
        memory_total_bytes=int(memory_gb * 1e9),
        memory_free_bytes=int(memory_gb * 1e9),
    )


def llm_plugins(*families: Family, engines: tuple[Engine, ...] = (LLAMA,)) -> Plugins:
    plugins = Plugins()
    plugins.rows += [PluginRow(name="builtin"), PluginRow(name="one"), PluginRow(name="two")]
    plugins.model_types.update({kind.name: kind for kind in register_model_types()})
    plugins.hubs.update({hub.name: hub for hub in register_hubs()})
    plugins.engines.update({engine.name: engine for engine in engines})
    plugins.families += [("one", family) for family in families]
    return plugins
