"""`use` over a sqlite3 connection of the user's."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, LiteralString, TypeVar

from onefold.core.clock import SYSTEM
from onefold.core.errors import Doomed, Invalid
from onefold.engine.call import new_seed, space_of
from onefold.engine.joined import JoinedTx, register_space
from onefold.engine.sqlite.connection import translated
from onefold.engine.sqlite.tx import SqliteTx
from onefold.engine.sqlite.wakes import tell_peers
from onefold.engine.tx import Row


class JoinedSqliteTx(SqliteTx, JoinedTx):
    """A `SqliteTx` on the user's own connection."""

    __slots__ = ("_path",)

    def many(self, sql: LiteralString, rows: Iterable[Mapping[str, Any]], /) -> None:
        """See `Tx.many`."""
        self._check_going()
        super().many(sql, rows)

    def _rows(self, sql: str, parameters: dict[str, Any]) -> list[Row]:
        self._check_going()
        return super()._rows(sql, parameters)

    def _savepoint_begin(self, depth: int) -> None:
        self._check_going()
        super()._savepoint_begin(depth)

    def _check_going(self) -> None:
        self._check_alive()
        check_begun(self, self._cursor.connection)

    def _tell(self, topics: list[str]) -> None:
        tell_peers(self._path, topics)


def check_begun(tx: JoinedTx, connection: Any) -> None:
    """Doom a `tx` whose transaction SQLite has ended; what came next would be committed without what came before.

    It ends one by itself at ON CONFLICT ROLLBACK, a full disk or a failing one; the owner has only an error of
    his own statement.
    """
    if not connection.in_transaction:
        error = Doomed("The transaction is over; nothing more can be done in it.", code="over")
        tx.doom(error)
        raise error


J = TypeVar("J", bound=JoinedSqliteTx)


def join_sqlite(connection: sqlite3.Connection, *, space_name: str, make: Callable[..., J] = JoinedSqliteTx) -> J:
    """See `onefold.use`. Begins an immediate transaction where sqlite3 has put it off until the first write."""
    try:
        if not connection.in_transaction:
            if connection.isolation_level is None:
                raise Invalid("The connection is in autocommit; begin a transaction first.", code="autocommit")
            connection.execute("BEGIN IMMEDIATE")
        cursor = connection.cursor()
        cursor.row_factory = None
        (_, _, file), *_ = cursor.execute("PRAGMA database_list").fetchall()
    except sqlite3.Error as error:
        raise translated(error) from error
    tx = make(
        cursor, space=space_of(space_name), space_name=space_name, now_ms=SYSTEM.now_ms(), seed=new_seed()
    )
    tx._path = Path(file)
    register_space(tx)
    return tx
