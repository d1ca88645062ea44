"""Simulated time: one true time, and a clock per process that is wrong in its own way."""

from __future__ import annotations

EPOCH_MS = 1_700_000_000_000  # When every run begins.


class Time:
    """The true time of a run, in milliseconds since 1970. Nobody in the run can see it."""

    __slots__ = ("now_ms",)

    def __init__(self) -> None:
        self.now_ms = EPOCH_MS


class ProcessClock:
    """What one process takes for the time: offset, drift, and never backwards in one life, as the engine promises."""

    __slots__ = ("_drift", "_floor", "_offset_ms", "_time")

    def __init__(self, time: Time, *, drift_ppm: int) -> None:
        self._time = time
        self._drift = drift_ppm / 1_000_000
        self._offset_ms = 0
        self._floor = 0

    def now_ms(self) -> int:
        """Milliseconds since 1970, never less than the last answer."""
        true_ms = self._time.now_ms
        shown = true_ms + self._offset_ms + int((true_ms - EPOCH_MS) * self._drift)
        self._floor = max(self._floor, shown)
        return self._floor

    def step(self, ms: int) -> None:
        """Somebody sets the clock; negative values set it back."""
        self._offset_ms += ms

    def restarted(self) -> None:
        """The process begins anew: what it had seen is forgotten."""
        self._floor = 0


class CurrentClock:
    """The clock of whichever process runs now."""

    __slots__ = ("of",)

    def __init__(self) -> None:
        self.of: ProcessClock | Time = Time()

    def now_ms(self) -> int:
        """Milliseconds since 1970."""
        of = self.of
        return of.now_ms if isinstance(of, Time) else of.now_ms()
