"""Make small GGUF models with random weights, for tests and benchmarks; needs the packages `gguf` and `numpy`.

The text that such a model writes has no meaning, but it is always printable: the output rows of all other tokens are
zero, so a greedy choice never falls on them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = [
    "CHATML",
    "CONTROL",
    "LARGE",
    "NORMAL",
    "SPECIAL_TOKENS",
    "TINY",
    "Shape",
    "byte_alphabet",
    "printable_tokens",
    "random_weights",
    "vocabulary",
    "write_random_model",
    "write_tokenizer",
]

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""The chat template that the models carry unless they are given another."""

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")
"""The last tokens of the vocabulary: the first begins texts, the third ends answers."""

NORMAL, CONTROL = 1, 3
"""Types of tokens in a GGUF file."""
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Sizes of a Llama-style model.

    Args:
        file_type: `f32`, `f16` or `q8_0`, for the matrices.
        architecture: `llama`, or `qwen2vl`, whose positions have the parts that images need.
    """

    width: int = 128
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    hidden: int = 384
    context: int = 2048
    file_type: str = "f16"
    architecture: str = "llama"


TINY = Shape()
"""About one million parameters."""

LARGE = Shape(width=768, layers=12, heads=12, kv_heads=12, hidden=2304, context=4096, file_type="q8_0")
"""About a hundred million parameters."""


def write_random_model(
    path: Path, shape: Shape = TINY, *, seed: int = 0, chat_template: str | None = CHATML, fill_in: bool = True
) -> Path:
    """Write a Llama-style model with random weights and a byte-level tokenizer to `path`, and return it.

    Args:
        seed: of the weights; the same seed gives the same file.
        chat_template: Jinja source; None leaves it out.
        fill_in: name the tokens for filling in the middle.
    """
    import gguf  # type: ignore[import-untyped, unused-ignore]

    writer = gguf.GGUFWriter(path, shape.architecture)
    writer.add_name("random")
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.hidden)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    head = shape.width // shape.heads
    writer.add_rope_dimension_count(head)
    if shape.architecture == "qwen2vl":
        writer.add_rope_dimension_sections([head // 4, head // 8, head // 8, 0])
    writer.add_file_type({"f32": 0, "f16": 1, "q8_0": 7}[shape.file_type])
    printable = write_tokenizer(writer, chat_template, fill_in)
    _write_weights(writer, shape, seed, printable)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def byte_alphabet() -> list[str]:
    """Return the character that stands for each byte in a byte-level vocabulary (GPT-2's `bytes_to_unicode`)."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    names = {byte: chr(byte) for byte in plain}
    for byte in range(256):
        names.setdefault(byte, chr(256 + len(names) - len(plain)))
    return [names[byte] for byte in range(256)]


def vocabulary() -> tuple[list[str], list[tuple[str, str]]]:
    """Return the tokens as a byte-level vocabulary writes them, and the pairs that are merged."""
    alphabet = byte_alphabet()
    space = alphabet[ord(" ")]
    pairs = [(a, b) for a in _LETTERS for b in "aeiou"] + [(space, a) for a in _LETTERS]
    return [*alphabet, *(a + b for a, b in pairs), *SPECIAL_TOKENS], pairs


def printable_tokens() -> list[bool]:
    """Return for each token of `vocabulary` whether its text is printable ASCII."""
    rest = len(vocabulary()[0]) - 256 - len(SPECIAL_TOKENS)
    return [32 <= byte < 127 for byte in range(256)] + [True] * rest + [False] * len(SPECIAL_TOKENS)


def write_tokenizer(writer: Any, chat_template: str | None = CHATML, fill_in: bool = True) -> list[bool]:
    """Add the vocabulary, and return for each token whether its text is printable ASCII."""
    tokens, pairs = vocabulary()
    first = len(tokens) - len(SPECIAL_TOKENS)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([NORMAL] * first + [CONTROL] * len(SPECIAL_TOKENS))
    writer.add_token_merges([f"{a} {b}" for a, b in pairs])
    writer.add_bos_token_id(first)
    writer.add_eos_token_id(first + 2)
    writer.add_add_bos_token(False)
    if fill_in:
        for key, offset in (("fim_pre", 3), ("fim_suf", 4), ("fim_mid", 5)):
            writer.add_uint32(f"tokenizer.ggml.{key}_token_id", first + offset)
    if chat_template is not None:
        writer.add_chat_template(chat_template)
    return printable_tokens()


def _write_weights(writer: Any, shape: Shape, seed: int, printable: list[bool]) -> None:
    import gguf

    kind = {
        "f32": gguf.GGMLQuantizationType.F32,
        "f16": gguf.GGMLQuantizationType.F16,
        "q8_0": gguf.GGMLQuantizationType.Q8_0,
    }[shape.file_type]
    for name, weights in random_weights(shape, seed, printable):
        if weights.ndim == 1:
            writer.add_tensor(f"{name}.weight", weights)
        else:
            writer.add_tensor(f"{name}.weight", gguf.quants.quantize(weights, kind), raw_dtype=kind)


def random_weights(shape: Shape, seed: int, printable: Sequence[bool]) -> Iterator[tuple[str, Any]]:
    """Yield the weights of a Llama-style model: GGUF's name without `.weight`, and a float32 array as GGUF orders it.

    Args:
        printable: for each token, whether it may be said.
    """
    import numpy as np

    random = np.random.default_rng(seed)

    def make(rows: int, columns: int, scale: float) -> Any:
        return random.standard_normal((rows, columns), dtype=np.float32) * np.float32(scale)

    width, kv_width, spread = shape.width, shape.width // shape.heads * shape.kv_heads, shape.width**-0.5
    ones = np.ones(width, dtype=np.float32)
    yield "token_embd", make(len(printable), width, 1.0)
    for layer in range(shape.layers):
        block = f"blk.{layer}"
        yield f"{block}.attn_norm", ones
        yield f"{block}.attn_q", make(width, width, spread)
        yield f"{block}.attn_k", make(kv_width, width, spread)
        yield f"{block}.attn_v", make(kv_width, width, spread)
        yield f"{block}.attn_output", make(width, width, spread)
        yield f"{block}.ffn_norm", ones
        yield f"{block}.ffn_gate", make(shape.hidden, width, spread)
        yield f"{block}.ffn_up", make(shape.hidden, width, spread)
        yield f"{block}.ffn_down", make(width, shape.hidden, shape.hidden**-0.5)
    yield "output_norm", ones
    output = make(len(printable), width, 3 * spread)
    output[~np.array(printable)] = 0
    yield "output", output
