"""From the options to llama.cpp's parameters."""

import ctypes
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modelrack.errors import LaunchFailed
from modelrack.hooks import LoadPlan

from . import bindings
from .bindings import api
from .memory import Sizes

__all__ = ["build_context_params", "build_model_params", "count_threads", "existing", "init_numa", "set_attention"]

_FLASH = {"auto": "AUTO", "on": "ENABLED", "off": "DISABLED"}
_ROPE = {"model": "UNSPECIFIED", "none": "NONE", "linear": "LINEAR", "yarn": "YARN", "longrope": "LONGROPE"}
_LOAD = {(True, True): "MMAP_MLOCK", (True, False): "MMAP", (False, True): "MLOCK", (False, False): "NONE"}


def count_threads(asked: int | None, cores: int) -> int:
    """Return how many threads compute: one less than there are cores, unless something else is asked for.

    llama.cpp's threads spin while they wait for each other: sharing a core with anything costs them most of their
    speed, and the decode loop, the event loop and the clients need one too.
    """
    return asked or max(1, cores - 1)


def existing(path: str, what: str) -> str:
    """Return the path of a file that must be there.

    Raises: LaunchFailed: it is not.
    """
    if not Path(path).is_file():
        remedy = None if Path(path).is_absolute() else "Give its full path: the server runs in another folder."
        raise LaunchFailed(f"The file of {what} does not exist: {path}.", remedy=remedy)
    return path


def init_numa(options: Mapping[str, Any]) -> None:
    """Tell llama.cpp how to treat NUMA nodes."""
    if options["numa"] != "off":
        bindings.init_numa(getattr(api, f"GGML_NUMA_STRATEGY_{options['numa'].upper()}"))


def build_model_params(plan: LoadPlan) -> tuple[Any, Any]:
    """Return the parameters of loading, and what must be kept alive meanwhile.

    Raises: LaunchFailed: layers on accelerators are asked for, and this build has none.
    """
    options = plan.options
    params = bindings.default_model_params()
    params.n_gpu_layers = _count_layers(plan)
    params.split_mode = getattr(api, f"LLAMA_SPLIT_MODE_{options['split_mode'].upper()}")
    params.main_gpu = options["main_gpu"]
    shares = None
    if options["tensor_split"]:
        room = bindings.max_devices()
        if len(options["tensor_split"]) > room:
            raise LaunchFailed(f"tensor_split has {len(options['tensor_split'])} shares; at most {room} are possible.")
        shares = (ctypes.c_float * room)(*options["tensor_split"])
        params.tensor_split = shares
    params.load_mode = getattr(api, f"LLAMA_LOAD_MODE_{_LOAD[options['use_mmap'], options['use_mlock']]}")
    params.check_tensors = options["check_tensors"]
    return params, shares


def _count_layers(plan: LoadPlan) -> int:
    layers = plan.options["n_gpu_layers"]
    if not plan.accelerators:
        if layers not in ("auto", 0):
            raise LaunchFailed(
                f"n_gpu_layers is {layers}, but this replica was given no accelerator.",
                remedy="Launch it with n_gpu set, or leave n_gpu_layers out.",
            )
        return 0
    if not bindings.supports_gpu_offload():
        if layers not in ("auto", 0):
            raise LaunchFailed(
                f"n_gpu_layers is {layers}, but this build of llama-cpp-python runs on the CPU alone.",
                remedy="Compile it for your accelerator, such as with CMAKE_ARGS=-DGGML_CUDA=on pip install "
                "--force-reinstall --no-cache-dir llama-cpp-python, or leave n_gpu_layers out.",
            )
        return 0
    return -1 if layers == "auto" else int(layers)


def build_context_params(plan: LoadPlan, sizes: Sizes, cores: int, *, numbers: int, outputs: int) -> Any:
    """Return the parameters of the context.

    Args:
        numbers: sequences that it can tell apart.
        outputs: most rows of logits of a batch.
    """
    options = plan.options
    params = bindings.default_context_params()
    params.n_ctx = sizes.cells
    params.n_batch = sizes.n_batch
    params.n_ubatch = sizes.n_ubatch
    params.n_seq_max = numbers
    # llama.cpp keeps a row for each sequence that it tells apart, and aborts the process if there is room for fewer.
    params.n_outputs_max = max(outputs, numbers)
    params.kv_unified = True
    params.n_threads = count_threads(options["n_threads"], cores)
    params.n_threads_batch = options["n_threads_batch"] or params.n_threads
    params.swa_full = options["swa_full"]
    set_attention(params, options)
    return params


def set_attention(params: Any, options: Mapping[str, Any]) -> None:
    """Set how a context computes attention."""
    params.type_k = _cache_type(options["cache_type_k"])
    params.type_v = _cache_type(options["cache_type_v"])
    params.flash_attn_type = getattr(api, f"LLAMA_FLASH_ATTN_TYPE_{_FLASH[options['flash_attn']]}")
    params.offload_kqv = options["offload_kv"]
    params.no_perf = True
    params.rope_scaling_type = getattr(api, f"LLAMA_ROPE_SCALING_TYPE_{_ROPE[options['rope_scaling']]}")
    for name in ("rope_freq_base", "rope_freq_scale", "yarn_orig_ctx"):
        setattr(params, name, options[name])
    for name in ("yarn_ext_factor", "yarn_attn_factor", "yarn_beta_fast", "yarn_beta_slow"):
        setattr(params, name, options[name])


def _cache_type(name: str) -> int:
    return int(getattr(api, f"GGML_TYPE_{name.upper()}"))
