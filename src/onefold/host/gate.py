"""A fair lock between processes, on two side files, released by the kernel when a holder dies.

flock(2) alone lets a process that releases and asks again overtake sleepers. So whoever asks
first takes the *turn* file, then the *gate* file, then gives the turn back: while one waits at
the gate it holds the turn, and nobody can slip past it.

A lock of flock(2) lives as long as any copy of its descriptor, and a fork copies them all. So a
child closes its copies at once, and a release says so to the kernel before it closes.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import stat
import threading
import weakref
from collections.abc import Callable
from pathlib import Path

from onefold.core.errors import Invalid
from onefold.host.processes import identity, is_alive, is_identity

_HOLDER_BYTES = 48
_CLOSED = -1


class Gate:
    """One gate; not for several threads at once: their owner holds a thread lock around it."""

    def __init__(self, path: Path) -> None:
        """Make or open the side files `path`-gate and `path`-turn."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        self._path = path
        self._gate = self._turn = _CLOSED
        self._gate = _opened(f"{path}-gate", flags)
        self._turn = _opened(f"{path}-turn", flags)
        self._me = identity().ljust(_HOLDER_BYTES).encode()
        #: Give it to whoever waits longest; does nothing when it is not held. In C, so that no
        #: signal's exception comes between a `finally` and it.
        self.release: Callable[[], None] = functools.partial(fcntl.flock, self._gate, fcntl.LOCK_UN)
        _gates.add(self)

    def try_acquire(self) -> bool:
        """Take it when nobody holds it or waits for it."""
        turn = self._turn
        try:
            fcntl.flock(turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(self._gate, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        finally:
            fcntl.flock(turn, fcntl.LOCK_UN)
        self._sign()
        return True

    def acquire(self) -> None:
        """Take it, sleeping in the kernel until it is free; in the order of asking."""
        turn = self._turn
        try:
            fcntl.flock(turn, fcntl.LOCK_EX)
            fcntl.flock(self._gate, fcntl.LOCK_EX)
        finally:
            fcntl.flock(turn, fcntl.LOCK_UN)
        self._sign()

    def acquire_within(self, seconds: float) -> bool:
        """Take it in the order of asking; False when the time ran out."""
        if self.try_acquire():
            return True
        # flock(2) knows no time limit, so a thread sleeps in it, on descriptors of its own; one
        # that is too late gives back.
        waiting = Gate(self._path)
        lock = threading.Lock()
        outcome: list[bool] = []
        arrived = threading.Event()

        def wait() -> None:
            with contextlib.suppress(OSError):
                waiting.acquire()
                with lock:
                    outcome.append(True)
            if outcome[:1] != [True]:
                waiting.close()
            arrived.set()

        threading.Thread(target=wait, name="onefold-gate", daemon=True).start()
        arrived.wait(seconds)
        with lock:
            outcome.append(False)
        if outcome[0]:
            self._become(waiting)
        return outcome[0]

    def wanted(self) -> bool:
        """Whether somebody waits while we hold it: whoever waits at the gate holds the turn."""
        turn = self._turn
        try:
            fcntl.flock(turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        fcntl.flock(turn, fcntl.LOCK_UN)
        return False

    def holder(self) -> str:
        """The last taker as "pid 123", for messages; says when that process is gone."""
        who = os.pread(self._gate, _HOLDER_BYTES, 0).decode("ascii", "replace").strip()
        if not who:
            return "nobody yet"
        if not is_identity(who):
            return "unknown; the gate's file was written by somebody else"
        pid = who.partition(" ")[0]
        return f"pid {pid}" if is_alive(who) else f"pid {pid} (gone; a child may hold its descriptor)"

    @property
    def closed(self) -> bool:
        """Whether it was closed, or is a child's copy of its parent's."""
        return self._gate == _CLOSED

    def close(self) -> None:
        """Close the side files; what was held is released. Closing twice does nothing."""
        for descriptor in self._part_with():
            with contextlib.suppress(OSError):  # Said aloud: a child made meanwhile may have a copy.
                fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)

    def __del__(self) -> None:
        """Whoever forgot it must not keep others waiting."""
        self.close()

    def _sign(self) -> None:
        # Reading is cheaper than writing, which would date the file anew and burden its disk.
        # A disk that takes no name is no reason to fail: the name is for messages, the lock holds without it.
        with contextlib.suppress(OSError):
            if os.pread(self._gate, _HOLDER_BYTES, 0) != self._me:
                os.pwrite(self._gate, self._me, 0)

    def _become(self, other: Gate) -> None:
        self.close()
        self.release = other.release
        self._gate, self._turn = other._part_with()

    def _part_with(self) -> tuple[int, ...]:
        mine = tuple(descriptor for descriptor in (self._gate, self._turn) if descriptor != _CLOSED)
        self._gate = self._turn = _CLOSED
        self.release = _nothing
        return mine

    def _forked(self) -> None:
        for descriptor in self._part_with():
            os.close(descriptor)  # Not unlocked: the lock is the parent's.


def _opened(path: str, flags: int) -> int:
    try:
        descriptor = os.open(path, flags, 0o666)  # Less the umask, as SQLite makes its files.
    except IsADirectoryError:
        descriptor = _CLOSED
    if descriptor == _CLOSED or not stat.S_ISREG(os.fstat(descriptor).st_mode):  # In a FIFO nobody can sign.
        if descriptor != _CLOSED:
            os.close(descriptor)
        raise Invalid("Something that is no file is where a side file of the database must be.", path=path)
    return descriptor


def _nothing() -> None:
    """What a closed gate releases."""


_gates: weakref.WeakSet[Gate] = weakref.WeakSet()


def _close_all_in_child() -> None:
    for gate in tuple(_gates):
        gate._forked()


os.register_at_fork(after_in_child=_close_all_in_child)
