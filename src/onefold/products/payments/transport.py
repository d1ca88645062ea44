"""The way out: one request to one provider over HTTP, bounded in time and size. Swap this to go another way."""

from __future__ import annotations

import contextlib
import http.client
import io
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol
from urllib.parse import urlsplit

from onefold.core.errors import Invalid
from onefold.products.payments.provider import NoAnswer

BODY_BYTES_MAX = 4_194_304
IDLE_S_MAX = 2.0  # A connection that rested longer may be closed on the other side just now.
IDLE_MAX = 64
_CHUNK_BYTES = 65_536


class Transport(Protocol):
    """What an adapter needs of HTTP."""

    def request(
        self, verb: str, path: str, body: bytes | None, headers: Mapping[str, str], *, timeout_s: float
    ) -> tuple[int, bytes]:
        """Send one request, never twice; answer status and body. NoAnswer when there is none in time."""
        ...

    def close(self) -> None:
        """Close what is open."""
        ...


class HttpTransport:
    """Kept connections to one origin, for any number of threads. Follows no redirects.

    Args:
        base: "https://api.provider.example"; plain http only suits a provider on loopback.
    """

    def __init__(self, base: str) -> None:
        parts = urlsplit(base)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise Invalid("A provider is at an http or https URL.", code="url", scheme=parts.scheme)
        self._make = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._host, self._port, self._prefix = parts.hostname, parts.port, parts.path.rstrip("/")
        self._idle: list[tuple[http.client.HTTPConnection, float]] = []
        self._lock = threading.Lock()

    def request(
        self, verb: str, path: str, body: bytes | None, headers: Mapping[str, str], *, timeout_s: float
    ) -> tuple[int, bytes]:
        """See `Transport`."""
        until = time.monotonic() + timeout_s
        connection = self._taken(timeout_s)
        connection.response_class = _answer_until(until)  # type: ignore[assignment]  It makes responses as a class does.
        try:
            connection.request(verb, self._prefix + path, body, dict(headers))
            answer = _read(response := connection.getresponse())
        except (OSError, http.client.HTTPException, NoAnswer) as error:
            connection.close()
            raise NoAnswer(type(error).__name__) from error
        if response.will_close:
            connection.close()
        else:
            self._give_back(connection)
        return response.status, answer

    def close(self) -> None:
        """See `Transport`."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection, _ in idle:
            connection.close()

    def _taken(self, timeout_s: float) -> http.client.HTTPConnection:
        while True:
            with self._lock:
                connection, since = self._idle.pop() if self._idle else (None, 0.0)
            if connection is None:
                return self._make(self._host, self._port, timeout=timeout_s)
            if time.monotonic() - since <= IDLE_S_MAX:
                connection.timeout = timeout_s
                with contextlib.suppress(AttributeError):  # Its socket may be gone: it is opened anew then.
                    connection.sock.settimeout(timeout_s)
                return connection
            connection.close()

    def _give_back(self, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            if len(self._idle) < IDLE_MAX:
                self._idle.append((connection, time.monotonic()))
                return
        connection.close()


def _read(response: http.client.HTTPResponse) -> bytes:
    """The body, which does not grow past the limit."""
    parts: list[bytes] = []
    size = 0
    while part := response.read1(_CHUNK_BYTES):
        size += len(part)
        if size > BODY_BYTES_MAX:
            raise NoAnswer("it does not end")
        parts.append(part)
    response.read()  # Nothing; but `read1` does not tell the connection that it is free again.
    return b"".join(parts)


def _answer_until(until: float) -> Callable[..., http.client.HTTPResponse]:
    def make(sock: socket.socket, *args: Any, **kwargs: Any) -> http.client.HTTPResponse:
        bounded: Any = _Until(sock, until)  # All that is asked of it is `makefile`.
        return http.client.HTTPResponse(bounded, *args, **kwargs)

    return make


class _Until:
    """A socket whose file is read up to a moment: a socket's own timeout begins anew with every byte that trickles."""

    def __init__(self, sock: socket.socket, until: float) -> None:
        self._sock = sock
        self._until = until

    def makefile(self, mode: Any) -> io.BufferedReader:
        return io.BufferedReader(_Reading(self._sock, self._sock.makefile(mode, buffering=0), self._until))


class _Reading(io.RawIOBase):
    def __init__(self, sock: socket.socket, raw: Any, until: float) -> None:
        self._sock = sock
        self._raw = raw
        self._until = until

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int | None:
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._sock.settimeout(left)
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()
