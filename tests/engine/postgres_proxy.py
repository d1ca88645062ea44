"""A TCP proxy before PostgreSQL that loses connections exactly where a test says."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from collections.abc import Callable
from typing import Literal, Self

from onefold.testing.postgres import Cluster

Fate = Literal["pass", "cut_before", "cut_after", "hang_up_client"]


class Proxy:
    """`fate` looks at each chunk from a client:

    pass: forward it. cut_before: close both sides without forwarding. cut_after: forward it, keep the
    answer, and close both sides. hang_up_client: the same, but keep the server's side open.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._target = f"{cluster._base}/.s.PGSQL.{cluster.port}"
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.fate: Callable[[bytes], Fate] = lambda _: "pass"
        self._kept: list[socket.socket] = []
        self._closed = False
        threading.Thread(target=self._accept, daemon=True).start()

    def url(self, database: str) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}?sslmode=disable&gssencmode=disable"

    def close(self) -> None:
        self._closed = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for kept in self._kept:
            kept.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _accept(self) -> None:
        while not self._closed:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._carry, args=(client,), daemon=True).start()

    def _carry(self, client: socket.socket) -> None:
        server = socket.socket(socket.AF_UNIX)
        keep = False
        try:
            server.connect(self._target)
            while True:
                for ready in select.select([client, server], [], [])[0]:
                    chunk = ready.recv(1 << 16)
                    if not chunk:
                        return
                    if ready is server:
                        client.sendall(chunk)
                        continue
                    fate = self.fate(chunk)
                    if fate != "cut_before":
                        server.sendall(chunk)
                    if fate in {"cut_after", "hang_up_client"}:
                        select.select([server], [], [], 2)  # Until it is done, or waits for somebody else.
                    if fate != "pass":
                        keep = fate == "hang_up_client"
                        return
        except OSError:
            return
        finally:
            client.close()
            if keep:
                self._kept.append(server)
            else:
                server.close()


def once(mark: bytes, fate: Fate) -> Callable[[bytes], Fate]:
    """The first chunk that holds `mark` meets `fate`; all others pass."""
    met: list[int] = []

    def decide(chunk: bytes) -> Fate:
        if mark in chunk and not met:
            met.append(1)
            return fate
        return "pass"

    return decide
