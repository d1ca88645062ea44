"""The embedded engine beside Redis with `appendfsync always`: counters, locks, a list."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable
from pathlib import Path

import redis
import redis.asyncio

import onefold
from benches.harness import COMPARISON, Sample, Size, Table, interleaved, row, timed, timed_crowd
from benches.harness import redis as redis_server
from onefold import Database, Tx, locks
from onefold.engine import schema
from onefold.index import schema_directories

NAME = "redis"
PAGE = "src/onefold/engine/README.md"
CALLERS = 128
BENCH_TABLES = schema.SchemaFile(
    "bench",
    1,
    """CREATE TABLE onefold.bench_items (
        id {identity}, space INTEGER NOT NULL, list TEXT NOT NULL, item TEXT NOT NULL
    ) {table};
    CREATE INDEX onefold_bench_items_list ON onefold.bench_items (space, list, id);
    """,
)


def increment(tx: Tx, key: str) -> int:
    """INCR."""
    row = tx.one(
        """INSERT INTO onefold.counter_totals (space, key, total) VALUES (:space, :key, 1)
           ON CONFLICT (space, key) DO UPDATE SET total = onefold.counter_totals.total + 1 RETURNING total""",
        key=key,
    )
    assert row is not None
    return row[0]


def push(tx: Tx, name: str, item: str) -> None:
    """RPUSH."""
    tx.run("INSERT INTO onefold.bench_items (space, list, item) VALUES (:space, :name, :item)", name=name, item=item)


def pop(tx: Tx, name: str) -> str | None:
    """LPOP."""
    row = tx.one(
        """DELETE FROM onefold.bench_items WHERE id = (
               SELECT id FROM onefold.bench_items WHERE space = :space AND list = :name ORDER BY id LIMIT 1)
           RETURNING item""",
        name=name,
    )
    return row[0] if row else None


def open_bench(folder: str) -> Database:
    """A fresh embedded database with the bench's own table."""
    return onefold.connect(Path(folder) / "bench.db", files=[*schema.load(schema_directories()), BENCH_TABLES])


def run(size: Size) -> list[Table]:
    """Both colours, three pairs of operations, and Redis pipelined."""
    crowd = Table("Durable operations, 128 asynchronous callers, against redis-py asyncio (appendfsync always)", COMPARISON)
    alone = Table("The same, one synchronous caller, against redis-py", COMPARISON)
    with tempfile.TemporaryDirectory() as folder, redis_server() as port:
        db = open_bench(folder)
        for what, ours, theirs, each in (
            ("increment", crowd_increment, redis_increment, 200),
            ("lock + unlock", crowd_lock, redis_lock, 60),
            ("push + pop", crowd_list, redis_list, 100),
        ):
            mine, peer = interleaved(size.rounds, lambda: ours(db, size.of(each)), lambda: theirs(port, size.of(each)))
            row(crowd, what, mine, peer, bar=4.0)
        mine, peer = interleaved(size.rounds, lambda: crowd_increment(db, size.of(200)), lambda: redis_pipelined(port, size.of(200)))
        row(crowd, "increment, Redis pipelined by 128", mine, peer, peer_wins=True)
        client = redis.Redis(port=port)
        for what, mine_one, peer_one, count in (
            ("increment", lambda n: db.run(increment, f"k{n % 100}"), lambda n: client.incr(f"k{n % 100}"), 3_000),
            ("lock + unlock", lambda n: sync_lock(db, n), lambda n: sync_redis_lock(client, n), 1_500),
            ("push + pop", lambda n: (db.run(push, "l", "x"), db.run(pop, "l")), lambda n: (client.rpush("l", "x"), client.lpop("l")), 1_500),
        ):
            mine, peer = interleaved(size.rounds, lambda: timed(mine_one, size.of(count)), lambda: timed(peer_one, size.of(count)))
            row(alone, what, mine, peer, bar=1.8)
        client.close()
        db.close()
    crowd.notes.append("Pipelining by hand is Redis's best form; it gives up one answer per round trip.")
    return [crowd, alone]


def sync_lock(db: Database, n: int) -> None:
    """One pair of calls, each its own durable transaction."""
    lock = db.run(locks.acquire, f"lock/{n % 100}", owner="bench", ttl_ms=30_000)
    db.run(locks.release, lock)


def sync_redis_lock(client: redis.Redis, n: int) -> None:
    """redis-py's own Lock."""
    lock = client.lock(f"lock/{n % 100}", timeout=30)
    lock.acquire()
    lock.release()


def _crowd(each: int, operation: Callable[[int, int], object]) -> Sample:
    return asyncio.run(timed_crowd(operation, CALLERS, each))  # type: ignore[arg-type]


def crowd_increment(db: Database, each: int) -> Sample:
    """Each caller has its own key."""
    return _crowd(each, lambda caller, _n: db.arun(increment, f"k{caller}"))


def crowd_lock(db: Database, each: int) -> Sample:
    """Each caller has its own lock."""

    async def pair(caller: int, _n: int) -> None:
        lock = await db.arun(locks.acquire, f"lock/{caller}", owner="bench", ttl_ms=30_000)
        await db.arun(locks.release, lock)

    return _crowd(each, pair)


def crowd_list(db: Database, each: int) -> Sample:
    """Each caller has its own list."""

    async def pair(caller: int, _n: int) -> None:
        await db.arun(push, f"l{caller}", "x")
        await db.arun(pop, f"l{caller}")

    return _crowd(each, pair)


def _redis_crowd(port: int, each: int, make: Callable[[redis.asyncio.Redis], Callable[[int, int], object]]) -> Sample:
    async def scenario() -> Sample:
        client = redis.asyncio.Redis(port=port, max_connections=CALLERS)
        operation = make(client)
        try:
            return await timed_crowd(operation, CALLERS, each)  # type: ignore[arg-type]
        finally:
            await client.aclose()

    return asyncio.run(scenario())


def redis_increment(port: int, each: int) -> Sample:
    """INCR on a key of its own for each caller."""
    return _redis_crowd(port, each, lambda client: lambda caller, _n: client.incr(f"k{caller}"))


def redis_lock(port: int, each: int) -> Sample:
    """redis-py's asyncio Lock."""

    def make(client: redis.asyncio.Redis) -> Callable[[int, int], object]:
        async def pair(caller: int, _n: int) -> None:
            lock = client.lock(f"lock/{caller}", timeout=30)
            await lock.acquire()
            await lock.release()

        return pair

    return _redis_crowd(port, each, make)


def redis_list(port: int, each: int) -> Sample:
    """RPUSH and LPOP."""

    def make(client: redis.asyncio.Redis) -> Callable[[int, int], object]:
        async def pair(caller: int, _n: int) -> None:
            await client.rpush(f"l{caller}", "x")
            await client.lpop(f"l{caller}")

        return pair

    return _redis_crowd(port, each, make)


def redis_pipelined(port: int, each: int) -> Sample:
    """128 INCR in one pipeline, as often as each caller would have called."""

    async def scenario() -> Sample:
        client = redis.asyncio.Redis(port=port)

        async def batch(_caller: int, _n: int) -> None:
            async with client.pipeline(transaction=False) as pipe:
                for key in range(CALLERS):
                    pipe.incr(f"k{key}")
                await pipe.execute()

        try:
            one = await timed_crowd(batch, 1, each)
            return Sample(one.rate * CALLERS, one.p50_ms, one.p99_ms)
        finally:
            await client.aclose()

    return asyncio.run(scenario())
