"""llama.cpp's multimodal library as the engine calls it: the only module that imports that part of llama-cpp-python.

Raises on import: OSError, RuntimeError or ImportError where llama-cpp-python was built without it.
"""

import ctypes
from collections.abc import Callable
from typing import Any

from llama_cpp import mtmd_cpp as api

__all__ = ["ContextParams", "InputText", "Position", "api", "function"]

_POINTER = ctypes.c_void_p
_SIZE = ctypes.c_size_t
_INT = ctypes.c_int32
_BOOL = ctypes.c_bool

ContextParams = api.mtmd_context_params
InputText = api.mtmd_input_text
Position = api.mtmd_decoder_pos

TEXT, IMAGE = api.MTMD_INPUT_CHUNK_TYPE_TEXT, api.MTMD_INPUT_CHUNK_TYPE_IMAGE


def function(name: str, result: Any, *arguments: Any) -> Callable[..., Any]:
    """Return a function of the library with its types set; it lets Python's lock go."""
    found = api._libmtmd[name]
    found.restype = result
    found.argtypes = arguments
    return found  # type: ignore[no-any-return, unused-ignore]


default_params = function("mtmd_context_params_default", ContextParams)
init_context = function("mtmd_init_from_file", _POINTER, ctypes.c_char_p, _POINTER, ContextParams)
free_context = function("mtmd_free", None, _POINTER)
supports_vision = function("mtmd_support_vision", _BOOL, _POINTER)
is_non_causal = function("mtmd_decode_use_non_causal", _BOOL, _POINTER, _POINTER)
uses_mrope = function("mtmd_decode_use_mrope", _BOOL, _POINTER)

default_media_options = function("mtmd_helper_init_opt_default", api.mtmd_helper_init_opt)
read_bitmap = function(
    "mtmd_helper_bitmap_init_from_buf",
    api.mtmd_helper_bitmap_wrapper,
    _POINTER,
    ctypes.c_char_p,
    _SIZE,
    _BOOL,
    api.mtmd_helper_init_opt,
)
free_bitmap = function("mtmd_bitmap_free", None, _POINTER)
free_video = function("mtmd_helper_video_free", None, _POINTER)
is_audio = function("mtmd_bitmap_is_audio", _BOOL, _POINTER)

new_chunks = function("mtmd_input_chunks_init", _POINTER)
free_chunks = function("mtmd_input_chunks_free", None, _POINTER)
count_chunks = function("mtmd_input_chunks_size", _SIZE, _POINTER)
chunk_at = function("mtmd_input_chunks_get", _POINTER, _POINTER, _SIZE)
tokenize = function("mtmd_tokenize", _INT, _POINTER, _POINTER, ctypes.POINTER(InputText), _POINTER, _SIZE)
chunk_type = function("mtmd_input_chunk_get_type", ctypes.c_int, _POINTER)
chunk_tokens = function("mtmd_input_chunk_get_n_tokens", _SIZE, _POINTER)
chunk_positions = function("mtmd_input_chunk_get_n_pos", _INT, _POINTER)
chunk_text = function("mtmd_input_chunk_get_tokens_text", ctypes.POINTER(_INT), _POINTER, ctypes.POINTER(_SIZE))
chunk_id = function("mtmd_input_chunk_get_id", ctypes.c_char_p, _POINTER)
chunk_image = function("mtmd_input_chunk_get_tokens_image", _POINTER, _POINTER)
image_positions = function("mtmd_helper_image_get_decoder_pos", None, _POINTER, _INT, ctypes.POINTER(Position))
encode_chunk = function("mtmd_encode_chunk", _INT, _POINTER, _POINTER)
output = function("mtmd_get_output_embd", _POINTER, _POINTER)
set_log = function("mtmd_helper_log_set", None, _POINTER, _POINTER)
