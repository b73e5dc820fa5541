"""Images in prompts, through llama.cpp's multimodal library: read, encoded and decoded into a sequence's cache."""

import asyncio
import ctypes
import hashlib
import os
import secrets
from bisect import bisect_right
from collections import Counter, OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from modelrack.errors import BadRequest, EngineError, LaunchFailed, TooManyRequests
from modelrack.llm.contract import MediaPrompt

from . import bindings
from .bindings import Handle
from .images import NotAnImage, image_size
from .logprobs import Floats
from .logs import Reasons, take_log

__all__ = ["Image", "MediaTokens", "Vision", "VisionLimits"]

_POINTER = ctypes.c_void_p
_set_causal = bindings.function("llama_set_causal_attn", None, _POINTER, ctypes.c_bool)
_width = bindings.function("llama_model_n_embd_inp", ctypes.c_int32, _POINTER)
_NO_PROGRAM = b"/nonexistent"


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionLimits:
    """What images may cost.

    Args:
        image_bytes: of a file.
        image_pixels: of an image, unpacked.
        waiting: prompts with images that wait to be read.
        cache_bytes: of encoded images that are kept for prompts with the same ones.
        image_tokens: most tokens of an image that must be computed at once.
        batch_tokens: most tokens of a batch.
    """

    image_bytes: int = 20 << 20
    image_pixels: int = 32_000_000
    waiting: int = 64
    cache_bytes: int = 256 << 20
    image_tokens: int = 512
    batch_tokens: int = 512


@dataclass(frozen=True, slots=True, eq=False)
class Image:
    """A run of embeddings in a prompt: an image, or a slice of one.

    Args:
        start: index of its first token in the prompt.
        n_tokens: cells that it takes.
        embeddings: float32, of shape (n_tokens, width of the model's input).
        positions: int32, of shape (n_tokens,), or (4, n_tokens) where a position has four parts.
        is_causal: False: its tokens all see each other.
    """

    start: int
    n_tokens: int
    embeddings: Floats
    positions: "np.ndarray[Any, np.dtype[np.int32]]"
    is_causal: bool

    @property
    def is_whole(self) -> bool:
        """Tell whether it can only be computed in one go."""
        return not self.is_causal


@dataclass(slots=True, eq=False)
class MediaTokens:
    """A prompt with images, as tokens.

    Args:
        tokens: of the text; those of an image all are one negative number, made from its content: prompts with the same
            image have the same number there.
        positions: of the tokens; None: as their indices.
        shift: position that follows the prompt, less its number of tokens.
    """

    tokens: list[int]
    positions: list[int] | None
    shift: int
    images: tuple[Image, ...]

    def image_at(self, index: int) -> Image | None:
        """Return the image that a token belongs to."""
        if self.tokens[index] >= 0:
            return None
        return self.images[bisect_right(self.images, index, key=lambda image: image.start) - 1]


@dataclass(slots=True)
class _Draft:
    """A `MediaTokens` in the making."""

    tokens: list[int]
    positions: list[int]
    images: list[Image]
    seen: Counter[bytes]
    position: int = 0

    def name(self, content: bytes) -> bytes:
        """Return what tells an image from all others: the hash of its file, and its number among the slices of that."""
        self.seen[content] += 1
        return hashlib.sha256(content + self.seen[content].to_bytes(4, "little")).digest()


class Vision:
    """Reads prompts with images, in a thread of its own, so that running sequences go on meanwhile.

    Args:
        model: llama.cpp's model.
        path: of the projector.
        bos: text of the token that begins a text, if the vocabulary adds it; else empty.
        use_gpu: encode on an accelerator, if there is one.

    Raises: LaunchFailed: the projector cannot be loaded, or does not fit the model.
    """

    def __init__(
        self,
        model: Handle,
        path: str,
        *,
        bos: str = "",
        n_threads: int = 1,
        use_gpu: bool = False,
        limits: VisionLimits | None = None,
    ) -> None:
        self.mark = f"<__image_{secrets.token_hex(8)}__>"
        self.limits = limits or VisionLimits()
        self._bos = bos
        self._width: int = _width(model)
        self._mtmd = _load_library()
        self._context = self._load(model, path, n_threads, use_gpu)
        self._has_parts: bool = self._mtmd.uses_mrope(self._context)
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="images")
        self._waiting = 0
        self._encoded: OrderedDict[bytes, Floats] = OrderedDict()
        self._encoded_bytes = 0

    def _load(self, model: Handle, path: str, n_threads: int, use_gpu: bool) -> Handle:
        mtmd = self._mtmd
        params = mtmd.default_params()
        params.use_gpu = use_gpu
        params.print_timings = False
        params.n_threads = n_threads
        params.media_marker = self.mark.encode()
        take_log(mtmd.set_log)
        with Reasons() as reasons:
            context: Handle | None = mtmd.init_context(os.fsencode(path), model, params)
        if not context:
            reason = reasons.text("it gave no reason")
            raise LaunchFailed(f"llama.cpp could not load the projector {path}: {reason}.")
        if not mtmd.supports_vision(context):
            mtmd.free_context(context)
            raise LaunchFailed(f"The projector {path} is not for images.")
        return context

    async def read(self, prompt: MediaPrompt) -> MediaTokens:
        """Return a prompt's tokens, with its images encoded.

        Raises: BadRequest: an image is broken or too large, or the prompt ends with one. TooManyRequests: too many
            wait.
        """
        sizes = self.limits
        if prompt.text.count(self.mark) != len(prompt.images):
            raise BadRequest("The prompt has another number of images than of places for them.", param="messages")
        for number, image in enumerate(prompt.images):
            _check(image, number, sizes)
        if self._waiting >= sizes.waiting:
            raise TooManyRequests("Too many prompts with images are waiting.", headers={"Retry-After": "1"})
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, self._read, prompt)
        finally:
            self._waiting -= 1

    def _read(self, prompt: MediaPrompt) -> MediaTokens:
        mtmd = self._mtmd
        bitmaps: list[Handle] = []
        chunks: Handle = mtmd.new_chunks()
        try:
            bitmaps.extend(self._unpack(image, number) for number, image in enumerate(prompt.images))
            self._tokenize(prompt.text, bitmaps, chunks)
            return self._collect(chunks)
        finally:
            mtmd.free_chunks(chunks)
            for bitmap in bitmaps:
                mtmd.free_bitmap(bitmap)

    def _unpack(self, image: bytes, number: int) -> Handle:
        mtmd = self._mtmd
        options = mtmd.default_media_options()
        # What is no image is handed to ffmpeg by the library: it shall not find that program.
        options.video_params.ffmpeg_bin_dir = _NO_PROGRAM
        found = mtmd.read_bitmap(self._context, image, len(image), False, options)
        if found.video_ctx:
            mtmd.free_video(found.video_ctx)
        if found.bitmap and (found.video_ctx or mtmd.is_audio(found.bitmap)):
            mtmd.free_bitmap(found.bitmap)
        elif found.bitmap:
            return found.bitmap  # type: ignore[no-any-return]
        raise BadRequest(f"Image {number + 1} cannot be read: the file is broken.", param="messages")

    def _tokenize(self, text: str, bitmaps: Sequence[Handle], chunks: Handle) -> None:
        mtmd = self._mtmd
        data = text.encode("utf-8", "surrogatepass")
        special = not (self._bos and text.startswith(self._bos))
        given = mtmd.InputText(data, len(data), special, True)
        array = (_POINTER * len(bitmaps))(*bitmaps)
        status = mtmd.tokenize(self._context, chunks, ctypes.byref(given), array, len(bitmaps))
        if status != 0:
            raise BadRequest("The images cannot be prepared for the model.", param="messages")

    def _collect(self, chunks: Handle) -> MediaTokens:
        mtmd = self._mtmd
        draft = _Draft([], [], [], Counter())
        for index in range(mtmd.count_chunks(chunks)):
            chunk = mtmd.chunk_at(chunks, index)
            kind = mtmd.chunk_type(chunk)
            if kind == mtmd.TEXT:
                self._add_text(draft, chunk)
            elif kind == mtmd.IMAGE:
                self._add_image(draft, chunk)
            else:
                raise BadRequest("The prompt has media that are no images.", param="messages")
        if not draft.tokens or draft.tokens[-1] < 0:
            raise BadRequest("A prompt must not end with an image.", param="messages")
        shift = draft.position - len(draft.tokens)
        return MediaTokens(draft.tokens, draft.positions if shift else None, shift, tuple(draft.images))

    def _add_text(self, draft: _Draft, chunk: Handle) -> None:
        count = ctypes.c_size_t()
        found = self._mtmd.chunk_text(chunk, ctypes.byref(count))
        draft.tokens.extend(found[: count.value])
        draft.positions.extend(range(draft.position, draft.position + count.value))
        draft.position += count.value

    def _add_image(self, draft: _Draft, chunk: Handle) -> None:
        mtmd = self._mtmd
        count = mtmd.chunk_tokens(chunk)
        is_causal = not mtmd.is_non_causal(self._context, chunk)
        if not is_causal and count > self.limits.image_tokens:
            raise BadRequest(
                f"An image becomes {count} tokens, but at most {self.limits.image_tokens} can be computed at once; the "
                "launch's option n_ubatch decides.",
                param="messages",
            )
        key = draft.name(mtmd.chunk_id(chunk))
        draft.images.append(
            Image(
                len(draft.tokens),
                count,
                self._encode(chunk, count, key),
                self._positions(chunk, count, draft.position),
                is_causal,
            )
        )
        draft.tokens.extend([-1 - int.from_bytes(key[:7], "little")] * count)
        draft.positions.extend([draft.position] * count)
        draft.position += mtmd.chunk_positions(chunk)

    def _positions(self, chunk: Handle, count: int, first: int) -> "np.ndarray[Any, np.dtype[np.int32]]":
        if not self._has_parts:
            return np.arange(first, first + count, dtype=np.int32)
        found = (self._mtmd.Position * count)()
        self._mtmd.image_positions(self._mtmd.chunk_image(chunk), first, found)
        # In an image the second part is the row, the third the column.
        return np.array([[one.t, one.y, one.x, one.z] for one in found], dtype=np.int32).T.copy()

    def _encode(self, chunk: Handle, count: int, key: bytes) -> Floats:
        known = self._encoded.get(key)
        if known is not None:
            self._encoded.move_to_end(key)
            return known
        mtmd = self._mtmd
        status = mtmd.encode_chunk(self._context, chunk)
        if status != 0:
            raise EngineError(f"llama.cpp could not encode an image (status {status}).")
        size = count * self._width
        found = (ctypes.c_float * size).from_address(mtmd.output(self._context))
        embeddings = np.array(found, dtype=np.float32).reshape(count, self._width)
        self._keep(key, embeddings)
        return embeddings

    def _keep(self, key: bytes, embeddings: Floats) -> None:
        limit = self.limits.cache_bytes
        if embeddings.nbytes > limit:
            return
        self._encoded[key] = embeddings
        self._encoded_bytes += embeddings.nbytes
        while self._encoded_bytes > limit:
            _, oldest = self._encoded.popitem(last=False)
            self._encoded_bytes -= oldest.nbytes

    def decode(self, context: Handle, image: Image, number: int, index: int, budget: int) -> int:
        """Compute an image, or the next part of it, into a sequence; returns of how many tokens.

        Called by the thread that decodes, between two batches.

        Args:
            context: llama.cpp's context.
            number: of the sequence.
            index: of the first token that is not computed yet, in the prompt.
            budget: most tokens to compute; images that can only be computed whole are.

        Raises: EngineError: it could not be computed.
        """
        first = index - image.start
        part = image.n_tokens if image.is_whole else max(1, min(budget, self.limits.batch_tokens))
        last = min(image.n_tokens, first + part)
        if not image.is_causal:
            _set_causal(context, False)
        try:
            status = _decode(context, image, number, first, last)
        finally:
            if not image.is_causal:
                _set_causal(context, True)
        if status != 0:
            raise EngineError(f"llama.cpp could not compute an image (status {status}).")
        return last - first

    def close(self) -> None:
        """Free the projector; the thread must be idle or will be waited for."""
        self._executor.shutdown(wait=True, cancel_futures=True)
        if self._context:
            self._mtmd.free_context(self._context)
            self._context = 0


def _load_library() -> Any:
    try:
        from . import mtmd
    except (ImportError, OSError, RuntimeError, KeyError) as error:
        raise LaunchFailed(
            f"This build of llama-cpp-python has no support for images ({error}).",
            remedy="Install one that is built with it (CMake's option LLAVA_BUILD).",
        ) from error
    return mtmd


def _check(image: bytes, number: int, limits: VisionLimits) -> None:
    """Refuse an image that is too large, before it is unpacked."""
    name = f"Image {number + 1}"
    if len(image) > limits.image_bytes:
        raise BadRequest(f"{name} has {len(image)} bytes; at most {limits.image_bytes} are read.", param="messages")
    try:
        width, height = image_size(image)
    except NotAnImage as error:
        raise BadRequest(f"{name} {error}.", param="messages") from None
    if width * height > limits.image_pixels:
        raise BadRequest(
            f"{name} has {width} x {height} pixels; at most {limits.image_pixels} in all are read.", param="messages"
        )


def _decode(context: Handle, image: Image, number: int, first: int, last: int) -> int:
    """Compute embeddings `first` to `last` of an image; returns llama.cpp's status."""
    count = last - first
    api, pointer = bindings.api, ctypes.POINTER
    embeddings = np.ascontiguousarray(image.embeddings[first:last])
    positions = np.ascontiguousarray(image.positions[..., first:last])
    sequence = ctypes.c_int32(number)
    ones = (ctypes.c_int32 * count)(*([1] * count))
    addresses = (ctypes.c_size_t * count)(*([ctypes.addressof(sequence)] * count))
    unwanted = (ctypes.c_int8 * count)()
    batch = api.llama_batch(
        count,
        None,
        embeddings.ctypes.data_as(pointer(ctypes.c_float)),
        positions.ctypes.data_as(pointer(ctypes.c_int32)),
        ctypes.cast(ones, pointer(ctypes.c_int32)),
        ctypes.cast(addresses, pointer(pointer(ctypes.c_int32))),
        ctypes.cast(unwanted, pointer(ctypes.c_int8)),
    )
    return bindings.decode_batch(context, batch)  # type: ignore[no-any-return]
