"""`Tx` over one pipelined connection.

The first statement carries BEGIN with it; writes without a result wait in the queue for the
next statement that has one, or for the COMMIT. Right before the first write goes the id of the
attempt, by which a lost COMMIT is looked up later.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, LiteralString

from onefold.core.errors import Doomed, OnefoldError, Unknown
from onefold.engine.call import Durability, Options
from onefold.engine.postgres.codec import plan_of
from onefold.engine.postgres.errors import FATAL
from onefold.engine.postgres.lent import lend
from onefold.engine.postgres.wire import Wire
from onefold.engine.require import Deferring, Refusal
from onefold.engine.tx import ADD_POSTGRES, Row

QUEUE_MAX = 256  # Commands sent without reading an answer; also how much memory a batch takes.

MARK = "INSERT INTO onefold.tx (id, at_ms) VALUES (:id, :at_ms)"

_BEGIN = {
    "serializable": b"BEGIN ISOLATION LEVEL SERIALIZABLE",
    "repeatable_read": b"BEGIN ISOLATION LEVEL REPEATABLE READ",
    "read_committed": b"BEGIN ISOLATION LEVEL READ COMMITTED",
}
_BEGIN_SNAPSHOT = b"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
_LAZY = b"SET LOCAL synchronous_commit = off"


class PostgresTx(Deferring):
    """One attempt on one connection."""

    __slots__ = (
        "_attempt_id", "_begun", "_lazy", "_marked", "_options", "_wire",
        "commit_sent", "drawn", "fatal",
    )  # fmt: skip

    def __init__(
        self, wire: Wire, options: Options, durability: Durability, *, attempt_id: int, space: int,
        now_ms: int, seed: int,
    ) -> None:  # fmt: skip
        super().__init__(space=space, space_name=options.space_name, now_ms=now_ms, seed=seed)
        self._wire = wire
        self._options = options
        self._lazy = (options.durability or durability) == "everysec"
        self._attempt_id = attempt_id
        self._begun = False
        # At which savepoint depth the id was inserted; -1 for not yet.
        self._marked = -1
        self.commit_sent = False
        #: The error after which this attempt cannot go on, whatever the function made of it.
        self.fatal: OnefoldError | None = None
        #: In a rehearsal: all whole numbers that the database gave.
        self.drawn: set[int] | None = None

    # -- statements ---------------------------------------------------------------------------

    def _rows(self, sql: str, parameters: dict[str, Any]) -> list[Row]:
        self._check_alive()
        try:
            self._queue(sql, parameters)
            rows = self._wire.rows()
        except BaseException as error:
            self._fail(error)
            raise
        if self.drawn is not None:
            self.drawn.update(value for row in rows for value in row if type(value) is int)
        return rows

    def run(self, sql: LiteralString, /, **parameters: Any) -> None:
        """See `Tx.run`."""
        self._later(sql, parameters)

    def require(self, sql: LiteralString, refusal: Refusal, /, **parameters: Any) -> None:
        """See `require`."""
        self._later(sql, parameters, refusal)

    def _later(self, sql: str, parameters: dict[str, Any], refusal: Refusal | None = None) -> None:
        self._check_alive()
        try:
            self._queue(sql, parameters, refusal)
            if self._wire.queued >= QUEUE_MAX:
                self._wire.sync()
        except BaseException as error:
            self._fail(error)
            raise

    def many(self, sql: LiteralString, rows: Iterable[Mapping[str, Any]], /) -> None:
        """See `Tx.many`."""
        self._check_alive()
        try:
            for row in rows:
                self._queue(sql, dict(row))
                if self._wire.queued >= QUEUE_MAX:
                    self._wire.sync()
        except BaseException as error:
            self._fail(error)
            raise

    def _queue(self, sql: str, parameters: dict[str, Any], refusal: Refusal | None = None) -> None:
        plan = plan_of(sql, required=refusal is not None)
        parameters["space"] = self.space
        parameters["now_ms"] = self.now_ms
        values, types = plan.encode(parameters)
        if not self._begun:
            self.begin()
        if plan.writes and self._marked < 0 and not self._options.read_only:
            self._mark()
        self._wire.execute(plan, values, types, refusal)

    def _add(self, key: str, delta: int) -> None:
        # Appended, not added up: a hot row would be one transaction at a time. `fold_counters` sums.
        self.run(ADD_POSTGRES, key=key, delta=delta)

    def driver_connection(self) -> Any:
        """See `Tx.driver_connection`. What is done with it counts as a write."""
        if not self._begun:
            self.begin()
        if self._marked < 0 and not self._options.read_only:
            self._mark()
        if self._wire.queued:
            self._wire.sync()
        return lend(self._wire, self.doom)

    def doom(self, error: BaseException) -> None:
        """See `Tx.doom`."""
        if isinstance(error, FATAL) and self.fatal is None:
            self.fatal = error
        super().doom(error)

    # -- savepoints: synced at both ends, so that an error falls on the right side ----------------

    def _savepoint_begin(self, depth: int) -> None:
        try:
            if not self._begun:
                self.begin()
            elif self._wire.queued:
                self._wire.sync()
            self._wire.command(b"SAVEPOINT p%d" % depth)
        except BaseException as error:
            self._fail(error)
            raise

    def _savepoint_settle(self) -> None:
        """Have the answers to all that was queued inside, before the savepoint is kept."""
        if self._wire.queued:
            try:
                self._wire.sync()
            except BaseException as error:
                self._fail(error)
                raise

    def _savepoint_end(self, depth: int, *, keep: bool) -> None:
        if self.fatal is not None:
            raise self.fatal
        try:
            if keep:
                self._wire.command(b"RELEASE p%d" % depth)
                self._marked = min(self._marked, depth - 1)
            else:
                if self._marked >= depth:
                    self._marked = -1
                self._undo_to(depth)
        except BaseException as error:
            self._fail(error)
            raise

    def _undo_to(self, depth: int) -> None:
        if self._wire.queued:
            try:
                self._wire.sync()
            except FATAL:
                raise
            except OnefoldError:
                pass  # It is undone in any case.
        self._wire.command(b"ROLLBACK TO p%d" % depth)
        self._wire.command(b"RELEASE p%d" % depth)

    # -- the transaction itself; the engine calls these ------------------------------------------

    def begin(self) -> None:
        """Queue BEGIN; it goes out with the first statement."""
        self._begun = True
        options = self._options
        self._wire.command(_BEGIN_SNAPSHOT if options.read_only else _BEGIN[options.isolation])
        if self._lazy and not options.read_only:
            self._wire.command(_LAZY)

    @property
    def wrote(self) -> bool:
        """Whether a COMMIT that got lost can be looked up."""
        return self._marked >= 0

    def commit(self) -> None:
        """Send what is queued and COMMIT in one go; a snapshot's COMMIT is not waited for."""
        if not self._begun:
            return
        if self._options.read_only:
            if self._wire.queued:
                self._wire.sync()
            self._wire.part(b"COMMIT")
            return
        self._wire.command(b"COMMIT")
        self.commit_sent = True
        result = self._wire.sync()
        if result.command_status == b"ROLLBACK":
            raise Doomed("The transaction had failed before its COMMIT; PostgreSQL rolled it back.", code="rolled_back")
        if result.command_status != b"COMMIT":
            raise Unknown("PostgreSQL answered COMMIT with something else.", code="commit", said=result.command_status)

    def rollback(self) -> None:
        """Undo everything; its answer is not waited for."""
        if self._begun:
            self._wire.part(b"ROLLBACK")

    def take_over(self, other: PostgresTx) -> None:
        """Go on in the transaction that `other` began, at its time."""
        self._begun = other._begun
        self.now_ms = other.now_ms

    def _mark(self) -> None:
        plan = plan_of(MARK)
        self._wire.execute(plan, *plan.encode({"id": self._attempt_id, "at_ms": self.now_ms}))
        self._marked = self._depth

    def _fail(self, error: BaseException) -> None:
        self.doom(error)
