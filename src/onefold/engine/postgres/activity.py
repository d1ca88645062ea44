"""What the server says of its sessions and standbys, for pages and gauges."""

from __future__ import annotations

from typing import Any, NamedTuple

from onefold.engine.reserved import reserved
from onefold.engine.tx import Tx

REPLICAS_MAX = 100

OLDEST_SNAPSHOT = """
SELECT coalesce(max(extract(epoch FROM clock_timestamp() - xact_start)) * 1000, 0)
FROM pg_stat_activity WHERE datname = current_database() AND backend_xmin IS NOT NULL AND pid <> pg_backend_pid()
"""
# Not by its snapshot: a forgotten transaction at READ COMMITTED has none between two statements, and holds its locks.
LONGEST = """
SELECT pid, coalesce(application_name, ''), coalesce(state, ''),
       CAST(extract(epoch FROM clock_timestamp() - xact_start) * 1000 AS bigint)
FROM pg_stat_activity
WHERE datname = current_database() AND backend_type = 'client backend' AND xact_start IS NOT NULL
  AND pid <> pg_backend_pid()
ORDER BY xact_start LIMIT 1
"""
# What may not be told to this role is NULL.
REPLICAS = """
SELECT coalesce(application_name, ''), coalesce(state, ''), coalesce(sync_state, ''),
       CAST(CASE WHEN pg_is_in_recovery() THEN NULL
                 ELSE pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn) END AS bigint),
       CAST(extract(epoch FROM replay_lag) * 1000 AS bigint)
FROM pg_stat_replication ORDER BY application_name, pid LIMIT :most
"""


class Session(NamedTuple):
    """The client whose transaction is open longest."""

    pid: int
    name: str
    state: str
    ms: float


@reserved
def sessions(tx: Tx) -> tuple[float, Session | None]:
    """The age of the oldest snapshot in ms, and whose transaction is open longest."""
    [(oldest_ms,)] = tx.all(OLDEST_SNAPSHOT)
    longest = tx.one(LONGEST)
    found = Session(longest[0], longest[1], longest[2], float(longest[3])) if longest else None
    return float(oldest_ms), found


@reserved
def replicas(tx: Tx) -> list[dict[str, Any]]:
    """The standbys that stream now. Servers that others manage may refuse to say."""
    names = ("name", "state", "sync", "behind_bytes", "lag_ms")
    return [dict(zip(names, row, strict=True)) for row in tx.all(REPLICAS, most=REPLICAS_MAX)]
