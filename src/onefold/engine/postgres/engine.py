"""PostgreSQL: one function per transaction, on a bounded pool, run again when it must be.

A conflict with another transaction, a lost connection or a restarted server means another
attempt, within the deadline. A connection lost at COMMIT is looked up before anything else
happens (see `unknown`).
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import random
import threading
import time
import weakref
from collections.abc import Sequence
from typing import Any, Literal

from onefold.core.errors import Invalid, OnefoldError, Retry, Unknown
from onefold.engine.call import (
    Call,
    Durability,
    Options,
    code_of,
    name_of,
    refuse_awaitable,
    running,
    seconds_left,
    settle,
)  # fmt: skip
from onefold.engine.metrics import Metrics
from onefold.engine.postgres import unknown
from onefold.engine.postgres.activity import Session, replicas, sessions
from onefold.engine.postgres.clock import ServerClock
from onefold.engine.postgres.errors import FATAL, Again, Lost, overdue
from onefold.engine.postgres.listen import Listener, Notifier, new_instance
from onefold.engine.postgres.migrate import check_schema
from onefold.engine.postgres.pool import RESERVED, Pool, conninfo_of
from onefold.engine.postgres.rehearsing import Expected
from onefold.engine.postgres.spaces import Spaces
from onefold.engine.postgres.tx import PostgresTx
from onefold.engine.postgres.wire import Wire, abandon_all
from onefold.engine.postgres.workers import HotKey, HotKeys, Workers
from onefold.engine.rehearsal import Rehearsal
from onefold.engine.reserved import is_reserved
from onefold.engine.schema import SchemaFile
from onefold.engine.tx import OVER
from onefold.engine.wake import Hub

_log = logging.getLogger("onefold.postgres")

ATTEMPTS_MAX = 12
LOSSES_MAX = 12
PAUSE_S_FIRST, PAUSE_S_MAX = 0.001, 0.05
CONNECT_NS = 5_000_000_000  # How long `connect` tries to reach the server.

_GAUGE_OPTIONS = Options(read_only=True, deadline_ms=1_000)


class _LostAtCommit(Exception):  # noqa: N818
    """The connection broke when COMMIT was under way."""

    def __init__(self, tx: PostgresTx, result: Any, attempt_id: int) -> None:
        super().__init__()
        self.tx = tx
        self.result = result
        self.attempt_id = attempt_id


class _Parts:
    """All that holds a thread or a connection; a child process gets its own."""

    def __init__(self, engine: PostgresEngine) -> None:
        self.clock = ServerClock()
        self.pool = Pool(engine.conninfo, engine.pool_max, self.clock)
        self.ids = unknown.AttemptIds()
        self.hot = HotKeys()
        work = functools.partial(engine._work, self)  # These parts: a call that is late is worked on after the closing.
        self.workers = Workers(engine.pool_max - RESERVED, work, name="onefold-run")
        self.heartbeats = Workers(RESERVED, work, name="onefold-reserved")
        instance = new_instance()
        self.notifier = Notifier(self.pool, instance)
        self.listener = Listener(self.pool, engine.hub, instance)

    def close(self) -> None:
        self.workers.close()
        self.heartbeats.close()
        self.notifier.close()
        self.listener.close()
        self.pool.close()


class PostgresEngine:
    """See `Engine`."""

    dialect: Literal["sqlite", "postgres"] = "postgres"

    def __init__(
        self, url: str, files: Sequence[SchemaFile], *, durability: Durability, rehearse: bool, pool_max: int
    ) -> None:
        self.conninfo = conninfo_of(url)
        self.pool_max = pool_max
        self.hub = Hub()
        self.metrics = Metrics()
        self._durability: Durability = durability
        self._rehearse = rehearse
        self._spaces = Spaces()
        self._lock = threading.Lock()
        self._closing = threading.RLock()
        self._closed = False
        self._tells_replicas = True
        self._parts: _Parts | None = None
        parts = self._open()
        try:
            deadline_ns = time.monotonic_ns() + CONNECT_NS
            wire = parts.pool.take(deadline_ns)
            self.place = wire.place
            check_schema(wire, files)
            parts.pool.give(wire)
        except BaseException:
            self.close()
            raise
        self.hub.on_waiter = self._listen
        _engines.add(self)

    # -- how calls come in ------------------------------------------------------------------

    def run(self, call: Call) -> Any:
        """See `Engine.run`: the caller's own thread does the work."""
        parts = self._open()
        call.take()
        key = _hot_key(call)
        if key is None:
            return self._run(call, parts)
        parts.hot.wait(key, call.deadline_ns)
        try:
            return self._run(call, parts)
        finally:
            parts.hot.leave(key)

    async def arun(self, call: Call) -> Any:
        """See `Engine.arun`: a bounded number of threads does the work."""
        parts = self._open()
        future = call.expected()
        workers = parts.heartbeats if is_reserved(call.fn) else parts.workers
        key = _hot_key(call)
        if key is None or parts.hot.enter(key, functools.partial(_admit_late, workers, call)):
            try:
                workers.submit(call)
            except OnefoldError:
                if key is not None:
                    parts.hot.leave(key)
                raise
        timer = future.get_loop().call_later(seconds_left(call.deadline_ns), _expire, call)
        try:
            return await future
        except asyncio.CancelledError:
            await call.abandoned(future)
            raise
        finally:
            timer.cancel()

    def _work(self, parts: _Parts, call: Call) -> None:
        """A worker has a call; hand its outcome to the waiting task."""
        try:
            if not call.take():
                return  # Withdrawn.
            try:
                call.result = self._run(call, parts)
            except BaseException as error:
                call.error = error
            settle([call])
        finally:
            if (key := _hot_key(call)) is not None:
                parts.hot.leave(key)

    # -- attempts ---------------------------------------------------------------------------

    def _run(self, call: Call, parts: _Parts) -> Any:
        places = parts.pool.places
        try:
            places.enter(reserved=is_reserved(call.fn), deadline_ns=call.deadline_ns)
            try:
                self.metrics.queue_age.record(time.monotonic_ns() - call.submitted_ns)
                return self._until_done(call, parts)
            finally:
                places.leave()
        except BaseException as error:
            self.metrics.abort(name_of(call.fn), code_of(error))
            raise

    def _until_done(self, call: Call, parts: _Parts) -> Any:
        """Attempt after attempt, until one is committed or refused."""
        conflicts = losses = 0
        while True:
            wire = parts.pool.take(call.deadline_ns)
            suspect = False
            at_commit: _LostAtCommit | None = None
            try:
                return self._attempt(call, wire, parts)
            except Again as error:
                conflicts += 1
                if conflicts >= ATTEMPTS_MAX or time.monotonic_ns() > call.deadline_ns:
                    raise Retry(
                        "Conflicts with other transactions did not end.", code="conflict", retry_after_ms=100,
                        attempts=conflicts,
                    ) from error  # fmt: skip
            except _LostAtCommit as error:
                suspect, at_commit = True, error
            except Lost as error:
                suspect = True
                losses += 1
                if losses >= LOSSES_MAX or time.monotonic_ns() > call.deadline_ns:
                    raise Retry(
                        "The connection to PostgreSQL broke again and again; nothing was written.",
                        code="unavailable", retry_after_ms=500, attempts=losses,
                    ) from error  # fmt: skip
            finally:
                parts.pool.give(wire, suspect=suspect)
            if at_commit is not None and self._resolve(call, parts, wire, at_commit):
                return at_commit.result
            self.metrics.retry(name_of(call.fn))
            call.draw_anew()
            if max(conflicts, losses) > 1:
                self._rest(_pause_s(max(conflicts, losses), call.deadline_ns))

    def _rest(self, seconds: float) -> None:
        """Between two attempts; the simulator has its own time."""
        time.sleep(seconds)

    def _resolve(self, call: Call, parts: _Parts, wire: Wire, lost: _LostAtCommit) -> bool:
        """True: it committed. False: it did not, and may run again."""
        answer = unknown.committed(parts.pool, wire.identity, lost.attempt_id, deadline_ms=call.options.deadline_ms)
        _log.warning("connection lost at COMMIT of %s; it committed: %s", name_of(call.fn), answer)
        if answer is None:
            raise Unknown(
                "The connection broke at COMMIT and the outcome cannot be told.", fn=name_of(call.fn)
            )
        if answer:
            self._committed(lost.tx, parts)
            return True
        if time.monotonic_ns() > call.deadline_ns:
            raise overdue()
        return False

    def _attempt(self, call: Call, wire: Wire, parts: _Parts) -> Any:
        started = time.monotonic_ns()
        attempt_id = parts.ids.next()
        tx = self._new_tx(call, wire, parts, attempt_id)
        result: Any = None
        if not call.options.read_only and not self._spaces.knows(call.space):
            self._spaces.register(wire, call.space, call.options.space_name)
        try:
            running.fn = wire.fn = call.fn
            try:
                if self._rehearse and not call.options.read_only:
                    tx, result = self._rehearsed(call, wire, parts, attempt_id)
                else:
                    result = call.fn(tx, *call.args, **call.kwargs)
            finally:
                running.fn = None
            refuse_awaitable(call, result)
            if tx.fatal is not None:
                raise tx.fatal
            tx._check_alive()
            before = time.monotonic_ns()
            if before > call.deadline_ns:
                raise overdue()
            tx.commit()
        except BaseException as error:
            tx.rollback()
            if isinstance(error, Lost) and tx.commit_sent and tx.wrote:
                raise _LostAtCommit(tx, result, attempt_id) from error
            if isinstance(error, Exception) and tx.fatal is not None and error is not tx.fatal:
                raise tx.fatal from error  # Whatever the function made of it, it must run again.
            raise
        finally:
            tx._doom = OVER
            wire.fn = None
        after = time.monotonic_ns()
        self.metrics.commit.record(after - before)
        self.metrics.transaction.record(after - started)
        self._committed(tx, parts)
        return result

    def _rehearsed(self, call: Call, wire: Wire, parts: _Parts, attempt_id: int) -> tuple[PostgresTx, Any]:
        """Tests only: run it once for nothing; the run that counts must go the same way."""
        first = self._new_tx(call, wire, parts, attempt_id)
        first.drawn = set()
        first._savepoint_begin(1)
        rehearsal = Rehearsal()
        rehearsal.run(call.fn, first, call.args, call.kwargs)
        if isinstance(rehearsal.error, FATAL) or not isinstance(rehearsal.error, Exception | None):
            first.rollback()
            raise rehearsal.error
        try:
            first._savepoint_end(1, keep=False)
        except OnefoldError:
            first.rollback()
            raise
        first._doom = OVER
        second = self._new_tx(call, wire, parts, attempt_id)
        second.take_over(first)
        second.drawn = set()
        rehearsal.result = Expected(
            rehearsal.result, (first.drawn, second.drawn), anything=call.options.isolation == "read_committed"
        )
        try:
            return second, rehearsal.compared(call.fn, second, call.args, call.kwargs)
        except BaseException as error:
            second.rollback()
            if second.fatal is not None and isinstance(error, Exception):
                raise second.fatal from error
            raise

    def _new_tx(self, call: Call, wire: Wire, parts: _Parts, attempt_id: int) -> PostgresTx:
        return PostgresTx(
            wire, call.options, self._durability, attempt_id=attempt_id, space=call.space,
            now_ms=parts.clock.now_ms(), seed=call.seed,
        )  # fmt: skip

    def _committed(self, tx: PostgresTx, parts: _Parts) -> None:
        self.metrics.commits += 1
        hints = tx._hints
        if hints is None:
            return
        try:
            if hints.facts or hints.callbacks:
                self.hub.committed(hints.facts, hints.callbacks)
            if hints.topics:
                self.hub.wake(hints.topics)
                parts.notifier.tell(hints.topics)
        except Exception:  # It is committed; whoever called must not be told otherwise.
            _log.exception("hints after a commit were lost")

    def tell(self, topics: list[str]) -> None:
        """Wake the waiters of these topics, here at once, elsewhere in a moment."""
        self.hub.wake(topics)
        self._open().notifier.tell(topics)

    # -- the rest ---------------------------------------------------------------------------

    def refresh_gauges(self) -> None:
        """See `Engine.refresh_gauges`."""
        parts = self._open()
        gauges = self.metrics.gauges
        pool = parts.pool
        gauges["pool_max"] = float(pool.most)
        gauges["pool_busy"] = float(pool.busy)
        gauges["queued"] = float(
            pool.places.waiting + parts.workers.queued + parts.heartbeats.queued + parts.hot.waiting
        )
        self.metrics.open, self.metrics.replicas = None, []
        try:
            oldest_ms, longest = self._run(Call(sessions, (), {}, _GAUGE_OPTIONS, 0), parts)
        except Retry:  # The server is away, and nothing is known.
            gauges["oldest_snapshot_ms"] = gauges["open_transaction_ms"] = -1.0
            return
        gauges["oldest_snapshot_ms"] = oldest_ms
        gauges["open_transaction_ms"] = longest.ms if longest else 0.0
        self.metrics.open = _told(longest, pool) if longest else None
        if self._tells_replicas:
            try:
                self.metrics.replicas = self._run(Call(replicas, (), {}, _GAUGE_OPTIONS, 0), parts)
            except OnefoldError as error:
                self._tells_replicas = isinstance(error, Retry)  # One that refuses is not asked again and again.

    def close(self) -> None:
        """See `Engine.close`."""
        with self._closing:  # Whoever closes as well comes back when it is done; in a signal's handler, does it.
            with self._lock:
                self._closed = True
                parts = self._parts
            if parts is not None:
                parts.close()
            self._parts = None
        self.hub.close()

    def _listen(self) -> None:
        parts = self._parts
        if parts is not None:
            parts.listener.start()

    def _open(self) -> _Parts:
        parts = self._parts
        if parts is not None and not self._closed:
            return parts
        with self._lock:
            if self._closed:
                raise Invalid("The database cannot be used.", code="closed", why="The database is closed.")
            if self._parts is None:
                self._parts = _Parts(self)
                if self.hub.has_waiters():
                    self._parts.listener.start()
            return self._parts

    def _after_fork_in_child(self) -> None:
        if self._parts is not None:
            self._parts.pool.places.forked()
            self._parts = None
        self._lock = threading.Lock()
        self._closing = threading.RLock()
        self.metrics._lock = threading.Lock()
        self.hub.forked()


def _told(longest: Session, pool: Pool) -> dict[str, Any]:
    """A session as metrics tell it; of one of ours which function it runs."""
    fn = pool.running().get(longest.pid)
    where = f"{longest.name or 'a program'}, pid {longest.pid}, {longest.state or 'its state is not told'}"
    return {"function": name_of(fn) if fn is not None else "", "ms": longest.ms, "where": where}


def _hot_key(call: Call) -> HotKey | None:
    hot = call.options.hot
    return None if hot is None else (call.space, hot)


def _admit_late(workers: Workers, call: Call) -> None:
    """A hot key came free; its call must reach a worker, which gives the key on."""
    workers.submit(call, late=True)


def _expire(call: Call) -> None:
    """On the loop: nobody took the call up before its deadline."""
    if call.take():
        call.error = Retry("All connections were busy until the deadline; the call was not run.", code="deadline")
        call.settle_future()


def _pause_s(conflicts: int, deadline_ns: int) -> float:
    """Full jitter, doubling, never past the deadline."""
    most = min(PAUSE_S_FIRST * 2**conflicts, PAUSE_S_MAX)
    return min(random.uniform(0, most), seconds_left(deadline_ns))  # noqa: S311  Jitter.


def engine_at(place: tuple[bytes, bytes, bytes]) -> PostgresEngine | None:
    """An open engine of this process on the database at (host, port, name)."""
    for engine in tuple(_engines):
        if not engine._closed and engine.place == place:
            return engine
    return None


_engines: weakref.WeakSet[PostgresEngine] = weakref.WeakSet()


def _in_child() -> None:
    abandon_all()
    for engine in tuple(_engines):
        engine._after_fork_in_child()


os.register_at_fork(after_in_child=_in_child)
