"""The embedded engine put together, and taken apart around a fork."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import threading
import time
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from onefold.core.clock import Clock
from onefold.core.errors import Invalid
from onefold.engine.call import Call, Durability, name_of, running
from onefold.engine.metrics import Metrics
from onefold.engine.schema import SchemaFile
from onefold.engine.sqlite.connection import real_path, steady_heap, wal_of
from onefold.engine.sqlite.everysec import EverySecond
from onefold.engine.sqlite.migrate import migrate_sqlite
from onefold.engine.sqlite.parked import Parked
from onefold.engine.sqlite.readers import Readers
from onefold.engine.sqlite.wakes import Wakes
from onefold.engine.sqlite.watchdog import Watchdog
from onefold.engine.sqlite.writer import Writer
from onefold.engine.wake import Hub
from onefold.host.gate import Gate

CLOSE_WAIT_S = 5.0  # For the gate, at the end; whoever holds it longer has the file open, so nothing is written back.


class _Parts:
    """All that holds a thread, a descriptor or a connection."""

    def __init__(self, engine: SqliteEngine) -> None:
        self._path = engine.path
        self.gate = Gate(engine.path)
        self.wakes = Wakes(engine.path, engine.hub)
        self.every_second = EverySecond(
            engine.path, suspect=lambda: self.writer.batches.suspect, mend=lambda: self.writer.mend()
        )
        self.writer = Writer(
            engine.path, self.gate, clock=engine.clock, durability=engine.durability, rehearse=engine.rehearse,
            metrics=engine.metrics, wakes=self.wakes, unsynced=self.every_second.unsynced,
        )
        self.readers = Readers(engine.path, clock=engine.clock, metrics=engine.metrics)
        self.watchdog = Watchdog(self.writer, self.readers)

    def close(self) -> None:
        """Finish what was admitted; the watchdog goes on failing what is late meanwhile."""
        self.writer.stop()
        self.readers.stop()
        self.every_second.close()
        self.watchdog.close()
        self.wakes.close()
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(OSError):  # The folder may be gone.
                gate = Gate(self._path)
                stack.callback(gate.close)
                gate.acquire_within(CLOSE_WAIT_S)
            self.readers.close_connections()
            self.wakes.close_connection()
            self.writer.close_connection()
        if not self.writer.abandoned:
            self.gate.close()

    def forked(self) -> None:
        """In a child made inside a transaction: touch nothing of the parent's, ever."""
        self.writer.batches.forked()
        self.wakes.forked()
        for connection in (self.writer.batches.connection, *self.readers.connections()):
            if connection is not None:  # Closing one would undo the parent's transaction in shared memory.
                ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))


class SqliteEngine:
    """One file; see `Writer` for writes and `Readers` for snapshots."""

    dialect: Literal["sqlite", "postgres"] = "sqlite"

    def __init__(
        self, path: Path, files: Sequence[SchemaFile], *, durability: Durability, rehearse: bool, clock: Clock
    ) -> None:
        path = self.path = real_path(path)
        self.durability: Durability = durability
        self.rehearse = rehearse
        self.clock = clock
        self.hub = Hub()
        self.metrics = Metrics()
        self._parts: _Parts | None = None
        self._lock = threading.Lock()
        self._refused: str | None = None
        self._forking: int | None = None  # The thread that holds `_lock` around a fork.
        steady_heap()
        migrate_sqlite(path, files)
        self._open()
        _engines.add(self)

    def run(self, call: Call) -> Any:
        """See `Engine.run`."""
        while True:
            parts = self._parts or self._open()
            try:
                if call.options.read_only:
                    return parts.readers.run(call)
                if parts.writer.run_inline(call):
                    return call.outcome()
                bell = call.bell = threading.Lock()
                bell.acquire()
                try:
                    parts.writer.submit(call)
                    bell.acquire()
                except Parked:
                    raise
                except BaseException:  # Ctrl-C: withdraw, or wait for the outcome.
                    if not call.take():
                        bell.acquire()
                    raise
                return call.outcome()
            except Parked:
                continue

    async def arun(self, call: Call) -> Any:
        """See `Engine.arun`."""
        future = call.expected()
        while True:
            parts = self._parts or self._open()
            try:
                if call.options.read_only:
                    parts.readers.start(call)
                else:
                    parts.writer.submit(call)
            except Parked:
                continue
            break
        try:
            return await future
        except asyncio.CancelledError:
            await call.abandoned(future)
            raise

    def refresh_gauges(self) -> None:
        """See `Engine.refresh_gauges`."""
        parts = self._parts
        gauges = self.metrics.gauges
        try:
            gauges["wal_bytes"] = float(wal_of(self.path).stat().st_size)
        except FileNotFoundError:
            gauges["wal_bytes"] = 0.0
        gauges["queued"] = float(parts.writer.queued) if parts else 0.0
        now = time.monotonic_ns()
        found = parts.readers.open() if parts else []
        gauges["oldest_snapshot_ms"] = max((now - since for since, _ in found), default=0) / 1e6
        if parts and (current := parts.writer.batches.current):
            found.append((current[2], current[0].fn))
        since, fn = min(found, key=lambda one: one[0], default=(now, None))
        gauges["open_transaction_ms"] = ms = (now - since) / 1e6
        self.metrics.open = {"function": name_of(fn), "ms": ms, "where": "this process"} if fn is not None else None

    def close(self) -> None:
        """See `Engine.close`."""
        with self._lock:
            parts, self._parts = self._parts, None
            self._refused = "The database is closed."
            if parts is not None:
                parts.close()
        self.hub.close()

    def _open(self) -> _Parts:
        with self._lock:
            if self._refused is not None:
                raise Invalid("The database cannot be used.", code="closed", why=self._refused)
            if self._parts is None:
                self._parts = _Parts(self)
            return self._parts

    # SQLite's locks belong to the process and its bookkeeping does not survive a fork. So nothing
    # of it is open while forking: both sides open anew at their next call.

    def _before_fork(self) -> None:
        if getattr(running, "fn", None) is not None:
            return  # A function forks, against all rules: the parent goes on, the child is refused.
        self._lock.acquire()
        self._forking = threading.get_ident()
        parts, self._parts = self._parts, None
        if parts is not None:
            parts.close()

    def _after_fork(self) -> None:
        if self._forking == threading.get_ident():
            self._forking = None
            self._lock.release()

    def _after_fork_in_child(self) -> None:
        if self._parts is not None:
            self._parts.forked()
            _left_behind.append(self._parts)
            self._parts = None
            self._refused = "The process was forked inside a transaction; connect anew after the fork."
        self._forking = None
        self._lock = threading.Lock()
        self.metrics.forked()
        self.hub.forked()


_engines: weakref.WeakSet[SqliteEngine] = weakref.WeakSet()
_left_behind: list[_Parts] = []


def _each(method: str) -> None:
    for engine in tuple(_engines):
        getattr(engine, method)()


os.register_at_fork(
    before=lambda: _each("_before_fork"),
    after_in_parent=lambda: _each("_after_fork"),
    after_in_child=lambda: _each("_after_fork_in_child"),
)
