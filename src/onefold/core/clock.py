"""Time as the engine reads it: milliseconds since 1970, never backwards in one process."""

from __future__ import annotations

import os
import threading
import time
from typing import Protocol


class Clock(Protocol):
    """What the engine asks for the time. Blocks never see it: they have `tx.now_ms`."""

    def now_ms(self) -> int:
        """Milliseconds since 1970-01-01 UTC, never less than the last answer."""
        ...


class SystemClock:
    """The host's clock. A step backwards is waited out: the last value repeats."""

    def __init__(self) -> None:
        self._last = 0
        self._lock = threading.Lock()

    def now_ms(self) -> int:
        """Milliseconds since 1970-01-01 UTC, never less than the last answer."""
        now = time.time_ns() // 1_000_000
        if now > self._last:
            with self._lock:
                self._last = max(self._last, now)
        return self._last

    def forked(self) -> None:
        """In a child process: whoever held the lock stayed behind."""
        self._lock = threading.Lock()


#: The one of this process: all databases and joined transactions together never see time go back.
SYSTEM = SystemClock()
os.register_at_fork(after_in_child=SYSTEM.forked)


class FakeClock:
    """A clock that tests move by hand."""

    def __init__(self, now_ms: int = 1_700_000_000_000) -> None:
        self._now = now_ms

    def now_ms(self) -> int:
        """The time as last set."""
        return self._now

    def advance(self, ms: int) -> None:
        """Let `ms` milliseconds pass; negative values step back, as bad hosts do."""
        self._now += ms
