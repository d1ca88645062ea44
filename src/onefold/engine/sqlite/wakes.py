"""After the commit: wake this process, then tell the others to look.

Every process that has the file open binds a datagram socket in the folder FILE-peers. A
datagram carries topics, no data; it may be lost. Behind it each process with waiters looks at
`PRAGMA data_version` four times a second. (inotify on the WAL is no use: it fires before the
commit is visible.) Where the folder cannot be used, the look is all there is.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import socket
import sqlite3
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path

from onefold.engine.sqlite.connection import open_connection
from onefold.engine.tx import Hints
from onefold.engine.wake import Hub

_log = logging.getLogger("onefold.wake")

POLL_S = 0.25
PEERS_REFRESH_S = 0.25
DATAGRAM_BYTES_MAX = 4_096
PEERS_MAX = 256
OUT_MAX = 1_000  # Commits of which the others are not told yet.
CLOSE_S = 2.0


class Peers:
    """The folder of sockets, and how to reach those in it."""

    def __init__(self, path: Path, *, make: bool) -> None:
        """Open the folder; OSError where that cannot be."""
        self._folder = folder_of(path)
        if make:
            with contextlib.suppress(FileExistsError):
                self._folder.mkdir(mode=0o700)
        # By descriptor, for the path may be moved away.
        self._descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sender.setblocking(False)

    def bind(self, receiver: socket.socket) -> str:
        """Give `receiver` a name that was never used; answers it."""
        name = f"{os.getpid()}-{secrets.token_hex(6)}.sock"
        receiver.bind(self.address(name))
        return name

    def names(self) -> list[str]:
        """Who may be there."""
        return [name for name in os.listdir(self._descriptor) if name.endswith(".sock")][:PEERS_MAX]  # noqa: PTH208

    def send(self, name: str, datagram: bytes) -> bool:
        """Tell one; False when its process is gone, and then its socket too: nobody else cleans up after it."""
        try:
            self._sender.sendto(datagram, self.address(name))
        except (ConnectionRefusedError, FileNotFoundError):
            self.unlink(name)
            return False
        except OSError:
            return True  # Its buffer is full: it has enough reason to look already.
        return True

    def unlink(self, name: str) -> None:
        """Take a socket away."""
        with contextlib.suppress(OSError):
            os.unlink(name, dir_fd=self._descriptor)

    def address(self, name: str) -> str:
        """The address of one socket. sun_path holds 108 bytes; the path of a database may be longer."""
        if sys.platform == "linux":
            return f"/proc/self/fd/{self._descriptor}/{name}"
        return str(self._folder / name)

    def close(self) -> None:
        """Leave."""
        self._sender.close()
        os.close(self._descriptor)


def folder_of(path: Path) -> Path:
    """Where the processes that have `path` open bind their sockets."""
    return path.with_name(path.name + "-peers")


def datagram_of(topics: Iterable[str]) -> bytes:
    """The topics, one a line; nothing, which means "look at everything", when they do not fit."""
    topics = tuple(topics)
    text = "\n".join(topics)
    if text.count("\n") >= len(topics):
        return b""
    try:
        datagram = text.encode()
    except UnicodeEncodeError:
        return b""
    return datagram if len(datagram) <= DATAGRAM_BYTES_MAX else b""


def tell_peers(path: Path, topics: list[str]) -> None:
    """Tell every process that has `path` open to look, from one that may not have it open itself."""
    with contextlib.suppress(OSError):
        peers = Peers(path, make=False)
        try:
            datagram = datagram_of(topics)
            for name in peers.names():
                peers.send(name, datagram)
        finally:
            peers.close()


class Wakes:
    """Both directions of waking: from our commits to others, and from theirs to us."""

    def __init__(self, path: Path, hub: Hub) -> None:
        self._path = path
        self._hub = hub
        self._seen: list[str] = []  # Peers, as last looked at.
        self._seen_at = 0.0
        self._out: deque[list[str]] = deque(maxlen=OUT_MAX)
        self._ring = threading.Event()
        self._closing = False
        self._connection: sqlite3.Connection | None = None
        self._version = -1
        # Both ends of the listener: a socket that others know, and one to call it off with.
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(POLL_S)
        self._peers: Peers | None = None
        self._name = ""
        try:
            self._peers = Peers(path, make=True)
            self._name = self._peers.bind(self._socket)
        except OSError as error:
            _log.warning("no wake-ups between processes, they poll: %s", error)
        self._threads = [threading.Thread(target=self._listen, name="onefold-listen", daemon=True)]
        if self._peers is not None:
            self._threads.append(threading.Thread(target=self._tell, name="onefold-tell", daemon=True))
        for thread in self._threads:
            thread.start()

    def committed(self, hinted: Sequence[Hints]) -> None:
        """The transaction of these functions is committed: wake their topics, here at once, elsewhere soon."""
        topics: dict[str, None] = {}
        for hints in hinted:
            self._hub.committed(hints.facts, hints.callbacks)
            for topic in hints.topics:
                topics[topic] = None
        if not topics:
            return
        self._hub.wake(topics)
        if self._peers is not None and (self._seen or time.monotonic() - self._seen_at > PEERS_REFRESH_S):
            self._out.append(list(topics))
            self._ring.set()

    def close(self) -> None:
        """Leave the folder and stop; the connection waits for `close_connection`."""
        self._closing = True
        self._ring.set()
        peers = self._peers
        if peers is not None:
            peers.send(self._name, b"")  # The listener looks up.
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(CLOSE_S)
        self._socket.close()
        if peers is not None:
            peers.unlink(self._name)
            peers.close()

    def close_connection(self) -> None:
        """After `close`, under the gate."""
        if self._connection is not None:
            self._connection.close()

    def forked(self) -> None:
        """In a child that has nothing to do with it: let go of the copies of its sockets."""
        self._socket.close()
        if self._peers is not None:
            self._peers.close()

    def _tell(self) -> None:
        while True:
            self._ring.wait()
            self._ring.clear()
            try:
                self._tell_all()
            except OSError:
                _log.exception("other processes could not be told; they poll")
            if self._closing:
                return

    def _tell_all(self) -> None:
        peers = self._peers
        topics: dict[str, None] = {}
        while self._out:
            topics.update(dict.fromkeys(self._out.popleft()))
        if peers is None or not topics:
            return
        now = time.monotonic()
        if now - self._seen_at > PEERS_REFRESH_S:
            self._seen = [name for name in peers.names() if name != self._name]
            self._seen_at = now
        datagram = datagram_of(topics)
        self._seen = [name for name in self._seen if peers.send(name, datagram)]

    def _listen(self) -> None:
        looked_at = time.monotonic()
        while not self._closing:
            try:
                datagram = self._receive()
            except OSError:
                return
            if datagram:
                self._hub.wake(datagram.decode("utf-8", "replace").split("\n"))
            elif datagram is not None:
                self._hub.wake_all()
            # Also while datagrams come and come: one commit's may be lost among them.
            if time.monotonic() - looked_at >= POLL_S:
                looked_at = time.monotonic()
                if self._hub.has_waiters() and not self._closing:
                    self._look()

    def _receive(self) -> bytes | None:
        try:
            return self._socket.recv(DATAGRAM_BYTES_MAX)
        except TimeoutError:
            return None

    def _look(self) -> None:
        try:
            if self._connection is None:
                self._connection = open_connection(self._path, readonly=True)
            (version,) = self._connection.execute("PRAGMA data_version").fetchone()
        except Exception as error:
            _log.debug("no look at the file: %s", error)
            return
        if self._version not in {-1, version}:
            self._hub.wake_all()
        self._version = version
