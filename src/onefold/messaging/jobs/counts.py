"""How many jobs there are, each within a bound: of one space for its pages, of all spaces for gauges."""

from __future__ import annotations

from typing import Annotated

from onefold.core.errors import Invalid
from onefold.core.limits import whole
from onefold.core.page import LIMIT_MAX
from onefold.engine.tx import Row, Tx, operation
from onefold.messaging.jobs.kinds import checked_name
from onefold.messaging.jobs.records import Counted, DeadLetters, KindStats, State

STATS_ROWS_MAX = 100_000  # Rows counted per state.
RowsMax = Annotated[int, whole(1, STATS_ROWS_MAX)]
LIVE_LOOKED_MAX = 10_000  # For `count_live`.
CENSUS_ROWS_MAX = 10_000  # The same over all spaces: gauges are read every few seconds.


@operation
def stats(tx: Tx, *, rows_max: RowsMax = STATS_ROWS_MAX) -> list[KindStats]:
    """How many jobs of each kind are in each state, in this space.

    Args:
        rows_max: how many are counted per state, from the one put first on; 1 to 100,000. Fewer cost less.
    """
    if not 1 <= rows_max <= STATS_ROWS_MAX:
        raise Invalid("rows_max is out of range.", rows_max=rows_max, most=STATS_ROWS_MAX)
    rows = tx.all(
        """SELECT 'ready', kind, count(*), min(at) FROM (
               SELECT kind, ready_at_ms AS at FROM onefold.jobs_ready
               WHERE space = :space ORDER BY id LIMIT :most) ready GROUP BY kind
           UNION ALL
           SELECT 'scheduled', kind, count(*), min(at) FROM (
               SELECT kind, at_ms AS at FROM onefold.jobs_scheduled
               WHERE space = :space ORDER BY id LIMIT :most) scheduled GROUP BY kind
           UNION ALL
           SELECT 'running', kind, count(*), min(at) FROM (
               SELECT kind, claimed_at_ms AS at FROM onefold.jobs_running
               WHERE space = :space ORDER BY id LIMIT :most) running GROUP BY kind
           UNION ALL
           SELECT 'dead', kind, count(*), min(at) FROM (
               SELECT kind, died_at_ms AS at FROM onefold.jobs_dead
               WHERE space = :space ORDER BY id LIMIT :most) dead GROUP BY kind
           UNION ALL
           SELECT 'done', kind, count(*), min(at) FROM (
               SELECT kind, done_at_ms AS at FROM onefold.jobs_done
               WHERE space = :space AND expires_at_ms > :now_ms ORDER BY id LIMIT :most) done GROUP BY kind""",
        most=rows_max + 1,
    )
    return _summed(rows, rows_max)


@operation
def count_live(tx: Tx, state: State, kind: str) -> Counted:
    """How many jobs of a kind are ready, scheduled or running, of the 10,000 of that state put first.

    Raises:
        Invalid: an argument is out of range.
    """
    if state not in {"ready", "scheduled", "running"}:
        raise Invalid("Jobs that live are ready, scheduled or running.", code="state")
    row = tx.one(
        """SELECT coalesce(sum(CASE WHEN kind = :kind THEN 1 ELSE 0 END), 0), count(*) FROM (
               SELECT kind FROM (SELECT kind FROM onefold.jobs_ready
                                 WHERE :state = 'ready' AND space = :space ORDER BY id LIMIT :most) ready
               UNION ALL
               SELECT kind FROM (SELECT kind FROM onefold.jobs_scheduled
                                 WHERE :state = 'scheduled' AND space = :space ORDER BY id LIMIT :most) scheduled
               UNION ALL
               SELECT kind FROM (SELECT kind FROM onefold.jobs_running
                                 WHERE :state = 'running' AND space = :space ORDER BY id LIMIT :most) running
           ) looked""",
        kind=checked_name(kind), state=state, most=LIVE_LOOKED_MAX + 1,
    )  # fmt: skip
    assert row is not None
    return Counted(row[0], row[1] > LIVE_LOOKED_MAX)


@operation
def census(tx: Tx) -> list[KindStats]:
    """How many jobs of each kind are in each state, in all spaces; at most 10,000 are counted per state.

    For gauges: it costs milliseconds however many jobs there are. Beyond the limit `oldest_ms` is of
    the jobs that were counted. Those that are done are not counted.
    """
    rows = tx.all(
        """SELECT 'ready', kind, count(*), min(at) FROM (
               SELECT kind, ready_at_ms AS at FROM onefold.jobs_ready WHERE space >= 0 LIMIT :most) ready
           GROUP BY kind
           UNION ALL
           SELECT 'scheduled', kind, count(*), min(at) FROM (
               SELECT kind, at_ms AS at FROM onefold.jobs_scheduled WHERE space >= 0 LIMIT :most) scheduled
           GROUP BY kind
           UNION ALL
           SELECT 'running', kind, count(*), min(at) FROM (
               SELECT kind, claimed_at_ms AS at FROM onefold.jobs_running WHERE space >= 0 LIMIT :most) running
           GROUP BY kind
           UNION ALL
           SELECT 'dead', kind, count(*), min(at) FROM (
               SELECT kind, died_at_ms AS at FROM onefold.jobs_dead WHERE space >= 0 LIMIT :most) dead
           GROUP BY kind -- all spaces""",
        most=CENSUS_ROWS_MAX + 1,
    )
    return _summed(rows, CENSUS_ROWS_MAX)


@operation
def dead_letters(tx: Tx) -> list[DeadLetters]:
    """How many dead jobs of each kind each space has; at most 10,000 are counted in all, 1,000 rows answered."""
    rows = tx.all(
        """SELECT space_name, kind, count(*) FROM (
               SELECT space_name, kind FROM onefold.jobs_dead WHERE space >= 0 LIMIT :most) counted
           GROUP BY space_name, kind ORDER BY space_name, kind LIMIT :rows -- all spaces""",
        most=CENSUS_ROWS_MAX + 1, rows=LIMIT_MAX,
    )
    at_least = sum(row[2] for row in rows) > CENSUS_ROWS_MAX
    return [DeadLetters(row[0], row[1], row[2], at_least) for row in rows]


def _summed(rows: list[Row], most: int) -> list[KindStats]:
    """Rows of (state, kind, count, oldest); a state of which more than `most` were read may hold more."""
    totals: dict[str, int] = {}
    for state, _, count, _ in rows:
        totals[state] = totals.get(state, 0) + count
    found = [KindStats(kind, state, count, oldest_ms, totals[state] > most) for state, kind, count, oldest_ms in rows]
    return sorted(found, key=lambda one: (one.kind, one.state))
