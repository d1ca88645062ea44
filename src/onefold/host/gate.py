"""A fair lock between processes, on two side files, released by the kernel when a holder dies.

flock(2) alone lets a process that releases and asks again overtake sleepers. So whoever asks
first takes the *turn* file, then the *gate* file, then gives the turn back: while one waits at
the gate it holds the turn, and nobody can slip past it.
"""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path

from onefold.host.processes import identity, is_alive

_HOLDER_BYTES = 48


class Gate:
    """One gate; not for several threads at once: their owner holds a thread lock around it."""

    def __init__(self, path: Path) -> None:
        """Make or open the side files `path`-gate and `path`-turn."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        self._gate = os.open(f"{path}-gate", flags, 0o644)
        try:
            self._turn = os.open(f"{path}-turn", flags, 0o644)
        except OSError:
            os.close(self._gate)
            raise
        self._me = identity().ljust(_HOLDER_BYTES).encode()

    def try_acquire(self) -> bool:
        """Take it when nobody holds it or waits for it."""
        try:
            fcntl.flock(self._turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        try:
            fcntl.flock(self._gate, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        finally:
            fcntl.flock(self._turn, fcntl.LOCK_UN)
        os.pwrite(self._gate, self._me, 0)
        return True

    def acquire(self) -> None:
        """Take it, sleeping in the kernel until it is free; in the order of asking."""
        fcntl.flock(self._turn, fcntl.LOCK_EX)
        try:
            fcntl.flock(self._gate, fcntl.LOCK_EX)
        finally:
            fcntl.flock(self._turn, fcntl.LOCK_UN)
        os.pwrite(self._gate, self._me, 0)

    def acquire_within(self, seconds: float) -> bool:
        """Take it in the order of asking; False when the time ran out, and then this gate is closed."""
        if self.try_acquire():
            return True
        # flock(2) knows no time limit, so a thread sleeps in it; one that is too late gives back.
        lock = threading.Lock()
        outcome: list[bool] = []
        arrived = threading.Event()

        def wait() -> None:
            self.acquire()
            with lock:
                outcome.append(True)
                late = len(outcome) > 1
            arrived.set()
            if late:
                self.close()

        threading.Thread(target=wait, name="onefold-gate", daemon=True).start()
        arrived.wait(seconds)
        with lock:
            outcome.append(False)
            return outcome[0]

    def release(self) -> None:
        """Give it to whoever waits longest."""
        fcntl.flock(self._gate, fcntl.LOCK_UN)

    def holder(self) -> str:
        """The last taker as "pid 123", for messages; says when that process is gone."""
        who = os.pread(self._gate, _HOLDER_BYTES, 0).decode("ascii", "replace").strip()
        if not who:
            return "nobody yet"
        pid = who.partition(" ")[0]
        return f"pid {pid}" if is_alive(who) else f"pid {pid} (gone; a child may hold its descriptor)"

    def close(self) -> None:
        """Close the side files; what was held is released."""
        os.close(self._gate)
        os.close(self._turn)
