"""`use` over a psycopg connection of the user's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, LiteralString, TypeVar

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row
from psycopg.types.numeric import Int8Dumper
from psycopg.types.string import StrDumper

from onefold.core.errors import Invalid
from onefold.engine.call import new_seed, space_of
from onefold.engine.joined import NOW_MS, JoinedTx, register_space
from onefold.engine.postgres.codec import register_loaders
from onefold.engine.postgres.engine import engine_at
from onefold.engine.postgres.errors import from_psycopg
from onefold.engine.sql import Statement, check_room, compile_statement
from onefold.engine.tx import ADD_POSTGRES, Row
from onefold.engine.values import check_parameters

_statements: dict[str, Statement] = {}


class JoinedPostgresTx(JoinedTx):
    """A `tx` on the user's own connection, statement by statement."""

    __slots__ = ("_cursor",)

    def __init__(
        self, cursor: psycopg.Cursor[Row], *, space: int, space_name: str, now_ms: int, seed: int
    ) -> None:
        super().__init__(space=space, space_name=space_name, now_ms=now_ms, seed=seed)
        self._cursor = cursor

    def _rows(self, sql: str, parameters: dict[str, Any]) -> list[Row]:
        self._check_alive()
        try:
            self._execute(sql, parameters)
            return self._cursor.fetchall() if self._cursor.description else []
        except BaseException as error:
            self._fail(error)
            raise

    def run(self, sql: LiteralString, /, **parameters: Any) -> None:
        """See `Tx.run`; here its error comes at once."""
        self._check_alive()
        try:
            self._execute(sql, parameters)
        except BaseException as error:
            self._fail(error)
            raise

    def many(self, sql: LiteralString, rows: Iterable[Mapping[str, Any]], /) -> None:
        """See `Tx.many`."""
        self._check_alive()
        try:
            statement = _compiled(sql)
            self._cursor.executemany(statement.text.encode(), [self._bound(statement, dict(row)) for row in rows])
        except BaseException as error:
            self._fail(error)
            raise

    def _execute(self, sql: str, parameters: dict[str, Any]) -> None:
        statement = _compiled(sql)
        self._cursor.execute(statement.text.encode(), self._bound(statement, parameters))

    def _bound(self, statement: Statement, parameters: dict[str, Any]) -> dict[str, Any]:
        parameters["space"] = self.space
        parameters["now_ms"] = self.now_ms
        missing = set(statement.parameters) - parameters.keys()
        if missing:
            raise Invalid("The SQL text and its parameters do not fit.", code="statement", missing=min(missing))
        used = {name: parameters[name] for name in statement.parameters}
        check_parameters(used)
        return used

    def _add(self, key: str, delta: int) -> None:
        self.run(ADD_POSTGRES, key=key, delta=delta)

    def _savepoint_begin(self, depth: int) -> None:
        self._raw(b"SAVEPOINT onefold_%d" % depth)

    def _savepoint_end(self, depth: int, *, keep: bool) -> None:
        if not keep:
            self._raw(b"ROLLBACK TO onefold_%d" % depth)
        self._raw(b"RELEASE onefold_%d" % depth)

    def _raw(self, sql: bytes) -> None:
        try:
            self._cursor.execute(sql)
        except BaseException as error:
            self._fail(error)
            raise

    def _fail(self, error: BaseException) -> None:
        """Doom the transaction; a driver's error is raised as one of ours."""
        if isinstance(error, psycopg.Error):
            ours = from_psycopg(error)
            self.doom(ours)
            raise ours from error
        self.doom(error)

    def _tell(self, topics: list[str]) -> None:
        """Through an engine that this process has open on the same database; else others poll."""
        engine = engine_at(_place(self._cursor.connection))
        if engine is not None:
            engine.tell(topics)


J = TypeVar("J", bound=JoinedPostgresTx)


def join_postgres(connection: object, *, space_name: str, make: Callable[..., J] = JoinedPostgresTx) -> J:
    """See `onefold.use`."""
    if not isinstance(connection, psycopg.Connection):
        raise Invalid("use takes a synchronous connection of psycopg.", got=type(connection).__qualname__)
    status = connection.info.transaction_status
    if connection.autocommit and status == TransactionStatus.IDLE:
        raise Invalid("The connection is in autocommit; begin a transaction first.", code="autocommit")
    if status not in {TransactionStatus.IDLE, TransactionStatus.INTRANS}:
        raise Invalid("The connection's transaction has failed or is busy; roll it back first.", code="not_ready")
    try:
        cursor = connection.cursor(row_factory=tuple_row)
        cursor.adapters.register_dumper(int, Int8Dumper)
        cursor.adapters.register_dumper(str, StrDumper)
        register_loaders(cursor.adapters)
        [(now_ms,)] = cursor.execute(NOW_MS).fetchall()
    except psycopg.Error as error:
        raise from_psycopg(error) from error
    tx = make(
        cursor, space=space_of(space_name), space_name=space_name, now_ms=now_ms, seed=new_seed()
    )
    register_space(tx)
    return tx


def _compiled(sql: str) -> Statement:
    statement = _statements.get(sql)
    if statement is None:
        check_room(_statements)
        statement = _statements[sql] = compile_statement(sql, "postgres")
    return statement


def _place(connection: psycopg.Connection[Any]) -> tuple[bytes, bytes, bytes]:
    pg = connection.pgconn
    return pg.host, pg.port, pg.db
