"""Claims while another transaction holds a snapshot: dead rows cannot be cleaned away, and must not be walked over."""

from __future__ import annotations

import statistics

import psycopg

import onefold
from benches.harness import Size, Table, figure
from benches.messaging.jobs import drain
from onefold.testing.postgres import Cluster

NAME = "held"
PAGE = "src/onefold/messaging/jobs/README.md"
CHUNK = 10_000
CHUNKS = 20  # Together what a busy queue does in about a minute; what decays does so with the count of jobs.
BAR = 0.8


def run(size: Size) -> list[Table]:
    """Chunk after chunk through one queue, first free, then under a held snapshot."""
    table = Table(
        "Draining 200,000 jobs in chunks of 10,000 on PostgreSQL, 10 at a time",
        ("snapshot", "first three chunks /s", "last three chunks /s", "last : first", "bar"),
    )
    with Cluster(fsync=True) as cluster:
        for held in (False, True):
            url = cluster.create_database(f"held_{held}".lower())
            onefold.migrate(url)
            with psycopg.connect(url) as other, onefold.connect(url) as db:
                if held:
                    other.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                    other.execute("SELECT count(*) FROM onefold.spaces").fetchone()
                rates = [drain(db, size.of(CHUNK)).rate for _ in range(max(6, size.of(CHUNKS)))]
            first, last = statistics.median(rates[:3]), statistics.median(rates[-3:])
            missed = held and last / first < BAR
            table.missed += missed
            verdict = f">= {BAR}" + (" **missed**" if missed else "") if held else "-"
            table.rows.append(("held throughout" if held else "none", figure(first), figure(last), f"{last / first:.2f}", verdict))
    return [table]
