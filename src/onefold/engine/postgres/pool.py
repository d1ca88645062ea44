"""Who may use a connection, and the connections. Bounded, first come first served.

The last two places are kept for functions marked `@reserved` (heartbeats, readiness): a crowd
of slow calls must not make a living process look dead.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from psycopg import Error as DriverError
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from onefold.core.errors import Invalid, Retry
from onefold.engine.call import seconds_left
from onefold.engine.postgres.clock import ServerClock
from onefold.engine.postgres.errors import Lost
from onefold.engine.postgres.wire import Wire, open_wire

POOL_MIN, POOL_MAX = 3, 100
RESERVED = 2
WAITING_MAX = 10_000
CLOCK_AGE_NS_MAX = 30_000_000_000
CONNECT_NS_MAX = 10_000_000_000  # One attempt.
CONNECT_PAUSE_S = (0.01, 0.5)  # First and longest pause between attempts.
# A peer that is gone without a word is found out in 25 s, also by who waits for it without a deadline.
DEFAULTS = {
    "application_name": "onefold", "connect_timeout": "10",
    "keepalives_idle": "10", "keepalives_interval": "5", "keepalives_count": "3", "tcp_user_timeout": "25000",
}  # fmt: skip


def conninfo_of(url: str) -> bytes:
    """The URL with what this engine needs added.

    Raises:
        Invalid: it is no PostgreSQL URL; its text is not repeated, it may hold a password.
    """
    if "://" in url and url.partition("://")[2].partition("/")[0].partition("?")[0].count("@") > 1:
        # libpq would take the end of the password for a host, and name it in its messages.
        raise Invalid("A URL has one @; write those in a password as %40.", code="url")
    try:
        given = conninfo_to_dict(url)
        _check_lists(_lists_of(given))
        return make_conninfo("", **{**DEFAULTS, **given, "client_encoding": "utf8"}).encode()  # As our texts are sent.
    except (DriverError, ValueError):
        raise Invalid("This is not a PostgreSQL URL.", code="url") from None


def hosts_of(conninfo: bytes) -> list[bytes]:
    """The same for each of its hosts alone: libpq waits for one that says nothing as long as it may wait at all."""
    given = conninfo_to_dict(conninfo.decode())
    lists = _lists_of(given)
    count = max((len(values) for values in lists.values()), default=1)
    alone: list[bytes] = []
    for place in range(count):
        one = {name: values[place if len(values) > 1 else 0] for name, values in lists.items()}
        alone.append(make_conninfo("", **{**given, **one}).encode())
    return alone


def _lists_of(given: Mapping[str, Any]) -> dict[str, list[str]]:
    """What a URL may give for each of several hosts."""
    return {name: str(given[name]).split(",") for name in ("host", "hostaddr", "port") if given.get(name)}


def _check_lists(lists: Mapping[str, list[str]]) -> None:
    """As libpq would: one port for all hosts or one for each, each a number, and as many names as addresses."""
    ports = lists.get("port", [""])
    hosts = {len(values) for name, values in lists.items() if name != "port"} or {1}
    if len(hosts) > 1 or len(ports) not in {1, *hosts}:
        raise ValueError
    for port in ports:
        int(port or "5432")


class Places:
    """How many calls may hold a connection at once, and who is next."""

    def __init__(self, most: int) -> None:
        self._free = most
        self._lock = threading.Lock()
        self._waiting: tuple[deque[threading.Lock], deque[threading.Lock]] = (deque(), deque())

    @property
    def waiting(self) -> int:
        """How many callers wait."""
        return len(self._waiting[0]) + len(self._waiting[1])

    def enter(self, *, reserved: bool, deadline_ns: int) -> None:
        """Get a place.

        Raises:
            Retry: none came free before the deadline, or too many wait already.
        """
        queue = self._waiting[reserved]
        with self._lock:
            if self._free > (0 if reserved else RESERVED) and not queue:
                self._free -= 1
                return
            if len(queue) >= WAITING_MAX:
                raise Retry("Too many calls are waiting.", code="queue_full", retry_after_ms=100, most=WAITING_MAX)
            bell = threading.Lock()
            bell.acquire()
            queue.append(bell)
        rang = False
        try:
            rang = bell.acquire(timeout=seconds_left(deadline_ns))
        finally:
            if not rang:
                with self._lock:
                    if bell in queue:
                        queue.remove(bell)
                    else:  # It was given to us this very moment; pass it on.
                        self._free += 1
                        self._hand_over()
        if not rang:
            raise Retry("All connections were busy until the deadline; the call was not run.", code="deadline")

    def leave(self) -> None:
        """Give the place back."""
        with self._lock:
            self._free += 1
            self._hand_over()

    def forked(self) -> None:
        """In a child process: whoever held the lock stayed behind."""
        self._lock = threading.Lock()

    def _hand_over(self) -> None:
        for queue, floor in ((self._waiting[1], 0), (self._waiting[0], RESERVED)):
            while queue and self._free > floor:
                self._free -= 1
                queue.popleft().release()


class Pool:
    """The connections: idle ones are reused last in, first out."""

    def __init__(self, conninfo: bytes, most: int, clock: ServerClock) -> None:
        if not POOL_MIN <= most <= POOL_MAX:
            raise Invalid("pool_max is out of range.", pool_max=most, least=POOL_MIN, most=POOL_MAX)
        self.most = most
        self.places = Places(most)
        self._hosts = hosts_of(conninfo)
        self._host = 0  # The one that took us last; standbys and hosts that are away are asked after it.
        self._clock = clock
        self._idle: deque[Wire] = deque()
        self._busy: set[Wire] = set()
        self._generation = 0
        self._closing = False

    @property
    def busy(self) -> int:
        """Connections in use."""
        return len(self._busy)

    def running(self) -> dict[int, Callable[..., Any] | None]:
        """What runs now, by the server's process."""
        return {wire.identity.pid: wire.fn for wire in tuple(self._busy)}

    def take(self, deadline_ns: int) -> Wire:
        """A live connection; the caller has a place.

        Raises:
            Retry: the server cannot be reached until the deadline.
            Invalid: it refuses us.
        """
        while True:
            try:
                wire = self._idle.pop()
            except IndexError:
                wire = self._connect_patiently(deadline_ns)
            else:
                if wire.generation != self._generation:
                    wire.close()
                    continue
                wire.deadline_ns = deadline_ns
                if time.monotonic_ns() - wire.clock.after_ns > CLOCK_AGE_NS_MAX:
                    try:
                        self._clock.learn(wire.read_clock())
                    except Lost:
                        self.give(wire, suspect=True)
                        continue
            self._busy.add(wire)
            return wire

    def give(self, wire: Wire, *, suspect: bool = False) -> None:
        """Give a connection back.

        Args:
            wire: as `take` gave it.
            suspect: it broke by itself, so that the idle ones have probably broken as well.
        """
        self._busy.discard(wire)
        if suspect and wire.generation == self._generation:
            self._generation += 1
        if wire.suspicious and not wire.broken:
            wire.broken = not wire.settled()
        if wire.broken or self._closing or wire.generation != self._generation:
            wire.close()
        else:
            self._idle.append(wire)

    def connect(self, deadline_ns: int) -> Wire:
        """One attempt at a new connection; each host has its share of the time."""
        generation = self._generation
        give_up_ns = min(deadline_ns, time.monotonic_ns() + CONNECT_NS_MAX)
        host, left = self._host, len(self._hosts)
        while True:
            now_ns = time.monotonic_ns()
            try:
                wire = open_wire(self._hosts[host], deadline_ns=now_ns + (give_up_ns - now_ns) // left)
            except Retry:
                left -= 1
                if not left:
                    raise
                host = (host + 1) % len(self._hosts)
            else:
                break
        self._host = host
        wire.deadline_ns = deadline_ns
        wire.generation = generation
        self._clock.learn(wire.clock)
        return wire

    def close(self) -> None:
        """Wait until all places are free, for a while, then close all connections."""
        self._closing = True
        give_up_ns = time.monotonic_ns() + CONNECT_NS_MAX
        taken = 0
        with contextlib.suppress(Retry):  # A function that does not end; its connection is closed when it comes back.
            while taken < self.most:  # The reserved ones last, and so behind all who wait for the others.
                self.places.enter(reserved=taken >= self.most - RESERVED, deadline_ns=give_up_ns)
                taken += 1
        while self._idle:
            self._idle.pop().close()
        for _ in range(taken):  # To whoever was admitted, and waited for a hot key meanwhile.
            self.places.leave()

    def _connect_patiently(self, deadline_ns: int) -> Wire:
        pause_s, longest_s = CONNECT_PAUSE_S
        while True:
            try:
                return self.connect(deadline_ns)
            except Retry:
                if seconds_left(deadline_ns) <= pause_s:
                    raise
            time.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311  Jitter.
            pause_s = min(pause_s * 2, longest_s)
