"""Handles of launched models, by what they can do; each method exists once and serves both kinds of client."""

from collections.abc import Callable, Mapping
from typing import Any

from . import inference, media
from .bind import asynchronous, blocking

__all__ = [
    "AsyncAudioHandle",
    "AsyncChatHandle",
    "AsyncEmbeddingHandle",
    "AsyncGenerateHandle",
    "AsyncImageHandle",
    "AsyncModelHandle",
    "AsyncRerankHandle",
    "AsyncVideoHandle",
    "AudioHandle",
    "ChatHandle",
    "EmbeddingHandle",
    "GenerateHandle",
    "ImageHandle",
    "ModelHandle",
    "RerankHandle",
    "VideoHandle",
    "choose_handle",
    "register_handle",
]


class ModelHandle:
    """A launched model.

    Args:
        model_uid: its uid.
        run: how to run what a method describes; the client's own.
        description: what the server says of it.
    """

    def __init__(self, model_uid: str, run: Callable[[Any], Any], description: Mapping[str, Any]) -> None:
        self.model_uid = model_uid
        self.description = dict(description)
        self._run = run

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.model_uid!r})"


class AsyncModelHandle(ModelHandle):
    """A launched model, for an event loop: the methods are coroutines."""


class GenerateHandle(ModelHandle):
    """An LLM that completes text."""

    generate = blocking(inference.generate)
    convert_ids_to_tokens = blocking(inference.convert_ids_to_tokens)
    tokenize = blocking(inference.tokenize)
    detokenize = blocking(inference.detokenize)


class ChatHandle(GenerateHandle):
    """An LLM that answers conversations, and completes text as well."""

    chat = blocking(inference.chat)


class EmbeddingHandle(ModelHandle):
    """An embedding model."""

    create_embedding = blocking(inference.create_embedding)
    convert_ids_to_tokens = blocking(inference.convert_ids_to_tokens)


class RerankHandle(ModelHandle):
    """A rerank model."""

    rerank = blocking(inference.rerank)


class ImageHandle(ModelHandle):
    """A model that makes, changes or reads images."""

    text_to_image = blocking(inference.text_to_image)
    image_to_image = blocking(media.image_to_image)
    image_edit = blocking(media.image_edit)
    inpainting = blocking(media.inpainting)
    ocr = blocking(media.ocr)


class AudioHandle(ModelHandle):
    """A model that listens or speaks."""

    transcriptions = blocking(media.transcriptions)
    translations = blocking(media.translations)
    speech = blocking(media.speech)


class VideoHandle(ModelHandle):
    """A model that makes videos."""

    text_to_video = blocking(inference.text_to_video)
    image_to_video = blocking(media.image_to_video)
    flf_to_video = blocking(media.flf_to_video)


class AsyncGenerateHandle(AsyncModelHandle):
    """An LLM that completes text."""

    generate = asynchronous(inference.generate)
    convert_ids_to_tokens = asynchronous(inference.convert_ids_to_tokens)
    tokenize = asynchronous(inference.tokenize)
    detokenize = asynchronous(inference.detokenize)


class AsyncChatHandle(AsyncGenerateHandle):
    """An LLM that answers conversations, and completes text as well."""

    chat = asynchronous(inference.chat)


class AsyncEmbeddingHandle(AsyncModelHandle):
    """An embedding model."""

    create_embedding = asynchronous(inference.create_embedding)
    convert_ids_to_tokens = asynchronous(inference.convert_ids_to_tokens)


class AsyncRerankHandle(AsyncModelHandle):
    """A rerank model."""

    rerank = asynchronous(inference.rerank)


class AsyncImageHandle(AsyncModelHandle):
    """A model that makes, changes or reads images."""

    text_to_image = asynchronous(inference.text_to_image)
    image_to_image = asynchronous(media.image_to_image)
    image_edit = asynchronous(media.image_edit)
    inpainting = asynchronous(media.inpainting)
    ocr = asynchronous(media.ocr)


class AsyncAudioHandle(AsyncModelHandle):
    """A model that listens or speaks."""

    transcriptions = asynchronous(media.transcriptions)
    translations = asynchronous(media.translations)
    speech = asynchronous(media.speech)


class AsyncVideoHandle(AsyncModelHandle):
    """A model that makes videos."""

    text_to_video = asynchronous(inference.text_to_video)
    image_to_video = asynchronous(media.image_to_video)
    flf_to_video = asynchronous(media.flf_to_video)


_REGISTRY: list[tuple[str, str | None, type[ModelHandle], type[AsyncModelHandle]]] = [
    ("LLM", "chat", ChatHandle, AsyncChatHandle),
    ("LLM", None, GenerateHandle, AsyncGenerateHandle),
    ("embedding", None, EmbeddingHandle, AsyncEmbeddingHandle),
    ("rerank", None, RerankHandle, AsyncRerankHandle),
    ("image", None, ImageHandle, AsyncImageHandle),
    ("audio", None, AudioHandle, AsyncAudioHandle),
    ("video", None, VideoHandle, AsyncVideoHandle),
]


def register_handle(
    model_type: str,
    blocking_class: type[ModelHandle],
    async_class: type[AsyncModelHandle],
    ability: str | None = None,
) -> None:
    """Add the handles of a model type that a plugin brings, or replace those of one that is known.

    Args:
        ability: take them only for models that have it.
    """
    _REGISTRY.insert(0, (model_type, ability, blocking_class, async_class))


def choose_handle(description: Mapping[str, Any]) -> tuple[type[ModelHandle], type[AsyncModelHandle]]:
    """Return the classes for a model: those of its type whose ability it has, else the plain ones."""
    abilities = description.get("model_ability") or ()
    for model_type, ability, blocking_class, async_class in _REGISTRY:
        if description.get("model_type") == model_type and (ability is None or ability in abilities):
            return blocking_class, async_class
    return ModelHandle, AsyncModelHandle
