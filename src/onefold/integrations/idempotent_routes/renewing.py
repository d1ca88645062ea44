"""Keeping the leases of routes that run: a thread for all of them, whether the app is of tasks or of threads."""

from __future__ import annotations

import heapq
import logging
import threading
import time

from onefold.core.errors import Conflict, Invalid
from onefold.engine.database import Handle
from onefold.engine.reserved import reserved
from onefold.engine.tx import Tx
from onefold.messaging import idempotency

log = logging.getLogger("onefold.idempotent_routes")

RUN_MS_DEFAULT = 600_000
RUN_MS_MAX = 86_400_000
RENEWALS_PER_LEASE = 3
PAUSE_MS_MIN = 100  # Between two renewals of one attempt, however short its lease.
CALL_MS_MAX = 5_000  # One renewal waits no longer than this for the database.
SLACK_ENTRIES = 64
_MS = 1_000_000


class Renewals:
    """Renews each attempt after a third of its lease, from `add` to `drop`.

    Its thread ends when there is nothing to renew, and does not survive a fork: the next `add` starts it.

    Args:
        db: where the keys live.
        lease_ms: see `ASGI`.
        run_ms_max: for how long an attempt is renewed at most; 0 for never.

    Raises:
        Invalid: `run_ms_max` is not 0 to one day.
    """

    def __init__(self, db: Handle, *, lease_ms: int, run_ms_max: int) -> None:
        if type(run_ms_max) is not int or not 0 <= run_ms_max <= RUN_MS_MAX:
            raise Invalid("run_ms_max is out of range.", run_ms_max=run_ms_max, most=RUN_MS_MAX)
        self._pause_ms = max(PAUSE_MS_MIN, lease_ms // RENEWALS_PER_LEASE)
        self._db = db.options(deadline_ms=min(CALL_MS_MAX, self._pause_ms))
        self._lease_ms = lease_ms
        self._run_ms_max = run_ms_max
        self._guard = threading.Lock()
        self._held: dict[str, tuple[idempotency.Attempt, int]] = {}  # By token, and until when it is renewed.
        self._due: list[tuple[int, str]] = []  # A heap; what was dropped stays in it until it is due.
        self._thread: threading.Thread | None = None

    def add(self, attempt: idempotency.Attempt) -> None:
        """Renew it from now on."""
        if not self._run_ms_max:
            return
        now_ns = time.monotonic_ns()
        with self._guard:
            self._held[attempt.token] = attempt, now_ns + self._run_ms_max * _MS
            if len(self._due) > 2 * len(self._held) + SLACK_ENTRIES:
                self._due = [entry for entry in self._due if entry[1] in self._held]
                heapq.heapify(self._due)
            heapq.heappush(self._due, (now_ns + self._pause_ms * _MS, attempt.token))
            # No need to wake it: nothing is due before what it waits for.
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._beat, name="onefold-renewals", daemon=True)
                self._thread.start()

    def drop(self, attempt: idempotency.Attempt) -> None:
        """Renew it no more: its route has ended. Twice is once."""
        with self._guard:
            self._held.pop(attempt.token, None)

    def _beat(self) -> None:
        resting = threading.Event()  # Never set.
        while True:
            with self._guard:
                while self._due and self._due[0][1] not in self._held:
                    heapq.heappop(self._due)
                if not self._due:
                    self._thread = None
                    return
                rest_ns = self._due[0][0] - time.monotonic_ns()
                held = self._held[heapq.heappop(self._due)[1]] if rest_ns <= 0 else None
            if held is None:
                resting.wait(rest_ns / 1e9)
            else:
                self._renew(*held)

    def _renew(self, attempt: idempotency.Attempt, until_ns: int) -> None:
        asked_ns = time.monotonic_ns()
        if asked_ns >= until_ns:
            log.warning("a route runs for more than %d ms; its lease lapses now", self._run_ms_max)
            self.drop(attempt)
            return
        pause_ms = self._pause_ms
        try:
            self._db.run(_renew, attempt, lease_ms=self._lease_ms)
        except Conflict as error:
            with self._guard:
                lost = self._held.pop(attempt.token, None)
            if lost is not None:  # Else it was answered meanwhile.
                log.warning("a route that runs has lost its key, its answer will not count: %s", error)
            return
        except Exception as error:  # noqa: BLE001  Others wait for this thread.
            log.warning("the lease of a route that runs was not renewed: %s", error)
            pause_ms = max(PAUSE_MS_MIN, pause_ms // 5)
        with self._guard:
            if attempt.token in self._held:
                heapq.heappush(self._due, (asked_ns + pause_ms * _MS, attempt.token))


# Signs of life may use the connections that are kept for them.
@reserved
def _renew(tx: Tx, attempt: idempotency.Attempt, *, lease_ms: int) -> None:
    idempotency.renew(tx, attempt, lease_ms=lease_ms)
