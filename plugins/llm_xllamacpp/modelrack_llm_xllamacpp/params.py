"""From the options to llama.cpp's parameters."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modelrack.errors import LaunchFailed
from modelrack.hooks import LoadPlan

from .memory import Sizes

__all__ = ["build_params", "count_threads", "set_attention", "set_devices", "set_rope"]

_ROPE = {"model": "UNSPECIFIED", "none": "NONE", "linear": "LINEAR", "yarn": "YARN", "longrope": "LONGROPE"}
_SWITCH = {"auto": "AUTO", "on": "ENABLED", "off": "DISABLED"}
_NUMA = {"off": "DISABLED", "distribute": "DISTRIBUTE", "isolate": "ISOLATE", "numactl": "NUMACTL"}
_REASONING = {"auto": "AUTO", "deepseek": "DEEPSEEK", "none": "NONE"}


def count_threads(asked: int | None, cores: int) -> int:
    """Return how many threads compute: one less than there are cores, unless something else is asked for.

    llama.cpp's threads spin while they wait for each other: with as many as there are cores, a little foreign load made
    120 tokens/s into 5, and with one less still 111 were left (two cores, a 100M model).
    """
    return asked or max(1, cores - 1)


def build_params(engine: Any, plan: LoadPlan, sizes: Sizes, cores: int, socket: str) -> Any:
    """Return llama.cpp's parameters.

    Args:
        engine: the module `xllamacpp`.
        socket: path that the embedded server binds.

    Raises: LaunchFailed: this build has no such thing.
    """
    options = plan.options
    params = engine.CommonParams()
    params.model.path = plan.files.path
    params.model_alias = {plan.model_uid}
    params.hostnames = [socket]
    params.port = 0
    # One waits for the next request while others answer; nobody but this worker asks.
    params.n_threads_http = 2
    params.ui = False
    params.endpoint_slots = False
    params.verbosity = options["verbosity"]
    params.warmup = options["warmup"]
    params.check_tensors = options["check_tensors"]
    params.prefill_assistant = False
    params.chat_template = options["chat_template"] or plan.family.chat_template or ""
    params.reasoning_format = _enum(engine, "common_reasoning_format", "COMMON_REASONING_FORMAT_", options, _REASONING)
    _set_sizes(params, options, sizes, cores)
    _set_cache(engine, params, options)
    set_devices(engine, params, plan)
    set_rope(engine, params, options)
    _set_sampling(params, options)
    _set_extras(engine, params, plan)
    return params


def _enum(engine: Any, kind: str, prefix: str, options: Mapping[str, Any], names: Mapping[str, str]) -> Any:
    option = {"common_reasoning_format": "reasoning_format", "llama_flash_attn_type": "flash_attn"}.get(kind, kind)
    return getattr(getattr(engine, kind), prefix + names[options[option]])


def _set_sizes(params: Any, options: Mapping[str, Any], sizes: Sizes, cores: int) -> None:
    params.n_parallel = sizes.n_parallel
    params.kv_unified = options["kv_unified"]
    params.n_ctx = sizes.n_ctx * (1 if options["kv_unified"] else sizes.n_parallel)
    params.n_batch = sizes.n_batch
    params.n_ubatch = sizes.n_ubatch
    params.cpuparams.n_threads = count_threads(options["n_threads"], cores)
    params.cpuparams_batch.n_threads = options["n_threads_batch"] or params.cpuparams.n_threads


def set_attention(engine: Any, params: Any, options: Mapping[str, Any]) -> None:
    """Set how attention is computed, and the types of its cache."""
    params.cache_type_k = getattr(engine.ggml_type, f"GGML_TYPE_{options['cache_type_k'].upper()}")
    params.cache_type_v = getattr(engine.ggml_type, f"GGML_TYPE_{options['cache_type_v'].upper()}")
    params.flash_attn_type = _enum(engine, "llama_flash_attn_type", "LLAMA_FLASH_ATTN_TYPE_", options, _SWITCH)


def _set_cache(engine: Any, params: Any, options: Mapping[str, Any]) -> None:
    set_attention(engine, params, options)
    params.swa_full = options["swa_full"]
    params.cache_prompt = options["cache_prompt"]
    params.n_cache_reuse = options["cache_reuse"]
    params.cache_ram_mib = options["cache_ram_mib"]
    params.cache_idle_slots = options["cache_ram_mib"] > 0
    params.ctx_shift = options["context_shift"]


def set_devices(engine: Any, params: Any, plan: LoadPlan) -> None:
    """Set what lies on which accelerator, and how the file is read.

    Raises: LaunchFailed: layers on accelerators are asked for, and this build has none.
    """
    options = plan.options
    layers = options["n_gpu_layers"]
    # Without this, llama.cpp would shrink on its own what was chosen and checked here.
    params.fit_params = layers == "auto" and bool(plan.accelerators)
    if not plan.accelerators:
        params.n_gpu_layers = 0
    else:
        params.n_gpu_layers = -1 if layers == "auto" else layers
        if not any(
            device["type"] != engine.ggml_backend_dev_type.GGML_BACKEND_DEVICE_TYPE_CPU
            for device in engine.get_device_info()
        ):
            if layers not in ("auto", 0):
                raise LaunchFailed(
                    f"n_gpu_layers is {layers}, but this build of llama.cpp runs on the CPU alone.",
                    remedy="Install xllamacpp's build for your accelerator (see the plugin's README), or leave it out.",
                )
            params.n_gpu_layers = 0
    params.main_gpu = options["main_gpu"]
    params.split_mode = getattr(engine.llama_split_mode, f"LLAMA_SPLIT_MODE_{options['split_mode'].upper()}")
    if options["tensor_split"]:
        shares = list(options["tensor_split"])
        params.tensor_split = shares + [0.0] * (len(params.tensor_split) - len(shares))
    params.no_kv_offload = not options["offload_kv"]
    modes = engine.llama_load_mode
    mapped, locked = options["use_mmap"], options["use_mlock"]
    params.load_mode = {
        (True, True): modes.LLAMA_LOAD_MODE_MMAP_MLOCK,
        (True, False): modes.LLAMA_LOAD_MODE_MMAP,
        (False, True): modes.LLAMA_LOAD_MODE_MLOCK,
        (False, False): modes.LLAMA_LOAD_MODE_NONE,
    }[mapped, locked]
    params.numa = getattr(engine.ggml_numa_strategy, f"GGML_NUMA_STRATEGY_{_NUMA[options['numa']]}")


def set_rope(engine: Any, params: Any, options: Mapping[str, Any]) -> None:
    """Set how positions are rotated."""
    params.rope_freq_base = options["rope_freq_base"]
    params.rope_freq_scale = options["rope_freq_scale"]
    kind = _ROPE[options["rope_scaling"]]
    params.rope_scaling_type = getattr(engine.llama_rope_scaling_type, f"LLAMA_ROPE_SCALING_TYPE_{kind}")
    for name in ("yarn_orig_ctx", "yarn_ext_factor", "yarn_attn_factor", "yarn_beta_fast", "yarn_beta_slow"):
        setattr(params, name, options[name])


def _set_sampling(params: Any, options: Mapping[str, Any]) -> None:
    """Set what holds for requests that say nothing: OpenAI's defaults, unless the model's file recommends others.

    llama.cpp lays the file's `general.sampling.*` over these, as long as none is marked as the user's own choice.
    """
    sampling = params.sampling
    sampling.temp = 1.0
    sampling.top_p = 1.0
    sampling.top_k = 0
    sampling.min_p = 0.0
    if options["seed"] is not None:
        sampling.seed = options["seed"]


def _set_extras(engine: Any, params: Any, plan: LoadPlan) -> None:
    options = plan.options
    projector = options["mmproj"] or plan.files.projector
    if projector:
        params.mmproj.path = _existing(projector, "mmproj")
    params.mmproj_use_gpu = bool(plan.accelerators)
    if plan.lora:
        adapters = []
        for name, path in plan.lora:
            adapter = engine.CommonAdapterLoraInfo()
            adapter.path = _existing(path, f"the adapter '{name}'")
            adapter.scale = 1.0
            adapters.append(adapter)
        params.lora_adapters = adapters
    if options["draft_model"]:
        draft = params.speculative.draft
        draft.mparams.path = _existing(options["draft_model"], "draft_model")
        draft.n_max, draft.n_min, draft.p_min = options["draft_max"], options["draft_min"], options["draft_p_min"]
        params.speculative.types = [engine.common_speculative_type.COMMON_SPECULATIVE_TYPE_DRAFT_SIMPLE]


def _existing(path: str, what: str) -> str:
    if not Path(path).is_file():
        remedy = None if Path(path).is_absolute() else "Give its full path: the server runs in another folder."
        raise LaunchFailed(f"The file of {what} does not exist: {path}.", remedy=remedy)
    return path
