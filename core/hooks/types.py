"""The frozen values that cross between the server and its plugins.

Everything here is cheap to import and to make: plugins build these values in the server's process, so no module that
holds them may import an engine.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

__all__ = [
    "Accelerator",
    "Candidate",
    "Command",
    "CommandWorker",
    "Engine",
    "Environment",
    "Family",
    "Hub",
    "InstanceEvent",
    "LoadPlan",
    "Machine",
    "MemoryEstimate",
    "ModelFiles",
    "ModelType",
    "Options",
    "OutputFormat",
    "PythonWorker",
    "Route",
    "Source",
    "Variant",
]


class Options(BaseModel):
    """Base of an engine's typed options: one declaration gives validation, `modelrack engine` and the docs.

    Unknown keys are refused, by name. Values from the command line arrive as strings and are coerced.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where the files of a variant can be had.

    Args:
        hub: name of a registered hub (`huggingface`, `modelscope`), or `file` for a path on this machine.
        repo: the hub's repository id, or an absolute path (a file or a folder) for `file`.
        revision: branch, tag or commit; None is the hub's default branch.
        quantizations: those this source holds; empty means "as the variant says".
        file: template of a file name over `{quantization}` (GGUF); None means the whole repository.
        split_file: template over `{quantization}` and `{part}` for files cut into parts.
        parts: number of parts, or the parts' names, by quantization.
        projectors: names of multimodal projector files beside the weights.
    """

    hub: str
    repo: str
    revision: str | None = None
    quantizations: tuple[str, ...] = ()
    file: str | None = None
    split_file: str | None = None
    parts: Mapping[str, int | tuple[str, ...]] = field(default_factory=dict)
    projectors: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One loadable form of a family.

    Args:
        format: `gguf`, `pytorch` (a folder as Transformers reads it), `gptq`, `awq`, `fp8`, `bnb`, `mlx`, …
        size_b: parameters, in billions; None where the type has no sizes.
        active_b: parameters used for a token, in billions, for mixtures of experts.
        sources: where the files are, in order of preference.
    """

    format: str
    size_b: float | None = None
    active_b: float | None = None
    sources: tuple[Source, ...] = ()

    @property
    def quantizations(self) -> tuple[str, ...]:
        """Return the quantizations of all sources, in order and without repetition; `("none",)` where none is named."""
        names = dict.fromkeys(q for source in self.sources for q in source.quantizations)
        return tuple(names) or ("none",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A named model as users know it, with its facts and abilities.

    Args:
        model_type: `LLM`, `embedding`, `rerank`, `image`, `audio`, `video`, or one a plugin brings.
        abilities: `chat`, `generate`, `vision`, `tools`, `reasoning`, `hybrid`, `embed`, …
        context_length: tokens; None where it has no meaning or is not known.
        architectures: what a loader dispatches on (`LlamaForCausalLM`).
        chat_template: Jinja source; None means "the one in the model's files".
        tool_format: how the family writes tool calls (`qwen`, `llama3`, …).
        reasoning_tags: the pair of marks around its reasoning.
        stop: strings that end an answer, beside the model's own end tokens.
        facts: anything else a type needs (`dimensions`, `max_tokens`, …); JSON-ready.
    """

    name: str
    model_type: str
    abilities: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    description: str = ""
    context_length: int | None = None
    architectures: tuple[str, ...] = ()
    chat_template: str | None = None
    tool_format: str | None = None
    reasoning_tags: tuple[str, str] | None = None
    stop: tuple[str, ...] = ()
    variants: tuple[Variant, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Accelerator:
    """One device beside the CPU. Memory in bytes."""

    index: int
    kind: Literal["cuda", "rocm", "mps", "xpu"]
    name: str
    memory_total_bytes: int
    memory_free_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What an engine may run on, as seen at the time of asking.

    Args:
        cores: processors this process may use (affinity and cgroup limits counted).
        platform: `linux`, `darwin` or `win32`.
        architecture: as `platform.machine()` says (`x86_64`, `aarch64`, `arm64`).
    """

    platform: str
    architecture: str
    cores: int
    memory_total_bytes: int
    memory_free_bytes: int
    accelerators: tuple[Accelerator, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One form of a model that an engine is asked about, before anything is downloaded.

    `metadata` is what files on this machine say of themselves (GGUF keys, `config.json`); empty before a download.
    """

    family: Family
    variant: Variant
    quantization: str
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFiles:
    """A model's files on this machine.

    Args:
        path: the file (GGUF: its first part) or folder to load.
        format: as in `Variant.format`.
        projector: multimodal projector file, if there is one.
    """

    path: str
    format: str
    projector: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputFormat:
    """A way in which models write tool calls, their reasoning, or both, and the class that reads it.

    A model's format is the one that its family names (`Family.tool_format`); else the one whose marks its chat template
    has, of several the one with the most marks. Marks are what a template teaches a model to write, never its name.

    Args:
        name: as families say it (`hermes`).
        kind: what it reads.
        parser: dotted path `package.module:Class` of a `modelrack.llm.formats.OutputParser`; imported in workers.
        aliases: other names that families use for it.
        marks: each is a set of strings; a template that has all the strings of one of them teaches this format.
    """

    name: str
    kind: Literal["tools", "reasoning", "both"]
    parser: str
    aliases: tuple[str, ...] = ()
    marks: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """What the Python environment of an engine's worker must hold, where the server's own cannot or shall not do.

    The server makes it once, from what these requirements resolve to on this machine. It puts modelrack, the package
    of the plugin and what modelrack's worker half imports on the worker's path: they do not belong here.

    Args:
        requirements: PEP 508 requirements of all that the worker imports beside the above.
        by_device: further ones by the kind of device that it is made for: `cpu`, `cuda`, `rocm`, `mps` or `xpu`.
        python: PEP 440 specifier of the interpreters that will do.
        absent: distributions that must not be there, whoever requires them; `absent_by_device`: on a kind of device.
    """

    requirements: tuple[str, ...] = ()
    by_device: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    python: str = ">=3.11"
    absent: tuple[str, ...] = ()
    absent_by_device: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadPlan:
    """Everything a worker needs to know: what was resolved, with files, checked options and devices.

    Args:
        options: the engine's options, validated and dumped (JSON-ready, every default filled in).
        accelerators: indices of the devices given to this replica; empty means the CPU alone.
        lora: (name, path) of the adapters to load.
        request_defaults: fields that requests take on where they leave them out and their route knows them.
        output_formats: all that plugins have registered, for LLMs.
        feature_engines: names of the engines that can do what this one does not claim, by feature, for errors.
        python: path of the interpreter that runs the worker, for commands.
        fetch_hosts: hosts that URLs in requests may name although their addresses are not public.
    """

    model_uid: str
    family: Family
    variant: Variant
    quantization: str
    files: ModelFiles
    options: Mapping[str, Any] = field(default_factory=dict)
    accelerators: tuple[int, ...] = ()
    lora: tuple[tuple[str, str], ...] = ()
    request_defaults: Mapping[str, Any] = field(default_factory=dict)
    output_formats: tuple[OutputFormat, ...] = ()
    feature_engines: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    python: str = sys.executable
    fetch_hosts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryEstimate:
    """Bytes a replica will need, by what they are for. `host` is in main memory, the rest on the device it runs on."""

    weights_bytes: int
    cache_bytes: int = 0
    overhead_bytes: int = 0
    host_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PythonWorker:
    """A worker written in Python, hosted by `modelrack.worker`.

    Args:
        loader: dotted path `package.module:Class` of a `modelrack.worker.Loader`, or of a function that makes one of a
            plan; imported in the worker's process.
    """

    loader: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """How to start a server that already speaks the public routes on a Unix socket.

    Args:
        argv: argument vector; never given to a shell.
        env: variables added to the worker's environment.
        ready_path: GET path that answers 200 once the model can answer. If the answer is a JSON object with an object
            `facts`, these are facts known only after loading (`context_length`, …).
    """

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    ready_path: str = "/health"


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandWorker:
    """A worker that is any HTTP server.

    Args:
        build: makes the command from the plan and the Unix socket's path to bind; called in the server's process, in a
            thread. `LoadPlan.python` is the interpreter to use, with modelrack and the plugin on its path.
        routes: public paths it serves; the gateway refuses the others with a 400 that names the engine.
    """

    build: Callable[[LoadPlan, str], Command]
    routes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """A way to run variants.

    Args:
        name: as users type it (`llama.cpp`); unique over all plugins.
        model_types: the types it runs.
        worker: how its worker is started.
        accepts: None if it takes the candidate on this machine, else the reason why not (one clause, lower case).
            Cheap, called often, imports nothing heavy; whether its packages are there is checked beforehand.
        options: its typed options; by type where they differ.
        aliases: other names; an exact name of another engine wins over an alias.
        requires: modules that its worker imports (`xllamacpp`); looked up without importing them.
        remedy: what to do when one is missing (`pip install modelrack-llm-xllamacpp`).
        environment: what an environment of its own must hold; None: it runs beside the server or not at all.
        takes_lora: it loads LoRA adapters; a launch that brings some is refused otherwise.
        rank: preference when the user names no engine; the highest that accepts wins, equal ones by name. A function
            where it depends on the candidate and the machine.
        estimate: memory a replica will need; None means "unknown". Called before a download too: `files.path` is
            empty then. LaunchFailed: it cannot be loaded into the memory at hand, and why.
        features: what it can do beyond the plainest request, in the words of `modelrack.llm.features`; the conformance
            kit holds it to these, and errors of other engines name it.
    """

    name: str
    model_types: tuple[str, ...]
    worker: PythonWorker | CommandWorker
    accepts: Callable[[Candidate, Machine], str | None]
    options: type[Options] | Mapping[str, type[Options]] = Options
    aliases: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()
    remedy: str = ""
    environment: Environment | None = None
    takes_lora: bool = False
    rank: int | Callable[[Candidate, Machine], int] = 0
    estimate: Callable[[LoadPlan, Machine], MemoryEstimate | None] | None = None
    features: tuple[str, ...] = ()

    def options_for(self, model_type: str) -> type[Options]:
        """Return the class of its options for models of a type."""
        return self.options[model_type] if isinstance(self.options, Mapping) else self.options


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A public inference path of a model type.

    Args:
        path: below the root (`/v1/chat/completions`); the request's `model` field names the instance.
        ability: the handler's name in the worker (`chat`).
        request: dotted path `module:Class` of the pydantic model of its JSON body, used for validation and `/docs`.
        response: dotted path of the model of its JSON answer.
        chunk: dotted path of the model of one server-sent event, if it can stream.
        summary: one line for `/docs`.
        needs: the family's abilities, one of which it must have for the route to apply; empty means any.
    """

    path: str
    ability: str
    request: str
    response: str
    chunk: str | None = None
    summary: str = ""
    needs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelType:
    """A type of model and the routes that its instances answer.

    Args:
        name: exact case (`LLM`).
        abilities: those a family of this type may claim; empty means any.
    """

    name: str
    routes: tuple[Route, ...] = ()
    abilities: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Hub:
    """A place models are downloaded from.

    Args:
        fetch: dotted path `module:function` of a `modelrack.catalog.hubs.Fetch`; imported in the download's process.
        requires: modules it imports.
        remedy: what to do when one is missing.
    """

    name: str
    fetch: str
    requires: tuple[str, ...] = ()
    remedy: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceEvent:
    """A change that plugins are told about: `state` of a replica (see lifecycle.state) with the reason, if any."""

    model_uid: str
    replica_id: int
    state: str
    reason: str = ""
