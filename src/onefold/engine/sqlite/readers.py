"""Snapshot readers: a bounded pool of connections; the caller's own thread does the work."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from onefold.core.clock import Clock
from onefold.core.errors import Doomed, Retry
from onefold.engine.call import Call, name_of, refuse_awaitable, running
from onefold.engine.metrics import Metrics
from onefold.engine.sqlite.connection import open_connection, translated
from onefold.engine.sqlite.parked import Parked
from onefold.engine.sqlite.tx import OVER, SqliteTx

READERS_MAX = 8
PROGRESS_STEPS = 10_000


class Reader:
    """One read connection with its deadline."""

    def __init__(self, path: Path) -> None:
        self.connection = open_connection(path, readonly=True)
        self.cursor = self.connection.cursor()
        self.deadline_ns = 0
        self.since_ns = 0  # Since when its snapshot is open; 0 when it is not.
        self.connection.set_progress_handler(self._overdue, PROGRESS_STEPS)

    def _overdue(self) -> int:
        return time.monotonic_ns() > self.deadline_ns


class Readers:
    """The pool. A snapshot never waits for the writer, nor the writer for it."""

    def __init__(self, path: Path, *, clock: Clock, metrics: Metrics) -> None:
        self._path = path
        self._clock = clock
        self._metrics = metrics
        self._idle: deque[Reader] = deque()
        self._all: list[Reader] = []
        self._permits = threading.BoundedSemaphore(READERS_MAX)
        self._lock = threading.Lock()
        self._closing = False
        self._threads = ThreadPoolExecutor(READERS_MAX, thread_name_prefix="onefold-read")

    def run(self, call: Call) -> Any:
        """Run the function on a snapshot in this thread."""
        left_s = (call.deadline_ns - time.monotonic_ns()) / 1e9
        if left_s <= 0 or not self._permits.acquire(timeout=left_s):
            raise Retry("All readers were busy until the deadline.", code="readers_busy", most=READERS_MAX)
        try:
            reader = self._take()
            try:
                return self._read(call, reader)
            finally:
                self._idle.append(reader)
        except sqlite3.Error as error:
            raise translated(error) from error
        finally:
            self._permits.release()

    def start(self, call: Call) -> None:
        """Run the function on a thread of the pool; its future hears of the outcome."""
        self._threads.submit(self._run_for_task, call)

    def oldest_ms(self) -> float:
        """Age of the oldest open snapshot: it keeps the WAL from being reused."""
        now = time.monotonic_ns()
        ages = [now - reader.since_ns for reader in tuple(self._all) if reader.since_ns]
        return max(ages, default=0) / 1e6

    def close(self) -> None:
        """Wait for running readers, then close their connections."""
        self._closing = True
        self._threads.shutdown(wait=True)
        for _ in range(READERS_MAX):
            self._permits.acquire()
        for reader in self._all:
            reader.connection.close()

    def _take(self) -> Reader:
        if self._closing:
            raise Parked
        try:
            return self._idle.pop()
        except IndexError:
            reader = Reader(self._path)
            with self._lock:
                self._all.append(reader)
            return reader

    def _read(self, call: Call, reader: Reader) -> Any:
        reader.deadline_ns = call.deadline_ns
        cursor = reader.cursor
        tx = SqliteTx(
            cursor, space=call.space, space_name=call.options.space_name, now_ms=self._clock.now_ms(), seed=call.seed
        )
        reader.since_ns = time.monotonic_ns()
        cursor.execute("BEGIN")
        running.fn = call.fn
        try:
            result = call.fn(tx, *call.args, **call.kwargs)
            refuse_awaitable(call, result)
            if tx._doom is not None:
                tx._check_alive()
        except BaseException as error:
            code = "doomed" if isinstance(error, Doomed) else getattr(error, "code", type(error).__name__)
            self._metrics.abort(name_of(call.fn), code)
            raise
        else:
            return result
        finally:
            running.fn = None
            tx._doom = OVER
            reader.since_ns = 0
            reader.deadline_ns = 1 << 62
            if reader.connection.in_transaction:
                cursor.execute("COMMIT")

    def _run_for_task(self, call: Call) -> None:
        if not call.take():
            return
        try:
            call.result = self.run(call)
        except BaseException as error:
            call.error = error
        call.settle_from_thread()
