"""A TCP proxy before PostgreSQL that loses connections exactly where a test says."""

from __future__ import annotations

import contextlib
import itertools
import re
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
        self._target = str(cluster.socket_path)
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


class AtCommit:
    """Lets the COMMIT of that number, counted from `arm` on, meet what `act` answers; all else passes.

    A connection sends the word once, when it prepares it, and its name for it from then on.
    """

    def __init__(self, number: int, act: Callable[[], Fate]) -> None:
        self.met = False
        self._number = number
        self._act = act
        self._names: set[bytes] = set()
        self._commits: itertools.count[int] | None = None

    def arm(self) -> None:
        self._commits = itertools.count(1)

    def __call__(self, chunk: bytes) -> Fate:
        self._names.update(re.findall(rb"P.{4}(\w+)\0COMMIT\0", chunk, re.DOTALL))
        bound = set(re.findall(rb"B.{4}\0(\w+)\0", chunk, re.DOTALL))
        if self._commits is None or not bound & self._names or next(self._commits) != self._number:
            return "pass"
        self.met = True
        return self._act()
