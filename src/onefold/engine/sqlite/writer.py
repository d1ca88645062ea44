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
from collections.abc import Callable
from pathlib import Path

from onefold.core.clock import Clock
from onefold.core.errors import Doomed, OnefoldError, Retry, Unknown
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
BUSY_WAIT_NS = 5_000_000_000  # For writers that do not take the gate; ours never meet.
LOOK_COMMITS = 64  # Commits between two looks at the size of the WAL.
WAL_BYTES_LARGE = 128 << 20  # A full write-back is forced above it.
RESTART_WAIT_MS = 100  # How long that may wait for readers; the writer stands still meanwhile.
PROGRESS_STEPS = 10_000  # Virtual machine steps between two looks at the deadline, about 0.1 ms.
LOSSES_BEFORE_ALONE = 2


class Writer:
    """The one connection that writes, and the thread that drives it."""

    def __init__(
        self, path: Path, gate: Gate, *, clock: Clock, durability: Durability, rehearse: bool, metrics: Metrics,
        wakes: Wakes, unsynced: Callable[[], None],
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
        self.turn = threading.Lock()  # Who has it may use the connection and the gate.
        self._deadline_ns = 0
        self.current: tuple[Call, int, int] | None = None  # Call, thread, since: for the watchdog.
        self.waits_since_ns = 0  # Since when the thread waits for the gate; 0 when it does not.
        self._closing = False  # Nothing new comes in.
        self._stopped = False  # The thread does not look into the queue again.
        self.abandoned = False  # The thread sleeps at the gate, left to itself; it cleans up after it.
        self.forked_inside = False
        self._tx: SqliteTx | None = None
        self.unsynced = unsynced
        self._commits_since_look = 0
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
            self._asleep = False  # One ring is enough; a signal between these lines is for `nudge`.
            self._ring()
        if self._stopped:
            self._take_back(call)

    def run_inline(self, call: Call) -> bool:
        """Run the call in the caller's thread if the writer is idle; False when it is not."""
        if self._queue or self._closing or self.turn.locked():
            return False
        # A `with` on a lock and a `finally` that begins in C cannot be torn by a signal's exception.
        with self.turn:
            if self._closing:
                return False
            gate = self._gate
            try:
                if not gate.try_acquire():
                    return False
                call.take()
                self._process(call, inline=True)
            finally:
                gate.release()
        return True

    def expire(self, now_ns: int) -> None:
        """Fail queued calls whose deadline is over; the watchdog calls it, for the thread may be stuck."""
        late = [call for call in tuple(self._queue) if call.deadline_ns < now_ns and call.take()]
        if not late:
            return
        error = Retry("The deadline passed in the queue; the call was not run.", code="deadline")
        if self.waits_since_ns:
            holder = self._gate.holder()
            error = Retry("The deadline passed while another process held the file.", code="gate", holder=holder)
        for call in late:
            call.error = error
            self._metrics.abort(name_of(call.fn), error.code)
        settle(late)

    def nudge(self) -> None:
        """Wake the thread if it sleeps on work: a signal may have come between a call and its ring."""
        if self._queue and not self.turn.locked():
            self._ring()

    @property
    def queued(self) -> int:
        """How many calls wait."""
        return len(self._queue)

    def _ring(self) -> None:
        try:
            self._bell.release()
        except RuntimeError:  # It rings already.
            return

    def _take_back(self, call: Call) -> None:
        """The thread went while the call came: nobody would ever run it."""
        try:
            self._queue.remove(call)
        except ValueError:
            return  # The thread saw it after all.
        raise Parked

    # -- the thread ---------------------------------------------------------------------------

    def _loop(self) -> None:
        while self._wait():
            settled: list[Call] = []
            with self.turn:
                self.waits_since_ns = time.monotonic_ns()
                try:
                    self._gate.acquire()
                    self._metrics.gate_wait.record(time.monotonic_ns() - self.waits_since_ns)
                    self.waits_since_ns = 0
                    settled = self._drain()
                except OSError as error:  # The gate's file system broke.
                    settled = self._fail_queued(error)
                finally:
                    self.waits_since_ns = 0
                    self._let_go()
            settle(settled)
        if self.abandoned:
            self._reset()
            self._gate.close()

    def _wait(self) -> bool:
        """Sleep until there is work; False when there will be none any more."""
        while not self._queue:
            if self._closing:
                # Whoever appends after this looks at `_stopped`: one of us two sees the other.
                self._stopped = True
                return bool(self._queue)
            self._asleep = True
            if not self._queue and not self._closing:
                self._bell.acquire()
            self._asleep = False
        return True

    def _drain(self) -> list[Call]:
        try:
            call = self._queue.popleft()
            while not call.take():
                call = self._queue.popleft()
        except IndexError:
            return []
        return self._process(call, inline=False)

    def _fail_queued(self, why: OSError) -> list[Call]:
        error = Retry("The gate of the database cannot be taken.", code="gate", why=str(why))
        failed = [call for call in tuple(self._queue) if call.take()]
        for call in failed:
            call.error = error
        return failed

    def _let_go(self) -> None:
        with contextlib.suppress(OSError):
            self._gate.release()

    # -- one batch ------------------------------------------------------------------------------

    def _process(self, first: Call, *, inline: bool) -> list[Call]:
        """Bring `first`, and what may join it, to their ends; answers them. The gate is held."""
        settled: list[Call] = []
        batch: list[Call] = []
        again = [first]
        losses = 0
        try:
            while again:
                # Once somebody keeps ending the transaction, everyone is alone.
                batch, again = (again, []) if losses < LOSSES_BEFORE_ALONE else (again[:1], again[1:])
                again = self._attempt(batch, settled, admit=not inline and not losses) + again
                losses += 1
        except BaseException as error:
            if isinstance(error, Exception) and not self.forked_inside:
                _log.exception("the writer failed")
            known = set(map(id, settled))
            for call in batch + again:
                if id(call) not in known:
                    call.error = error
                    settled.append(call)
            self._reset()
        finally:
            self._tx = running.fn = self.current = None
        return settled

    def _attempt(self, batch: list[Call], settled: list[Call], *, admit: bool) -> list[Call]:
        """One transaction. Answers the calls that must run again, because others ended it."""
        admit = admit and bool(self._queue)
        alone = len(batch) == 1 and not admit and not self._rehearse
        try:
            cursor = self._begin(batch[0], alone=alone)
        except OnefoldError as error:
            for call in batch:
                call.error = error
                self._metrics.abort(name_of(call.fn), error.code)
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
                for innocent in done:
                    innocent.result = None
                    self._metrics.retry(name_of(innocent.fn))
                return done + batch[position:]
        self.current = None  # What the disk takes from here on is nobody's fault.
        if done:
            self._commit(cursor, done, txs, started)
            settled += done
        else:
            cursor.execute("ROLLBACK")
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
                connection.execute("PRAGMA busy_timeout = 0")  # See `_begin_patiently`.
                connection.set_progress_handler(self._overdue, PROGRESS_STEPS)
                self._synchronous = self._durability
                self._cursor = connection.cursor()
            self._deadline_ns = 1 << 62
            # A lone call may ask for less than the database's durability; in a batch one fsync serves all.
            wanted = (alone and first.options.durability) or self._durability
            if wanted != self._synchronous and (alone or self._synchronous != self._durability):
                self._cursor.execute(f"PRAGMA synchronous = {SYNCHRONOUS[wanted]}")
                self._synchronous = wanted
            try:
                self._cursor.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                self._begin_patiently(error, first.deadline_ns)
        except sqlite3.Error as error:
            self._reopen_if_broken(error)
            raise translated(error) from error
        return self._cursor

    def _begin_patiently(self, error: sqlite3.Error, deadline_ns: int) -> None:
        """A program that does not take the gate holds the file: wait for it, but not past the deadline."""
        until = min(deadline_ns, time.monotonic_ns() + BUSY_WAIT_NS)
        pause_s = 0.001
        while (error.sqlite_errorname or "").startswith("SQLITE_BUSY") and time.monotonic_ns() < until:
            time.sleep(pause_s)
            pause_s = min(pause_s * 1.5, 0.02)
            try:
                self._cursor.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as again:
                error = again
            else:
                return
        raise error

    def _run_one(self, call: Call, cursor: sqlite3.Cursor, *, alone: bool) -> SqliteTx:
        """Run one function in its savepoint; leaves its result or its error in the call."""
        now_ns = time.monotonic_ns()
        if not call.tried:
            call.tried = True
            self._metrics.queue_age.record(now_ns - call.submitted_ns)
        self._deadline_ns = call.deadline_ns
        running.fn = call.fn
        self.current = (call, threading.get_ident(), now_ns)
        call.error = None
        tx = self._tx = self._new_tx(call, cursor)
        try:
            if now_ns > call.deadline_ns:
                raise Retry("The deadline passed in the queue; the call was not run.", code="deadline")
            self._spaces.register(tx, cursor)
            if not alone:
                cursor.execute("SAVEPOINT f")
            if self._rehearse:
                rehearsed = self._rehearsal(call, tx, cursor)
                tx = self._tx = self._new_tx(call, cursor)
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
        if self.forked_inside:
            raise Doomed("The process was forked inside the transaction.", code="forked")
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
            cursor.execute("COMMIT")
        except sqlite3.Error as error:
            ours = translated(error, at_commit=True)
            _log.error("COMMIT failed: %s", ours)
            self._failed(done, ours)
            with contextlib.suppress(sqlite3.Error):
                cursor.execute("ROLLBACK")
            self._reopen_if_broken(error)
            return
        if self._synchronous != "always":
            self._promise(done)
        after = time.monotonic_ns()
        metrics = self._metrics
        metrics.commit.record(after - before)
        metrics.transaction.record(after - started)
        metrics.batch_sizes[len(done)] += 1
        metrics.commits += len(done)
        self._spaces.committed()
        hints = [tx for tx in txs if tx._wakes or tx._facts or tx._callbacks]
        if hints:
            try:
                self._wakes.committed(hints)
            except Exception:
                _log.exception("hints after a commit were lost")
        self._commits_since_look += 1
        if self._commits_since_look >= LOOK_COMMITS:
            self._commits_since_look = 0
            self._tame_wal(cursor)

    def _promise(self, done: list[Call]) -> None:
        """The COMMIT did not wait for the disk: wait now for whoever asked for it, or soon for all."""
        asked = [call for call in done if call.options.durability == "always"]
        if not asked:
            self.unsynced()
            return
        try:
            sync_file(wal_of(self._path))
        except OSError as error:
            self._failed(
                asked, Unknown("The disk failed after COMMIT; it may forget.", code="io_error", why=str(error))
            )

    def _failed(self, calls: list[Call], error: OnefoldError) -> None:
        for call in calls:
            call.error = error
            call.result = None
            self._metrics.abort(name_of(call.fn), error.code)

    def _tame_wal(self, cursor: sqlite3.Cursor) -> None:
        """Start the WAL anew when it grew large: readers that overlap for ever keep it from doing so by itself."""
        try:
            if wal_of(self._path).stat().st_size < WAL_BYTES_LARGE:
                return
            cursor.execute(f"PRAGMA busy_timeout = {RESTART_WAIT_MS}")
            cursor.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()
        except (OSError, sqlite3.Error) as error:
            _log.warning("the WAL could not be written back: %s", error)
        finally:
            with contextlib.suppress(sqlite3.Error):
                cursor.execute("PRAGMA busy_timeout = 0")

    def _reopen_if_broken(self, error: sqlite3.Error) -> None:
        """After an I/O error the connection's idea of the WAL is not to be trusted."""
        if (getattr(error, "sqlite_errorname", None) or "").startswith(("SQLITE_IOERR", "SQLITE_CORRUPT")):
            self._reset()

    def _reset(self) -> None:
        connection, self.connection = self.connection, None
        if connection is not None and not self.forked_inside:
            with contextlib.suppress(sqlite3.Error):
                connection.close()

    def _overdue(self) -> int:
        return time.monotonic_ns() > self._deadline_ns

    # -- the end ----------------------------------------------------------------------------------

    def stop(self) -> None:
        """Take no more calls, bring those that are here to their ends, then stop the thread."""
        self._closing = True
        self._ring()
        while self._thread.is_alive():
            self._thread.join(0.05)
            if self.waits_since_ns and not self._any_open():
                # Another process holds the gate, and nobody here waits for it any more.
                self._stopped = self.abandoned = True
                if not self._any_open():
                    return
                self._stopped = self.abandoned = False
        with self.turn:
            return  # Whoever runs inline has finished.

    def close_connection(self) -> None:
        """After `stop`, under the gate: the last one to close writes the WAL back into the file."""
        if not self.abandoned:
            self._reset()

    def forked(self) -> None:
        """In a child made inside a function: it must neither commit nor roll back what is the parent's."""
        self.forked_inside = True
        if self._tx is not None:
            self._tx.doom(Doomed("The process was forked inside the transaction.", code="forked"))

    def _any_open(self) -> bool:
        return any(call.open for call in tuple(self._queue))
