"""Every retention sweep with 1,000,000 and 10,000,000 rows beside itself with 10,000, on both engines."""

from __future__ import annotations

import contextlib
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import psycopg

import onefold
from benches.harness import Size, Table
from benches.past import SETTINGS
from onefold import Database, Tx, idempotency, jobs, locks, webhooks
from onefold.engine.loops import fold_counters, sweep_tx
from onefold.identity.audit import ops as audit
from onefold.identity.sessions import ops as sessions
from onefold.identity.tokens import ops as tokens
from onefold.products.booking import tidy as booking_tidy
from onefold.products.ledger import tidy as ledger_tidy
from onefold.products.payments import callbacks
from onefold.testing.postgres import Cluster

NAME = "sweeps"
PAGE = "src/onefold/engine/README.md"
SIZES = (10_000, 1_000_000, 10_000_000)
BAR = 1.3
MEASURED = 8  # Steps of each size, where so many are to be had, and one before them to warm up.
SUSTAINED_S = 3.0
# Without autovacuum, as in the worst minute of a table: all that was swept is still in the way.
POSTGRES = {**SETTINGS, "max_wal_size": "4GB"}

_NUMBERS = "WITH RECURSIVE n (i) AS (SELECT CAST(0 AS BIGINT) UNION ALL SELECT i + 1 FROM n WHERE i < {count} - 1)"
_OLD = "i * 10 < {count} * 9"  # Nine rows in ten are over their time: those that came first.
_AT = f"CASE WHEN {_OLD} THEN 1500000000000 + i ELSE 4000000000000 + i END"
_ID = "CAST(1000000000000 + i AS TEXT)"  # As sorted as the ids that the engine draws.
_ANY = "CAST(1000000000000 + i * 7919 % {count} AS TEXT)"  # Each number once, in no order: what callers make up.
_TEXT = "'" + "x" * 100 + "'"


@dataclass(frozen=True)
class Swept:
    """One table: how it is filled, what sweeps it, and how many rows a step takes at most."""

    table: str
    step: Callable[[Tx], bool]
    rows: int
    columns: str
    values: str
    beside: str = ""  # What else must be there.
    postgres_only: bool = False


_JOB = "space, id, kind, queue, priority, args, attempt, failures, attempts_max, put_at_ms"
_JOB_VALUES = f"0, 'job_' || {_ID}, 'bench.swept', 'default', 0, {_TEXT}, 1, 0, 1, 1500000000000 + i"
SWEPT = (
    Swept("idempotency_keys", idempotency.sweep, 200,
          "space, scope, key, fingerprint, answer, asked_at_ms, expires_at_ms",
          f"0, 'purchase', {_ANY}, '{'f' * 32}', {_TEXT}, 1500000000000 + i, {_AT}"),
    Swept("jobs_done", jobs.sweep, 500, f"{_JOB}, done_at_ms, expires_at_ms", f"{_JOB_VALUES}, 1500000000000, {_AT}"),
    Swept("jobs_dead", jobs.sweep, 500, f"{_JOB}, space_name, error, died_at_ms", f"{_JOB_VALUES}, '', {_TEXT}, {_AT}"),
    Swept("jobs_failures", jobs.sweep, 500, "space, id, attempt, worker, started_at_ms, ended_at_ms, error",
          f"0, 'job_' || {_ID}, 1, 'worker-1', 1500000000000, {_AT}, {_TEXT}"),
    Swept("jobs_cancels", jobs.sweep, 500, "space, id, worker, attempt, at_ms", f"0, 'job_' || {_ID}, 'gone', 1, {_AT}"),
    Swept("webhook_attempts", webhooks.sweep, 1_000,
          "space, endpoint_id, message_id, attempt, outcome, status, took_ms, detail, at_ms",
          f"0, 'ep_' || CAST(i % 100 AS TEXT), 'msg_' || {_ID}, 1, 'delivered', 200, 12, 'ok', {_AT}"),
    Swept("webhook_failed", webhooks.sweep, 1_000, "space, endpoint_id, message_id, failed_at_ms",
          f"0, 'ep_' || CAST(i % 100 AS TEXT), 'msg_' || {_ID}, {_AT}"),
    Swept("webhook_pending", webhooks.sweep, 1_000, "space, endpoint_id, message_id, at_ms, attempt, failures, put_at_ms",
          f"0, 'ep_' || CAST(i % 100 AS TEXT), 'msg_' || {_ID}, 4000000000000, 1, 0, {_AT}"),
    Swept("webhook_messages", webhooks.sweep, 1_000, "space, id, type, body, created_at_ms",
          f"0, 'msg_' || {_ID}, 'order.placed', {_TEXT}, {_AT}"),
    # A step looks at 5,000 slots; one in 25 has ended, most by a purchase, the others by their time.
    Swept("booking_slots", booking_tidy.tidy_lapsed, booking_tidy.TIDY_MAX,
          "space, show_id, buyer, slot, hold_id, expires_at_ms",
          f"0, 'show_' || CAST(100000 + i / 1000 AS TEXT), 'buyer-' || {_ID}, 0, 'hold_' || {_ID} || '.4.0.show',"
          " CASE WHEN i % 250 = 0 THEN 1500000000000 WHEN i % 25 = 0 THEN 0 ELSE 4000000000000 END"),
    Swept("ledger_pendings", ledger_tidy.tidy, ledger_tidy.TIDY_MAX,
          "space, id, debit, credit, currency, amount, memo, at_ms, expires_at_ms, debit_limited, credit_limited",
          f"0, 'hold_' || {_ANY}, 'wallet/' || CAST(1000000000 + i / 10 AS TEXT), 'till', 'EUR', 1, '', 1500000000000, {_AT}, {{yes}}, {{yes}}",
          beside="INSERT INTO onefold.ledger_balances (space, account, posted, reserved, overdraft_minor, entries) {numbers} "
          "SELECT 0, 'wallet/' || CAST(1000000000 + i / 10 AS TEXT), 1000, 10, 0, 0 FROM n WHERE i % 10 = 0"),
    Swept("payment_callbacks", callbacks.sweep, 200, "space, provider, event_id, intent_id, expires_at_ms",
          f"0, 'fake', {_ANY}, 'pi_' || {_ID}, {_AT}"),
    Swept("sessions", sessions.sweep, 500, "space, id, digest, token_id, created_at_ms, expires_at_ms",
          f"0, 'ses_' || {_ID}, '{'d' * 64}', 'tok_1', 1, {_AT}"),
    Swept("tokens", tokens.sweep, 500, "space, id, name, digest, rights, space_name, created_at_ms, expires_at_ms",
          f"0, 'tok_' || {_ID}, 'swept', '{'d' * 64}', '[]', '', 1, {_AT}"),
    Swept("audit", audit.sweep, 500, "space, id, at_ms, actor, action, subject, reason, facts",
          f"0, 'aud_' || {_ID}, {_AT}, 'ana', 'jobs.retry', 'job_1', 'again', '{{{{}}}}'"),
    # A step looks at 1,000 names; every second one was marked long ago.
    Swept("locks", locks.sweep, 500, "space, name, owner, token, acquired_at_ms, expires_at_ms, marked_at_ms",
          f"0, 'invoice/' || {_ID}, CASE WHEN i % 2 = 1 THEN 'owner' END, i + 1, 1, CASE WHEN i % 2 = 1 THEN 4000000000000 ELSE 1 END,"
          " CASE WHEN i % 2 = 0 THEN 1 END"),
    Swept("counter_deltas", fold_counters, 2_000, "space, key, delta", "0, 'ledger/' || CAST(i % 1000 AS TEXT), 1"),
    Swept("tx", sweep_tx, 5_000, "id, at_ms", f"i, {_AT}", postgres_only=True),
)  # fmt: skip


@dataclass
class Laps:
    """What the steps of one size took, in ms; the sustained rate, and the fastest of the last steps under it."""

    first: list[float]
    rate: float = 0.0
    last: float = 0.0

    @property
    def fastest(self) -> float:
        """Of the measured steps: all do the same, so what is above it is the machine's."""
        return min(self.first)


def run(size: Size) -> list[Table]:
    """One table after the other, its three sizes in turn, so that a slow moment hits all of them."""
    return [measured(size, "SQLite", sqlite_side), measured(size, "PostgreSQL", postgres_side)]


def measured(size: Size, engine: str, side: Callable[[], contextlib.AbstractContextManager[Filler]]) -> Table:
    """The table of one engine."""
    counts = [max(100, int(count * size.scale**2)) for count in SIZES]
    table = Table(
        f"One step of each retention sweep on {engine}, the fastest of {MEASURED}, durability everysec",
        ("table", "rows a step", *(f"{count:,} rows, ms" for count in SIZES), "longest step, ms", "rows/s at 10,000,000",
         "after these, ms", "growth at 100x", "at 1,000x", "bar"),
    )  # fmt: skip
    with side() as fill:
        for swept in SWEPT:
            if swept.postgres_only and engine != "PostgreSQL":
                continue
            with fill(swept, counts) as databases:
                all_laps = stepped(swept, databases, counts, SUSTAINED_S if size.scale == 1 else 0.0)
            base, *grown = (laps.fastest for laps in all_laps)
            ratios = [value / base for value in grown]
            missed = max(ratios) > BAR
            table.missed += missed
            table.rows.append((
                f"`{swept.table}`", f"{swept.rows:,}", *(f"{laps.fastest:.1f}" for laps in all_laps),
                f"{max(max(laps.first) for laps in all_laps):.1f}", f"{all_laps[-1].rate:,.0f}", f"{all_laps[-1].last:.1f}",
                *(f"{ratio:.2f}" for ratio in ratios), f"<= {BAR}" + (" **missed**" if missed else ""),
            ))  # fmt: skip
            print("| " + " | ".join(table.rows[-1]) + " |", file=sys.stderr, flush=True)  # The rest takes a while.
    return table


def stepped(swept: Swept, databases: list[Database], counts: list[int], sustained_s: float) -> list[Laps]:
    """Steps of all sizes in turn, as the supervisor calls them; then the largest goes on for a while."""
    loops = [db.options(isolation="read_committed") for db in databases]
    steps = max(1, min(MEASURED, least_steps(swept, counts[0]) - 1))
    found = [Laps([]) for _ in loops]
    for number in range(-1 if least_steps(swept, counts[0]) > 1 else 0, steps):
        for laps, loop in zip(found, loops, strict=True):
            before = time.perf_counter()
            loop.run(swept.step)
            if number >= 0:
                laps.first.append((time.perf_counter() - before) * 1_000)
    rows = databases[-1].run(count_rows, swept.table)
    began, tail = time.perf_counter(), []
    while True:
        before = time.perf_counter()
        more = loops[-1].run(swept.step)
        tail.append(time.perf_counter() - before)
        if not more or time.perf_counter() - began > sustained_s:
            break
    took = time.perf_counter() - began
    found[-1].rate = (rows - databases[-1].run(count_rows, swept.table)) / took
    found[-1].last = min(tail[-MEASURED:]) * 1_000
    return found


def least_steps(swept: Swept, count: int) -> int:
    """How many full steps the smallest table has at least."""
    share = {"booking_slots": 0.04, "locks": 0.5}.get(swept.table, 0.9)
    return int(count * share) // swept.rows


def count_rows(tx: Tx, table: str) -> int:
    """What is left; of the counters, what is not folded."""
    row = tx.one(f"SELECT count(*) FROM onefold.{table} -- all spaces")  # noqa: S608  A constant of this module.
    assert row is not None
    return msgspec.convert(row[0], int)


Filler = Callable[[Swept, list[int]], contextlib.AbstractContextManager[list[Database]]]


def texts(swept: Swept, count: int, yes: str) -> list[str]:
    """What fills the table, in both engines' words."""
    numbers = _NUMBERS.format(count=count)
    main = f"INSERT INTO onefold.{swept.table} ({swept.columns}) {{numbers}} SELECT {swept.values} FROM n"
    return [text.format(numbers=numbers, count=count, yes=yes) for text in (swept.beside, main) if text]


@contextlib.contextmanager
def sqlite_side() -> Iterator[Filler]:
    """Files of one table at a time."""

    @contextlib.contextmanager
    def fill(swept: Swept, counts: list[int]) -> Iterator[list[Database]]:
        with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
            paths = [Path(folder) / f"{number}.db" for number in range(len(counts))]
            for path, count in zip(paths, counts, strict=True):
                onefold.migrate(path)
                with contextlib.closing(sqlite3.connect(path)) as connection:
                    for pragma in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -1000000"):
                        connection.execute(f"PRAGMA {pragma}")
                    for text in texts(swept, count, "1"):
                        connection.execute(text.replace("onefold.", "onefold_"))
                    connection.commit()
                    connection.execute("PRAGMA journal_mode = WAL")
            yield [stack.enter_context(onefold.connect(path, durability="everysec")) for path in paths]

    yield fill


@contextlib.contextmanager
def postgres_side() -> Iterator[Filler]:
    """A database for each size; a table is emptied before the next is filled."""
    with Cluster(fsync=True, settings=POSTGRES) as cluster, contextlib.ExitStack() as stack:
        urls = [cluster.create_database(f"swept_{number}") for number in range(len(SIZES))]
        for url in urls:
            onefold.migrate(url)
        databases = [stack.enter_context(onefold.connect(url, durability="everysec")) for url in urls]

        @contextlib.contextmanager
        def fill(swept: Swept, counts: list[int]) -> Iterator[list[Database]]:
            for url, count in zip(urls, counts, strict=True):
                _on_server(url, "SET synchronous_commit = off", *texts(swept, count, "TRUE"), f"VACUUM ANALYZE onefold.{swept.table}")
            yield databases
            for url in urls:
                _on_server(url, f"TRUNCATE onefold.{swept.table}", "TRUNCATE onefold.ledger_balances", "CHECKPOINT")

        yield fill


def _on_server(url: str, *statements: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for text in statements:
            connection.execute(text.encode())
