"""The inference calls that send files: images, audio and video. Nothing here does I/O but read the files named."""

import json
from os import PathLike, fspath
from pathlib import Path
from typing import Any, BinaryIO

from .call import Call, File, Reply

__all__ = ["FileLike"]

Json = dict[str, Any]

FileLike = bytes | str | PathLike[str] | BinaryIO
"""The content itself, a path, or an open file."""


def _file(name: str, source: FileLike) -> File:
    """Return one multipart file.

    Raises: FileNotFoundError: a path names no file.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        return name, bytes(source)
    if isinstance(source, str | PathLike):
        path = Path(fspath(source))
        return path.name, path.read_bytes()
    content = source.read()
    if not isinstance(content, bytes):
        raise TypeError(f"{name}: open the file in binary mode")
    return name, content


def _files(field: str, source: FileLike | list[FileLike]) -> tuple[tuple[str, File], ...]:
    sources = source if isinstance(source, list) else [source]
    if not sources:
        raise ValueError(f"{field}: the list is empty")
    return tuple((field, _file(field if len(sources) == 1 else f"{field}_{i}", item)) for i, item in enumerate(sources))


def _multipart(
    self: Any, path: str, action: str, form: Json, files: tuple[tuple[str, File], ...], extra: Json
) -> Call[Json]:
    fields = {"model": self.model_uid, **form, "kwargs": json.dumps(extra)}
    return Call(method="POST", path=path, form=fields, files=files, action=action)


def image_to_image(
    self: Any,
    /,
    image: FileLike | list[FileLike],
    prompt: str,
    negative_prompt: str | None = None,
    n: int = 1,
    size: str | None = None,
    response_format: str = "url",
    **kwargs: Any,
) -> Call[Json]:
    """Make variations of an image."""
    form = {
        "prompt": prompt,
        "negative_prompt": negative_prompt,
        "n": n,
        "size": size,
        "response_format": response_format,
    }
    return _multipart(self, "/v1/images/variations", "vary the image", form, _files("image", image), kwargs)


def image_edit(
    self: Any,
    /,
    images: FileLike | list[FileLike],
    prompt: str,
    mask: FileLike | None = None,
    n: int = 1,
    size: str | None = None,
    response_format: str = "url",
    **kwargs: Any,
) -> Call[Json]:
    """Edit an image; the first of several is edited, the others are references."""
    form = {"prompt": prompt, "n": n, "size": size, "response_format": response_format}
    files = _files("images[]" if isinstance(images, list) else "images", images)
    if mask is not None:
        files += _files("mask", mask)
    return _multipart(self, "/v1/images/edits", "edit the image", form, files, kwargs)


def inpainting(
    self: Any,
    /,
    image: FileLike,
    mask_image: FileLike,
    prompt: str,
    negative_prompt: str | None = None,
    n: int = 1,
    size: str | None = None,
    response_format: str = "url",
    **kwargs: Any,
) -> Call[Json]:
    """Repaint the white parts of a mask."""
    form = {
        "prompt": prompt,
        "negative_prompt": negative_prompt,
        "n": n,
        "size": size,
        "response_format": response_format,
    }
    files = _files("image", image) + _files("mask_image", mask_image)
    return _multipart(self, "/v1/images/inpainting", "inpaint the image", form, files, kwargs)


def ocr(self: Any, /, image: FileLike, **kwargs: Any) -> Call[Any]:
    """Read the text of an image."""
    return _multipart(self, "/v1/images/ocr", "read the image", {}, _files("image", image), kwargs)


def image_to_video(
    self: Any,
    /,
    image: FileLike,
    prompt: str,
    negative_prompt: str | None = None,
    n: int = 1,
    video: FileLike | None = None,
    **kwargs: Any,
) -> Call[Json]:
    """Make a video that starts from an image.

    Args:
        video: the driving video of a character-animation model.
    """
    files = _files("image", image) + (() if video is None else _files("video", video))
    form = {"prompt": prompt, "negative_prompt": negative_prompt, "n": n}
    return _multipart(self, "/v1/video/generations/image", "create the video", form, files, kwargs)


def flf_to_video(
    self: Any,
    /,
    first_frame: FileLike,
    last_frame: FileLike,
    prompt: str,
    negative_prompt: str | None = None,
    n: int = 1,
    **kwargs: Any,
) -> Call[Json]:
    """Make a video between two frames."""
    files = _files("first_frame", first_frame) + _files("last_frame", last_frame)
    form = {"prompt": prompt, "negative_prompt": negative_prompt, "n": n}
    return _multipart(self, "/v1/video/generations/flf", "create the video", form, files, kwargs)


def _listen(
    self: Any, path: str, action: str, audio: FileLike, options: Json, granularities: list[str] | None, extra: Json
) -> Call[Any]:
    form = {"model": self.model_uid, **options, "timestamp_granularities[]": granularities}
    if extra:
        form["kwargs"] = json.dumps(extra)
    return Call(method="POST", path=path, form=form, files=_files("file", audio), action=action, reply=Reply.AUTO)


def transcriptions(
    self: Any,
    /,
    audio: FileLike,
    language: str | None = None,
    prompt: str | None = None,
    response_format: str | None = "json",
    temperature: float | None = 0,
    timestamp_granularities: list[str] | None = None,
    **kwargs: Any,
) -> Call[Any]:
    """Write down what is said.

    Args:
        audio: the encoded audio (wav, mp3, flac, ogg, …).
        language: ISO 639-1 code, where it is known.
        response_format: `json`, `verbose_json` (both answer with a dict), `text`, `srt` or `vtt` (with a string).
        timestamp_granularities: `segment`, `word`, or both; for `verbose_json`.
    """
    options = {"language": language, "prompt": prompt, "response_format": response_format, "temperature": temperature}
    return _listen(
        self, "/v1/audio/transcriptions", "transcribe the audio", audio, options, timestamp_granularities, kwargs
    )


def translations(
    self: Any,
    /,
    audio: FileLike,
    language: str | None = None,
    prompt: str | None = None,
    response_format: str | None = "json",
    temperature: float | None = 0,
    timestamp_granularities: list[str] | None = None,
) -> Call[Any]:
    """Write down in English what is said; arguments as of `transcriptions`."""
    options = {"language": language, "prompt": prompt, "response_format": response_format, "temperature": temperature}
    return _listen(self, "/v1/audio/translations", "translate the audio", audio, options, timestamp_granularities, {})


def speech(
    self: Any,
    /,
    input: str,
    voice: str = "",
    response_format: str = "mp3",
    speed: float = 1.0,
    stream: bool = False,
    prompt_speech: FileLike | None = None,
    prompt_latent: FileLike | None = None,
    **kwargs: Any,
) -> Call[Any]:
    """Speak a text.

    Args:
        prompt_speech: a recording of the voice to speak with.

    Returns: the encoded audio; with `stream` an iterator over its bytes.
    """
    fields = {
        "model": self.model_uid,
        "input": input,
        "voice": voice,
        "response_format": response_format,
        "speed": speed,
        "stream": stream,
        "kwargs": json.dumps(kwargs),
    }
    prompts = {"prompt_speech": prompt_speech, "prompt_latent": prompt_latent}
    files = tuple(part for field, source in prompts.items() if source is not None for part in _files(field, source))
    return Call(
        method="POST",
        path="/v1/audio/speech",
        body=None if files else fields,
        form=fields if files else None,
        files=files,
        reply=Reply.CHUNKS if stream else Reply.BYTES,
        action="speak the text",
    )
