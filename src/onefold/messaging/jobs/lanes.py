"""How far a worker has dealt with each lane, so that a claim does not walk over what is gone.

On PostgreSQL a deleted job leaves a dead index entry at the left edge of its lane, and while any
transaction holds an old snapshot nothing may remove it: claims that start at the edge get slower
and slower. So a worker starts each claim at a number below which nothing is left for it. It is a
hint in memory, not state: a worker that starts, or doubts, starts at 0.

Numbers are drawn in rising order but commit in any. On SQLite there is one writer: after a claim
everything up to the last number taken is dealt with. On PostgreSQL a smaller number may still be
in flight. So with a claim the worker notes the last number taken by the claims before, and the
transactions in flight that are older than this one: whoever drew a number up to there has an older
id (its first write comes before), so it has ended or is among them. Once they have all ended,
one look at the lane up to there sees all that is left, and the mark moves to the first of it, or
past the end. A transaction that takes its time is not waited for: its id is kept with the mark of
then, and when it ends the mark goes back there. A worker that has no mark yet looks with each claim,
for until then each walks over all that is gone.

(The number is drawn a moment before the id, which a stopped process could stretch; and jobs of
paused queues and unknown kinds are passed over. For these there is a claim from 0 on, now and then.)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from onefold.engine.tx import Tx
from onefold.messaging.jobs.attempts import Lows, Wanted, claim
from onefold.messaging.jobs.kinds import PRIORITIES
from onefold.messaging.jobs.records import Attempt

LOOK_AFTER = 200  # Claimed jobs between two moves of the marks; more means longer walks per claim.
PATIENCE = 3  # Looks until a transaction in flight is no longer waited for.
IN_FLIGHT_MAX = 10_000  # Ids; with more in flight there is no look.
LATE_MAX = 200  # Transactions remembered per lane; with more the mark waits.
_EDGE: Lows = (0, 0, 0, 0, 0)

LaneName = tuple[str, int]


class Pending(NamedTuple):
    """A mark to be: when all that was in flight has ended, or after some looks."""

    low: int
    upto: int
    in_flight: frozenset[int]
    looks: int


class Claimed(NamedTuple):
    """What a claim took, and what it saw of the lanes; `in_flight` is None when it did not look."""

    attempts: list[Attempt]
    in_flight: frozenset[int] | None
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
        self._late: dict[LaneName, dict[int, int]] = {}  # Transaction in flight: mark to go back to.
        self._since_look = 0

    def lows(self, *, from_the_edge: bool = False) -> list[tuple[str, Lows]]:
        """Where to begin in each lane; another queue is the first each time."""
        self._turn = (self._turn + 1) % len(self._queues)
        turned = self._queues[self._turn :] + self._queues[: self._turn]
        return [(queue, _EDGE if from_the_edge else self._lows_of(queue)) for queue in turned]

    def to_look_at(self) -> dict[LaneName, Pending] | None:
        """The marks to be tried with the next claim; None: not yet."""
        unmarked = bool(self._top) and not self._low
        if self._in_order or not (unmarked or self._since_look >= LOOK_AFTER or any(self._late.values())):
            return None
        return dict(self._pending)

    def claimed(self, claimed: Claimed, *, age: int) -> bool:
        """Learn from a committed claim that began at that `age`; True: a mark went back, claim again."""
        if age != self.age:
            return True
        before = dict(self._top)
        for attempt in claimed.attempts:
            lane = (attempt.queue, attempt.priority)
            self._top[lane] = max(attempt.seq, self._top.get(lane, 0))
        if self._in_order:
            self._low = {lane: top + 1 for lane, top in self._top.items()}
            return False
        self._since_look += len(claimed.attempts)
        return claimed.in_flight is not None and self._looked(before, claimed.in_flight, claimed.moved)

    def _looked(self, tops: dict[LaneName, int], in_flight: frozenset[int], moved: dict[LaneName, int]) -> bool:
        for lane, mark in tuple(self._pending.items()):
            if lane in moved:
                del self._pending[lane]
                self._low[lane] = moved[lane]
                for xid in mark.in_flight & in_flight:
                    self._late.setdefault(lane, {}).setdefault(xid, mark.low)
            elif len(self._late.get(lane, ())) < LATE_MAX:
                self._pending[lane] = mark._replace(looks=mark.looks + 1)
        back = False
        for lane, late in self._late.items():
            for xid in [xid for xid in late if xid not in in_flight]:
                self._low[lane] = min(self._low[lane], late.pop(xid))
                self._pending.pop(lane, None)
                back = True
        if self._since_look >= LOOK_AFTER:
            self._since_look = 0
        for lane, top in tops.items():
            low = self._low.get(lane, 0)
            if lane not in self._pending and top >= low:
                self._pending[lane] = Pending(low, top, in_flight, 0)
        return back

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
    row = tx.one("SELECT CAST(pg_current_xact_id() AS TEXT), CAST(pg_current_snapshot() AS TEXT) -- all spaces")
    assert row is not None
    in_flight = _in_flight(int(row[0]), row[1])
    if in_flight is None:
        return Claimed(attempts, None, {})
    ripe = {
        lane: mark for lane, mark in looks.items() if mark.looks >= PATIENCE or not mark.in_flight & in_flight
    }  # fmt: skip
    return Claimed(attempts, in_flight, dict(_look(tx, wanted, ripe)))


def _in_flight(mine: int, snapshot: str) -> frozenset[int] | None:
    """The transactions older than this one that have not ended, from "xmin:xmax:id,id,..."; None: too many.

    The list names those below xmax; whatever got its id since the last one ended is at or above it.
    """
    _, xmax, listed = snapshot.split(":")
    if mine - int(xmax) > IN_FLIGHT_MAX:
        return None
    return frozenset({*(int(xid) for xid in listed.split(",") if xid), *range(int(xmax), mine)})


def _look(tx: Tx, wanted: Wanted, ripe: dict[LaneName, Pending]) -> Iterable[tuple[LaneName, int]]:
    for (queue, priority), mark in ripe.items():
        first = tx.one(
            """SELECT r.seq FROM onefold.jobs_ready r
               WHERE r.queue = :queue AND r.priority = :priority AND r.seq + 0 >= :low AND r.seq + 0 <= :upto
                 AND replace(:kinds, ',' || r.kind || ',', '') <> :kinds AND (:every = 1 OR r.space = :home)
                 AND (SELECT p.queue FROM onefold.jobs_paused p
                      WHERE p.space = r.space AND p.queue = r.queue) IS NULL -- all spaces
               ORDER BY r.seq + 0 LIMIT 1""",
            queue=queue, priority=priority, low=mark.low, upto=mark.upto, kinds=wanted.kinds,
            every=int(wanted.home is None), home=wanted.home or 0,
        )  # fmt: skip
        yield (queue, priority), (first[0] if first else mark.upto + 1)
