"""llama.cpp's functions as the engine calls them: the only module that imports llama-cpp-python.

Calls that are over in microseconds keep Python's lock: a thread that lets it go may wait milliseconds to have it back.
Those that compute (`decode`, loading, tokenizing long texts) let it go.
"""

import ctypes
from collections.abc import Callable
from typing import Any

import llama_cpp
from llama_cpp import llama_cpp as api

__all__ = [
    "Batch",
    "Handle",
    "LogitBias",
    "api",
    "decode",
    "function",
    "init_backend",
    "logits_row",
    "package_version",
]

Handle = int
"""An address: of a model, a vocabulary, a context, its memory or a sampler."""

_LIBRARY = api._lib
_QUICK = ctypes.PyDLL(_LIBRARY._name, handle=_LIBRARY._handle)

_POINTER = ctypes.c_void_p
_INT = ctypes.c_int32
_BOOL = ctypes.c_bool
_FLOAT = ctypes.c_float
_SIZE = ctypes.c_size_t

LogitBias = api.llama_logit_bias


def package_version() -> str:
    """Return the version of llama-cpp-python."""
    return str(llama_cpp.__version__)


def function(name: str, result: Any, *arguments: Any, quick: bool = True) -> Callable[..., Any]:
    """Return a function of llama.cpp with its types set.

    Args:
        quick: keep Python's lock while it runs.
    """
    # By item, every time a new object: those by attribute are llama-cpp-python's own, with its own types.
    found = (_QUICK if quick else _LIBRARY)[name]
    found.restype = result
    found.argtypes = arguments
    return found  # type: ignore[no-any-return, unused-ignore]


init_backend = function("llama_backend_init", None, quick=False)
init_numa = function("llama_numa_init", None, ctypes.c_int, quick=False)
supports_gpu_offload = function("llama_supports_gpu_offload", _BOOL)
max_devices = function("llama_max_devices", _SIZE)
max_sequences = function("llama_max_parallel_sequences", _SIZE)

load_model = function("llama_model_load_from_file", _POINTER, ctypes.c_char_p, api.llama_model_params, quick=False)
free_model = function("llama_model_free", None, _POINTER, quick=False)
init_context = function("llama_init_from_model", _POINTER, _POINTER, api.llama_context_params, quick=False)
free_context = function("llama_free", None, _POINTER, quick=False)
default_model_params = function("llama_model_default_params", api.llama_model_params)
default_context_params = function("llama_context_default_params", api.llama_context_params)
set_warmup = function("llama_set_warmup", None, _POINTER, _BOOL)
synchronize = function("llama_synchronize", None, _POINTER, quick=False)
get_memory = function("llama_get_memory", _POINTER, _POINTER)
context_length = function("llama_n_ctx", ctypes.c_uint32, _POINTER)

model_vocab = function("llama_model_get_vocab", _POINTER, _POINTER)
model_description = function("llama_model_desc", _INT, _POINTER, ctypes.c_char_p, _SIZE)
model_trained_context = function("llama_model_n_ctx_train", _INT, _POINTER)
model_window = function("llama_model_n_swa", _INT, _POINTER)
model_has_encoder = function("llama_model_has_encoder", _BOOL, _POINTER)
model_has_decoder = function("llama_model_has_decoder", _BOOL, _POINTER)
model_is_recurrent = function("llama_model_is_recurrent", _BOOL, _POINTER)
model_is_hybrid = function("llama_model_is_hybrid", _BOOL, _POINTER)
model_is_diffusion = function("llama_model_is_diffusion", _BOOL, _POINTER)
model_output_width = function("llama_model_n_embd_out", _INT, _POINTER)
model_template = function("llama_model_chat_template", ctypes.c_char_p, _POINTER, ctypes.c_char_p)
model_value = function("llama_model_meta_val_str", _INT, _POINTER, ctypes.c_char_p, ctypes.c_char_p, _SIZE)

vocab_size = function("llama_vocab_n_tokens", _INT, _POINTER)
vocab_type = function("llama_vocab_type", ctypes.c_int, _POINTER)
vocab_bos = function("llama_vocab_bos", _INT, _POINTER)
vocab_eos = function("llama_vocab_eos", _INT, _POINTER)
vocab_sep = function("llama_vocab_sep", _INT, _POINTER)
vocab_pad = function("llama_vocab_pad", _INT, _POINTER)
vocab_adds_bos = function("llama_vocab_get_add_bos", _BOOL, _POINTER)
vocab_adds_eos = function("llama_vocab_get_add_eos", _BOOL, _POINTER)
vocab_adds_sep = function("llama_vocab_get_add_sep", _BOOL, _POINTER)
vocab_attributes = function("llama_vocab_get_attr", ctypes.c_int, _POINTER, _INT)
vocab_is_end = function("llama_vocab_is_eog", _BOOL, _POINTER, _INT)
vocab_text = function("llama_vocab_get_text", ctypes.c_char_p, _POINTER, _INT)
vocab_fill_prefix = function("llama_vocab_fim_pre", _INT, _POINTER)
vocab_fill_suffix = function("llama_vocab_fim_suf", _INT, _POINTER)
vocab_fill_middle = function("llama_vocab_fim_mid", _INT, _POINTER)
token_to_piece = function("llama_token_to_piece", _INT, _POINTER, _INT, ctypes.c_char_p, _INT, _INT, _BOOL)

_TOKENIZE = (_POINTER, ctypes.c_char_p, _INT, _POINTER, _INT, _BOOL, _BOOL)
tokenize_short = function("llama_tokenize", _INT, *_TOKENIZE)
tokenize_long = function("llama_tokenize", _INT, *_TOKENIZE, quick=False)

decode_batch = function("llama_decode", _INT, _POINTER, api.llama_batch, quick=False)
encode_batch = function("llama_encode", _INT, _POINTER, api.llama_batch, quick=False)
pooled_row = function("llama_get_embeddings_seq", _POINTER, _POINTER, _INT, quick=False)
logits_row = function("llama_get_logits_ith", _POINTER, _POINTER, _INT)

memory_clear = function("llama_memory_clear", None, _POINTER, _BOOL, quick=False)
memory_remove = function("llama_memory_seq_rm", _BOOL, _POINTER, _INT, _INT, _INT)
memory_copy = function("llama_memory_seq_cp", None, _POINTER, _INT, _INT, _INT, _INT)
memory_first = function("llama_memory_seq_pos_min", _INT, _POINTER, _INT)
memory_last = function("llama_memory_seq_pos_max", _INT, _POINTER, _INT)

chain_params = function("llama_sampler_chain_default_params", api.llama_sampler_chain_params)
chain_init = function("llama_sampler_chain_init", _POINTER, api.llama_sampler_chain_params)
chain_add = function("llama_sampler_chain_add", None, _POINTER, _POINTER)
sampler_free = function("llama_sampler_free", None, _POINTER)
sampler_accept = function("llama_sampler_accept", None, _POINTER, _INT)
sample_quick = function("llama_sampler_sample", _INT, _POINTER, _POINTER, _INT)
sample_slow = function("llama_sampler_sample", _INT, _POINTER, _POINTER, _INT, quick=False)
sampler_greedy = function("llama_sampler_init_greedy", _POINTER)
sampler_dist = function("llama_sampler_init_dist", _POINTER, ctypes.c_uint32)
sampler_top_k = function("llama_sampler_init_top_k", _POINTER, _INT)
sampler_top_p = function("llama_sampler_init_top_p", _POINTER, _FLOAT, _SIZE)
sampler_min_p = function("llama_sampler_init_min_p", _POINTER, _FLOAT, _SIZE)
sampler_typical = function("llama_sampler_init_typical", _POINTER, _FLOAT, _SIZE)
sampler_temperature = function("llama_sampler_init_temp", _POINTER, _FLOAT)
sampler_bias = function("llama_sampler_init_logit_bias", _POINTER, _INT, _INT, _POINTER)
sampler_penalties = function("llama_sampler_init_penalties", _POINTER, _INT, _INT, _FLOAT, _FLOAT, _FLOAT)
sampler_dry = function("llama_sampler_init_dry", _POINTER, _POINTER, _FLOAT, _FLOAT, _INT, _INT, _POINTER, _SIZE)

log_callback = api.llama_log_callback
set_log = function("llama_log_set", None, api.llama_log_callback, _POINTER)
ProgressCallback = api.llama_progress_callback


class Batch:
    """Tokens of one call of `decode`, each of one sequence. The arrays are written directly.

    Args:
        capacity: most tokens of a call.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.token = (ctypes.c_int32 * capacity)()
        self.position = (ctypes.c_int32 * capacity)()
        self.sequence = (ctypes.c_int32 * capacity)()
        self.wanted = (ctypes.c_int8 * capacity)()
        ones = (ctypes.c_int32 * capacity)(*([1] * capacity))
        pointer = ctypes.POINTER(ctypes.c_int32)
        first, width = ctypes.addressof(self.sequence), ctypes.sizeof(ctypes.c_int32)
        addresses = (ctypes.c_size_t * capacity)(*(first + width * index for index in range(capacity)))
        self._keep = (ones, addresses)
        self.raw = api.llama_batch(
            0,
            ctypes.cast(self.token, pointer),
            None,
            ctypes.cast(self.position, pointer),
            ctypes.cast(ones, pointer),
            ctypes.cast(addresses, ctypes.POINTER(pointer)),
            ctypes.cast(self.wanted, ctypes.POINTER(ctypes.c_int8)),
        )


def decode(context: Handle, batch: Batch, count: int) -> int:
    """Compute the first `count` tokens of a batch; returns llama.cpp's status, 0 is success. Lets Python's lock go."""
    batch.raw.n_tokens = count
    return decode_batch(context, batch.raw)  # type: ignore[no-any-return]
