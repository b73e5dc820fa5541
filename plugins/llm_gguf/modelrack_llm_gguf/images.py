"""What the first bytes of an image file say of it, so that a bomb is known before it is unpacked. Pure."""

import struct

__all__ = ["FORMATS", "NotAnImage", "image_size"]

FORMATS = "PNG, JPEG, GIF and BMP"
"""What llama.cpp's reader of images takes, as far as this module knows how to check it."""

_STANDALONE = {0x01, *range(0xD0, 0xD9)}
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}


class NotAnImage(ValueError):
    """The bytes are no image, or of a format that is not read."""


def image_size(data: bytes) -> tuple[int, int]:
    """Return width and height in pixels.

    Raises: NotAnImage: says why in half a sentence.
    """
    for magic, read in _READERS.items():
        if data.startswith(magic):
            try:
                width, height = read(data)
            except (struct.error, IndexError):
                raise NotAnImage("is cut off in its header") from None
            if width < 1 or height < 1:
                raise NotAnImage("has no pixels")
            return width, height
    raise NotAnImage(f"is of an unknown format; {FORMATS} are read")


def _png(data: bytes) -> tuple[int, int]:
    if data[12:16] != b"IHDR":
        raise NotAnImage("is a PNG file without a header")
    return struct.unpack_from(">II", data, 16)


def _gif(data: bytes) -> tuple[int, int]:
    return struct.unpack_from("<HH", data, 6)


def _bmp(data: bytes) -> tuple[int, int]:
    (size,) = struct.unpack_from("<I", data, 14)
    if size == 12:
        return struct.unpack_from("<HH", data, 18)
    width, height = struct.unpack_from("<ii", data, 18)
    # A negative height is a picture from top to bottom.
    return width, abs(height)


def _jpeg(data: bytes) -> tuple[int, int]:
    place = 2
    while True:
        if data[place] != 0xFF:
            # Between segments, readers skip to the next marker.
            place += 1
            continue
        kind = data[place + 1]
        if kind in (0x00, 0xFF):
            place += 1
            continue
        if kind in _STANDALONE:
            place += 2
            continue
        if kind in _FRAMES:
            height, width = struct.unpack_from(">HH", data, place + 5)
            return width, height
        if kind in (0xD9, 0xDA):
            raise NotAnImage("is a JPEG file without a frame")
        place += 2 + struct.unpack_from(">H", data, place + 2)[0]


_READERS = {b"\x89PNG\r\n\x1a\n": _png, b"\xff\xd8": _jpeg, b"GIF87a": _gif, b"GIF89a": _gif, b"BM": _bmp}
