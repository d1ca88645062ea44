"""Our connection as psycopg's own, for libraries that want one, inside our transaction.

The wire lives in libpq's pipeline mode, psycopg's cursors outside of it. So each of their
statements settles what is queued, leaves the mode, runs, and enters it again; no round trip more.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from typing import Any, NoReturn

import psycopg
from psycopg import pq

from onefold.core.errors import Invalid
from onefold.engine.postgres.errors import lost, overdue
from onefold.engine.postgres.wire import Wire
from onefold.engine.sql import ends_transaction


class LentCursor(psycopg.Cursor[Any]):
    """A cursor that borrows the wire for as long as a statement takes."""

    def execute(self, query: Any, *args: Any, **kwargs: Any) -> Any:
        """See psycopg."""
        assert isinstance(self.connection, LentConnection)
        if ends_transaction(_text(query, self.connection)):
            self.connection.refuse()
        with _borrowed(self.connection):
            return super().execute(query, *args, **kwargs)

    def executemany(self, *args: Any, **kwargs: Any) -> None:
        """See psycopg."""
        with _borrowed(self.connection):
            super().executemany(*args, **kwargs)


class LentConnection(psycopg.Connection[Any]):
    """psycopg's Connection over a wire of ours. Whoever has it ends no transaction with it."""

    wire: Wire
    doom: Callable[[BaseException], None]  # Of the transaction that it is lent to.

    def wait(self, gen: Generator[Any, Any, Any], *args: Any, **kwargs: Any) -> Any:
        """See psycopg; at the deadline of the call the server is asked to cancel."""
        return super().wait(_watched(gen, self.wire), *args, **kwargs)

    def commit(self) -> NoReturn:
        """Refused: `run` commits."""
        self.refuse()

    def rollback(self) -> NoReturn:
        """Refused: raise, and everything is undone."""
        self.refuse()

    def close(self) -> NoReturn:
        """Refused: the engine keeps it."""
        self.refuse()

    def refuse(self) -> NoReturn:
        """Say that a function ends no transaction, and see to it that this one is not committed."""
        error = Invalid("A function over tx neither begins nor ends transactions.", code="inner_commit")
        self.doom(error)
        raise error


def lend(wire: Wire, doom: Callable[[BaseException], None]) -> LentConnection:
    """The same for the same wire, so that what is cached for a connection stays valid."""
    connection = wire.lent
    if connection is None:
        connection = LentConnection(wire.pgconn)
        connection.wire = wire
        connection.cursor_factory = LentCursor
        connection.prepare_threshold = None  # Names of prepared statements are the wire's.
        wire.lent = connection
    connection.doom = doom
    return connection


@contextlib.contextmanager
def _borrowed(connection: psycopg.Connection[Any]) -> Generator[None]:
    assert isinstance(connection, LentConnection)
    wire = connection.wire
    if wire.queued:
        wire.sync()
    pg: pq.abc.PGconn = wire.pgconn
    pg.exit_pipeline_mode()
    try:
        yield
    finally:
        try:
            pg.enter_pipeline_mode()
        except psycopg.Error as error:
            wire.broken = True
            raise lost(str(error)) from None
        if wire.cancelled:  # Whatever the driver makes of it.
            late = overdue()
            connection.doom(late)
            raise late
    if pg.transaction_status == pq.TransactionStatus.IDLE:
        connection.refuse()


def _watched(gen: Generator[Any, Any, Any], wire: Wire) -> Generator[Any, Any, Any]:
    """The driver's way through a statement; it looks at the clock each time that it is driven, ten times a second."""
    try:
        wanted = next(gen)
        while True:
            ready = yield wanted
            wire.end_when_late()
            wanted = gen.send(ready)
    except StopIteration as end:
        return end.value


def _text(query: Any, connection: LentConnection) -> str:
    if isinstance(query, bytes):
        return query.decode("utf-8", "replace")
    return query if isinstance(query, str) else query.as_string(connection)
