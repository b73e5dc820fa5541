"""Images in prompts, by the model's own processor."""

import asyncio
import io
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modelrack.errors import BadRequest, LaunchFailed, TooManyRequests
from modelrack.hooks import LoadPlan
from modelrack.llm.contract import MediaPrompt

from .batches import Prepared

__all__ = ["Vision", "can_see", "load_vision"]

_FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP")
_WAITING = 64
"""Prompts with images that may wait to be read."""


def can_see(config: Any) -> bool:
    """Tell whether a model of this config reads images."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    return getattr(config, "model_type", None) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES


def load_vision(plan: LoadPlan, chat_template: str | None) -> "Vision":
    """Load the processor of a model that can see.

    Raises: LaunchFailed: Transformers cannot.
    """
    from transformers import AutoProcessor

    path = plan.files.path
    try:
        processor = AutoProcessor.from_pretrained(path, local_files_only=True)
    except ImportError as error:
        raise LaunchFailed(
            f"The processor of the model in {path} needs a package that is not there: {error}.",
            remedy="Install it beside the engine (torchvision must be of the same build as torch).",
        ) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise LaunchFailed(f"Transformers could not load the processor of the model in {path}: {error}.") from error
    if getattr(processor, "image_processor", None) is None:
        raise LaunchFailed(
            f"The model reads images, but {Path(path).name} has no preprocessor_config.json that says how.",
            remedy="Download the model's folder again, with all its files.",
        )
    options = plan.options
    return Vision(
        processor, chat_template, most_bytes=options["image_max_bytes"], most_pixels=options["image_max_pixels"]
    )


class Vision:
    """Turns prompts with images into what the model reads. Used from any thread.

    Args:
        processor: the model's, for text and images.
        chat_template: that prompts are made with, which tells how an image is written.
        most_bytes: of an image's file.
        most_pixels: of all images of a prompt, unpacked.
    """

    def __init__(
        self,
        processor: Any,
        chat_template: str | None,
        *,
        most_bytes: int = 20 << 20,
        most_pixels: int = 32_000_000,
    ) -> None:
        from PIL import Image

        # The limit of pixels is ours, and is looked at before an image is unpacked.
        Image.MAX_IMAGE_PIXELS = None
        self._processor = processor
        self._most_bytes = most_bytes
        self._most_pixels = most_pixels
        self._token = str(processor.image_token)
        self._bos = processor.tokenizer.bos_token or ""
        self.lock = threading.Lock()
        self._waiting = 0
        self.mark = _mark(processor, self._token, chat_template)
        """What stands in a prompt for an image."""

    async def read(self, prompt: MediaPrompt) -> Prepared:
        """Read a prompt with images in a thread; see `prepare`."""
        return await asyncio.to_thread(self.prepare, prompt)

    def prepare(self, prompt: MediaPrompt) -> Prepared:
        """Read a prompt with images; blocks.

        Raises: BadRequest: an image is broken or too large. TooManyRequests: too many wait already.
        """
        if self._waiting >= _WAITING:
            raise TooManyRequests("Too many images wait to be read.", headers={"Retry-After": "1"})
        self._waiting += 1
        try:
            images = self._open_all(prompt.images)
            if prompt.text.count(self._token) != len(images):
                raise BadRequest(
                    f"The prompt has another number of images than of places for them ({self._token}).",
                    param="messages",
                )
            with self.lock:
                return self._process(prompt.text, images)
        finally:
            self._waiting -= 1

    def _process(self, text: str, images: list[Any]) -> Prepared:
        try:
            found = self._processor(
                text=[text],
                images=images,
                return_tensors="pt",
                add_special_tokens=not (self._bos and text.startswith(self._bos)),
            )
        except (ValueError, TypeError, IndexError, KeyError, RuntimeError, ZeroDivisionError) as error:
            raise BadRequest(
                f"The model's processor cannot read these images: {error}".rstrip(".") + ".", param="messages"
            ) from error
        ids = found["input_ids"]
        tensors = {
            name: value
            for name, value in found.items()
            if name not in ("input_ids", "attention_mask") and hasattr(value, "shape")
        }
        by_token = {name: value[0] for name, value in tensors.items() if value.shape == ids.shape}
        return Prepared(
            tokens=ids[0].tolist(),
            tensors={name: value for name, value in tensors.items() if name not in by_token},
            by_token=by_token,
        )

    def _open_all(self, files: Sequence[bytes]) -> list[Any]:
        images = []
        pixels = 0
        for number, data in enumerate(files):
            name = f"Image {number + 1}"
            if len(data) > self._most_bytes:
                raise BadRequest(
                    f"{name} has {len(data)} bytes; at most {self._most_bytes} are read.", param="messages"
                )
            image = _open(data, name)
            pixels += image.width * image.height
            if pixels > self._most_pixels:
                raise BadRequest(
                    f"{name} has {image.width} x {image.height} pixels; at most {self._most_pixels} in all are read.",
                    param="messages",
                )
            images.append(_unpack(image, name))
        return images


def _open(data: bytes, name: str) -> Any:
    """Read the header of an image."""
    from PIL import Image, UnidentifiedImageError

    try:
        return Image.open(io.BytesIO(data), formats=_FORMATS)
    except UnidentifiedImageError:
        formats = ", ".join(_FORMATS)
        raise BadRequest(f"{name} is of an unknown format, or broken; read are {formats}.", param="messages") from None
    except Exception as error:
        # The readers of formats raise whatever a file's bytes lead them to.
        raise BadRequest(f"{name} cannot be read: {error}.", param="messages") from error


def _unpack(image: Any, name: str) -> Any:
    from PIL import ImageOps

    try:
        # The picture as it is meant to be seen: cameras turn it by a note in the file.
        return ImageOps.exif_transpose(image).convert("RGB")
    except Exception as error:
        raise BadRequest(f"{name} cannot be read: the file is broken ({error}).", param="messages") from error


def _mark(processor: Any, token: str, chat_template: str | None) -> str:
    """Return how the chat template writes an image; if it does not know any, as the processor names it."""
    template = chat_template or getattr(processor, "chat_template", None)
    if not template:
        return token
    before, after = "Before it.", "After it."
    texts = [{"type": "text", "text": before}, {"type": "text", "text": after}]
    parts = [texts[0], {"type": "image"}, texts[1]]
    try:
        shown, plain = (
            str(
                processor.tokenizer.apply_chat_template(
                    [{"role": "user", "content": content}], chat_template=template, tokenize=False
                )
            )
            for content in (parts, texts)
        )
    except Exception:
        # A template that takes texts only fails in any way at all.
        return token
    between = shown.partition(before)[2].partition(after)[0]
    found = between if token in between else _difference(shown, plain)
    return found.strip(" ") if found.count(token) == 1 else token


def _difference(text: str, shorter: str) -> str:
    """Return what a text has more than another."""
    more = len(text) - len(shorter)
    start = next((at for at, (a, b) in enumerate(zip(text, shorter, strict=False)) if a != b), len(shorter))
    return text[start : start + more] if more > 0 else ""
