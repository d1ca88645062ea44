"""A connection to a server, byte by byte."""

from __future__ import annotations

import select
import socket
from typing import Self

from http_calls import Served


class Raw:
    """Bytes out, bytes in."""

    def __init__(self, server: Served) -> None:
        self._server = server
        self.socket = socket.create_connection(("127.0.0.1", server.port), timeout=20)
        self.file = self.socket.makefile("rb")
        self.auth = f"authorization: Bearer {server.token}\r\n".encode()

    def send(self, data: bytes) -> None:
        """Send; a server that has hung up meanwhile is no error here."""
        try:
            self.socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            return

    def answer(self) -> tuple[int, dict[str, str], bytes]:
        """The next response, read by its content-length."""
        line = self.file.readline()
        assert line.startswith(b"HTTP/1.1 "), line
        head: dict[str, str] = {}
        while (field := self.file.readline().strip()) != b"":
            name, _, value = field.decode().partition(":")
            head[name.lower()] = value.strip()
        return int(line.split()[1]), head, self.file.read(int(head.get("content-length", "0")))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        self.socket.close()

    def quiet(self) -> bool:
        """Whether nothing more has come; the loop has gone round by then, for another connection was answered."""
        with Raw(self._server) as other:
            other.send(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n")
            other.answer()
        return not select.select([self.socket], [], [], 0)[0]

    def ended(self) -> bool:
        """Whether the server has hung up."""
        try:
            return self.file.read(1) == b""
        except ConnectionResetError:
            return True
