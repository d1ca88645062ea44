"""The sequencer: gives committed events their positions on PostgreSQL.

Numbers drawn while writing are no order to read by: a transaction that drew 7 may commit after one
that drew 8, and a reader who stands at 8 never sees 7. So positions are given after the commit.

Every event carries the id of its transaction. The newest row of event_steps holds a snapshot of
PostgreSQL's, that is, the exact set of transactions that had ended at some moment; every event of
theirs has a position. Now take the snapshot of this moment: what it sees and that one did not are
the events to number. A transaction that is still open delays nobody but itself, it is in neither
set; nothing is skipped, because its id stands in the old snapshot's list of open ones until it ends.

Why the order is right: whoever appends version 2 of a stream has seen version 1 committed, so no
snapshot sees 2 without 1; and 2 drew its `seq` after 1. Numbering what is new in order of `seq`
keeps every stream in order.

A step numbers at most `BATCH_MAX` events. If more were waiting it keeps the old snapshot, and the
next step finds the rest: what has a position already is left out by the unique key over `seq`.

If more wait than `WAITING_MAX` (no sequencer ran for long, or much was brought in), looking at all
of them takes longer than a step may. Then the snapshot of that moment is stored as well, and steps
walk over all events in order of `seq`, numbering what that one sees and the old one did not: the
same events in the same order as one step without a limit. What commits meanwhile is for the next.

Transaction ids mean nothing in another cluster (a dump was restored, pg_upgrade ran). The first
steps there walk over the events that came from elsewhere and number those without position.
"""

from __future__ import annotations

from onefold.engine.tx import Tx, operation
from onefold.engine.values import INTEGER_MAX

BATCH_MAX = 10_000
WALK_MAX = 20_000
WAITING_MAX = 200_000
STEPS_KEPT = 1_000

NOTHING_SEEN = "1:1:"  # The snapshot in which no transaction had ended.


@operation
def sequence(tx: Tx) -> bool:
    """One step over all spaces; True when more is waiting. On SQLite there is nothing to do.

    Correct at every isolation level and beside other sequencers: a lock lets one in, and should it
    fail, the keys (space, pos), (seq) and (space, step) let only one commit.
    """
    if tx.dialect == "sqlite" or not tx.try_claim("events.sequencer"):
        return False
    last = tx.one(
        """SELECT step, snap, system, walked, target, reached FROM onefold.event_steps
           ORDER BY space DESC, step DESC LIMIT 1 -- all spaces"""
    )
    # After the last step was read and before the events are: at READ COMMITTED the snapshot that is
    # stored must be younger than that one and older than what is numbered.
    moment = tx.one(
        """SELECT system_identifier, CAST(pg_current_snapshot() AS TEXT) FROM pg_control_system() -- all spaces"""
    )
    assert moment is not None
    here, now = moment
    step, snap, system, walked, target, reached = last or (0, NOTHING_SEEN, 0, 0, None, 0)
    if last is None or system != here:
        return _walk(tx, step + 1, here, system, walked)
    if _ends(target or snap)[0] > _ends(now)[0]:
        snap, target = NOTHING_SEEN, None  # From the future: the events came from a copy of this cluster that ran on.
    if target is not None:
        return _catch_up(tx, step + 1, here, (snap, target), reached)
    count = _number(tx, step + 1, here, snap, WAITING_MAX)
    if count is None and _from_the_future(tx, here):
        count = _number(tx, step + 1, here, snap, INTEGER_MAX - 1)
    if count is None:
        _record(tx, step + 1, snap, here, 0, target=now)  # And walk.
        return True
    if count:
        done = count < BATCH_MAX
        _record(tx, step + 1, now if done else snap, here, 0)
        tx.wake("events")
        tx.emit("events.numbered", count=count)
    return count == BATCH_MAX


def _number(tx: Tx, step: int, here: int, old: str, most_waiting: int) -> int | None:
    """Number what is committed and the snapshot `old` did not see; answer how many, at most `BATCH_MAX`.

    None: more than `most_waiting` wait, and none was numbered.
    """
    end, still_open = _ends(old)
    # Two index ranges that cannot overlap: what was open in `old`, and what began later. The text
    # leaves the planner no choice (MATERIALIZED, scalar subqueries): guessing that a third of the
    # table is new, it would read all of it in order of `seq` at every step.
    row = tx.one(
        """-- all spaces
        WITH candidate AS MATERIALIZED (
            SELECT seq, space, category FROM (
                SELECT seq, space, category FROM onefold.events
                WHERE system = :here AND xid = ANY(CAST(string_to_array(:still_open, ',') AS BIGINT[]))
                  AND xid IS NOT NULL
                UNION ALL
                SELECT seq, space, category FROM onefold.events
                WHERE system = :here AND xid >= :end AND xid IS NOT NULL) unseen
            WHERE (SELECT p.pos FROM onefold.event_positions AS p WHERE p.seq = unseen.seq) IS NULL
            LIMIT :waiting + 1
        ), fresh AS (
            SELECT seq, space, category FROM candidate
            WHERE (SELECT count(*) FROM candidate) <= :waiting
            ORDER BY seq LIMIT :most
        ), numbered AS (
            INSERT INTO onefold.event_positions (space, pos, seq, category, step)
            SELECT space,
                   row_number() OVER (PARTITION BY space ORDER BY seq)
                       + coalesce((SELECT max(p.pos) FROM onefold.event_positions AS p WHERE p.space = fresh.space), 0),
                   seq, category, :step
            FROM fresh ORDER BY seq
            RETURNING seq
        )
        SELECT count(*), (SELECT count(*) FROM candidate) FROM numbered""",
        here=here, still_open=still_open, end=end, step=step, most=BATCH_MAX, waiting=most_waiting,
    )  # fmt: skip
    assert row is not None
    count, waiting = row
    return None if waiting > most_waiting else int(count)


def _from_the_future(tx: Tx, here: int) -> bool:
    """Whether there are events of transactions that this cluster has not begun: a copy of it ran on.

    No snapshot tells when they were written, so all that wait are looked at together.
    """
    row = tx.one(
        """SELECT 1 FROM onefold.events
           WHERE system = :here AND xid >= CAST(CAST(pg_snapshot_xmax(pg_current_snapshot()) AS TEXT) AS BIGINT)
             AND xid IS NOT NULL LIMIT 1 -- all spaces""",
        here=here,
    )
    return row is not None


def _catch_up(tx: Tx, step: int, here: int, between: tuple[str, str], reached: int) -> bool:
    """Walk on over this cluster's events, and number what the second snapshot sees and the first one did not."""
    old, target = between
    row = tx.one(
        """-- all spaces
        WITH page AS MATERIALIZED (
            SELECT seq, space, category, system, CAST(CAST(xid AS TEXT) AS xid8) AS xid FROM onefold.events
            WHERE seq > :reached ORDER BY seq LIMIT :most
        ), fresh AS (
            SELECT seq, space, category FROM page
            WHERE system = :here AND NOT pg_visible_in_snapshot(xid, CAST(:old AS pg_snapshot))
              AND pg_visible_in_snapshot(xid, CAST(:target AS pg_snapshot))
              AND (SELECT p.pos FROM onefold.event_positions AS p WHERE p.seq = page.seq) IS NULL
        ), numbered AS (
            INSERT INTO onefold.event_positions (space, pos, seq, category, step)
            SELECT space,
                   row_number() OVER (PARTITION BY space ORDER BY seq)
                       + coalesce((SELECT max(p.pos) FROM onefold.event_positions AS p WHERE p.space = fresh.space), 0),
                   seq, category, :step
            FROM fresh ORDER BY seq
            RETURNING seq
        )
        SELECT (SELECT max(seq) FROM page), (SELECT count(*) FROM page), (SELECT count(*) FROM numbered)""",
        reached=reached, here=here, old=old, target=target, step=step, most=WALK_MAX,
    )  # fmt: skip
    assert row is not None
    last, looked_at, count = row
    if looked_at < WALK_MAX:
        _record(tx, step, target, here, 0)
    else:
        _record(tx, step, old, here, 0, target=target, reached=last)
    if count:
        tx.wake("events")
        tx.emit("events.numbered", count=count)
    return True


def _walk(tx: Tx, step: int, here: int, system: int, walked: int) -> bool:
    """Go on over the events of other clusters, in order of `seq`; all of them are committed."""
    row = tx.one(
        """-- all spaces
        WITH foreigner AS MATERIALIZED (
            SELECT seq, space, category FROM onefold.events
            WHERE seq > :walked AND system IS DISTINCT FROM :here
            ORDER BY seq LIMIT :most
        ), fresh AS (
            SELECT seq, space, category FROM foreigner
            WHERE (SELECT p.pos FROM onefold.event_positions AS p WHERE p.seq = foreigner.seq) IS NULL
        ), numbered AS (
            INSERT INTO onefold.event_positions (space, pos, seq, category, step)
            SELECT space,
                   row_number() OVER (PARTITION BY space ORDER BY seq)
                       + coalesce((SELECT max(p.pos) FROM onefold.event_positions AS p WHERE p.space = fresh.space), 0),
                   seq, category, :step
            FROM fresh ORDER BY seq
            RETURNING seq
        )
        SELECT (SELECT max(seq) FROM foreigner), (SELECT count(*) FROM numbered)""",
        walked=walked, here=here, step=step, most=WALK_MAX,
    )  # fmt: skip
    assert row is not None
    reached, count = row
    if reached is None:  # Over: from now on by snapshots, beginning with one that saw nothing.
        _record(tx, step, NOTHING_SEEN, here, 0)
        return True
    _record(tx, step, NOTHING_SEEN, system, reached)
    if count:
        tx.wake("events")
        tx.emit("events.numbered", count=count)
    return True


def _record(
    tx: Tx, step: int, snap: str, system: int, walked: int, *, target: str | None = None, reached: int = 0
) -> None:
    tx.run(
        """INSERT INTO onefold.event_steps (space, step, snap, system, walked, target, reached)
           VALUES (-1, :step, :snap, :system, :walked, :target, :reached) -- all spaces""",
        step=step, snap=snap, system=system, walked=walked, target=target, reached=reached,
    )  # fmt: skip
    if step % STEPS_KEPT == 0:
        # A window with two ends: a scan from the left would walk over all that was ever deleted.
        tx.run(
            """DELETE FROM onefold.event_steps
               WHERE space = -1 AND step >= :first AND step < :last -- all spaces""",
            first=step - 2 * STEPS_KEPT, last=step - STEPS_KEPT,
        )  # fmt: skip


def _ends(snapshot: str) -> tuple[int, str]:
    """Of "xmin:xmax:open,open": the first id not yet given, and the list of open ones."""
    _, end, still_open = snapshot.split(":")
    return int(end), still_open
