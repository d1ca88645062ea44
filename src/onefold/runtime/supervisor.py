"""Runs background loops: one thread each, restarted with backoff, drained at the end.

A leased loop runs in one process at a time, whichever holds the lock "loop/NAME"; when that
process dies, another takes over within `lease_ms(loop)` and a fifth. Two at once do no harm, see `Loop`.
"""

from __future__ import annotations

import logging
import os
import secrets
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Self

from onefold.coordination import locks
from onefold.core.errors import OnefoldError
from onefold.core.loop import Loop
from onefold.engine.database import Database
from onefold.engine.reserved import reserved
from onefold.engine.tx import Tx
from onefold.engine.wake import Waiter

_log = logging.getLogger("onefold.loops")

LEASE_MS = (5_000, 30_000)  # At least and at most. Raise them: fewer renewals, later take-over after a crash.
BACKOFF_FIRST_S = 0.1
BACKOFF_MAX_S = 30.0
STOP_S = 10.0


@dataclass(slots=True)
class _Running:
    """One loop and what is known about it."""

    loop: Loop
    waiter: Waiter | None
    thread: threading.Thread | None = None
    lease: locks.Lock | None = None
    renew_at: float = 0.0
    steps: int = 0
    errors: int = 0
    last_ok: float = field(default_factory=time.monotonic)


class Supervisor:
    """Starts the loops, keeps them going, and stops them: `with Supervisor(db, all_loops()):`."""

    def __init__(self, db: Database, loops: Iterable[Loop]) -> None:
        self._db = db
        self._owner = f"{os.getpid()}-{secrets.token_hex(4)}"
        self._stop = threading.Event()
        self._running = [_Running(loop, db.waiter(loop.topic) if loop.topic else None) for loop in loops]
        names = [running.loop.name for running in self._running]
        assert len(set(names)) == len(names), "loops have unique names"

    def start(self) -> None:
        """Start one thread per loop."""
        self._db.gauge_sources.append(self.numbers)
        for running in self._running:
            running.thread = threading.Thread(
                target=self._drive, args=(running,), name=f"onefold-{running.loop.name}", daemon=True
            )
            running.thread.start()

    def stop(self) -> None:
        """Let every loop finish its step, give the leases back, and wait for the threads."""
        self._stop.set()
        for running in self._running:
            if running.waiter is not None:
                running.waiter.wake()
        until = time.monotonic() + STOP_S
        for running in self._running:
            if running.thread is not None:
                running.thread.join(max(0.0, until - time.monotonic()))
            if running.waiter is not None:
                running.waiter.close()
        if self.numbers in self._db.gauge_sources:
            self._db.gauge_sources.remove(self.numbers)

    def numbers(self) -> dict[str, float]:
        """For each loop: steps, errors, and how long ago the last good step (or look at the lease) was."""
        now = time.monotonic()
        found: dict[str, float] = {}
        for running in self._running:
            name = running.loop.name
            found[f"loop.{name}.steps"] = running.steps
            found[f"loop.{name}.errors"] = running.errors
            found[f"loop.{name}.lag_ms"] = round((now - running.last_ok) * 1_000)
        return found

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self.stop()

    def _drive(self, running: _Running) -> None:
        loop = running.loop
        handle = self._db.options(isolation=loop.isolation)
        backoff_s = BACKOFF_FIRST_S
        while not self._stop.is_set():
            try:
                if loop.leased and not self._leads(running):
                    running.last_ok = time.monotonic()
                    self._stop.wait(lease_ms(loop) / 5_000)
                    continue
                more = handle.run(loop.step)
            except (Exception, SystemExit) as error:  # A step that wants to exit ends itself, not the loop.
                running.errors += 1
                level = logging.WARNING if isinstance(error, OnefoldError) else logging.ERROR
                _log.log(level, "%s failed; again in %.1f s", loop.name, backoff_s, exc_info=error)
                self._stop.wait(backoff_s)
                backoff_s = min(backoff_s * 2, BACKOFF_MAX_S)
                continue
            backoff_s = BACKOFF_FIRST_S
            running.steps += 1
            running.last_ok = time.monotonic()
            if not more:
                self._rest(running)
        self._give_back(running)

    def _rest(self, running: _Running) -> None:
        rest_s = running.loop.every_ms / 1_000
        if running.waiter is not None:
            running.waiter.wait(rest_s)
        else:
            self._stop.wait(rest_s)

    def _leads(self, running: _Running) -> bool:
        """Hold or renew the lease; the clock starts before the request leaves."""
        now = time.monotonic()
        if running.lease is not None and now < running.renew_at:
            return True
        ttl_ms = lease_ms(running.loop)
        running.lease = self._db.run(_lease, running.loop.name, self._owner, ttl_ms)
        running.renew_at = now + ttl_ms / 3_000
        return running.lease is not None

    def _give_back(self, running: _Running) -> None:
        if running.lease is None:
            return
        try:
            self._db.run(locks.release, running.lease)
        except OnefoldError as error:
            _log.info("the lease of %s lapses by itself: %s", running.loop.name, error)


def lease_ms(loop: Loop) -> int:
    """How long a lease lasts unrenewed: ten rests, since a loop that rests shortly is missed soon."""
    least, most = LEASE_MS
    return min(max(10 * loop.every_ms, least), most)


@reserved
def _lease(tx: Tx, loop: str, owner: str, ttl_ms: int) -> locks.Lock | None:
    return locks.try_acquire(tx, f"loop/{loop}", owner=owner, ttl_ms=ttl_ms)
