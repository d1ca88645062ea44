"""A lean HTTP/1.1 client: one kept connection, JSON in and out. The crowd must not be what is slow."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any
from urllib.parse import urlsplit

import msgspec

HEAD_BYTES_MAX = 65_536
TIMEOUT_S = 30.0

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


class Lost(Exception):  # noqa: N818  Not an error of ours: what a network does.
    """The connection could not be had, or broke before the answer was complete: nobody knows what happened."""


class Answer(msgspec.Struct, frozen=True):
    """A response."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as plain data."""
        return _decode(self.body) if self.body else None

    @property
    def code(self) -> str:
        """The stable code of a problem document, "" when it is none."""
        if "problem" not in self.headers.get("content-type", ""):
            return ""
        return str(self.json().get("code", ""))


class Connection:
    """One connection to the server, made when it is needed and made again when it broke."""

    def __init__(self, base: str) -> None:
        parts = urlsplit(base)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def ask(
        self, verb: str, path: str, body: object = None, *, token: str = "", key: str = "", unheard: bool = False
    ) -> Answer:
        """Send a request and read the answer.

        Args:
            verb: GET, POST or DELETE.
            path: with its query.
            body: sent as JSON; None for no body.
            token: sent as bearer token.
            key: sent as Idempotency-Key.
            unheard: hang up before the answer comes, as phones in tunnels do.

        Raises:
            Lost: there is no answer; the request may or may not have been carried out.
        """
        try:
            async with asyncio.timeout(TIMEOUT_S):
                return await self._ask(_request(verb, path, body, token, key), unheard=unheard)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError) as error:
            self.close()
            raise Lost(repr(error)) from None
        except BaseException:
            self.close()
            raise

    async def _ask(self, request: bytes, *, unheard: bool) -> Answer:
        if self._writer is None or self._reader is None or self._reader.at_eof():
            self.close()
            self._reader, self._writer = await asyncio.open_connection(
                self._host, self._port, limit=HEAD_BYTES_MAX
            )
        reader, writer = self._reader, self._writer
        writer.write(request)
        if unheard:
            await writer.drain()
            self.close()
            raise Lost("hung up")
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:-2])}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        if headers.get("connection", "").lower() == "close":
            self.close()
        return Answer(int(head[0].split(" ", 2)[1]), headers, body)

    def close(self) -> None:
        """Hang up."""
        if self._writer is not None:
            with contextlib.suppress(OSError, RuntimeError):
                self._writer.close()
        self._reader = self._writer = None


def _request(verb: str, path: str, body: object, token: str, key: str) -> bytes:
    lines = [f"{verb} {path} HTTP/1.1", "host: localhost", "accept: application/json"]
    if token:
        lines.append(f"authorization: Bearer {token}")
    if key:
        lines.append(f"idempotency-key: {key}")
    content = b""
    if body is not None:
        content = _encode(body)
        lines.append("content-type: application/json")
    if body is not None or verb == "POST":
        lines.append(f"content-length: {len(content)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content
