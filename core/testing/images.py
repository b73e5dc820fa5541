"""Small images for tests of what reads them, and files that are none."""

import struct
import zlib

__all__ = ["break_png", "inflate_png", "write_png"]

_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def write_png(width: int, height: int, color: tuple[int, int, int]) -> bytes:
    """Return a PNG file of one colour that darkens from left to right."""
    row = bytearray([0])
    for x in range(width):
        row += bytes(value * (2 * width - x) // (2 * width) for value in color)
    parts = _header(width, height), _chunk(b"IDAT", zlib.compress(bytes(row) * height)), _chunk(b"IEND", b"")
    return _SIGNATURE + b"".join(parts)


def break_png(image: bytes) -> bytes:
    """Return a PNG file with other bytes amid its pixels."""
    return image[:60] + bytes(10) + image[70:]


def inflate_png(image: bytes) -> bytes:
    """Return a PNG file whose header promises two billion pixels."""
    header = _header(46_000, 46_000)
    return _SIGNATURE + header + image[len(_SIGNATURE) + len(header) :]


def _header(width: int, height: int) -> bytes:
    return _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))


def _chunk(kind: bytes, data: bytes) -> bytes:
    body = kind + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))
