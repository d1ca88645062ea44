"""The way out: one request to one provider over HTTP, bounded in time and size. Swap this to go another way."""

from __future__ import annotations

import contextlib
import http.client
import threading
import time
from collections.abc import Mapping
from typing import Protocol
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
        try:
            connection.request(verb, self._prefix + path, body, dict(headers))
            response = connection.getresponse()
            answer = _read(connection, response, until)
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


def _read(connection: http.client.HTTPConnection, response: http.client.HTTPResponse, until: float) -> bytes:
    """The body, which neither trickles past the deadline nor grows past the limit."""
    parts: list[bytes] = []
    size = 0
    while True:
        left = until - time.monotonic()
        if left <= 0:
            raise NoAnswer("it trickles")
        if connection.sock is not None:  # Else the last bytes are here already.
            connection.sock.settimeout(left)
        part = response.read1(_CHUNK_BYTES)
        if not part:
            response.read()  # Nothing; but `read1` does not tell the connection that it is free again.
            return b"".join(parts)
        size += len(part)
        if size > BODY_BYTES_MAX:
            raise NoAnswer("it does not end")
        parts.append(part)
