"""The engine with a place to stop before every statement, for the simulator."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, LiteralString, Protocol

from onefold.core.errors import OnefoldError
from onefold.engine.call import Call, Options
from onefold.engine.postgres.codec import plan_of
from onefold.engine.postgres.engine import PostgresEngine, _Parts
from onefold.engine.postgres.tx import PostgresTx
from onefold.engine.postgres.wire import Wire
from onefold.engine.require import Refusal
from onefold.engine.schema import SchemaFile
from onefold.engine.tx import Hints, Row

LOOK_NS_MAX = 60_000_000_000  # One look at the server, or emptying it.
DEADLOCK_TIMEOUT_MS = 20  # Instead of a second: deadlocks are sought here.


class Stepper(Protocol):
    """Decides when a statement is sent."""

    def now_ms(self) -> int:
        """The time of this thread's next transaction."""
        ...

    def begins(self, pid: int) -> None:
        """This thread's transaction is on the backend `pid` now."""
        ...

    def before(self) -> None:
        """A statement of this thread is about to be sent; returns when it may be."""
        ...

    def after(self) -> None:
        """It was answered; returns when this thread may go on."""
        ...

    def committed(self, hints: Hints) -> None:
        """A transaction of this thread committed, and left these to be done."""
        ...


class SteppedEngine(PostgresEngine):
    """See `PostgresEngine`; statements are sent one by one, each when `stepper` lets it."""

    def __init__(
        self, url: str, files: Sequence[SchemaFile], *, stepper: Stepper, pool_max: int
    ) -> None:
        self.stepper = stepper
        separator = "&" if "?" in url else "?"
        super().__init__(
            f"{url}{separator}options=-c%20deadlock_timeout%3D{DEADLOCK_TIMEOUT_MS}ms", files, durability="everysec",
            rehearse=False, pool_max=pool_max,
        )  # fmt: skip
        self.overseer = Overseer(self)

    def close(self) -> None:
        """See `PostgresEngine.close`."""
        self.overseer.close()
        super().close()

    def _rest(self, seconds: float) -> None:  # noqa: ARG002
        self.stepper.before()

    def _committed(self, tx: PostgresTx, parts: _Parts) -> None:  # noqa: ARG002
        if tx._hints is not None:
            self.stepper.committed(tx._hints)

    def _new_tx(self, call: Call, wire: Wire, parts: _Parts, attempt_id: int) -> PostgresTx:  # noqa: ARG002
        self.stepper.begins(wire.identity.pid)
        return SteppedTx(
            wire, call.options, self._durability, self.stepper, attempt_id=attempt_id, space=call.space,
            now_ms=self.stepper.now_ms(), seed=call.seed,
        )  # fmt: skip


class SteppedTx(PostgresTx):
    """See `PostgresTx`."""

    __slots__ = ("_stepper",)

    def __init__(self, wire: Wire, options: Options, durability: Any, stepper: Stepper, **more: Any) -> None:
        super().__init__(wire, options, durability, **more)
        self._stepper = stepper

    def _rows(self, sql: str, parameters: dict[str, Any]) -> list[Row]:
        return self._step(lambda: super(SteppedTx, self)._rows(sql, parameters))

    def many(self, sql: LiteralString, rows: Iterable[Mapping[str, Any]], /) -> None:
        """See `PostgresTx.many`: a step for each row, as the server takes them."""
        for row in rows:
            self.run(sql, **row)

    def _later(self, sql: str, parameters: dict[str, Any], refusal: Refusal | None = None) -> None:
        def send() -> None:
            super(SteppedTx, self)._later(sql, parameters, refusal)
            self._savepoint_settle()

        self._step(send)

    def commit(self) -> None:
        """See `PostgresTx.commit`."""
        if self._begun:
            self._step(lambda: super(SteppedTx, self).commit())

    def rollback(self) -> None:
        """See `PostgresTx.rollback`; waited for, so that its locks are gone when the next one goes on."""
        super().rollback()
        if self._begun and not self._wire.broken and self._wire.queued:
            with contextlib.suppress(OnefoldError):
                self._wire.sync()

    def _step(self, send: Callable[[], Any]) -> Any:
        self._stepper.before()
        try:
            return send()
        finally:
            self._stepper.after()


_BLOCKED = """
SELECT pid FROM pg_stat_activity
 WHERE datname = current_database() AND cardinality(pg_blocking_pids(pid)) > 0
"""
_TABLES = """
SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname)
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind = 'r' AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg_toast%'
 ORDER BY 1
"""


class Overseer:
    """A connection beside the pool, which looks at the others and empties tables."""

    def __init__(self, engine: SteppedEngine) -> None:
        """Take what the tables hold now for what they hold at the beginning of every run."""
        self._wire = engine._open().pool.connect(time.monotonic_ns() + LOOK_NS_MAX)
        self._tables = self._texts(_TABLES)
        kept = {*self._full(self._tables), "onefold.spaces"}  # The engine knows which spaces are stored.
        self._emptied = [table for table in self._tables if table not in kept]

    def blocked(self) -> set[int]:
        """The backends that wait for a lock of another one."""
        return {pid for (pid,) in self._rows(_BLOCKED)}

    def empty(self) -> None:
        """Forget all rows and tables that were made since, and where sequences stood."""
        made = [table for table in self._texts(_TABLES) if table not in self._tables]
        for statement in (
            *(f"DROP TABLE {table} CASCADE" for table in made),
            *(f"TRUNCATE {table} RESTART IDENTITY CASCADE" for table in self._full(self._emptied)),
        ):
            self._wire.command(statement.encode())
        if self._wire.queued:
            self._wire.sync()

    def close(self) -> None:
        """Close the connection."""
        self._wire.close()

    def _full(self, tables: list[str]) -> list[str]:
        looks = (f"SELECT '{table}' WHERE EXISTS (SELECT 1 FROM {table})" for table in tables)  # noqa: S608
        return self._texts(" UNION ALL ".join(looks))

    def _texts(self, sql: str) -> list[str]:
        return [text for (text,) in self._rows(sql)]

    def _rows(self, sql: str) -> list[tuple[Any, ...]]:
        self._wire.deadline_ns = time.monotonic_ns() + LOOK_NS_MAX
        plan = plan_of(sql)
        self._wire.execute(plan, *plan.encode({}))
        return self._wire.rows()
