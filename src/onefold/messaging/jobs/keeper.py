"""The thread beside a worker's event loop: heartbeats, due jobs, rescues, and jobs past their time.

It is a thread of its own because a handler that blocks the loop must not look like a dead worker;
and because then somebody must still end that handler's attempt.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Protocol

from onefold.core.errors import Conflict, OnefoldError
from onefold.engine.database import Handle
from onefold.engine.wake import Waiter
from onefold.messaging.jobs.leases import beat, rescue
from onefold.messaging.jobs.rates import Ended
from onefold.messaging.jobs.upkeep import promote

_log = logging.getLogger("onefold.jobs")

BEATS_PER_LEASE = 3
REST_S_MIN = 0.01  # Between two looks for due jobs, however many are put.
LATE_MS = 30_000  # How late a transaction may commit a job that is already due, to be found at once.
LOOK_BACK_S = 30.0  # ... and how soon a later one is found.
STEPS_MAX = 20  # Of promotions and rescues in one go, before the heartbeat has its turn again.


class Kept(Protocol):
    """What the keeper needs of the worker; every method may be called from its thread."""

    def names(self) -> list[str]:
        """The names under which jobs are held."""
        ...

    def told_cancelled(self, jobs: list[tuple[str, int]]) -> None:
        """These (id, attempt) were cancelled."""
        ...

    def told_lost(self, name: str) -> None:
        """What is held under this name was given to others."""
        ...

    def rates(self) -> dict[str, Ended]:
        """What was ended in the last minute, by kind."""
        ...

    def end_overdue(self) -> None:
        """Fail attempts that are past their time though nobody ended them."""
        ...


class Keeper:
    """See the module."""

    def __init__(
        self, handle: Handle, waiter: Callable[[str], Waiter], kept: Kept, *, lease_ms: int, poll_ms: int
    ) -> None:
        self._handle = handle
        self._kept = kept
        self._lease_ms = lease_ms
        self._beat_s = lease_ms / 1_000 / BEATS_PER_LEASE
        self._poll_s = poll_ms / 1_000
        self._waiter = waiter("jobs/scheduled")
        self._stopping = False
        self._beat_at = time.monotonic() + self._beat_s
        self._rescue_at = 0.0
        self._look_back_at = 0.0
        self._thread = threading.Thread(target=self._loop, name="onefold-jobs-keeper", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, *, within_s: float | None = None) -> None:
        """Let it do no further step, and wait for its last one, or so long."""
        self._stopping = True
        self._waiter.wake()
        self._thread.join(within_s)

    def _loop(self) -> None:
        try:
            self._keep()
        finally:
            self._waiter.close()

    def _keep(self) -> None:
        while not self._stopping:
            rest_s = self._poll_s
            for step in (self._beat, self._promote, self._rescue, self._overdue):
                if self._stopping:
                    return
                try:
                    rest_s = min(rest_s, step())
                except Exception as error:
                    level = logging.WARNING if isinstance(error, OnefoldError) else logging.ERROR
                    _log.log(level, "%s failed; again in a moment", step.__name__, exc_info=error)
            if not self._stopping:
                self._waiter.wait(max(rest_s, REST_S_MIN))
                time.sleep(REST_S_MIN)

    def _beat(self) -> float:
        now = time.monotonic()
        if now >= self._beat_at:
            rates = self._kept.rates()
            for name in self._kept.names():
                try:
                    found = self._handle.run(beat, name, lease_ms=self._lease_ms, rates=rates)
                except Conflict as error:
                    if error.code != "worker_lost":
                        raise
                    self._kept.told_lost(name)
                else:
                    rates = {}  # Under one of its names.
                    if found:
                        self._kept.told_cancelled(found)
            self._beat_at = now + self._beat_s
        return self._beat_at - now

    def _promote(self) -> float:
        now = time.monotonic()
        late_ms: int | None = LATE_MS
        if now >= self._look_back_at:
            late_ms = None
            self._look_back_at = now + LOOK_BACK_S
        for _ in range(STEPS_MAX):
            wait_ms = self._handle.run(promote, late_ms=late_ms)
            if wait_ms != 0:
                return self._poll_s if wait_ms is None else wait_ms / 1_000
        self._look_back_at = 0.0  # More is waiting than one go moves: nothing is passed over.
        return 0.0

    def _rescue(self) -> float:
        now = time.monotonic()
        if now >= self._rescue_at:
            for _ in range(STEPS_MAX):
                if not self._handle.run(rescue):
                    break
            self._rescue_at = now + self._beat_s
        return self._rescue_at - now

    def _overdue(self) -> float:
        self._kept.end_overdue()
        return self._poll_s
