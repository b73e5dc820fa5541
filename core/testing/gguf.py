"""Make small GGUF models with random weights, for tests and benchmarks; needs the packages `gguf` and `numpy`.

The text that such a model writes has no meaning, but it is always printable: the output rows of all other tokens are
zero, so a greedy choice never falls on them.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = [
    "CHATML",
    "CONTROL",
    "LARGE",
    "NORMAL",
    "TINY",
    "Shape",
    "byte_alphabet",
    "write_random_model",
    "write_tokenizer",
]

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""The chat template that the models carry unless they are given another."""

_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")
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


def write_tokenizer(writer: Any, chat_template: str | None = CHATML, fill_in: bool = True) -> list[bool]:
    """Add the vocabulary, and return for each token whether its text is printable ASCII."""
    alphabet = byte_alphabet()
    space = alphabet[ord(" ")]
    pairs = [(a, b) for a in _LETTERS for b in "aeiou"] + [(space, a) for a in _LETTERS]
    tokens = [*alphabet, *(a + b for a, b in pairs), *_SPECIAL]
    first = len(tokens) - len(_SPECIAL)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([NORMAL] * first + [CONTROL] * len(_SPECIAL))
    writer.add_token_merges([f"{a} {b}" for a, b in pairs])
    writer.add_bos_token_id(first)
    writer.add_eos_token_id(first + 2)
    writer.add_add_bos_token(False)
    if fill_in:
        for key, offset in (("fim_pre", 3), ("fim_suf", 4), ("fim_mid", 5)):
            writer.add_uint32(f"tokenizer.ggml.{key}_token_id", first + offset)
    if chat_template is not None:
        writer.add_chat_template(chat_template)
    return [32 <= byte < 127 for byte in range(256)] + [True] * len(pairs) + [False] * len(_SPECIAL)


def _write_weights(writer: Any, shape: Shape, seed: int, printable: list[bool]) -> None:
    import gguf
    import numpy as np

    random = np.random.default_rng(seed)
    kind = {
        "f32": gguf.GGMLQuantizationType.F32,
        "f16": gguf.GGMLQuantizationType.F16,
        "q8_0": gguf.GGMLQuantizationType.Q8_0,
    }[shape.file_type]

    def add(name: str, rows: int, columns: int, scale: float, keep: list[bool] | None = None) -> None:
        weights = random.standard_normal((rows, columns), dtype=np.float32) * np.float32(scale)
        if keep is not None:
            weights[~np.array(keep)] = 0
        writer.add_tensor(f"{name}.weight", gguf.quants.quantize(weights, kind), raw_dtype=kind)

    def add_norm(name: str) -> None:
        writer.add_tensor(f"{name}.weight", np.ones(shape.width, dtype=np.float32))

    width, kv_width, spread = shape.width, shape.width // shape.heads * shape.kv_heads, shape.width**-0.5
    add("token_embd", len(printable), width, 1.0)
    for layer in range(shape.layers):
        block = f"blk.{layer}"
        add_norm(f"{block}.attn_norm")
        add(f"{block}.attn_q", width, width, spread)
        add(f"{block}.attn_k", kv_width, width, spread)
        add(f"{block}.attn_v", kv_width, width, spread)
        add(f"{block}.attn_output", width, width, spread)
        add_norm(f"{block}.ffn_norm")
        add(f"{block}.ffn_gate", shape.hidden, width, spread)
        add(f"{block}.ffn_up", shape.hidden, width, spread)
        add(f"{block}.ffn_down", width, shape.hidden, shape.hidden**-0.5)
    add_norm("output_norm")
    add("output", len(printable), width, 3 * spread, printable)
