"""Where the time of one small call goes: the layers of the embedded engine, each measured alone.

It is the profile behind the other tables: what SQLite takes, what asyncio takes, what the disk takes,
and what is left for us.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from benches.engine.redis import increment, open_bench
from benches.harness import Size, Table, fdatasync_ms
from onefold import Tx
from onefold.engine.sqlite.connection import open_connection
from onefold.engine.sqlite.tx import SqliteTx

NAME = "cost"
PAGE = "src/onefold/engine/README.md"
CALLERS = 128
UPSERT = """INSERT INTO onefold_counter_totals (space, key, total) VALUES (?1, ?2, 1)
            ON CONFLICT (space, key) DO UPDATE SET total = onefold_counter_totals.total + 1"""
KEYS = [f"k{n}" for n in range(CALLERS)]


def run(size: Size) -> list[Table]:
    """Microseconds of processor time a call; the last lines are wall time."""
    table = Table("What one `increment` costs, in microseconds", ("part", "us a call", "how it is measured"))
    with tempfile.TemporaryDirectory() as folder:
        db = open_bench(folder)
        db.run(increment, "k0")
        connection = open_connection(Path(folder) / "bench.db")
        cursor = connection.cursor()
        cursor.execute("BEGIN IMMEDIATE")
        tx = SqliteTx(cursor, space=1, space_name="", now_ms=1, seed=1)
        parts: list[tuple[str, Callable[[int], object], str]] = [
            ("SQLite: the upsert without RETURNING", lambda n: cursor.execute(UPSERT, (1, KEYS[n % CALLERS])), "bare `sqlite3`, inside one transaction"),
            ("SQLite: with RETURNING", lambda n: cursor.execute(UPSERT + " RETURNING total", (1, KEYS[n % CALLERS])).fetchall(), "the same"),
            ("... through `tx.one`", lambda n: increment(tx, KEYS[n % CALLERS]), "and the checks of parameters, and binding"),
        ]
        for what, operation, how in parts:
            table.rows.append((what, f"{_cpu_us(operation, size.of(20_000), size.rounds):.1f}", how))
        cursor.execute("ROLLBACK")
        connection.close()
        each = size.of(200)
        bare = _crowd_us(lambda: _futures(each), each, size.rounds)
        table.rows.append(("asyncio alone", f"{bare:.1f}", f"{CALLERS} tasks await futures that are set together; nothing behind them"))

        def empty(_tx: Tx) -> None:
            return None

        async def calls_of(fn: Callable[..., Any], number: int) -> None:
            for _ in range(each):
                await (db.arun(fn) if fn is empty else db.arun(fn, KEYS[number]))

        nothing = _crowd_us(lambda: _all(lambda n: calls_of(empty, n)), each, size.rounds)
        whole = _crowd_us(lambda: _all(lambda n: calls_of(increment, n)), each, size.rounds)
        table.rows.append((f"a call that does nothing, {CALLERS} callers", f"{nothing:.1f}", "asyncio, the call, its queue and batch, an empty COMMIT"))
        table.rows.append((f"`increment`, {CALLERS} callers, durable", f"{whole:.1f}", "all of it"))
        relaxed = db.options(durability="everysec")
        alone = _cpu_us(lambda n: relaxed.run(increment, KEYS[n % CALLERS]), size.of(5_000), size.rounds)
        table.rows.append(("`increment`, one synchronous caller, no fsync", f"{alone:.1f}", "the gate, BEGIN, the function, COMMIT into the WAL, while everything is in the processor's caches"))
        walls = [_wall_us(lambda n: db.run(increment, KEYS[n % CALLERS]), size.of(2_000)) for _ in range(size.rounds)]
        table.rows.append(("the same, durable, wall time", f"{statistics.median(walls):.0f}", "the disk besides, and caches that went cold while it was waited for"))
        table.rows.append(("the disk alone, wall time", f"{fdatasync_ms() * 1_000:.0f}", "4 KiB overwritten, fdatasync"))
        db.close()
    return [table]


def _cpu_us(operation: Callable[[int], object], count: int, rounds: int) -> float:
    best = []
    for _ in range(rounds):
        started = time.process_time()
        for n in range(count):
            operation(n)
        best.append((time.process_time() - started) / count * 1e6)
    return statistics.median(best)


def _wall_us(operation: Callable[[int], object], count: int) -> float:
    started = time.perf_counter()
    for n in range(count):
        operation(n)
    return (time.perf_counter() - started) / count * 1e6


def _crowd_us(scenario: Callable[[], Coroutine[Any, Any, object]], each: int, rounds: int) -> float:
    taken = []
    for _ in range(rounds):
        started = time.process_time()
        asyncio.run(scenario())
        taken.append((time.process_time() - started) / (each * CALLERS) * 1e6)
    return statistics.median(taken)


async def _all(caller: Callable[[int], Coroutine[Any, Any, None]]) -> None:
    await asyncio.gather(*(caller(number) for number in range(CALLERS)))


async def _futures(each: int) -> None:
    """Each task waits for a future, again and again; the last one to come sets all of them."""
    loop = asyncio.get_running_loop()
    waiting: list[asyncio.Future[None]] = []

    def answer() -> None:
        ready = waiting[:]
        waiting.clear()
        for future in ready:
            future.set_result(None)

    async def caller(_number: int) -> None:
        for _ in range(each):
            future = loop.create_future()
            waiting.append(future)
            if len(waiting) == CALLERS:
                loop.call_soon(answer)
            await future

    await _all(caller)
