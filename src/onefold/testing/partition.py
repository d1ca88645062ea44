"""A network that goes silent: a server behind a cable of its own, in a network namespace of its own.

A proxy that closes a connection tells both ends, by FIN or RST. In a partition nobody is told anything: packets
leave and do not arrive. So a veth pair leads into a namespace, and a partition is a wrong hardware address in the
neighbour table of the side that speaks: the kernel of the other side drops what is not addressed to it, without a word.

The namespace has no name. A thread of this process is in it, and when that is gone, by kill -9 too, the kernel removes
the namespace, and the cable with it: nothing can be left behind. The thread runs a `Toxiproxy`, so that any
server can be led there as it is.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Network
from typing import Literal, Self, get_args

from onefold.core.errors import Invalid
from onefold.testing.toxiproxy import Toxiproxy

CLONE_NEWNET = 0x40000000
COMMAND_S = 10.0
SUBNET = IPv4Network("198.18.0.0/15")  # For tests of networks (RFC 2544); no host of the Internet has one.
NOBODY = "02:00:00:00:00:01"  # A hardware address of no interface.
HERE, THERE = "02:00:00:00:01:01", "02:00:00:00:01:02"
FAR = "far"  # The end of the cable inside; the name is free there.

Lost = Literal["both", "requests", "answers"]

_numbers = itertools.count()


class Network:
    """A network between this process's host and servers behind it, until the end of the block.

        with Cluster() as server, Network() as network:
            port = network.relay("database", f"unix:{server.socket_path}")
            with onefold.connect(f"postgresql://postgres@{network.address}:{port}/shop?sslmode=disable") as db:
                with network.partition():
                    ...

    Args:
        seed: of the dice of `toxiproxy`.

    Attributes:
        address: where servers behind it are reached from this host.
        toxiproxy: what leads to them; it has toxics besides.
    """

    def __init__(self, *, seed: int = 0) -> None:
        self.address = ""
        self.toxiproxy = Toxiproxy(seed=seed)
        self._inside = ThreadPoolExecutor(1, thread_name_prefix="partition")
        self._near = f"of{os.getpid()}x{next(_numbers)}"[:15]
        self._near_address = ""
        self._lost = Counter[Lost]()  # How many partitions there are of each kind.
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        """Make it; OSError with the reason where that is not possible."""
        with contextlib.ExitStack() as stack:
            stack.callback(self._inside.shutdown)
            thread = self._inside.submit(_leave_for_another_namespace).result()
            self._ip("link", "add", self._near, "type", "veth", "peer", "name", FAR, "netns", str(thread))
            # The namespace would take it along, in its own time.
            stack.callback(self._ip, "link", "delete", self._near)
            # No two interfaces of a host have one number, so no two networks have one subnet.
            first = SUBNET[socket.if_nametoindex(self._near) * 4 % SUBNET.num_addresses]
            self._near_address, self.address = str(first + 1), str(first + 2)
            self._ip("link", "set", self._near, "address", HERE, "up")
            self._ip("address", "add", f"{self._near_address}/30", "dev", self._near)
            self._far("link", "set", "lo", "up")
            self._far("link", "set", FAR, "address", THERE, "up")
            self._far("address", "add", f"{self.address}/30", "dev", FAR)
            self._reach()
            self._inside.submit(self.toxiproxy.__enter__).result()  # Its threads are born inside.
            stack.push(self.toxiproxy)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """Take it away; whoever is connected hears no more."""
        self._stack.close()

    def relay(self, name: str, upstream: str) -> int:
        """Lead to a server of this host ("unix:PATH"); answers the port at `address`.

        Raises:
            Invalid: it is no path; from behind the cable no port of this host's loopback can be reached.
        """
        if not upstream.startswith("unix:"):
            raise Invalid("A server behind a network is reached by its socket's path.", code="upstream", given=upstream)
        return self.toxiproxy.create(name, upstream=upstream, listen=f"{self.address}:0")

    @contextlib.contextmanager
    def partition(self, lost: Lost = "both") -> Generator[None]:
        """For the time of the block packets are dropped without a word, of connections that are there too.

        Within another one it adds to that; what is lost in both arrives after the outer one.

        Args:
            lost: "requests" towards the server, "answers" from it, or "both".

        Raises:
            Invalid: it is none of them.
        """
        if lost not in get_args(Lost):
            raise Invalid("What is lost is requests, answers, or both.", code="lost", given=lost)
        self._lost[lost] += 1
        try:
            self._reach()
            yield
        finally:
            self._lost[lost] -= 1
            self._reach()

    def _reach(self) -> None:
        """Have each side find the other unless what it says is lost."""
        both = self._lost["both"]
        self._reach_server_at(NOBODY if both or self._lost["requests"] else THERE)
        self._reach_client_at(NOBODY if both or self._lost["answers"] else HERE)

    def _reach_server_at(self, hardware: str) -> None:
        neighbour = ("lladdr", hardware, "nud", "permanent")
        self._ip("neighbour", "replace", self.address, *neighbour, "dev", self._near)

    def _reach_client_at(self, hardware: str) -> None:
        neighbour = ("lladdr", hardware, "nud", "permanent")
        self._far("neighbour", "replace", self._near_address, *neighbour, "dev", FAR)

    def _ip(self, *arguments: str) -> None:
        _ip(arguments)

    def _far(self, *arguments: str) -> None:
        self._inside.submit(_ip, arguments).result()  # A child is born where its parent's thread is.


def unavailable() -> str | None:
    """Why there can be no such network here, as a reason to skip a test; None where there can."""
    if sys.platform != "linux":
        return "network namespaces are Linux's"
    if shutil.which("ip") is None:
        return "ip (iproute2) is not installed"
    try:
        with Network():
            return None
    except OSError as error:
        return f"no network namespace can be made here: {error}"


def _leave_for_another_namespace() -> int:
    """Take this thread into a new one; answers the thread's number."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "unshare")
    return threading.get_native_id()


def _ip(arguments: tuple[str, ...]) -> None:
    command = ["ip", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=COMMAND_S)  # noqa: S603  Ours.
    except subprocess.TimeoutExpired as error:
        raise OSError(f"{' '.join(command)}: no end within {COMMAND_S} s") from error
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()[:200]}")
