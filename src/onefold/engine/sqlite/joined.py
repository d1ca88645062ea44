"""`use` over a sqlite3 connection of the user's."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from onefold.core.clock import SYSTEM
from onefold.core.errors import Invalid
from onefold.engine.call import new_seed, space_of
from onefold.engine.joined import JoinedTx, register_space
from onefold.engine.sqlite.connection import translated
from onefold.engine.sqlite.tx import SqliteTx
from onefold.engine.sqlite.wakes import tell_peers


class JoinedSqliteTx(SqliteTx, JoinedTx):
    """A `SqliteTx` on the user's own connection."""

    __slots__ = ("_path",)

    def _tell(self, topics: list[str]) -> None:
        tell_peers(self._path, topics)


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
