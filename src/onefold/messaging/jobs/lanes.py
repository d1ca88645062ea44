"""How far a worker has dealt with each lane, so that a claim does not walk over what is gone.

On PostgreSQL a deleted job leaves a dead index entry at the left edge of its lane, and while any
transaction holds an old snapshot nothing may remove it: claims that start at the edge get slower
and slower. So a worker starts each claim at a number below which nothing is left for it. It is a
hint in memory, not state: a worker that starts, or doubts, starts at 0.

Numbers are drawn in rising order but commit in any. On SQLite there is one writer: after a claim
everything up to the last number taken is dealt with. On PostgreSQL a smaller number may still be
in flight. So after a claim the worker notes (upto, xmax): the last number taken, and the first
transaction id not yet given out. Whoever drew a number up to `upto` has an id below `xmax`; once
every transaction below `xmax` has ended, one look at the lane up to `upto` sees all that is left
there, and the low-water mark moves to the first of it, or past `upto`. (The number is drawn a
moment before the id, which a stopped process could stretch; and a lane also hides jobs of paused
queues. For both there is the look from 0 on, now and then.)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from onefold.engine.tx import Tx
from onefold.messaging.jobs.attempts import Lows, Wanted, claim
from onefold.messaging.jobs.kinds import PRIORITIES
from onefold.messaging.jobs.records import Attempt

LOOK_AFTER = 200  # Claimed jobs between two moves of the marks; more means longer walks per claim.

_EDGE: Lows = (0, 0, 0, 0, 0)

LaneName = tuple[str, int]


class Pending(NamedTuple):
    """A mark to be: once all transactions below `xmax` have ended."""

    low: int
    upto: int
    xmax: int


class Claimed(NamedTuple):
    """What a claim took, and what it saw of the lanes."""

    attempts: list[Attempt]
    xmax: int | None
    moved: dict[LaneName, int]


class Lanes:
    """The marks of one worker."""

    def __init__(self, queues: Sequence[str], *, in_order: bool) -> None:
        self._queues = tuple(queues)
        self._in_order = in_order  # One writer: numbers commit in the order in which they are drawn.
        self._turn = 0
        self.age = 0  # How often all was forgotten; what a claim saw before that is void.
        self.forget()

    def forget(self) -> None:
        """Start at the left edge again."""
        self.age += 1
        self._low: dict[LaneName, int] = {}
        self._top: dict[LaneName, int] = {}
        self._pending: dict[LaneName, Pending] = {}
        self._since_look = 0

    def lows(self, *, from_the_edge: bool = False) -> list[tuple[str, Lows]]:
        """Where to begin in each lane; another queue is the first each time."""
        self._turn = (self._turn + 1) % len(self._queues)
        turned = self._queues[self._turn :] + self._queues[: self._turn]
        return [(queue, _EDGE if from_the_edge else self._lows_of(queue)) for queue in turned]

    def to_look_at(self) -> dict[LaneName, Pending] | None:
        """The marks to be tried with the next claim; None: not yet."""
        return None if self._in_order or self._since_look < LOOK_AFTER else dict(self._pending)

    def claimed(self, claimed: Claimed, *, age: int) -> None:
        """Learn from a committed claim that began at that `age`."""
        if age != self.age:
            return
        for attempt in claimed.attempts:
            lane = (attempt.queue, attempt.priority)
            self._top[lane] = max(attempt.seq, self._top.get(lane, 0))
        if self._in_order:
            self._low = {lane: top + 1 for lane, top in self._top.items()}
            return
        self._since_look += len(claimed.attempts)
        for lane, low in claimed.moved.items():
            self._low[lane] = low
            self._pending.pop(lane, None)
        if claimed.xmax is not None:
            self._since_look = 0
            for lane, top in self._top.items():
                if lane not in self._pending:
                    self._pending[lane] = Pending(self._low.get(lane, 0), top, claimed.xmax)

    def _lows_of(self, queue: str) -> Lows:
        first, second, third, fourth, fifth = (self._low.get((queue, priority), 0) for priority in PRIORITIES)
        return first, second, third, fourth, fifth


def claim_and_look(
    tx: Tx, worker: str, wanted: Wanted, room: int, looks: dict[LaneName, Pending] | None
) -> Claimed:
    """`claim`; and on PostgreSQL, when `looks` is given, try to move the marks."""
    attempts = claim(tx, worker, wanted, room=room)
    if looks is None:
        return Claimed(attempts, None, {})
    horizon = tx.one(
        """SELECT CAST(CAST(pg_snapshot_xmin(s.now) AS TEXT) AS BIGINT),
                  CAST(CAST(pg_snapshot_xmax(s.now) AS TEXT) AS BIGINT)
           FROM (SELECT pg_current_snapshot() AS now) s -- all spaces"""
    )
    assert horizon is not None
    xmin, xmax = horizon
    ripe = {lane: mark for lane, mark in looks.items() if mark.xmax <= xmin}
    return Claimed(attempts, xmax, dict(_look(tx, wanted, ripe)))


def _look(tx: Tx, wanted: Wanted, ripe: dict[LaneName, Pending]) -> Iterable[tuple[LaneName, int]]:
    for (queue, priority), mark in ripe.items():
        first = tx.one(
            """SELECT r.seq FROM onefold.jobs_ready r
               WHERE r.queue = :queue AND r.priority = :priority AND r.seq >= :low AND r.seq <= :upto
                 AND replace(:kinds, ',' || r.kind || ',', '') <> :kinds AND (:every = 1 OR r.space = :home)
                 AND (SELECT p.queue FROM onefold.jobs_paused p
                      WHERE p.space = r.space AND p.queue = r.queue) IS NULL -- all spaces
               ORDER BY r.seq LIMIT 1""",
            queue=queue, priority=priority, low=mark.low, upto=mark.upto, kinds=wanted.kinds,
            every=int(wanted.home is None), home=wanted.home or 0,
        )  # fmt: skip
        yield (queue, priority), (first[0] if first else mark.upto + 1)
