"""The connection broke at COMMIT: did it happen?

Each writing attempt inserts a random id into `onefold.tx`. Once the old backend is certainly
gone, the row is there exactly if the transaction committed. Seen is not kept, though: with a synchronous
standby a commit whose backend died while it waited is visible at once, and lost in a failover until the standby
has it. So a row that is found is written once more, and that write waits for the standby. (`pg_xact_status`
does not do: after a failover a reused transaction number answered "committed" for a lost one.)

The look-up begins when the connection broke, at the deadline or before, and lasts as long as the call was given, at
least 2 and at most 15 seconds: who waits for 10 seconds is spared an `Unknown` by a server that is back after 9 of
them, and who waits for one has his answer soon.
"""

from __future__ import annotations

import contextlib
import itertools
import secrets
import threading
import time

from onefold.core.errors import OnefoldError
from onefold.engine.postgres.codec import plan_of
from onefold.engine.postgres.pool import Pool
from onefold.engine.postgres.wire import Identity, Wire

RESOLVE_NS_MIN, RESOLVE_NS_MAX = 2_000_000_000, 15_000_000_000
PAUSE_S = 0.02
_COUNT_BITS = 19

LOOK_UP = "SELECT 1 FROM onefold.tx WHERE id = :id"
CONFIRM = "UPDATE onefold.tx SET at_ms = onefold.tx.at_ms WHERE id = :id"
END_BACKEND = """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                 WHERE pid = :pid AND CAST(extract(epoch FROM backend_start) AS text) = :backend_start"""


class AttemptIds:
    """63-bit ids: 44 random bits, then 19 counted ones, drawn anew when they are used up.

    Counted, because wholly random keys would touch another page of the index at each commit.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._series = self._drawn()

    def next(self) -> int:
        """An id that nobody has had."""
        while True:
            high, counter = series = self._series
            count = next(counter)  # Atomic.
            if count < 1 << _COUNT_BITS:
                return high | count
            with self._lock:
                if self._series is series:
                    self._series = self._drawn()

    @staticmethod
    def _drawn() -> tuple[int, itertools.count[int]]:
        return secrets.randbits(63 - _COUNT_BITS) << _COUNT_BITS, itertools.count()


def committed(pool: Pool, old: Identity, attempt_id: int, *, deadline_ms: int) -> bool | None:
    """Whether the attempt of a call that was given `deadline_ms` committed; None when that cannot be told."""
    give_up_ns = time.monotonic_ns() + min(max(deadline_ms * 1_000_000, RESOLVE_NS_MIN), RESOLVE_NS_MAX)
    while time.monotonic_ns() < give_up_ns:
        with contextlib.suppress(OnefoldError):  # It is away, lets us in no more, or broke again; ask once more.
            wire = pool.connect(give_up_ns)
            try:
                if wire.identity.timeline:  # A standby that is not promoted yet knows nothing.
                    return _ask(wire, old, attempt_id, give_up_ns)
            finally:
                wire.close()
        time.sleep(PAUSE_S)
    return None


def _ask(wire: Wire, old: Identity, attempt_id: int, give_up_ns: int) -> bool | None:
    same = wire.identity.system == old.system
    while same and _rows(wire, END_BACKEND, pid=old.pid, backend_start=old.backend_start):
        if time.monotonic_ns() > give_up_ns:
            return None
        time.sleep(PAUSE_S)
    if _rows(wire, LOOK_UP, id=attempt_id):
        _rows(wire, CONFIRM, id=attempt_id)  # Or it raises: then nobody knows yet.
        return True
    # Not there. On another branch of history, or another server, that proves nothing.
    return False if same and wire.identity.timeline == old.timeline else None


def _rows(wire: Wire, sql: str, **parameters: object) -> list[tuple[object, ...]]:
    plan = plan_of(sql)
    wire.execute(plan, *plan.encode(parameters))
    return wire.rows()
