"""One transaction for many functions: each is run, all are committed at once, or the innocent run again.

While nothing fails, functions share the transaction as they are: a savepoint for each costs as much as
half the statement in it. Once one fails after others have run, all is rolled back and the same functions
run again, each in its savepoint; so does whoever comes in the next while. A function that fails then
loses only its savepoint.

When an error ends the whole transaction (SQLite does so for an interrupted INSERT, ON CONFLICT ROLLBACK,
a full disk) the others are innocent: they are run again without it.
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
from onefold.engine.call import (
    NEVER_NS,
    Call,
    Durability,
    code_of,
    late_in_queue,
    late_while_running,
    name_of,
    own,
    refuse_awaitable,
    running,
)  # fmt: skip
from onefold.engine.metrics import Metrics
from onefold.engine.rehearsal import Rehearsal
from onefold.engine.sqlite.connection import (
    BEGIN_WRITE,
    COMMIT,
    ROLLBACK,
    SYNCHRONOUS,
    EngineConnection,
    open_connection,
    translated,
    wal_of,
)  # fmt: skip
from onefold.engine.sqlite.room import Room
from onefold.engine.sqlite.spaces import Spaces
from onefold.engine.sqlite.tx import SqliteTx
from onefold.engine.sqlite.wakes import Wakes
from onefold.engine.tx import OVER, Hints
from onefold.host.files import sync_file, sync_folder, write_again

_log = logging.getLogger("onefold.writer")

BATCH_MAX = 512
ADMIT_NS = 2_000_000
ADMIT_UNWANTED_NS = 10_000_000  # While no other process waits: pages that many functions change are written once.
CAREFUL_CALLS = 1_024  # How many calls in a row must succeed before savepoints are left out again.
BUSY_WAIT_NS = 5_000_000_000  # For writers that do not take the gate; ours never meet.
LOOK_COMMITS = 64  # Commits between two looks at the size of the WAL.
WAL_BYTES_LARGE = 128 << 20  # A full write-back is forced above it.
RESTART_WAIT_MS = 100  # How long that may wait for readers; the writer stands still meanwhile.
PROGRESS_STEPS = 10_000  # Virtual machine steps between two looks at the deadline, about 0.1 ms.
LOSSES_BEFORE_ALONE = 2
UNDO_NS_MAX = 1_000_000_000  # Undoing is not part of the deadline.


class Batches:
    """The one connection that writes, and what is done on it. Whoever calls has the gate and the turn."""

    def __init__(
        self, path: Path, queue: deque[Call], *, clock: Clock, durability: Durability, rehearse: bool,
        metrics: Metrics, wakes: Wakes, unsynced: Callable[[], None], wanted: Callable[[], bool],
    ) -> None:
        self._path = path
        self._queue = queue
        self._clock = clock
        self._durability: Durability = durability
        self._rehearse = rehearse
        self._metrics = metrics
        self._wakes = wakes
        self._unsynced = unsynced
        self._wanted = wanted  # Whether another process waits for the gate.
        self._spaces = Spaces()
        self._careful = 0  # Calls left that get a savepoint each.
        self._deadline_ns = 0
        self.current: tuple[Call, int, int] | None = None  # Call, thread, since: for the watchdog.
        self.forked_inside = False
        self._tx: SqliteTx | None = None
        self._commits_since_look = 0
        self.suspect = False  # A sync of the WAL failed, and it was not mended since.
        self.connection: EngineConnection | None = None
        self._synchronous: Durability = durability
        self._room = Room(path)

    def use(self, connection: EngineConnection) -> None:
        """Write over this connection."""
        self.connection = connection
        self._cursor = connection.cursor()
        self._take_back = connection.take_back

    def alone(self, call: Call) -> None:
        """Bring one call to its end, in a transaction of its own: nothing is between its function and the disk."""
        bare = not self._rehearse
        call.tried = True  # It waited in no queue.
        try:
            try:
                cursor = self._begin(call, alone=bare)
            except OnefoldError as error:
                self._fail(call, error)
                return
            started = time.monotonic_ns()
            self._run_one(call, cursor, started, bare=bare)
            self.current = None  # What the disk takes from here on is nobody's fault.
            if call.error is None:
                hints = self._tx and self._tx._hints
                self._commit(cursor, [call], [hints] if hints else [], started)
                return
            self._fail(call, call.error)
            if cursor.connection.in_transaction:
                self._roll_back(cursor)
        except BaseException as error:
            self._broken(error, [call], [])
        finally:
            self._tx = running.fn = self.current = None

    def process(self, first: Call) -> list[Call]:
        """Bring `first`, and what may join it, to their ends; answers them."""
        settled: list[Call] = []
        batch: list[Call] = []
        again = [first]
        losses = 0  # Transactions that SQLite ended.
        try:
            while again:
                # Once somebody keeps ending the transaction, everyone is alone.
                batch, again = (again, []) if losses < LOSSES_BEFORE_ALONE else (again[:1], again[1:])
                left, lost = self._attempt(batch, settled, admit=not losses)
                again = left + again
                losses += lost
        except BaseException as error:
            self._broken(error, batch + again, settled)
        finally:
            self._tx = running.fn = self.current = None
        return settled

    def _broken(self, error: BaseException, calls: list[Call], settled: list[Call]) -> None:
        """It was not a function that failed, but this; nothing of the connection is trusted any more."""
        if isinstance(error, Exception) and not self.forked_inside:
            _log.exception("the writer failed")
        known = set(map(id, settled))
        for call in calls:
            if id(call) not in known:
                call.error = own(error)
                settled.append(call)
        self.reset()

    def _attempt(self, batch: list[Call], settled: list[Call], *, admit: bool) -> tuple[list[Call], bool]:
        """One transaction. Answers the calls that must run again, and whether SQLite ended it."""
        admit = admit and bool(self._queue)
        alone = len(batch) == 1 and not admit and not self._rehearse
        bare = alone or not (self._careful or self._rehearse)
        try:
            cursor = self._begin(batch[0], alone=alone)
        except OnefoldError as error:
            for call in batch:
                self._fail(call, own(error))
            settled += batch
            return [], False
        started = now_ns = time.monotonic_ns()
        done: list[Call] = []
        hinted: list[Hints] = []
        position = 0
        while position < len(batch) or (admit and self._admits(now_ns - started) and self._admit(batch)):
            call = batch[position]
            position += 1
            now_ns = self._run_one(call, cursor, now_ns, bare=bare)
            error = call.error
            if error is None:
                done.append(call)
                if (tx := self._tx) is not None and tx._hints is not None:
                    hinted.append(tx._hints)
                continue
            self._careful = CAREFUL_CALLS
            ended = not cursor.connection.in_transaction
            if not (ended or bare):  # Its savepoint is undone; nobody else is touched.
                self._fail(call, error)
                settled.append(call)
                continue
            if bare and not ended:
                self._roll_back(cursor)
            for innocent in done:
                innocent.result = None
                self._metrics.retry(name_of(innocent.fn))
            if done and not ended:
                return done + batch[position - 1 :], False  # It may have failed on what they wrote.
            self._fail(call, error)
            settled.append(call)
            return done + batch[position:], ended
        self.current = None  # What the disk takes from here on is nobody's fault.
        if done:
            self._commit(cursor, done, hinted, started)
            settled += done
        else:
            cursor.execute(ROLLBACK)
        return [], False

    def _fail(self, call: Call, error: BaseException) -> None:
        call.error = error
        call.result = None
        self._metrics.abort(name_of(call.fn), code_of(error))

    def _admits(self, age_ns: int) -> bool:
        """Whether a transaction of this age takes in another function."""
        return age_ns < ADMIT_NS or (age_ns < ADMIT_UNWANTED_NS and not self._wanted())

    def _admit(self, batch: list[Call]) -> bool:
        if len(batch) >= BATCH_MAX:
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
            if self.suspect:
                self.mend()
            if self.connection is None:
                self._open()
            self._deadline_ns = NEVER_NS
            # A lone call may ask for less than the database's durability; in a batch one fsync serves all.
            wanted = (alone and first.options.durability) or self._durability
            if wanted != self._synchronous and (alone or self._synchronous != self._durability):
                self._cursor.execute(f"PRAGMA synchronous = {SYNCHRONOUS[wanted]}")
                self._synchronous = wanted
            try:
                self._cursor.execute(BEGIN_WRITE)
            except sqlite3.OperationalError as error:
                self._begin_patiently(error, first.deadline_ns)
            if self._synchronous == "always":
                self._room.make()
        except sqlite3.Error as error:
            self._reopen_if_broken(error)
            raise translated(error) from error
        return self._cursor

    def _open(self) -> None:
        connection = open_connection(self._path, durability=self._durability)
        try:
            sync_folder(self._path.parent)  # SQLite does so too when it made the WAL, but does not look at the answer.
        except OSError as error:
            connection.close()
            raise Retry("The disk failed; the call was undone.", code="io_error", why=str(error)) from error
        connection.execute("PRAGMA busy_timeout = 0")  # See `_begin_patiently`.
        connection.set_progress_handler(self._overdue, PROGRESS_STEPS)
        self._synchronous = self._durability
        self.use(connection)

    def mend(self) -> None:
        """Bring the WAL to the disk anew after a sync of it failed; whoever calls has the gate and the turn.

        The next sync would answer well without the pages that were lost: an acknowledgement would rest on nothing,
        and a checkpoint would put newer pages into the file than the log behind it holds.

        Raises:
            Retry: the disk does not take it. Nothing is written before it does.
        """
        self.suspect = True
        try:
            if self.connection is None:
                self._open()
            self._deadline_ns = NEVER_NS
            self._cursor.execute(BEGIN_WRITE)  # Nobody appends meanwhile, gate or not.
            try:
                write_again(wal_of(self._path))
            finally:
                self._roll_back(self._cursor)
        except (OSError, sqlite3.Error) as error:
            raise Retry(
                "The disk failed, and does not take what was committed before.", code="io_error", why=str(error)
            ) from error
        _log.warning("a sync of the WAL had failed; it was written again")
        self.suspect = False
        self.reset()

    def _begin_patiently(self, error: sqlite3.Error, deadline_ns: int) -> None:
        """A program that does not take the gate holds the file: wait for it, but not past the deadline."""
        until = min(deadline_ns, time.monotonic_ns() + BUSY_WAIT_NS)
        pause_s = 0.001
        while (error.sqlite_errorname or "").startswith("SQLITE_BUSY") and time.monotonic_ns() < until:
            time.sleep(pause_s)
            pause_s = min(pause_s * 1.5, 0.02)
            try:
                self._cursor.execute(BEGIN_WRITE)
            except sqlite3.OperationalError as again:
                error = again
            else:
                return
        raise error

    def _run_one(self, call: Call, cursor: sqlite3.Cursor, now_ns: int, *, bare: bool) -> int:
        """Run one function from `now_ns` on; leaves its result or error in the call, and answers when it ended.

        `bare`: without a savepoint.
        """
        deadline_ns = self._deadline_ns = call.deadline_ns
        running.fn = call.fn
        self.current = (call, threading.get_ident(), now_ns)
        call.error = None
        tx = self._tx = self._new_tx(call, cursor)
        marked = False
        try:
            if now_ns > deadline_ns:
                raise late_while_running() if call.tried else late_in_queue()
            if not call.tried:
                call.tried = True
                self._metrics.queue_age.record(now_ns - call.submitted_ns)
            self._spaces.register(tx, cursor)
            if not bare:
                cursor.execute("SAVEPOINT f")
                marked = True
            if self._rehearse:
                rehearsed, now_ms = self._rehearsal(call, tx, cursor), tx.now_ms
                tx = self._tx = self._new_tx(call, cursor)
                tx.now_ms = now_ms  # One attempt, one time.
                result = rehearsed.compared(call.fn, tx, call.args, call.kwargs)
            else:
                result = call.fn(tx, *call.args, **call.kwargs)
            if result is not None:
                refuse_awaitable(call, result)
            tx._check_alive()
            if not cursor.connection.in_transaction:
                raise Doomed("The transaction had failed before its COMMIT; SQLite rolled it back.", code="rolled_back")
            now_ns = time.monotonic_ns()
            if now_ns > deadline_ns:
                raise late_while_running()
            if marked:
                cursor.execute("RELEASE f")
            call.result = result
        except BaseException as error:
            call.error = translated(error) if isinstance(error, sqlite3.Error) else error
            if marked:
                self._undo(cursor)
            now_ns = time.monotonic_ns()
        tx._doom = OVER
        self._take_back()
        return now_ns

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

    def _undo(self, cursor: sqlite3.Cursor) -> None:
        """Roll back to the savepoint; to nothing at all where that is gone."""
        self._grant_undoing()
        if not cursor.connection.in_transaction:
            return
        try:
            cursor.execute("ROLLBACK TO f")
            cursor.execute("RELEASE f")
        except sqlite3.Error:
            # The savepoint itself is gone: nothing of this transaction can be trusted.
            if cursor.connection.in_transaction:
                cursor.execute(ROLLBACK)

    def _roll_back(self, cursor: sqlite3.Cursor) -> None:
        self._grant_undoing()
        cursor.execute(ROLLBACK)

    def _grant_undoing(self) -> None:
        if self.forked_inside:
            raise Doomed("The process was forked inside the transaction.", code="forked")
        self._take_back()
        self._deadline_ns = time.monotonic_ns() + UNDO_NS_MAX

    def _commit(self, cursor: sqlite3.Cursor, done: list[Call], hinted: list[Hints], started: int) -> None:
        self._deadline_ns = NEVER_NS
        before = time.monotonic_ns()
        try:
            cursor.execute(COMMIT)
        except sqlite3.Error as error:
            ours = translated(error, at_commit=True)
            _log.error("COMMIT failed: %s", ours)
            for call in done:
                self._fail(call, own(ours))
            with contextlib.suppress(sqlite3.Error):
                cursor.execute(ROLLBACK)
            if isinstance(ours, Unknown):  # The connection stays until the WAL is mended: its close may write it back.
                self.suspect = True
            else:
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
        self._careful = max(0, self._careful - len(done))
        self._spaces.committed()
        if hinted:
            try:
                self._wakes.committed(hinted)
            except Exception:
                _log.exception("hints after a commit were lost")
        self._commits_since_look += 1
        if self._commits_since_look >= LOOK_COMMITS:
            self._commits_since_look = 0
            self._tame_wal(cursor)

    def _promise(self, done: list[Call]) -> None:
        """The COMMIT did not wait for the disk: wait now for whoever asked for it, or soon for all."""
        asked = [call for call in done if call.options.durability == "always"]
        try:
            if not asked:
                self._unsynced()
                return
            sync_file(wal_of(self._path))
        except OSError as error:
            self.suspect = True
            with contextlib.suppress(OSError):
                self._unsynced()  # The timer mends it, if no transaction comes first.
            for call in asked:
                self._fail(
                    call, Unknown("The disk failed after COMMIT; it may forget.", code="io_error", why=str(error))
                )

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
            self.reset()

    def reset(self) -> None:
        """Give the connection back; the next batch opens another."""
        connection, self.connection = self.connection, None
        if connection is not None and not self.forked_inside:
            connection.take_back()  # A signal may have come before.
            with contextlib.suppress(sqlite3.Error):
                connection.close()

    def _overdue(self) -> int:
        return time.monotonic_ns() > self._deadline_ns

    def forked(self) -> None:
        """In a child made inside a function: it must neither commit nor roll back what is the parent's."""
        self.forked_inside = True
        if self._tx is not None:
            self._tx.doom(Doomed("The process was forked inside the transaction.", code="forked"))
