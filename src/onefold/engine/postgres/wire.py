"""One connection, always in pipeline mode: commands are queued, then sent and read at once.

Built on libpq itself (`psycopg.pq`) rather than on psycopg's cursors: what stands in which
round trip, and when exactly the COMMIT leaves, is the heart of this engine.
"""

from __future__ import annotations

import contextlib
import functools
import os
import select
import socket
import time
import weakref
from collections.abc import Callable
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar

import psycopg
from psycopg import pq

from onefold.core.errors import Invalid, OnefoldError, Retry
from onefold.engine.postgres.codec import NO_ROW, Plan, Reader
from onefold.engine.postgres.errors import POOLER, Lost, lost, refused, sqlstate, translated
from onefold.engine.require import Refusal

PREPARED_MAX = 2_000
CANCEL_NS_MAX = 1_000_000_000  # To deliver a cancel, over a connection of its own.
CANCEL_GRACE_NS = 5_000_000_000  # How long a cancelled server may take to say so.
LOCK_TIMEOUT_MS = 5_000
IDLE_IN_TRANSACTION_MS = 60_000

_POLL = pq.PollingStatus
_STATUS = pq.ExecStatus
_SYNC = object()
_COMMAND = object()

# One round trip after connecting: how the session behaves, who it is, what time it is there.
# "always" waits for the disk, whatever server or role have for others; whether for a standby too stays theirs to say.
# A sequential scan would lock a whole relation against all serializable transactions; the
# price that its avoidance carries would start the JIT compiler. A bitmap scan has no order, so it
# reads and sorts all that waits where a page or a claim wants the first few: a generic plan, which
# does not know how few, would choose it for a table that was analysed full, and then empty.
_HELLO = f"""
SELECT set_config('lock_timeout', '{LOCK_TIMEOUT_MS}', false),
       set_config('idle_in_transaction_session_timeout', '{IDLE_IN_TRANSACTION_MS}', false),
       set_config('enable_seqscan', 'off', false),
       set_config('enable_bitmapscan', 'off', false),
       set_config('jit', 'off', false),
       set_config('extra_float_digits', '1', false),
       set_config('bytea_output', 'hex', false),
       set_config('standard_conforming_strings', 'on', false),
       CASE WHEN current_setting('synchronous_commit') = 'off'
            THEN set_config('synchronous_commit', 'on', false) END,
       pg_backend_pid(),
       coalesce((SELECT CAST(extract(epoch FROM backend_start) AS text) FROM pg_stat_activity
                 WHERE pid = pg_backend_pid()), ''),
       CAST((SELECT system_identifier FROM pg_control_system()) AS text),
       CASE WHEN pg_is_in_recovery() THEN ''
            ELSE substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8) END,
       {{clock}}
""".replace("{clock}", "CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS bigint)").encode()  # noqa: S608, RUF027
_STANDBY_WAIT = b"SyncRepWaitForLSN"  # What PostgreSQL calls it; the text of its notice is translated.
_CLOCK = b"SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS bigint)"


class Identity(NamedTuple):
    """Which backend of which server, on which branch of its history."""

    pid: int
    backend_start: str
    system: str
    timeline: str


class ClockReading(NamedTuple):
    """The server's clock, and between which two instants of ours it was read."""

    server_us: int
    before_ns: int
    after_ns: int


P = ParamSpec("P")
R = TypeVar("R")


def _breaking(method: Callable[Concatenate[Wire, P], R]) -> Callable[Concatenate[Wire, P], R]:
    """Whatever leaves the method, Ctrl-C among it, nobody knows any more what comes next on this wire."""

    @functools.wraps(method)
    def call(wire: Wire, /, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(wire, *args, **kwargs)
        except BaseException as error:
            wire.broken = True
            if isinstance(error, psycopg.Error):
                raise lost(str(error)) from None
            raise

    return call


class Wire:
    """One connection. Used by one thread at a time."""

    __slots__ = (
        "__weakref__", "_again_ns", "_commands", "_give_up_ns", "_pending", "_pg", "_poll", "_prepared", "_reader",
        "_unconfirmed", "abandoned", "broken", "cancelled", "clock", "deadline_ns", "fn", "generation",
        "identity", "lent", "suspicious",
    )  # fmt: skip

    def __init__(self, pg: pq.abc.PGconn, *, deadline_ns: int) -> None:
        self._pg = pg
        self._poll = select.poll()
        self._poll.register(pg.socket, select.POLLIN)
        self._pending: list[Any] = []  # _SYNC, _COMMAND, a Refusal, or the name that is prepared.
        self._prepared: set[bytes] = set()
        self._commands: dict[bytes, bytes] = {}
        self._reader = Reader()
        self.cancelled = False  # What the server is doing was cancelled at the deadline.
        # When to cancel once more, and until when it may say so. The deadline stays: what comes next has no more time.
        self._again_ns = self._give_up_ns = 0
        self._unconfirmed: list[str] = []  # What the server said of commits that no standby has.
        pg.notice_handler = functools.partial(_noticed, self._unconfirmed)
        self.deadline_ns = deadline_ns  # When to cancel what the server is doing.
        self.broken = False
        self.abandoned = False
        self.suspicious = False  # A cancel is on its way and may come late.
        self.generation = 0
        self.fn: Callable[..., Any] | None = None  # What runs over it now, for people.
        self.lent: Any = None  # The same connection as psycopg's own; see lent.py.
        _open.add(self)
        pg.nonblocking = 1
        pg.enter_pipeline_mode()
        before = time.monotonic_ns()
        pg.send_query_params(_HELLO, None)
        self._pending.append(_COMMAND)
        [row] = self.rows()
        self.identity = Identity(*row[-5:-1])
        self.clock = ClockReading(row[-1], before, time.monotonic_ns())

    # -- queueing ---------------------------------------------------------------------------

    def command(self, text: bytes) -> None:
        """Queue a statement without parameters, such as BEGIN."""
        name = self._commands.get(text)
        if name is None:
            name = self._commands[text] = b"c%d" % len(self._commands)
        self._queue(name, text, (), [], [])

    def execute(
        self, plan: Plan, values: list[bytes | None], types: tuple[int, ...], refusal: Refusal | None = None
    ) -> None:
        """Queue a statement; with a `refusal` it is one that fails with `NO_ROW` when it finds none."""
        self._queue(plan.name(types), plan.text, types, values, plan.formats)
        if refusal is not None:
            self._pending[-1] = refusal

    @property
    def queued(self) -> int:
        """How many commands wait to be sent or read."""
        return len(self._pending)

    @_breaking
    def _queue(
        self, name: bytes, text: bytes, types: tuple[int, ...], values: list[bytes | None], formats: list[pq.Format]
    ) -> None:
        self._refuse_broken()
        pg, prepared = self._pg, self._prepared
        if name not in prepared:
            if len(prepared) >= PREPARED_MAX:
                pg.send_query_params(text, values, types, formats)
                self._pending.append(_COMMAND)
                return
            pg.send_prepare(name, text, types)
            prepared.add(name)
            self._pending.append(name)
        pg.send_query_prepared(name, values, formats)
        self._pending.append(_COMMAND)

    # -- sending and reading ----------------------------------------------------------------

    def sync(self) -> pq.abc.PGresult:
        """Send what is queued, read all answers, and give the last one.

        Raises:
            Lost: the connection broke; what was sent may have been done.
            OnefoldError: the first statement that failed; those after it were not run.
        """
        error, last = self._exchange()
        if self._unconfirmed:
            # The server says "COMMIT", and that nobody else has it. Whoever is told so would lose it in a failover.
            self.broken = True
            raise lost(self._unconfirmed[0])
        if error is not None:
            if error.code == POOLER:
                self.broken = True  # What this wire believes to be prepared is not; a new one knows better.
            raise error
        assert last is not None
        return last

    def rows(self) -> list[tuple[Any, ...]]:
        """`sync`, and the rows of the last answer."""
        return self._reader.rows(self.sync())

    def part(self, text: bytes) -> None:
        """Send a last command (ROLLBACK, or COMMIT of a snapshot) and do not wait for its answer.

        Whoever uses the wire next reads it.
        """
        if not self.broken:
            with contextlib.suppress(Lost):
                self._part(text)

    @_breaking
    def _part(self, text: bytes) -> None:
        if self._pending:
            self._end_pipeline()  # Should one of the queued fail, all up to here is skipped; not what comes now.
        self.command(text)
        self._end_pipeline()
        if self._pg.flush():
            # More was queued than the socket takes; until it is through, the transaction's
            # locks are held.
            self.deadline_ns = time.monotonic_ns() + CANCEL_GRACE_NS
            self._read()

    @_breaking
    def _exchange(self) -> tuple[OnefoldError | None, pq.abc.PGresult | None]:
        self._refuse_broken()
        self._end_pipeline()
        return self._read()

    def _end_pipeline(self) -> None:
        self._pg.pipeline_sync()
        self._pending.append(_SYNC)

    def _read(self) -> tuple[OnefoldError | None, pq.abc.PGresult | None]:
        self._flush()
        first: OnefoldError | None = None
        last: pq.abc.PGresult | None = None
        pending, self._pending = self._pending, []
        final = len(pending) - 1
        for place, entry in enumerate(pending):
            result = self._next()
            if entry is _SYNC:
                if result is None or result.status != _STATUS.PIPELINE_SYNC:
                    raise lost("out of step")
                if place != final:
                    first = None  # Of what was rolled back then; not our concern.
                continue
            if result is None:
                raise lost("out of step")
            status = result.status
            if status in {_STATUS.TUPLES_OK, _STATUS.COMMAND_OK}:
                if type(entry) is not bytes:
                    last = result
            elif status in {_STATUS.FATAL_ERROR, _STATUS.PIPELINE_ABORTED}:
                if type(entry) is bytes:
                    self._prepared.discard(entry)
                if status == _STATUS.FATAL_ERROR and first is None:
                    first = self._error(entry, result)
                    if isinstance(first, Lost):
                        raise first
            else:  # COPY and the like, of which there is no way back in a pipeline.
                raise Invalid("PostgreSQL refuses the statement.", code="statement", why="not for a function over tx")
            if self._next() is not None:
                raise lost("out of step")
        self.cancelled = False
        return first, last

    def _error(self, entry: Any, result: pq.abc.PGresult) -> OnefoldError:
        if entry is not _COMMAND and type(entry) is not bytes and sqlstate(result) == NO_ROW:
            return entry()
        return translated(result, cancelled=self.cancelled)

    def _flush(self) -> None:
        pg = self._pg
        while pg.flush():
            # The server may be waiting for us to read before it reads on.
            self._poll.modify(pg.socket, select.POLLIN | select.POLLOUT)
            try:
                self._wait()
            finally:
                self._poll.modify(pg.socket, select.POLLIN)
            pg.consume_input()

    def _next(self) -> pq.abc.PGresult | None:
        pg = self._pg
        while pg.is_busy():
            self._wait()
            pg.consume_input()
        return pg.get_result()

    def _wait(self) -> None:
        """Sleep until the socket is ready; at the deadline ask the server to cancel."""
        while True:
            left_ns = self._until_ns - time.monotonic_ns()
            if left_ns > 0 and self._poll.poll(left_ns / 1e6 + 1):
                return
            if left_ns <= 0:
                self.end_when_late()

    @property
    def _until_ns(self) -> int:
        return self._again_ns if self.cancelled else self.deadline_ns

    def end_when_late(self) -> None:
        """At the deadline ask the server to cancel what it is doing; lent.py asks for it while the driver waits.

        Asked again each second: one that comes between two statements, or before this one has begun, is forgotten.

        Raises:
            Lost: there was no answer to that.
        """
        now_ns = time.monotonic_ns()
        if now_ns < self._until_ns:
            return
        if not self.cancelled:
            self.cancelled = self.suspicious = True
            self._give_up_ns = now_ns + CANCEL_GRACE_NS
        elif now_ns >= self._give_up_ns:
            raise lost("no answer to a cancel")
        if not self._cancel():
            raise lost("nobody takes a cancel")
        self._again_ns = min(time.monotonic_ns() + CANCEL_NS_MAX, self._give_up_ns)

    def _cancel(self) -> bool:
        """Ask the server to stop; False when nothing came back in time, not even a refusal: the network is gone.

        A cancel that is refused is made up for by the grace period.
        """
        give_up_ns = time.monotonic_ns() + CANCEL_NS_MAX
        with contextlib.suppress(psycopg.Error):
            try:
                request = self._pg.cancel_conn()
            except psycopg.NotSupportedError:
                # libpq before 17 waits as long as the kernel does, and the whole process with it.
                if not _reachable(self._pg):
                    return False
                self._pg.get_cancel().cancel()
                return True
            try:
                request.start()
                return _drive(request, request.poll, give_up_ns) or time.monotonic_ns() < give_up_ns
            finally:
                request.finish()
        return True

    # -- the clock, and the end --------------------------------------------------------------

    def read_clock(self) -> ClockReading:
        """Read the server's clock; a round trip, so that it also tells whether the wire lives."""
        self.command(_CLOCK)
        before = time.monotonic_ns()
        [(server_us,)] = self.rows()
        self.clock = ClockReading(server_us, before, time.monotonic_ns())
        return self.clock

    def settled(self) -> bool:
        """After a cancel: whether the wire is clean again. A late cancel would hit the next user."""
        try:
            self._again_ns = self._give_up_ns = time.monotonic_ns() + CANCEL_NS_MAX
            self.cancelled = True  # This is not worth another.
            self.command(b"SELECT 1")
            self.sync()
        except OnefoldError:
            return False
        self.suspicious = False
        return self._pg.transaction_status == pq.TransactionStatus.IDLE

    @_breaking
    def notifications(self, doorbell: int, timeout_s: float) -> list[str]:
        """Wait for notifications, or until the descriptor `doorbell` can be read.

        Raises:
            Lost: the connection broke.
        """
        self._refuse_broken()
        poll = select.poll()
        poll.register(self._pg.socket, select.POLLIN)
        poll.register(doorbell, select.POLLIN)
        payloads: list[str] = []
        poll.poll(timeout_s * 1000)
        self._pg.consume_input()
        self._pg.is_busy()  # Parses what came.
        while (notification := self._pg.notifies()) is not None:
            payloads.append(notification.extra.decode("utf-8", "replace"))
        return payloads

    @property
    def pgconn(self) -> pq.abc.PGconn:
        """The handle of libpq itself, for lent.py."""
        return self._pg

    @property
    def server_version(self) -> int:
        """Such as 180004."""
        return self._pg.server_version

    @property
    def place(self) -> tuple[bytes, bytes, bytes]:
        """Host, port and database: what tells two databases apart."""
        return (self._pg.host, self._pg.port, self._pg.db)

    def close(self) -> None:
        """Say goodbye and close the socket."""
        self.broken = True
        if not self.abandoned:
            self._pg.finish()

    def abandon(self) -> None:
        """In a child process: close our copy of the socket; the parent goes on using its own."""
        self.broken = self.abandoned = True
        with contextlib.suppress(OSError, psycopg.Error):
            os.close(self._pg.socket)

    def _refuse_broken(self) -> None:
        if self.abandoned:
            raise Invalid("The process was forked inside a transaction; the child cannot go on with it.", code="forked")
        if self.broken:
            raise lost("closed")


_open: weakref.WeakSet[Wire] = weakref.WeakSet()


def open_wire(conninfo: bytes, *, deadline_ns: int) -> Wire:
    """Connect.

    Raises:
        Invalid: the server refuses the user or the database.
        Retry: it cannot be reached now, code "unavailable".
    """
    try:
        pg = pq.PGconn.connect_start(conninfo)
        pg.notice_handler = None  # Until it is a Wire's.
        if pg.status == pq.ConnStatus.BAD or not _drive(pg, pg.connect_poll, deadline_ns):
            message = pg.get_error_message() or "no answer until the deadline"
            pg.finish()
            raise refused(message)
    except psycopg.Error as error:
        raise refused(str(error)) from None
    try:
        return Wire(pg, deadline_ns=deadline_ns)
    except Retry as error:  # Lost is one.
        pg.finish()
        raise Retry(
            "PostgreSQL cannot be reached.", code="unavailable", retry_after_ms=200, why=error.facts.get("why", "")
        ) from None
    except BaseException:
        pg.finish()
        raise


def _reachable(pg: pq.abc.PGconn) -> bool:
    """Whether the server's host answers in time, be it with a refusal."""
    if not pg.hostaddr:  # A Unix socket.
        return True
    try:
        socket.create_connection((pg.hostaddr.decode(), int(pg.port)), timeout=CANCEL_NS_MAX / 1e9).close()
    except TimeoutError:
        return False
    except OSError:
        pass
    return True


def _noticed(unconfirmed: list[str], notice: pq.abc.PGresult) -> None:
    """Keep the one notice that matters: a wait for the synchronous standby was cut short by a cancel."""
    if notice.error_field(pq.DiagnosticField.SOURCE_FUNCTION) == _STANDBY_WAIT:
        unconfirmed.append("committed, but no standby has confirmed it")


def abandon_all() -> None:
    """In a child process: let go of every connection of the parent's."""
    for wire in tuple(_open):
        wire.abandon()
    _open.clear()


def _drive(pg: pq.abc.PGconn | pq.abc.PGcancelConn, advance: Callable[[], int], deadline_ns: int) -> bool:
    """Bring a starting connection (or cancel request) to its end; False when it failed."""
    while True:
        state = advance()
        if state == _POLL.OK:
            return True
        if state == _POLL.FAILED:
            return False
        left_ms = (deadline_ns - time.monotonic_ns()) / 1e6
        poll = select.poll()  # Another host, another socket.
        poll.register(pg.socket, select.POLLIN if state == _POLL.READING else select.POLLOUT)
        if left_ms <= 0 or not poll.poll(left_ms + 1):
            return False
