"""The embedded engine put together, and taken apart around a fork."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from onefold.core.clock import Clock
from onefold.core.errors import Invalid
from onefold.engine.call import Call, Durability, Outcome, running
from onefold.engine.metrics import Metrics
from onefold.engine.schema import SchemaFile
from onefold.engine.sqlite.connection import steady_heap, wal_of
from onefold.engine.sqlite.everysec import EverySecond
from onefold.engine.sqlite.migrate import migrate_sqlite
from onefold.engine.sqlite.parked import Parked
from onefold.engine.sqlite.readers import Readers
from onefold.engine.sqlite.wakes import Wakes
from onefold.engine.sqlite.watchdog import Watchdog
from onefold.engine.sqlite.writer import Writer
from onefold.engine.wake import Hub
from onefold.host.gate import Gate


class _Parts:
    """All that holds a thread, a descriptor or a connection."""

    def __init__(self, engine: SqliteEngine) -> None:
        self.gate = Gate(engine.path)
        self.wakes = Wakes(engine.path, engine.hub)
        self.writer = Writer(
            engine.path, self.gate, clock=engine.clock, durability=engine.durability, rehearse=engine.rehearse,
            metrics=engine.metrics, wakes=self.wakes,
        )
        self.readers = Readers(engine.path, clock=engine.clock, metrics=engine.metrics)
        self.watchdog = Watchdog(self.writer, self.gate)
        self.every_second = EverySecond(engine.path) if engine.durability == "everysec" else None

    def close(self) -> None:
        self.readers.close()
        self.writer.close()
        if self.every_second is not None:
            self.every_second.close()
        self.watchdog.close()
        self.wakes.close()
        self.gate.close()


class SqliteEngine:
    """One file; see `Writer` for writes and `Readers` for snapshots."""

    dialect: Literal["sqlite", "postgres"] = "sqlite"

    def __init__(
        self, path: Path, files: Sequence[SchemaFile], *, durability: Durability, rehearse: bool, clock: Clock
    ) -> None:
        self.path = path
        self.durability: Durability = durability
        self.rehearse = rehearse
        self.clock = clock
        self.hub = Hub()
        self.metrics = Metrics()
        self._parts: _Parts | None = None
        self._lock = threading.Lock()
        self._refused: str | None = None
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
                parts.writer.submit(call)
            except Parked:
                continue
            try:
                bell.acquire()
            except BaseException:  # Ctrl-C: withdraw, or wait for the outcome.
                if not call.take():
                    bell.acquire()
                raise
            return call.outcome()

    async def arun(self, call: Call) -> Any:
        """See `Engine.arun`."""
        loop = asyncio.get_running_loop()
        call.loop = loop
        future = call.future = Outcome(loop=loop)
        future.call = call
        while True:
            parts = self._parts or self._open()
            with contextlib.suppress(Parked):
                if call.options.read_only:
                    parts.readers.start(call)
                else:
                    parts.writer.submit(call)
                return await future

    def refresh_gauges(self) -> None:
        """See `Engine.refresh_gauges`."""
        parts = self._parts
        gauges = self.metrics.gauges
        try:
            gauges["wal_bytes"] = float(wal_of(self.path).stat().st_size)
        except FileNotFoundError:
            gauges["wal_bytes"] = 0.0
        gauges["queued"] = float(parts.writer.queued) if parts else 0.0
        gauges["oldest_snapshot_ms"] = parts.readers.oldest_ms() if parts else 0.0

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
        if self._parts is not None:
            self._parts.close()
            self._parts = None

    def _after_fork(self) -> None:
        if self._lock.locked():
            self._lock.release()

    def _after_fork_in_child(self) -> None:
        if self._parts is not None:
            _left_behind.append(self._parts)  # Not closed: that would end the parent's locks.
            self._parts = None
            self._refused = "The process was forked inside a transaction; connect anew after the fork."
        self._lock = threading.Lock()
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
