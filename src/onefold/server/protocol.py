"""uvicorn's HTTP/1.1 with limits on the head: its size, its fields, and the time that it takes."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_BYTES_MAX = 32_768
FIELDS_MAX = 100
HEAD_S_MAX = 10.0  # From the connection, or the first byte of a later request, to the end of the head.

_REFUSALS = {
    431: (b"431 Request Header Fields Too Large", b"The head of the request is too large.", b"head_too_large"),
    408: (b"408 Request Timeout", b"The head of the request came too slowly.", b"slow"),
    400: (b"400 Bad Request", b"The request is not HTTP as this server reads it.", b"not_http"),
}


class BoundedProtocol(HttpToolsProtocol):
    """Refuses a head that is too large or too slow with a problem document, and closes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.access_log = False  # It would write what clients send; the app writes the route.
        self._in_head = True
        self._head_bytes = 0  # What came for a head that is not complete.
        self._field_bytes = 0
        self._too_large = False
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A head must come soon."""
        super().connection_made(transport)
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is awaited any more."""
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count what belongs to an unfinished head: the parser keeps all of it in memory."""
        super().data_received(data)
        if self._in_head and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES_MAX:
                self._refuse(431)
            elif self._head_timer is None:
                self._start_timer()

    def on_message_begin(self) -> None:
        """A head begins."""
        super().on_message_begin()
        self._in_head = True
        self._field_bytes = 0

    def on_url(self, url: bytes) -> None:
        """Part of the request line."""
        super().on_url(url)
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """One field."""
        super().on_header(name, value)
        self._count(len(name) + len(value))

    def on_headers_complete(self) -> None:
        """The head is complete; a body has limits of its own."""
        self._in_head = False
        self._head_bytes = 0
        self._stop_timer()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The next byte begins a head."""
        super().on_message_complete()
        self._in_head = True
        self._head_bytes = 0

    def send_400_response(self, msg: str) -> None:
        """The parser gave up."""
        del msg
        self._refuse(431 if self._too_large else 400)

    def _count(self, size: int) -> None:
        self._field_bytes += size
        if self._field_bytes > HEAD_BYTES_MAX or len(self.headers) > FIELDS_MAX:
            self._too_large = True
            raise ValueError("the head is too large")  # Stops the parser, which then asks for the answer.

    def _start_timer(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_S_MAX, self._refuse, 408)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse(self, status: int) -> None:
        self._stop_timer()
        if self.transport.is_closing():
            return
        line, detail, code = _REFUSALS[status]
        body = b'{"type":"about:blank","title":"%b","status":%d,"code":"%b"}' % (detail, status, code)
        self.transport.write(
            b"HTTP/1.1 %b\r\ncontent-type: application/problem+json\r\nconnection: close\r\n"
            b"content-length: %d\r\n\r\n%b" % (line, len(body), body)
        )
        self.transport.close()
