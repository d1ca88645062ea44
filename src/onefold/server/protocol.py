"""uvicorn's HTTP/1.1 with limits on the head: its size, its fields, and the time that it takes.

What RFC 9112 leaves to the kindness of a server is refused: a proxy in front may read it in another way.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

HEAD_BYTES_MAX = 32_768
FIELDS_MAX = 100
HEAD_S_MAX = 10.0  # From the connection, or the first byte of a later request, to the end of the head.
MESSAGE_S_MAX = 40.0  # From the end of the head to the end of the body, also when the answer is out already.
_HOST = re.compile(rb"[A-Za-z0-9._~%!$&'()*+,;=:\[\]-]*")

_REFUSALS = {
    431: (b"431 Request Header Fields Too Large", b"The head of the request is too large.", b"head_too_large"),
    408: (b"408 Request Timeout", b"The head of the request came too slowly.", b"slow"),
    400: (b"400 Bad Request", b"The request is not HTTP as this server reads it.", b"not_http"),
}


class State(ServerState):
    """What the connections of a server have in common.

    Attributes:
        silent: those that have not asked for anything yet, the oldest first.
    """

    def __init__(self) -> None:
        super().__init__()
        self.silent: dict[BoundedProtocol, None] = {}


class BoundedProtocol(HttpToolsProtocol):
    """Refuses a head that is too large or too slow with a problem document, and closes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.access_log = False  # It would write what clients send; the app writes the route.
        self._in_head = True
        self._head_bytes = 0  # What came for a head that is not complete.
        self._idle = False  # A request ended with what came last, and none has begun.
        self._ended = False  # A request ended with what came last.
        self._field_bytes = 0
        self._too_large = False
        self._body_came = False  # Since the last look.
        self._framing_bytes = 0  # Since then: of chunks' sizes and extensions, and of trailers.
        self._timer: asyncio.TimerHandle | None = None
        self._silent = cast("State", self.server_state).silent

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A head must come soon; whoever has been silent for longest makes room where there is none."""
        super().connection_made(transport)
        self._start_timer(HEAD_S_MAX)
        self._silent[self] = None
        if self.limit_concurrency is not None and len(self.connections) >= self.limit_concurrency:
            next(iter(self._silent)).give_way()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is awaited any more."""
        self._stop_timer()
        self._silent.pop(self, None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count what belongs to an unfinished head or trailer: the parser keeps all of it in memory."""
        self._body_came = self._idle = self._ended = False
        super().data_received(data)
        if self.transport.is_closing() or self._idle:
            return
        if self._in_head:
            if not self._ended:  # Else most of it was the request before; the head counts from the next on.
                self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES_MAX:
                self._refuse(431)
            elif self._timer is None:
                self._start_timer(HEAD_S_MAX)
        else:
            self._framing_bytes = 0 if self._body_came else self._framing_bytes + len(data)
            if self._framing_bytes > HEAD_BYTES_MAX:
                self._refuse(431)

    def on_message_begin(self) -> None:
        """A head begins."""
        super().on_message_begin()
        self._in_head = True
        self._idle = False
        self._field_bytes = 0

    def on_url(self, url: bytes) -> None:
        """Part of the request line."""
        super().on_url(url)
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """One field; of a trailer none is kept, for whoever looked at the head in front of us has not seen it."""
        if self._in_head:
            super().on_header(name, value)
        self._count(len(name) + len(value))

    def on_headers_complete(self) -> None:
        """The head is complete; what of a body is read by the app has limits of its own."""
        follows = self._judged()
        self._silent.pop(self, None)
        super().on_headers_complete()
        self._in_head = False
        self._head_bytes = self._framing_bytes = 0
        self._stop_timer()
        if follows:
            self._start_timer(MESSAGE_S_MAX)

    def on_body(self, body: bytes) -> None:
        """Some of the body."""
        self._body_came = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The next byte begins a head."""
        super().on_message_complete()
        self._in_head = self._idle = self._ended = True
        self._head_bytes = 0
        self._stop_timer()

    def send_400_response(self, msg: str) -> None:
        """The parser gave up."""
        del msg
        self._refuse(431 if self._too_large else 400)

    def give_way(self) -> None:
        """Make room for the connection that has just come, unless it is this one."""
        if len(self._silent) > 1:
            self._silent.pop(self)
            self.connections.discard(self)  # It is counted no more, though its end takes another turn of the loop.
            self.transport.close()

    def _count(self, size: int) -> None:
        self._field_bytes += size
        if self._field_bytes > HEAD_BYTES_MAX or len(self.headers) > FIELDS_MAX:
            self._too_large = True
            raise ValueError("the head is too large")  # Stops the parser, which then asks for the answer.

    def _judged(self) -> bool:
        """Whether a body follows; ValueError when the head can be read in two ways."""
        assert self.parser is not None, "it is in the middle of parsing"
        version = self.parser.get_http_version()
        hosts = 0
        follows = chunked = False
        for name, value in self.headers:
            if name == b"host":
                hosts += 1
                if _HOST.fullmatch(value) is None:
                    raise ValueError("no host")
            elif name == b"transfer-encoding":
                follows = chunked = True
                if value.strip().lower() != b"chunked":
                    raise ValueError("a coding that is not read here")
            elif name == b"content-length":
                follows = True
        if version not in {"1.0", "1.1"} or (version == "1.0" and chunked):
            raise ValueError("a version that is not spoken here")
        if hosts > 1 or (hosts == 0 and version == "1.1"):
            raise ValueError("not one host")
        return follows

    def _start_timer(self, seconds: float) -> None:
        self._timer = self.loop.call_later(seconds, self._refuse, 408)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _answerable(self) -> bool:
        """Whether what is written now would be the answer to what is refused, and to nothing else."""
        if self.pipeline:
            return False
        cycle = cast("RequestResponseCycle | None", self.cycle)
        if self._in_head:  # The last cycle is that of the request before this one.
            return cycle is None or cycle.response_complete
        return cycle is not None and not cycle.response_started

    def _refuse(self, status: int) -> None:
        self._stop_timer()
        if self.transport.is_closing():
            return
        if not self._answerable():
            self.transport.close()
            return
        line, detail, code = _REFUSALS[status]
        body = b'{"type":"about:blank","title":"%b","status":%d,"code":"%b"}' % (detail, status, code)
        self.transport.write(
            b"HTTP/1.1 %b\r\ncontent-type: application/problem+json\r\nconnection: close\r\n"
            b"content-length: %d\r\n\r\n%b" % (line, len(body), body)
        )
        self.transport.close()
