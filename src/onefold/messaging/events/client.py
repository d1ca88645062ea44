"""What lives between transactions: a subscriber's loop, waiting for an event, the sequencer's loop."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from typing import Self

import msgspec

from onefold.core.errors import Invalid, OnefoldError, Retry
from onefold.core.loop import Loop
from onefold.core.page import LIMIT_DEFAULT, Limit
from onefold.engine.database import Handle
from onefold.engine.tx import Tx
from onefold.messaging.events.consuming import Consumed, Handler, consume, fail_next
from onefold.messaging.events.ops import position_of
from onefold.messaging.events.sequencer import sequence
from onefold.messaging.events.subscriptions import try_subscription_of

_log = logging.getLogger("onefold.events")

WAIT_MS_MAX = 600_000
POLL_MS = 500  # Wake-ups are hints; this often a waiter looks by itself.
BACKOFF_FIRST_S, BACKOFF_MAX_S = 0.1, 30.0
STOP_S = 10.0

LOOPS = [
    Loop("events.sequencer", sequence, every_ms=POLL_MS, topic="events.appended", isolation="read_committed"),
]


def wait_for(db: Handle, event_id: str, *, timeout_ms: int = 5_000, subscription: str | None = None) -> int:
    """Wait until the event has its position, and answer it.

    Args:
        db: where to look; the same space as the append.
        event_id: as `append` answered it, after its transaction committed.
        timeout_ms: 0 to 600,000; 0 looks once.
        subscription: wait until this one has handled (or parked) the event, so that the views which
            it keeps show it.

    Raises:
        Retry: the time is over.
        NotFound: there is no such event.
    """
    if not 0 <= timeout_ms <= WAIT_MS_MAX:
        raise Invalid("timeout_ms is out of range.", timeout_ms=timeout_ms, most=WAIT_MS_MAX)
    until = time.monotonic() + timeout_ms / 1_000
    waiter = db.waiter("events" if subscription is None else "events.consumed")
    try:
        while True:
            position = db.reader().run(_reached, event_id, subscription)
            if position is not None:
                return position
            left_s = until - time.monotonic()
            if left_s <= 0:
                raise Retry("The event was not reached in time.", code="timeout", event=event_id)
            waiter.wait(min(left_s, POLL_MS / 1_000))
    finally:
        waiter.close()


class Subscriber:
    """Runs one subscription in a thread of its own: `with Subscriber(db, "totals", add_up):`.

    Several processes may run the same subscription: one at a time does a step, the others look on.
    """

    def __init__(
        self, db: Handle, name: str, handler: Handler, *, category: str | None = None,
        kinds: Sequence[type[msgspec.Struct]] = (), limit: Limit = LIMIT_DEFAULT, attempts_max: int = 5,
    ) -> None:  # fmt: skip
        self._db = db
        self._name = name
        self._handler = handler
        self._category = category
        self._kinds = tuple(kinds)
        self._limit = limit
        self._attempts_max = attempts_max
        self._now_limit = limit
        self._stop = threading.Event()
        self._waiter = db.waiter("events")
        self._thread: threading.Thread | None = None

    def step(self) -> Consumed:
        """One bounded step, in the caller's thread.

        Raises:
            Whatever `consume` raises, but for a step that took too long: that one is repeated event
            by event, and the event that alone takes too long is treated as failed.
        """
        try:
            done = self._db.run(
                consume, self._name, self._handler, category=self._category, kinds=self._kinds,
                limit=self._now_limit, attempts_max=self._attempts_max,
            )  # fmt: skip
        except Retry as error:
            if error.code != "deadline":
                raise
            if self._now_limit > 1:
                self._now_limit = 1
                return Consumed(0, 0, more=True)
            return self._db.run(fail_next, self._name, error=str(error), attempts_max=self._attempts_max)
        self._now_limit = min(self._now_limit * 2, self._limit)
        return done

    def start(self) -> None:
        """Start the thread."""
        self._thread = threading.Thread(target=self._drive, name=f"onefold-events-{self._name}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Let the step that runs end, and stop."""
        self._stop.set()
        self._waiter.wake()
        if self._thread is not None:
            self._thread.join(STOP_S)
        self._waiter.close()

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self.stop()

    def _drive(self) -> None:
        backoff_s = BACKOFF_FIRST_S
        while not self._stop.is_set():
            try:
                done = self.step()
            except Exception as error:
                level = logging.WARNING if isinstance(error, OnefoldError) else logging.ERROR
                _log.log(level, "subscription %s failed; again in %.1f s", self._name, backoff_s, exc_info=error)
                self._stop.wait(backoff_s)
                backoff_s = min(backoff_s * 2, BACKOFF_MAX_S)
                continue
            backoff_s = BACKOFF_FIRST_S
            if done.error is not None:
                _log.warning("subscription %s: %s", self._name, done.error)
            if not done.more:
                self._waiter.wait(min(done.retry_in_ms or POLL_MS, POLL_MS) / 1_000)


def _reached(tx: Tx, event_id: str, subscription: str | None) -> int | None:
    position = position_of(tx, event_id)
    if position is None or subscription is None:
        return position
    found = try_subscription_of(tx, subscription)  # None: its first step has not been yet.
    return position if found is not None and found.position >= position else None
