"""The server's time, estimated: read when a connection is made, carried on by our own timer."""

from __future__ import annotations

import threading
import time

from onefold.engine.postgres.wire import ClockReading

READING_ROUND_TRIP_NS_MAX = 50_000_000  # A slower answer says too little about when it was given.


class ServerClock:
    """Milliseconds since 1970 by the server's clock, never backwards in this process."""

    def __init__(self) -> None:
        self._offset_ns: int | None = None  # The server's clock minus our monotonic one.
        self._last_ms = 0
        self._lock = threading.Lock()

    def learn(self, reading: ClockReading) -> None:
        """Take a new reading; the server saw its clock somewhere within the round trip."""
        round_trip_ns = reading.after_ns - reading.before_ns
        if self._offset_ns is None or round_trip_ns <= READING_ROUND_TRIP_NS_MAX:
            self._offset_ns = reading.server_us * 1_000 - (reading.before_ns + round_trip_ns // 2)

    def now_ms(self) -> int:
        """The time; a server whose clock steps back is waited out, the last value repeats."""
        assert self._offset_ns is not None, "the engine connects before it asks for the time"
        now = (time.monotonic_ns() + self._offset_ns) // 1_000_000
        with self._lock:
            self._last_ms = max(self._last_ms, now)
            return self._last_ms
