"""After the commit: wake this process, then tell the others to look.

Every process that has the file open binds a datagram socket in the folder FILE-peers. A
datagram carries topics, no data; it may be lost. Behind it each process with waiters looks at
`PRAGMA data_version` four times a second. (inotify on the WAL is no use: it fires before the
commit is visible.)
"""

from __future__ import annotations

import contextlib
import os
import socket
import sqlite3
import sys
import threading
import time
from collections import deque
from pathlib import Path

from onefold.engine.sqlite.connection import open_connection
from onefold.engine.tx import Tx
from onefold.engine.wake import Hub

POLL_S = 0.25
PEERS_REFRESH_S = 0.25
DATAGRAM_BYTES_MAX = 4_096
PEERS_MAX = 256


def tell_peers(path: Path, topics: list[str]) -> None:
    """Tell every process that has `path` open to look, from one that may not have it open itself."""
    with contextlib.suppress(OSError):
        folder = os.open(folder_of(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.setblocking(False)
                for name in os.listdir(folder)[:PEERS_MAX]:  # noqa: PTH208
                    with contextlib.suppress(OSError):
                        sender.sendto("\n".join(topics).encode()[:DATAGRAM_BYTES_MAX], address_of(folder, path, name))
        finally:
            os.close(folder)


def folder_of(path: Path) -> Path:
    """Where the processes that have `path` open bind their sockets."""
    return path.with_name(path.name + "-peers")


def address_of(folder: int, path: Path, name: str) -> str:
    """The address of one socket in there. sun_path holds 108 bytes; the path of a database may be longer."""
    if sys.platform == "linux":
        return f"/proc/self/fd/{folder}/{name}"
    return str(folder_of(path) / name)


class Wakes:
    """Both directions of waking: from our commits to others, and from theirs to us."""

    def __init__(self, path: Path, hub: Hub) -> None:
        self._path = path
        self._hub = hub
        self._topics: dict[str, None] = {}
        self._name = f"{os.getpid()}-{id(self):x}.sock"
        self._peers: list[str] = []
        self._peers_at = 0.0
        self._out: deque[list[str]] = deque(maxlen=1_000)
        self._ring = threading.Event()
        self._closing = False
        with contextlib.suppress(FileExistsError):
            folder_of(path).mkdir(mode=0o700)
        self._directory = os.open(folder_of(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self._address(self._name))
        self._socket.settimeout(POLL_S)
        self._sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sender.setblocking(False)
        self._threads = [
            threading.Thread(target=self._listen, name="onefold-listen", daemon=True),
            threading.Thread(target=self._tell, name="onefold-tell", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def committed(self, tx: Tx) -> None:
        """One function of the batch is committed; call it in commit order."""
        self._hub.committed(tx._facts, tx._callbacks)
        for topic in tx._wakes:
            self._topics[topic] = None

    def flush(self) -> None:
        """The batch is told: wake its topics, here at once, elsewhere by datagram."""
        if not self._topics:
            return
        topics = list(self._topics)
        self._topics.clear()
        self._hub.wake(topics)
        if self._peers or time.monotonic() - self._peers_at > PEERS_REFRESH_S:
            self._out.append(topics)
            self._ring.set()

    def close(self) -> None:
        """Leave the folder and stop."""
        self._closing = True
        self._ring.set()
        with contextlib.suppress(OSError):
            self._sender.sendto(b"", self._address(self._name))  # The listener looks up.
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(timeout=2)
        self._socket.close()
        self._sender.close()
        with contextlib.suppress(OSError):
            os.unlink(self._name, dir_fd=self._directory)
        os.close(self._directory)

    def _address(self, name: str) -> str:
        return address_of(self._directory, self._path, name)

    def _tell(self) -> None:
        while True:
            self._ring.wait()
            if self._closing:
                return
            self._ring.clear()
            now = time.monotonic()
            if now - self._peers_at > PEERS_REFRESH_S:
                # By descriptor, as the folder was opened: the path may be moved away.
                names = [name for name in os.listdir(self._directory) if name.endswith(".sock")]  # noqa: PTH208
                self._peers = [name for name in names if name != self._name][:PEERS_MAX]
                self._peers_at = now
            topics: dict[str, None] = {}
            while self._out:
                topics.update(dict.fromkeys(self._out.popleft()))
            datagram = "\n".join(topics).encode()
            if len(datagram) > DATAGRAM_BYTES_MAX:
                datagram = b""  # Too much to name: look at everything.
            for peer in tuple(self._peers):
                self._send(peer, datagram)

    def _send(self, peer: str, datagram: bytes) -> None:
        try:
            self._sender.sendto(datagram, self._address(peer))
        except (ConnectionRefusedError, FileNotFoundError):
            self._peers.remove(peer)  # Its process is gone; nobody else cleans up after it.
            with contextlib.suppress(OSError):
                os.unlink(peer, dir_fd=self._directory)
        except OSError:
            return  # Its buffer is full: it has enough reason to look already.

    def _listen(self) -> None:
        connection: sqlite3.Connection | None = None
        seen = -1
        while not self._closing:
            try:
                datagram = self._socket.recv(DATAGRAM_BYTES_MAX)
            except TimeoutError:
                if not self._hub.has_waiters():
                    continue
                with contextlib.suppress(sqlite3.Error, Exception):
                    if connection is None:
                        connection = open_connection(self._path, readonly=True)
                    version = connection.execute("PRAGMA data_version").fetchone()[0]
                    if seen not in {-1, version}:
                        self._hub.wake_all()
                    seen = version
                continue
            except OSError:
                break
            if datagram:
                self._hub.wake(datagram.decode("utf-8", "replace").split("\n"))
            else:
                self._hub.wake_all()
        if connection is not None:
            connection.close()
