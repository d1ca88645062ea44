"""The peers of the messaging benches, each in the best form that its own documentation shows."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from benches.harness import Sample

WORKERS = 10


def huey_drain(folder: Path, count: int) -> Sample:
    """Huey on SQLite with fsync: enqueue `count` no-op jobs, then drain them with ten threads."""
    from huey import SqliteHuey

    queue = SqliteHuey(f"bench{uuid.uuid4().hex}", filename=str(folder / f"huey-{uuid.uuid4().hex}.db"), fsync=True, results=False)
    left = count
    lock, finished = threading.Lock(), threading.Event()

    @queue.task()
    def nothing() -> None:
        nonlocal left
        with lock:
            left -= 1
            if not left:
                finished.set()

    for _ in range(count):
        nothing()
    logging.getLogger("huey").setLevel(logging.ERROR)
    consumer = queue.create_consumer(workers=WORKERS, worker_type="thread", initial_delay=0.001, backoff=1.0, max_delay=0.01, periodic=False, check_worker_health=False)
    consumer._set_signal_handlers = lambda: None
    started = time.perf_counter()
    consumer.start()
    finished.wait()
    total = time.perf_counter() - started
    consumer.stop(graceful=True)
    return Sample(count / total)


def taskiq_drain(port: int, count: int) -> Sample:
    """Taskiq on a Redis stream (acknowledged), ten at a time."""
    from taskiq.api import run_receiver_task
    from taskiq_redis import RedisStreamBroker

    async def scenario() -> Sample:
        name = f"taskiq{uuid.uuid4().hex}"
        broker = RedisStreamBroker(f"redis://127.0.0.1:{port}", queue_name=name, consumer_group_name=name)
        left = count
        finished = asyncio.Event()

        @broker.task(task_name="nothing")
        async def nothing() -> None:
            nonlocal left
            left -= 1
            if not left:
                finished.set()

        await broker.startup()
        for start in range(0, count, 100):
            await asyncio.gather(*(nothing.kiq() for _ in range(min(100, count - start))))
        logging.getLogger("taskiq").setLevel(logging.ERROR)
        started = time.perf_counter()
        receiver = asyncio.create_task(run_receiver_task(broker, max_async_tasks=WORKERS))
        await asyncio.wait_for(finished.wait(), 300)
        total = time.perf_counter() - started
        receiver.cancel()
        await asyncio.wait([receiver], timeout=5)
        await broker.shutdown()
        return Sample(count / total)

    return asyncio.run(scenario())


def procrastinate_drain(dsn: str, count: int) -> Sample:
    """procrastinate on PostgreSQL with analysed tables, ten at a time."""
    import psycopg
    from procrastinate import App, PsycopgConnector

    async def scenario() -> Sample:
        app = App(connector=PsycopgConnector(conninfo=dsn))
        done = 0

        @app.task(name="nothing")
        async def nothing() -> None:
            nonlocal done
            done += 1

        async with app.open_async():
            with psycopg.connect(dsn, autocommit=True) as admin:
                if admin.execute("SELECT to_regclass('procrastinate_jobs')").fetchone() == (None,):
                    await app.schema_manager.apply_schema_async()
                for start in range(0, count, 1_000):
                    await nothing.batch_defer_async(*[{} for _ in range(min(1_000, count - start))])
                admin.execute("ANALYZE")
            logging.getLogger("procrastinate").setLevel(logging.ERROR)
            started = time.perf_counter()
            await app.run_worker_async(concurrency=WORKERS, wait=False, install_signal_handlers=False)
            total = time.perf_counter() - started
        assert done == count
        return Sample(count / total)

    return asyncio.run(scenario())


class EventRecorder:
    """The recorder of the `eventsourcing` library: one event per call, its own stream for each caller."""

    def __init__(self, recorder: object) -> None:
        self._recorder = recorder
        self._streams = [uuid.uuid4() for _ in range(64)]
        self._versions = [0] * 64

    def insert(self, caller: int) -> None:
        """One event in one transaction."""
        from eventsourcing.persistence import StoredEvent

        self._versions[caller] += 1
        self._recorder.insert_events(
            [StoredEvent(self._streams[caller], self._versions[caller], "order.placed", b'{"order":"order-1"}')]
        )


@contextlib.contextmanager
def eventsourcing_sqlite(folder: Path) -> Iterator[EventRecorder]:
    """Its SQLite recorder, WAL and synchronous FULL as it comes."""
    from eventsourcing.sqlite import SQLiteApplicationRecorder, SQLiteDatastore

    datastore = SQLiteDatastore(str(folder / f"events-{uuid.uuid4().hex}.db"), pool_size=20)
    recorder = SQLiteApplicationRecorder(datastore)
    recorder.create_table()
    try:
        yield EventRecorder(recorder)
    finally:
        datastore.close()


@contextlib.contextmanager
def eventsourcing_postgres(dsn: str) -> Iterator[EventRecorder]:
    """Its PostgreSQL recorder with a pool for sixteen callers."""
    from eventsourcing.postgres import PostgresApplicationRecorder, PostgresDatastore
    from psycopg.conninfo import conninfo_to_dict

    parts = conninfo_to_dict(dsn)
    url = urlsplit(dsn)
    datastore = PostgresDatastore(
        dbname=str(parts["dbname"]), host=str(parts.get("host") or url.hostname), port=str(parts.get("port") or 5432),
        user=str(parts["user"]), password=str(parts.get("password") or "x"), pool_size=16, max_overflow=4, max_waiting=100,
    )
    recorder = PostgresApplicationRecorder(datastore, events_table_name=f"events_{uuid.uuid4().hex[:8]}")
    recorder.create_table()
    try:
        yield EventRecorder(recorder)
    finally:
        datastore.close()
