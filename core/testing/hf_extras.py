"""Make small Hugging Face models of other kinds than plain Llama, with random weights; needs the package `numpy`."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .gguf import CHATML, SPECIAL_TOKENS, TINY, Shape, printable_tokens, random_weights, vocabulary
from .gguf_extras import RecurrentShape, recurrent_weights
from .hf import llama_config, llama_weights, write_configs
from .hf_files import DType, write_json, write_safetensors, write_tokenizer_json

__all__ = ["EYE", "IMAGE_TOKEN", "EyeShape", "write_recurrent_model", "write_seeing_model"]

IMAGE_TOKEN = "<image>"
"""Stands in prompts for an image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EyeShape:
    """Sizes of the vision transformer of a model that sees.

    Args:
        side: pixels of a side; an image is scaled and cut to a square of it.
        patch: pixels of a side of a patch.
    """

    side: int = 32
    patch: int = 8
    width: int = 64
    heads: int = 2
    layers: int = 2
    hidden: int = 128

    @property
    def tokens(self) -> int:
        """Return how many tokens an image becomes."""
        return (self.side // self.patch) ** 2


EYE = EyeShape()


def write_seeing_model(
    folder: Path,
    shape: Shape = TINY,
    eye: EyeShape = EYE,
    *,
    seed: int = 0,
    chat_template: str | None = CHATML,
    dtype: DType = "float32",
) -> Path:
    """Write a LLaVA model with random weights into a new folder, and return it: CLIP's eye and a Llama behind it.

    Its vocabulary is that of `write_random_model`, with `IMAGE_TOKEN` at the end, and so are its answers to texts.
    """
    folder.mkdir()
    tokens, pairs = vocabulary()
    first = len(tokens) - len(SPECIAL_TOKENS)
    tokens.append(IMAGE_TOKEN)
    text = llama_config(shape, vocab_size=len(tokens), first_special=first)
    config = {
        "architectures": ["LlavaForConditionalGeneration"],
        "model_type": "llava",
        "text_config": text,
        "vision_config": _eye_config(eye),
        "image_token_index": len(tokens) - 1,
        "image_seq_length": eye.tokens,
        "projector_hidden_act": "gelu",
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
        "tie_word_embeddings": False,
        **{name: text[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id", "vocab_size")},
    }
    write_configs(folder, config, dtype)
    write_tokenizer_json(
        folder,
        tokens,
        pairs,
        specials=(*SPECIAL_TOKENS, IMAGE_TOKEN),
        context=shape.context,
        chat_template=chat_template,
        extra={"processor_class": "LlavaProcessor", "image_token": IMAGE_TOKEN},
    )
    _write_processor(folder, eye)

    def tensors() -> Iterator[tuple[str, Any]]:
        import numpy as np

        yield from _eye_weights(eye, shape.width, seed)
        for name, values in llama_weights(random_weights(shape, seed, printable_tokens()), shape):
            if name in ("model.embed_tokens.weight", "lm_head.weight"):
                # The token of images is never said, and what an image is seen as stands in its place.
                values = np.concatenate([values, np.zeros_like(values[:1])])
            yield f"language_model.{name}", values

    write_safetensors(folder / "model.safetensors", tensors(), dtype)
    return folder


def _eye_config(eye: EyeShape) -> dict[str, Any]:
    return {
        "model_type": "clip_vision_model",
        "hidden_act": "quick_gelu",
        "hidden_size": eye.width,
        "image_size": eye.side,
        "intermediate_size": eye.hidden,
        "layer_norm_eps": 1e-5,
        "num_attention_heads": eye.heads,
        "num_channels": 3,
        "num_hidden_layers": eye.layers,
        "patch_size": eye.patch,
        "projection_dim": eye.width,
    }


def _write_processor(folder: Path, eye: EyeShape) -> None:
    images = {
        "image_processor_type": "CLIPImageProcessor",
        "processor_class": "LlavaProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": eye.side},
        "do_center_crop": True,
        "crop_size": {"height": eye.side, "width": eye.side},
        "resample": 3,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    write_json(folder / "preprocessor_config.json", images)
    processor = {
        "processor_class": "LlavaProcessor",
        "image_token": IMAGE_TOKEN,
        "patch_size": eye.patch,
        "num_additional_image_tokens": 1,
        "vision_feature_select_strategy": "default",
    }
    write_json(folder / "processor_config.json", processor)


def _eye_weights(eye: EyeShape, output: int, seed: int) -> Iterator[tuple[str, Any]]:
    import numpy as np

    # Another stream than that of the text model, so that its weights are those of the model that does not see.
    random = np.random.default_rng((seed, 1))

    def make(*sizes: int, scale: float) -> Any:
        return random.standard_normal(sizes, dtype=np.float32) * np.float32(scale)

    def linear(name: str, rows: int, columns: int) -> Iterator[tuple[str, Any]]:
        yield f"{name}.weight", make(rows, columns, scale=columns**-0.5)
        yield f"{name}.bias", make(rows, scale=0.1)

    def norm(name: str) -> Iterator[tuple[str, Any]]:
        yield f"{name}.weight", np.ones(eye.width, dtype=np.float32)
        yield f"{name}.bias", np.zeros(eye.width, dtype=np.float32)

    tower = "vision_tower.vision_model"
    yield f"{tower}.embeddings.class_embedding", make(eye.width, scale=0.3)
    patch = make(eye.width, 3, eye.patch, eye.patch, scale=(3 * eye.patch**2) ** -0.5)
    yield f"{tower}.embeddings.patch_embedding.weight", patch
    yield f"{tower}.embeddings.position_embedding.weight", make(eye.tokens + 1, eye.width, scale=0.3)
    yield from norm(f"{tower}.pre_layrnorm")
    for layer in range(eye.layers):
        block = f"{tower}.encoder.layers.{layer}"
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield from linear(f"{block}.self_attn.{part}", eye.width, eye.width)
        yield from norm(f"{block}.layer_norm1")
        yield from norm(f"{block}.layer_norm2")
        yield from linear(f"{block}.mlp.fc1", eye.hidden, eye.width)
        yield from linear(f"{block}.mlp.fc2", eye.width, eye.hidden)
    yield from norm(f"{tower}.post_layernorm")
    yield from linear("multi_modal_projector.linear_1", output, eye.width)
    yield from linear("multi_modal_projector.linear_2", output, output)


_RECURRENT_NAMES = {
    "attn_norm.weight": "norm.weight",
    "ssm_in.weight": "mixer.in_proj.weight",
    "ssm_conv1d.weight": "mixer.conv1d.weight",
    "ssm_conv1d.bias": "mixer.conv1d.bias",
    "ssm_x.weight": "mixer.x_proj.weight",
    "ssm_dt.weight": "mixer.dt_proj.weight",
    "ssm_dt.bias": "mixer.dt_proj.bias",
    "ssm_a": "mixer.A_log",
    "ssm_d": "mixer.D",
    "ssm_out.weight": "mixer.out_proj.weight",
}


def write_recurrent_model(
    folder: Path, shape: RecurrentShape | None = None, *, seed: int = 0, dtype: DType = "float32"
) -> Path:
    """Write a Mamba model with random weights into a new folder, and return it.

    It is `modelrack.testing.gguf_extras.write_recurrent_model`'s of the same sizes and seed. What it has read is one
    state, so no cache of pages can hold it.
    """
    folder.mkdir()
    shape = shape or RecurrentShape()
    tokens, pairs = vocabulary()
    first = len(tokens) - len(SPECIAL_TOKENS)
    config = {
        "architectures": ["MambaForCausalLM"],
        "model_type": "mamba",
        "conv_kernel": shape.kernel,
        "expand": 2,
        "hidden_act": "silu",
        "hidden_size": shape.width,
        "intermediate_size": shape.inner,
        "layer_norm_epsilon": 1e-5,
        "num_hidden_layers": shape.layers,
        "state_size": shape.state,
        "tie_word_embeddings": False,
        "time_step_rank": shape.rank,
        "use_bias": False,
        "use_conv_bias": True,
        "vocab_size": len(tokens),
        "bos_token_id": first,
        "eos_token_id": first + 2,
        "pad_token_id": first,
    }
    write_configs(folder, config, dtype)
    write_tokenizer_json(folder, tokens, pairs, specials=SPECIAL_TOKENS, context=shape.context, chat_template=CHATML)
    write_safetensors(folder / "model.safetensors", _mamba_weights(shape, seed), dtype)
    return folder


def _mamba_weights(shape: RecurrentShape, seed: int) -> Iterator[tuple[str, Any]]:
    import numpy as np

    whole = {
        "token_embd.weight": "backbone.embeddings.weight",
        "output_norm.weight": "backbone.norm_f.weight",
        "output.weight": "lm_head.weight",
    }
    for name, values in recurrent_weights(shape, seed, printable_tokens()):
        if name in whole:
            yield whole[name], values
            continue
        _, layer, part = name.split(".", 2)
        if part == "ssm_a":
            values = np.log(-values)
        elif part == "ssm_conv1d.weight":
            values = values[:, None, :]
        yield f"backbone.layers.{layer}.{_RECURRENT_NAMES[part]}", values
