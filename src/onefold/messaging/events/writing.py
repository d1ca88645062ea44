"""How an append is written: in two ways, because the engines are fast in two ways.

SQLite has one writer, so the next version and position may be read where they stand; what counts is
how few pages a commit touches. On PostgreSQL a read of an index beside inserts of others conflicts
with all that share its page, and a counter would be a line for everybody; so there the stream's row
is written first and nothing is read, and positions are given after the commit (`sequencer.py`).
"""

from __future__ import annotations

from typing import Any

from onefold.engine.tx import Tx

Rows = list[dict[str, Any]]


def append_sqlite(tx: Tx, stream: str, rows: Rows, expected: int | None) -> int | None:
    """Write the rows; the stream's version after them, or None: not as expected. `seq` is the position."""
    # Of a stream that must not exist, its first event decides: versions have no gaps.
    if expected and last_version_sqlite(tx, stream) != expected:
        return None
    # VALUES with subqueries, not SELECT: SQLite puts the rows of a SELECT from the same table aside first.
    row = tx.one(
        """INSERT INTO onefold.events (space, seq, stream, version, category, kind, kind_version, data, at_ms,
                                       causation, correlation)
           VALUES (:space, coalesce((SELECT max(seq) FROM onefold.events WHERE space = :space), 0) + 1,
                   :stream, coalesce(:expected, (SELECT max(version) FROM onefold.events
                                                 WHERE space = :space AND stream = :stream), 0) + 1,
                   :category, :kind, :kind_version, :data, :now_ms, :causation, :correlation)
           ON CONFLICT (space, stream, version) DO NOTHING
           RETURNING version, seq -- engine: sqlite""",
        **rows[0], expected=expected,
    )  # fmt: skip
    if row is None:
        return None
    first, seq = row
    if len(rows) > 1:
        for number, later in enumerate(rows[1:], start=1):
            later["version"], later["seq"] = first + number, seq + number
        tx.many(
            """INSERT INTO onefold.events (space, seq, stream, version, category, kind, kind_version, data, at_ms,
                                           causation, correlation)
               VALUES (:space, :seq, :stream, :version, :category, :kind, :kind_version, :data, :now_ms,
                       :causation, :correlation) -- engine: sqlite""",
            rows[1:],
        )
    tx.wake("events")
    return int(first) + len(rows) - 1


def last_version_sqlite(tx: Tx, stream: str) -> int:
    """The stream's version, read off its events; 0 when it has none."""
    row = tx.one("SELECT max(version) FROM onefold.events WHERE space = :space AND stream = :stream", stream=stream)
    return int(row[0] or 0) if row else 0


def append_postgres(tx: Tx, stream: str, rows: Rows, expected: int | None) -> int | None:
    """The same; the rows carry their transaction's id, by which the sequencer finds them."""
    version = _advance(tx, stream, len(rows), expected)
    if version is None:
        return None
    for number, row in enumerate(rows, start=version - len(rows) + 1):
        row["version"] = number
    tx.many(
        """INSERT INTO onefold.events (space, stream, version, category, kind, kind_version, data, at_ms,
                                       causation, correlation, xid, system)
           SELECT :space, :stream, :version, :category, :kind, :kind_version, :data, :now_ms,
                  :causation, :correlation, CAST(CAST(pg_current_xact_id() AS TEXT) AS BIGINT), system_identifier
           FROM pg_control_system()""",
        rows,
    )
    tx.wake("events.appended")
    return version


def _advance(tx: Tx, stream: str, count: int, expected: int | None) -> int | None:
    """Move the stream's version by `count` and answer it. This write decides between appends."""
    if expected is None:
        row = tx.one(
            """INSERT INTO onefold.event_streams (space, stream, version, appends)
               VALUES (:space, :stream, :count, 1)
               ON CONFLICT (space, stream) DO UPDATE SET
                   version = onefold.event_streams.version + :count, appends = onefold.event_streams.appends + 1
               RETURNING version""",
            stream=stream, count=count,
        )  # fmt: skip
    elif expected == 0:
        row = tx.one(
            """INSERT INTO onefold.event_streams (space, stream, version, appends)
               VALUES (:space, :stream, :count, 1)
               ON CONFLICT (space, stream) DO NOTHING RETURNING version""",
            stream=stream, count=count,
        )  # fmt: skip
    else:
        # A stream that does not exist is inserted here; `appends` = 1 gives that away, and the row
        # is taken back. An UPDATE alone would read the index, see above.
        row = tx.one(
            """INSERT INTO onefold.event_streams (space, stream, version, appends)
               VALUES (:space, :stream, :expected + :count, 1)
               ON CONFLICT (space, stream) DO UPDATE SET
                   version = onefold.event_streams.version + :count, appends = onefold.event_streams.appends + 1
               WHERE onefold.event_streams.version = :expected
               RETURNING version, appends""",
            stream=stream, count=count, expected=expected,
        )  # fmt: skip
        if row is not None and row[1] == 1:
            tx.run("DELETE FROM onefold.event_streams WHERE space = :space AND stream = :stream", stream=stream)
            return None
    return None if row is None else int(row[0])
