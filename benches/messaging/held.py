"""Claims while another transaction holds a snapshot: dead rows cannot be cleaned away, and must not be walked over."""

from __future__ import annotations

import statistics

import psycopg

import onefold
from benches.harness import Size, Table, figure
from benches.messaging.jobs import drain
from onefold import Database
from onefold.testing.postgres import Cluster

NAME = "held"
PAGE = "src/onefold/messaging/jobs/README.md"
CHUNK = 10_000
CHUNKS_MIN = 6
MINUTES = 1
MINUTES_MAX = 60
BAR = 0.8


def run(size: Size, *, minutes: float = MINUTES) -> list[Table]:
    """Chunk after chunk through one queue for so long, first free, then under a held snapshot."""
    if not 0 < minutes <= MINUTES_MAX:
        raise ValueError(f"minutes are more than 0 and at most {MINUTES_MAX}")
    table = Table(
        f"Draining jobs in chunks of 10,000 on PostgreSQL, 10 at a time, for {minutes:g} min each",
        ("snapshot", "jobs", "first three chunks /s", "last three chunks /s", "last : first", "minute by minute /s", "bar"),
    )
    with Cluster(fsync=True) as cluster:
        for held in (False, True):
            url = cluster.create_database(f"held_{held}".lower())
            onefold.migrate(url)
            with psycopg.connect(url) as other, onefold.connect(url) as db:
                if held:
                    other.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                    other.execute("SELECT count(*) FROM onefold.spaces").fetchone()
                rates = drained_for(db, size.of(CHUNK), minutes * 60 * size.scale)
            first, last = statistics.median(rates[:3]), statistics.median(rates[-3:])
            missed = held and last / first < BAR
            table.missed += missed
            verdict = f">= {BAR}" + (" **missed**" if missed else "") if held else "-"
            table.rows.append((
                "held throughout" if held else "none", f"{len(rates) * size.of(CHUNK):,}", figure(first), figure(last),
                f"{last / first:.2f}", " ".join(figure(rate) for rate in by_minute(rates, size.of(CHUNK))), verdict,
            ))  # fmt: skip
    return [table]


def drained_for(db: Database, chunk: int, seconds: float) -> list[float]:
    """The rate of each chunk, until their work has taken so long; at least of six chunks."""
    rates: list[float] = []
    while len(rates) < CHUNKS_MIN or sum(chunk / rate for rate in rates) < seconds:
        rates.append(drain(db, chunk).rate)
    return rates


def by_minute(rates: list[float], chunk: int) -> list[float]:
    """The median rate of the chunks that ended within each minute of work."""
    minutes: dict[int, list[float]] = {}
    worked_s = 0.0
    for rate in rates:
        worked_s += chunk / rate
        minutes.setdefault(int(worked_s // 60), []).append(rate)
    return [statistics.median(minute) for minute in minutes.values()]
