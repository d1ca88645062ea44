"""`Tx` over one SQLite connection."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping
from operator import itemgetter
from typing import Any, ClassVar, LiteralString

from onefold.core.errors import Invalid, OnefoldError
from onefold.engine.sql import Dialect, check_room, compile_statement
from onefold.engine.sqlite.connection import EngineConnection, translated
from onefold.engine.tx import ADD_SQLITE, Row, Tx
from onefold.engine.values import check_name, check_parameters

Binder = Callable[[Mapping[str, Any]], tuple[Any, ...]]

# By position: the driver would look each name up, which costs more than binding it.
_statements: dict[str, tuple[str, Binder]] = {}  # As a block wrote it: as SQLite takes it.


class SqliteTx(Tx):
    """One attempt on the writer's or a reader's cursor."""

    dialect: ClassVar[Dialect] = "sqlite"

    __slots__ = ("_cursor",)

    def __init__(self, cursor: sqlite3.Cursor, *, space: int, space_name: str, now_ms: int, seed: int) -> None:
        super().__init__(space=space, space_name=space_name, now_ms=now_ms, seed=seed)
        self._cursor = cursor

    def run(self, sql: LiteralString, /, **parameters: Any) -> None:
        """See `Tx.run`."""
        self._rows(sql, parameters)

    def _rows(self, sql: str, parameters: dict[str, Any]) -> list[Row]:
        if self._doom is not None:
            self._check_alive()
        try:
            text, bind = _statements.get(sql) or _compiled(sql)
            check_parameters(parameters)
            parameters["space"] = self.space
            parameters["now_ms"] = self.now_ms
            return self._cursor.execute(text, bind(parameters)).fetchall()
        except BaseException as error:
            self._fail(error)
            raise

    def many(self, sql: LiteralString, rows: Iterable[Mapping[str, Any]], /) -> None:
        """See `Tx.many`."""
        self._check_alive()
        bound = {"space": self.space, "now_ms": self.now_ms}
        try:
            given = [{**row, **bound} for row in rows]
            text, bind = _statements.get(sql) or _compiled(sql)
            ready: list[tuple[Any, ...]] = []
            for values in given:
                check_parameters(values)
                ready.append(bind(values))
            self._cursor.executemany(text, ready)
        except BaseException as error:
            self._fail(error)
            raise

    def driver_connection(self) -> sqlite3.Connection:
        """See `Tx.driver_connection`."""
        connection = self._cursor.connection
        return connection.lend() if isinstance(connection, EngineConnection) else connection

    def try_claim(self, name: str, /) -> bool:
        """See `Tx.try_claim`. There is one writer: nobody else is in flight."""
        check_name(name)
        return True

    def _add(self, key: str, delta: int) -> None:
        self.run(ADD_SQLITE, key=key, delta=delta)

    def _savepoint_begin(self, depth: int) -> None:
        self._raw(f"SAVEPOINT p{depth}")

    def _savepoint_end(self, depth: int, *, keep: bool) -> None:
        if not keep:
            self._raw(f"ROLLBACK TO p{depth}")
        self._raw(f"RELEASE p{depth}")

    def _raw(self, sql: str) -> None:
        try:
            self._cursor.execute(sql)
        except sqlite3.Error as error:
            self._fail(error)
            raise

    def _fail(self, error: BaseException) -> None:
        """Doom the transaction; a driver's error is raised as one of ours."""
        if isinstance(error, (sqlite3.Error, OverflowError)):
            ours: OnefoldError = translated(error)
        elif isinstance(error, KeyError):
            ours = Invalid("The SQL text and its parameters do not fit.", code="statement", missing=error.args[0])
        else:
            self.doom(error)
            return
        self.doom(ours)
        raise ours from error


def _compiled(sql: str) -> tuple[str, Binder]:
    check_room(_statements)
    statement = compile_statement(sql, "sqlite")
    compiled = _statements[sql] = (statement.text, _binder(statement.parameters))
    return compiled


def _binder(names: tuple[str, ...]) -> Binder:
    """What takes the values of `names` out of a mapping, in order."""
    if len(names) > 1:
        return itemgetter(*names)
    return lambda values: tuple(values[name] for name in names)
