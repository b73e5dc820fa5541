"""The server's HTTP/1.1: uvicorn's, with bounded heads, and with refusals in the one shape of all errors."""

from http import HTTPStatus

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from ..errors import BadRequest, ModelrackError
from .errors import render

__all__ = ["HEAD_LIMIT_BYTES", "Protocol"]

HEAD_LIMIT_BYTES = 256 * 1024
"""Bytes of request line and headers that are read before a request is refused; what comes in one read may be more."""


class HeadTooLarge(BadRequest):
    """Request line and headers are too large."""

    status = 431
    code = "head_too_large"


class Protocol(HttpToolsProtocol):
    """One client's connection."""

    _head_bytes = 0
    _in_head = False

    def data_received(self, data: bytes) -> None:
        """Parse what came, and refuse a head that does not end."""
        super().data_received(data)
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_LIMIT_BYTES:
                self._refuse(HeadTooLarge(f"The headers are over the limit of {HEAD_LIMIT_BYTES} bytes."))

    def on_message_begin(self) -> None:
        """Begin to count."""
        self._in_head = True
        self._head_bytes = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Stop counting."""
        self._in_head = False
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP."""
        self._refuse(BadRequest("The request is not valid HTTP/1.1."))

    def _refuse(self, error: ModelrackError) -> None:
        if self.transport.is_closing():
            return
        status, headers, body = render(error)
        lines = [b"HTTP/1.1 %d %s" % (status, HTTPStatus(status).phrase.encode())]
        lines += [b"%s: %s" % header for header in (*headers, (b"connection", b"close"))]
        self.transport.write(b"\r\n".join(lines) + b"\r\n\r\n" + body)
        self.transport.close()
