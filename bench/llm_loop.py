"""Run llama.cpp with nothing around it: one sequence, llama-cpp-python's low-level calls, no server, no plugin.

Started by `llm_engines.py` in a process of its own, which it tells on standard input what to do, a line of JSON each
time: the prompt's tokens and how many more to generate. It answers with the seconds that this took.
"""

import ctypes
import json
import sys
from collections.abc import Iterable
from time import perf_counter
from typing import Any

import llama_cpp as lib

__all__ = ["Loop"]


def _drop(level: int, text: bytes, user_data: Any) -> None:
    """Drop what llama.cpp logs."""


_LOG = lib.llama_log_callback(_drop)


class Loop:
    """A model, a context and a greedy sampler."""

    def __init__(self, path: str, context: int, threads: int) -> None:
        lib.llama_log_set(_LOG, ctypes.c_void_p(0))
        lib.llama_backend_init()
        self.model = lib.llama_model_load_from_file(path.encode(), lib.llama_model_default_params())
        assert self.model, f"{path} cannot be loaded"
        params = lib.llama_context_default_params()
        params.n_ctx, params.n_batch = context, context
        params.n_threads, params.n_threads_batch = threads, threads
        self.context = lib.llama_init_from_model(self.model, params)
        assert self.context, "there is no memory for the context"
        self.vocab = lib.llama_model_get_vocab(self.model)
        self.sampler = lib.llama_sampler_init_greedy()

    def run(self, prompt: Iterable[int], count: int) -> float:
        """Read a prompt, generate `count` tokens with their texts, and return the seconds it took."""
        tokens = list(prompt)
        read = (lib.llama_token * len(tokens))(*tokens)  # a batch only points to it
        piece = ctypes.create_string_buffer(64)
        one = (lib.llama_token * 1)()
        begin = perf_counter()
        lib.llama_memory_clear(lib.llama_get_memory(self.context), True)
        batch = lib.llama_batch_get_one(read, len(tokens))
        for number in range(count):
            assert lib.llama_decode(self.context, batch) == 0
            one[0] = lib.llama_sampler_sample(self.sampler, self.context, -1)
            lib.llama_token_to_piece(self.vocab, one[0], piece, len(piece), 0, False)
            if number == 0:
                batch = lib.llama_batch_get_one(one, 1)
        return perf_counter() - begin


def main() -> None:
    path, context, threads = sys.argv[1:]
    loop = Loop(path, int(context), int(threads))
    print("ready", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        print(loop.run(order["prompt"], order["count"]), flush=True)


if __name__ == "__main__":
    main()
