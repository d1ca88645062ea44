"""Group commit: many functions, one transaction, one fsync.

One thread takes what is queued, runs function after function, each in its savepoint, and
commits once. Nothing waits for company: what is there is taken, and nothing is admitted after
two milliseconds. When the writer is idle, a synchronous caller runs its own function.

A function that fails loses its savepoint. When an error ends the whole transaction (SQLite
does so for an interrupted INSERT, ON CONFLICT ROLLBACK, a full disk) the others are innocent:
they are run again without it.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
import time
from collections import deque
from pathlib import Path

from onefold.core.clock import Clock
from onefold.core.errors import OnefoldError, Retry
from onefold.engine.call import Call, Durability, name_of, refuse_awaitable, running, settle
from onefold.engine.metrics import Metrics
from onefold.engine.rehearsal import Rehearsal
from onefold.engine.sqlite.connection import SYNCHRONOUS, open_connection, translated, wal_of
from onefold.engine.sqlite.parked import Parked
from onefold.engine.sqlite.spaces import Spaces
from onefold.engine.sqlite.tx import OVER, SqliteTx
from onefold.engine.sqlite.wakes import Wakes
from onefold.host.files import sync_file
from onefold.host.gate import Gate

_log = logging.getLogger("onefold.writer")

BATCH_MAX = 512
ADMIT_NS = 2_000_000
QUEUE_MAX = 65_536
PROGRESS_STEPS = 10_000  # Virtual machine steps between two looks at the deadline, about 0.1 ms.
LOSSES_BEFORE_ALONE = 2


class Writer:
    """The one connection that writes, and the thread that drives it."""

    def __init__(
        self, path: Path, gate: Gate, *, clock: Clock, durability: Durability, rehearse: bool, metrics: Metrics,
        wakes: Wakes,
    ) -> None:
        self._path = path
        self._gate = gate
        self._clock = clock
        self._durability: Durability = durability
        self._rehearse = rehearse
        self._metrics = metrics
        self._wakes = wakes
        self._spaces = Spaces()
        self._queue: deque[Call] = deque()
        self._bell = threading.Lock()  # Held while nothing rings; the thread sleeps on it.
        self._bell.acquire()
        self._asleep = False
        self._claimed = False  # The thread has work and waits for `turn`: no one may slip in.
        self.turn = threading.Lock()  # Who has it may use the connection and the gate.
        self._deadline_ns = 0
        self.current: tuple[Call, int, int] | None = None  # Call, thread, since: for the watchdog.
        self.waits_since_ns = 0  # Since when the thread waits for the gate; 0 when it does not.
        self._closing = False
        self.connection: sqlite3.Connection | None = None
        self._synchronous: Durability = durability
        self._thread = threading.Thread(target=self._loop, name="onefold-writer", daemon=True)
        self._thread.start()

    # -- how calls come in ------------------------------------------------------------------

    def submit(self, call: Call) -> None:
        """Queue a call for the thread."""
        if self._closing:
            raise Parked
        if len(self._queue) >= QUEUE_MAX:
            raise Retry("Too many calls are waiting.", code="queue_full", retry_after_ms=100, most=QUEUE_MAX)
        self._queue.append(call)
        if self._asleep:
            # Two callers may ring at once; one ring is enough.
            with contextlib.suppress(RuntimeError):
                self._bell.release()

    def run_inline(self, call: Call) -> bool:
        """Run the call in the caller's thread if the writer is idle; False when it is not."""
        if self._queue or self._claimed or self._closing or not self.turn.acquire(blocking=False):
            return False
        try:
            if self._closing or not self._gate.try_acquire():
                return False
            try:
                call.take()
                self._process(call, inline=True)
            finally:
                self._gate.release()
        finally:
            self.turn.release()
        return True

    def expire(self, now_ns: int, why: str) -> None:
        """Fail queued calls whose deadline is over; the watchdog calls it while the thread is stuck."""
        late = [call for call in tuple(self._queue) if call.deadline_ns < now_ns and call.take()]
        for call in late:
            call.error = Retry(
                "The deadline passed while another process held the file.", code="gate", holder=why
            )
            self._metrics.abort(name_of(call.fn), "gate")
        settle(late)

    @property
    def queued(self) -> int:
        """How many calls wait."""
        return len(self._queue)

    # -- the thread ---------------------------------------------------------------------------

    def _loop(self) -> None:
        queue = self._queue
        while True:
            if not queue:
                self._asleep = True
                if not queue and not self._closing:
                    self._bell.acquire()
                self._asleep = False
            try:
                call = queue.popleft()
            except IndexError:
                if self._closing:
                    return
                continue
            self._claimed = True
            with self.turn:
                self._claimed = False
                self.waits_since_ns = time.monotonic_ns()
                queue.appendleft(call)  # Where the watchdog finds it, should the gate stay shut.
                self._gate.acquire()
                self._metrics.gate_wait.record(time.monotonic_ns() - self.waits_since_ns)
                self.waits_since_ns = 0
                try:
                    self._drain()
                finally:
                    self._gate.release()

    def _drain(self) -> None:
        try:
            call = self._queue.popleft()
            while not call.take():
                call = self._queue.popleft()
        except IndexError:
            return
        self._process(call, inline=False)

    # -- one batch ------------------------------------------------------------------------------

    def _process(self, first: Call, *, inline: bool) -> None:
        """Bring `first`, and what may join it, to their ends. The gate is held."""
        settled: list[Call] = []
        again = [first]
        losses = 0
        try:
            while again:
                # Once somebody keeps ending the transaction, everyone is alone.
                batch, rest = (again, []) if losses < LOSSES_BEFORE_ALONE else (again[:1], again[1:])
                again = batch  # Until the attempt answers, all of them are open.
                again = self._attempt(batch, settled, admit=not inline and not losses) + rest
                losses += 1
        except BaseException as error:
            _log.exception("the writer failed")
            for call in again:
                if call not in settled:
                    call.error = error
                    settled.append(call)
            self._reset()
        finally:
            running.fn = None
            self.current = None
            if not inline:
                settle(settled)

    def _attempt(self, batch: list[Call], settled: list[Call], *, admit: bool) -> list[Call]:
        """One transaction. Answers the calls that must run again, because others ended it."""
        try:
            admit = admit and bool(self._queue)
            alone = len(batch) == 1 and not admit and not self._rehearse
            cursor = self._begin(batch[0], alone=alone)
        except OnefoldError as error:
            for call in batch:
                call.error = error
            settled += batch
            return []
        started = time.monotonic_ns()
        done: list[Call] = []
        txs: list[SqliteTx] = []
        position = 0
        while position < len(batch) or (admit and self._admit(batch, started)):
            call = batch[position]
            position += 1
            tx = self._run_one(call, cursor, alone=alone)
            if call.error is None:
                done.append(call)
                txs.append(tx)
                continue
            settled.append(call)
            self._metrics.abort(name_of(call.fn), getattr(call.error, "code", type(call.error).__name__))
            if not cursor.connection.in_transaction:
                if alone:
                    return []
                for innocent in done:
                    innocent.result = None
                    self._metrics.retry(name_of(innocent.fn))
                return done + batch[position:]
        self._commit(cursor, done, txs, started)
        settled += done
        return []

    def _admit(self, batch: list[Call], started: int) -> bool:
        if len(batch) >= BATCH_MAX or time.monotonic_ns() - started > ADMIT_NS:
            return False
        try:
            call = self._queue.popleft()
            while not call.take():
                call = self._queue.popleft()
        except IndexError:
            return False
        batch.append(call)
        return True

    def _begin(self, first: Call, *, alone: bool) -> sqlite3.Cursor:
        self._spaces.begin()
        try:
            connection = self.connection
            if connection is None:
                connection = self.connection = open_connection(self._path, durability=self._durability)
                connection.set_progress_handler(self._overdue, PROGRESS_STEPS)
                self._synchronous = self._durability
                self._cursor = connection.cursor()
            self._deadline_ns = max(first.deadline_ns, time.monotonic_ns() + 1_000_000)
            # A lone call may ask for less than the database's durability; in a batch one fsync serves all.
            wanted = (alone and first.options.durability) or self._durability
            if wanted != self._synchronous and (alone or self._synchronous != self._durability):
                self._cursor.execute(f"PRAGMA synchronous = {SYNCHRONOUS[wanted]}")
                self._synchronous = wanted
            self._cursor.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            self._reopen_if_broken(error)
            raise translated(error) from error
        return self._cursor

    def _run_one(self, call: Call, cursor: sqlite3.Cursor, *, alone: bool) -> SqliteTx:
        """Run one function in its savepoint; leaves its result or its error in the call."""
        now_ns = time.monotonic_ns()
        self._metrics.queue_age.record(now_ns - call.submitted_ns)
        self._deadline_ns = call.deadline_ns
        running.fn = call.fn
        self.current = (call, threading.get_ident(), now_ns)
        call.error = None
        tx = self._new_tx(call, cursor)
        try:
            if now_ns > call.deadline_ns:
                raise Retry("The deadline passed in the queue; the call was not run.", code="deadline")
            self._spaces.register(tx, cursor)
            if not alone:
                cursor.execute("SAVEPOINT f")
            if self._rehearse:
                rehearsed = self._rehearsal(call, tx, cursor)
                tx = self._new_tx(call, cursor)
                result = rehearsed.compared(call.fn, tx, call.args, call.kwargs)
            else:
                result = call.fn(tx, *call.args, **call.kwargs)
            refuse_awaitable(call, result)
            if tx._doom is not None:
                tx._check_alive()
            if time.monotonic_ns() > call.deadline_ns:
                raise Retry("The deadline passed; the call was undone.", code="deadline")
            if not alone:
                cursor.execute("RELEASE f")
            call.result = result
        except BaseException as error:
            call.error = translated(error) if isinstance(error, sqlite3.Error) else error
            self._undo(cursor, alone=alone)
        tx._doom = OVER
        running.fn = None
        return tx

    def _rehearsal(self, call: Call, tx: SqliteTx, cursor: sqlite3.Cursor) -> Rehearsal:
        """Tests only: run it once for nothing; the run that counts must go the same way."""
        rehearsal = Rehearsal()
        rehearsal.run(call.fn, tx, call.args, call.kwargs)
        tx._doom = OVER
        if cursor.connection.in_transaction:
            cursor.execute("ROLLBACK TO f")
        elif rehearsal.error is not None:
            raise rehearsal.error
        return rehearsal

    def _new_tx(self, call: Call, cursor: sqlite3.Cursor) -> SqliteTx:
        return SqliteTx(
            cursor, space=call.space, space_name=call.options.space_name, now_ms=self._clock.now_ms(), seed=call.seed
        )

    def _undo(self, cursor: sqlite3.Cursor, *, alone: bool) -> None:
        self._deadline_ns = time.monotonic_ns() + 1_000_000_000  # Undoing is not part of the deadline.
        if not cursor.connection.in_transaction:
            return
        try:
            if alone:
                cursor.execute("ROLLBACK")
            else:
                cursor.execute("ROLLBACK TO f")
                cursor.execute("RELEASE f")
        except sqlite3.Error:
            # The savepoint itself is gone: nothing of this transaction can be trusted.
            if cursor.connection.in_transaction:
                cursor.execute("ROLLBACK")

    def _commit(self, cursor: sqlite3.Cursor, done: list[Call], txs: list[SqliteTx], started: int) -> None:
        self._deadline_ns = 1 << 62
        before = time.monotonic_ns()
        try:
            cursor.execute("COMMIT" if done else "ROLLBACK")
        except sqlite3.Error as error:
            ours = translated(error, at_commit=True)
            _log.error("COMMIT failed: %s", ours)
            for call in done:
                call.error = ours
                call.result = None
                self._metrics.abort(name_of(call.fn), ours.code)
            with contextlib.suppress(sqlite3.Error):
                cursor.execute("ROLLBACK")
            self._reopen_if_broken(error)
            return
        if self._synchronous != "always" and any(call.options.durability == "always" for call in done):
            sync_file(wal_of(self._path))
        after = time.monotonic_ns()
        metrics = self._metrics
        metrics.commit.record(after - before)
        metrics.transaction.record(after - started)
        metrics.batch_sizes[len(done)] += 1
        metrics.commits += len(done)
        self._spaces.committed()
        for tx in txs:
            if tx._facts or tx._wakes or tx._callbacks:
                self._wakes.committed(tx)
        self._wakes.flush()

    def _reopen_if_broken(self, error: sqlite3.Error) -> None:
        """After an I/O error the connection's idea of the WAL is not to be trusted."""
        if (getattr(error, "sqlite_errorname", None) or "").startswith(("SQLITE_IOERR", "SQLITE_CORRUPT")):
            self._reset()

    def _reset(self) -> None:
        connection, self.connection = self.connection, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()

    def _overdue(self) -> int:
        return time.monotonic_ns() > self._deadline_ns

    # -- the end ----------------------------------------------------------------------------------

    def park(self) -> None:
        """Close the connection; the holder of `turn` calls it. The next call opens it again."""
        connection, self.connection = self.connection, None
        if connection is not None:
            self._gate.acquire()
            try:
                connection.close()
            finally:
                self._gate.release()

    def close(self) -> None:
        """Run what is queued, then stop the thread and close the connection."""
        self._closing = True
        with contextlib.suppress(RuntimeError):
            self._bell.release()
        self._thread.join()
        with self.turn:
            self.park()

