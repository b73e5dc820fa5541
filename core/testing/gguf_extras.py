"""Make what goes with a small GGUF model: LoRA adapters, projectors for images; needs `gguf` and `numpy`.

The weights are random, but everything is real: adapters change what `modelrack.testing.gguf` models say, and projectors
turn images into embeddings by a vision transformer of two layers.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from .gguf import TINY, Shape, write_tokenizer

__all__ = [
    "PROJECTOR",
    "ProjectorShape",
    "RecurrentShape",
    "adapter_weights",
    "recurrent_weights",
    "write_adapter",
    "write_projector",
    "write_recurrent_model",
]


def write_adapter(
    path: Path, shape: Shape = TINY, *, seed: int = 0, rank: int = 4, strength: float = 1.0, architecture: str = "llama"
) -> Path:
    """Write a LoRA adapter for a model that `write_random_model` made in this shape, and return its path.

    Args:
        seed: of the weights; adapters of different seeds change a model differently.
        strength: how much it changes, in terms of the model's own weights; at 1 hardly a word stays the same.
        architecture: of the models that it says it is for.
    """
    import gguf  # type: ignore[import-untyped, unused-ignore]

    writer = gguf.GGUFWriter(path, architecture)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(rank))
    for layer, (a, b) in enumerate(adapter_weights(shape, seed, rank, strength)):
        name = f"blk.{layer}.ffn_down.weight"
        writer.add_tensor(f"{name}.lora_a", a)
        writer.add_tensor(f"{name}.lora_b", b)
    _finish(writer)
    return path


def adapter_weights(shape: Shape, seed: int, rank: int, strength: float) -> Iterator[tuple[Any, Any]]:
    """Yield for each layer the two matrices that change its last feed-forward matrix; see `write_adapter`."""
    import numpy as np

    random = np.random.default_rng(seed)
    for _ in range(shape.layers):
        a = random.standard_normal((rank, shape.hidden), dtype=np.float32) * np.float32(shape.hidden**-0.5)
        yield a, random.standard_normal((shape.width, rank), dtype=np.float32) * np.float32(strength)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectorShape:
    """Sizes of a vision transformer and of the projector behind it.

    Args:
        kind: `mlp` is LLaVA's, whose images are read like text; `gemma3` is Gemma's, all of whose image tokens see each
            other; `qwen2vl_merger` is Qwen's, whose positions have two dimensions in an image.
        side: pixels of a side; an image is scaled to a square of it.
        patch: pixels of a side of a patch.
        width: of the transformer.
        output: width of the text model that it is for.
    """

    kind: Literal["mlp", "gemma3", "qwen2vl_merger"] = "mlp"
    side: int = 32
    patch: int = 8
    width: int = 32
    heads: int = 2
    layers: int = 2
    hidden: int = 64
    output: int = TINY.width

    @property
    def tokens(self) -> int:
        """Return how many tokens an image becomes; with `qwen2vl_merger`, one of `side` times `side` pixels."""
        edge = self.side // self.patch
        return edge**2 if self.kind == "mlp" else (edge // _MERGE) ** 2


_MERGE = 2
PROJECTOR = ProjectorShape()


def write_projector(path: Path, shape: ProjectorShape = PROJECTOR, *, seed: int = 0) -> Path:
    """Write a multimodal projector with random weights for llama.cpp, and return its path.

    Args:
        seed: of the weights; the same seed gives the same file.
    """
    import gguf

    writer = gguf.GGUFWriter(path, "clip")
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_string("clip.projector_type", shape.kind)
    writer.add_uint32("clip.vision.image_size", shape.side)
    writer.add_uint32("clip.vision.patch_size", shape.patch)
    writer.add_uint32("clip.vision.embedding_length", shape.width)
    writer.add_uint32("clip.vision.feed_forward_length", shape.hidden)
    writer.add_uint32("clip.vision.block_count", shape.layers)
    writer.add_uint32("clip.vision.attention.head_count", shape.heads)
    writer.add_uint32("clip.vision.projection_dim", shape.output)
    writer.add_uint32("clip.vision.projector.scale_factor", _MERGE)
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", 1e-5)
    writer.add_array("clip.vision.image_mean", [0.5, 0.5, 0.5])
    writer.add_array("clip.vision.image_std", [0.5, 0.5, 0.5])
    writer.add_bool("clip.use_gelu", True)
    _write_vision(writer, shape, seed)
    _finish(writer)
    return path


def _write_vision(writer: Any, shape: ProjectorShape, seed: int) -> None:
    import numpy as np

    random = np.random.default_rng(seed)

    def add(name: str, *sizes: int, scale: float = 1.0) -> None:
        weights = random.standard_normal(sizes, dtype=np.float32) * np.float32(scale)
        writer.add_tensor(name, weights)

    def add_linear(name: str, rows: int, columns: int) -> None:
        add(f"{name}.weight", rows, columns, scale=columns**-0.5)
        add(f"{name}.bias", rows, scale=0.1)

    def add_norm(name: str) -> None:
        writer.add_tensor(f"{name}.weight", np.ones(shape.width, dtype=np.float32))
        writer.add_tensor(f"{name}.bias", np.zeros(shape.width, dtype=np.float32))

    width = shape.width
    patches = (shape.side // shape.patch) ** 2
    add("v.patch_embd.weight", width, 3, shape.patch, shape.patch, scale=(3 * shape.patch**2) ** -0.5)
    if shape.kind == "qwen2vl_merger":
        add("v.patch_embd.weight.1", width, 3, shape.patch, shape.patch, scale=(3 * shape.patch**2) ** -0.5)
    else:
        add("v.patch_embd.bias", width, scale=0.1)
        add("v.position_embd.weight", patches, width, scale=0.3)
    for layer in range(shape.layers):
        block = f"v.blk.{layer}"
        for part in ("attn_q", "attn_k", "attn_v", "attn_out"):
            add_linear(f"{block}.{part}", width, width)
        add_norm(f"{block}.ln1")
        add_norm(f"{block}.ln2")
        add_linear(f"{block}.ffn_up", shape.hidden, width)
        add_linear(f"{block}.ffn_down", width, shape.hidden)
    add_norm("v.post_ln")
    if shape.kind == "gemma3":
        writer.add_tensor("mm.soft_emb_norm.weight", np.ones(width, dtype=np.float32))
        add("mm.input_projection.weight", width, shape.output, scale=width**-0.5)
    else:
        merged = width * _MERGE**2 if shape.kind == "qwen2vl_merger" else width
        add_linear("mm.0", shape.output, merged)
        add_linear("mm.2", shape.output, shape.output)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecurrentShape:
    """Sizes of a Mamba model.

    Args:
        decay: how fast it forgets what it has read.
    """

    width: int = 64
    layers: int = 2
    state: int = 8
    rank: int = 4
    kernel: int = 4
    context: int = 2048
    decay: float = 1.0

    @property
    def inner(self) -> int:
        """Return the width between the projections of a layer."""
        return 2 * self.width


def write_recurrent_model(path: Path, *, width: int = 64, layers: int = 2, seed: int = 0) -> Path:
    """Write a Mamba model with random weights and the tokenizer of `write_random_model`, and return its path.

    What it has read is one state, which cannot be cut back to an earlier token.
    """
    import gguf

    shape = RecurrentShape(width=width, layers=layers)
    writer = gguf.GGUFWriter(path, "mamba")
    writer.add_context_length(shape.context)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(0)
    writer.add_head_count(0)
    writer.add_block_count(layers)
    writer.add_ssm_conv_kernel(shape.kernel)
    writer.add_ssm_inner_size(shape.inner)
    writer.add_ssm_state_size(shape.state)
    writer.add_ssm_time_step_rank(shape.rank)
    writer.add_layer_norm_rms_eps(1e-5)
    for name, weights in recurrent_weights(shape, seed, write_tokenizer(writer)):
        writer.add_tensor(name, weights)
    _finish(writer)
    return path


def recurrent_weights(shape: RecurrentShape, seed: int, printable: Sequence[bool]) -> Iterator[tuple[str, Any]]:
    """Yield the weights of a Mamba model, with the names and in the form that GGUF has for them.

    Args:
        printable: for each token, whether it may be said.
    """
    import numpy as np

    random = np.random.default_rng(seed)

    def make(*sizes: int) -> Any:
        return random.standard_normal(sizes, dtype=np.float32) * np.float32(sizes[-1] ** -0.5)

    width, inner, state, rank = shape.width, shape.inner, shape.state, shape.rank
    yield "token_embd.weight", make(len(printable), width)
    for layer in range(shape.layers):
        block = f"blk.{layer}"
        yield f"{block}.attn_norm.weight", np.ones(width, dtype=np.float32)
        yield f"{block}.ssm_in.weight", make(2 * inner, width)
        yield f"{block}.ssm_conv1d.weight", make(inner, shape.kernel)
        yield f"{block}.ssm_conv1d.bias", make(inner)
        yield f"{block}.ssm_x.weight", make(rank + 2 * state, inner)
        yield f"{block}.ssm_dt.weight", make(inner, rank)
        yield f"{block}.ssm_dt.bias", make(inner)
        yield f"{block}.ssm_a", np.full((inner, state), -shape.decay, dtype=np.float32)
        yield f"{block}.ssm_d", np.ones(inner, dtype=np.float32)
        yield f"{block}.ssm_out.weight", make(width, inner)
    yield "output_norm.weight", np.ones(width, dtype=np.float32)
    output = make(len(printable), width)
    output[~np.array(printable)] = 0
    yield "output.weight", output


def _finish(writer: Any) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
