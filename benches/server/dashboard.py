"""How long pages of the dashboard take beside a million jobs, of which a tenth have failed for good."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import msgspec

import onefold
from benches.harness import Size, Table
from onefold import Database, Tx, jobs, sessions, tokens
from onefold.messaging.jobs.moves import to_dead
from onefold.messaging.jobs.records import Body
from onefold.server import asgi
from onefold.testing.postgres import Cluster

NAME = "dashboard"
PAGE = "src/onefold/server/dashboard/README.md"
JOBS = 1_000_000
KINDS = 20
CHUNK = 2_000
LOOKS = 31  # Each page as often; the first ones warm nothing up, and count.
NOW_MS = 50.0
ERROR = "ConnectionError: host{}.example is away ({})"
PAGES = (
    "now", "jobs", "jobs?state=ready", "jobs?state=ready&kind=bench.kind19", "jobs?state=dead&kind=bench.kind7",
    "failures", "failures?kind=bench.kind7", "bulk?do=retry&state=dead&kind=bench.kind7",
    f"bulk?do=retry&state=dead&kind=bench.kind7&error={jobs.fingerprint_of(ERROR.format(0, 0))}",
    "bulk?do=cancel&state=ready&kind=bench.kind19", "locks", "streams", "webhooks", "audit",
)  # fmt: skip


@jobs.kind("bench.wait")
class Wait(msgspec.Struct, frozen=True):
    """Something to put."""

    number: int


def run(size: Size) -> list[Table]:
    """Median and slowest of each page, on both engines; the bar is for *Now*."""
    table = Table(
        f"Pages beside {size.of(JOBS):,} jobs, {size.of(JOBS) // 10:,} of them dead, {KINDS} kinds",
        ("page", "SQLite median / slowest ms", "PostgreSQL median / slowest ms", "bar"),
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        sqlite = measured(str(Path(folder) / "bench.db"), size)
    with Cluster() as cluster:
        url = cluster.create_database("bench")
        onefold.migrate(url)
        postgres = measured(url, size)
    for page in PAGES:
        bar = ""
        if page == "now":
            missed = max(statistics.median(laps[page]) for laps in (sqlite, postgres)) >= NOW_MS
            table.missed += missed
            bar = f"median < {NOW_MS:g} ms" + (" **missed**" if missed else "")
        shown = (f"{statistics.median(laps[page]):.1f} / {max(laps[page]):.1f}" for laps in (sqlite, postgres))
        table.rows.append((f"`{page}`", *shown, bar))
    table.notes.append("Whole requests without the network: session, one transaction, HTML. PostgreSQL's tables are not analysed.")
    return [table]


def measured(url: str, size: Size) -> dict[str, list[float]]:
    """Milliseconds of every look at every page."""
    with onefold.connect(url) as db:
        fill(db, size.of(JOBS))
        ask = visitor(db)
        with asyncio.Runner() as runner:
            return {page: [runner.run(ask(page)) for _ in range(LOOKS)] for page in PAGES}


def fill(db: Database, count: int) -> None:
    """Nine tenths wait, one tenth has failed; kinds are mixed."""

    def waiting(tx: Tx, first: int, last: int) -> None:
        jobs.put_many(tx, [Wait(number) for number in range(first, last)])

    def failed(tx: Tx, first: int, last: int) -> None:
        for number in range(first, last):
            error = ERROR.format(number % 3, number)
            kind = f"bench.kind{number % KINDS}"
            to_dead(tx, Body(tx.space, tx.space_name, tx.new_id("job"), kind, "default", 0, "{}", 3, 3, 3, None, tx.now_ms, None, error))

    def rename(tx: Tx) -> None:
        tx.run(
            "UPDATE onefold.jobs_ready SET kind = 'bench.kind' || CAST(seq % :kinds AS TEXT) WHERE space = :space", kinds=KINDS
        )

    patient = db.options(deadline_ms=600_000, isolation="read_committed")
    for fn, most in ((waiting, count - count // 10), (failed, count // 10)):
        for first in range(0, most, CHUNK):
            patient.run(fn, first, min(most, first + CHUNK))
    patient.run(rename)


def visitor(db: Database) -> Callable[[str], object]:
    """Somebody who is logged in: a coroutine per page that answers how long it took."""
    _, digest = tokens.new_secret()
    token = db.run(tokens.create, "bench", digest=digest, rights=("*",))
    secret, digest = sessions.new_secret()
    cookie = sessions.cookie(db.run(sessions.begin, token.id, digest=digest).id, secret)
    app = asgi(db)

    async def ask(page: str) -> float:
        path, _, query = page.partition("?")
        statuses = []

        async def receive() -> dict[str, object]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: dict[str, object]) -> None:
            if "status" in message:
                statuses.append(message["status"])

        scope = {
            "type": "http", "method": "GET", "path": f"/dashboard/{path}", "raw_path": quote(f"/dashboard/{path}").encode(),
            "query_string": query.encode(), "headers": [(b"cookie", f"onefold_session={cookie}".encode())],
        }  # fmt: skip
        begun = time.perf_counter()
        await app(scope, receive, send)
        took_ms = (time.perf_counter() - begun) * 1_000
        assert statuses == [200], (page, statuses)
        return took_ms

    return ask
