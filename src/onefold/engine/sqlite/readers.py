"""Snapshot readers: a bounded pool of connections; the caller's own thread does the work."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from onefold.core.clock import Clock
from onefold.core.errors import Doomed, Retry
from onefold.engine.call import NEVER_NS, Call, code_of, name_of, refuse_awaitable, running, seconds_left, settle
from onefold.engine.metrics import Metrics
from onefold.engine.sqlite.connection import BEGIN_READ, COMMIT, open_connection, translated
from onefold.engine.sqlite.parked import Parked
from onefold.engine.sqlite.tx import SqliteTx
from onefold.engine.tx import OVER

READERS_MAX = 8
ADMITTED_MAX = 65_536  # Calls, those that wait among them.
PROGRESS_STEPS = 10_000


class Reader:
    """One read connection with its deadline."""

    def __init__(self, path: Path) -> None:
        self.connection = open_connection(path, readonly=True)
        self.cursor = self.connection.cursor()
        self.deadline_ns = 0
        self.since_ns = 0  # Since when its snapshot is open; 0 when it is not.
        self.fn: Callable[..., Any] | None = None  # Who reads.
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
        self._changed = threading.Condition(self._lock)
        self._admitted = 0
        self._waiting: set[Call] = set()  # Of tasks, admitted and not yet taken up by a thread.
        self._closing = False
        self._threads = ThreadPoolExecutor(READERS_MAX, thread_name_prefix="onefold-read")

    def run(self, call: Call) -> Any:
        """Run the function on a snapshot in this thread."""
        self._enter()
        try:
            return self._run(call)
        finally:
            self._leave()

    def start(self, call: Call) -> None:
        """Run the function on a thread of the pool; its future hears of the outcome."""
        self._enter()
        self._waiting.add(call)
        try:
            self._threads.submit(self._run_for_task, call)
        except BaseException:  # Without a thread for it the pool has it in its queue all the same.
            if self._taken_up(call):
                self._leave()
            raise

    def expire(self, now_ns: int) -> None:
        """Fail calls of tasks whose deadline is over before a thread took them up."""
        late = [call for call in tuple(self._waiting) if call.deadline_ns < now_ns and call.take()]
        for call in late:
            call.error = self._busy(call)
        settle(late)

    def open(self) -> list[tuple[int, Callable[..., Any] | None]]:
        """Since when snapshots are open, and who reads them. The oldest keeps the WAL from being reused."""
        return [(since, reader.fn) for reader in tuple(self._all) if (since := reader.since_ns)]

    def connections(self) -> list[sqlite3.Connection]:
        """All that are open."""
        return [reader.connection for reader in self._all]

    def stop(self) -> None:
        """Take no more calls, and wait for those that are here."""
        with self._lock:
            self._closing = True
            while self._admitted:
                self._changed.wait()
        self._threads.shutdown(wait=True)

    def close_connections(self) -> None:
        """After `stop`, under the gate: the last one to close writes the WAL back into the file."""
        for connection in self.connections():
            connection.close()

    def _enter(self) -> None:
        with self._lock:
            if self._closing:
                raise Parked
            if self._admitted >= ADMITTED_MAX:
                raise Retry("Too many calls are waiting.", code="queue_full", retry_after_ms=100, most=ADMITTED_MAX)
            self._admitted += 1

    def _leave(self) -> None:
        with self._lock:
            self._admitted -= 1
            if self._closing:
                self._changed.notify_all()

    def _busy(self, call: Call) -> Retry:
        self._metrics.abort(name_of(call.fn), "readers_busy")
        return Retry("No reader was free for the call before its deadline.", code="readers_busy", most=READERS_MAX)

    def _run(self, call: Call) -> Any:
        left_s = seconds_left(call.deadline_ns)
        if not left_s or not self._permits.acquire(timeout=left_s):
            raise self._busy(call)
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

    def _take(self) -> Reader:
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
        try:
            reader.fn = call.fn
            reader.since_ns = time.monotonic_ns()
            cursor.execute(BEGIN_READ)
            running.fn = call.fn
            result = call.fn(tx, *call.args, **call.kwargs)
            refuse_awaitable(call, result)
            tx._check_alive()
        except BaseException as error:
            code = "doomed" if isinstance(error, Doomed) else code_of(error)
            self._metrics.abort(name_of(call.fn), code)
            raise
        else:
            return result
        finally:
            running.fn = None
            tx._doom = OVER
            reader.connection.take_back()
            reader.since_ns = 0
            reader.deadline_ns = NEVER_NS
            if reader.connection.in_transaction:
                cursor.execute(COMMIT)

    def _taken_up(self, call: Call) -> bool:
        """Whether the call waits no longer because of this; who is told so also leaves for it."""
        try:
            self._waiting.remove(call)  # Atomic: of two threads exactly one gets it.
        except KeyError:
            return False
        return True

    def _run_for_task(self, call: Call) -> None:
        if not self._taken_up(call):
            return
        try:
            if not call.take():
                return
            try:
                call.result = self._run(call)
            except BaseException as error:
                call.error = error
            settle([call])
        finally:
            self._leave()
