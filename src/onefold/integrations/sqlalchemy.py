"""SQLAlchemy in both directions: its Session inside our `run`, our `tx` inside its Session.

`session(tx)` gives an ORM Session inside a function over tx: serializable, retried, committed by
`run`. `use(session)` gives a `tx` inside a transaction of the Session: the Session commits.
`await join(async_session, fn, ...)` is `use` from asyncio. `gate(engine)` makes an Engine on our
SQLite file wait its turn like everybody else.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Concatenate, LiteralString, ParamSpec, TypeVar

import sqlalchemy
from sqlalchemy import event, pool
from sqlalchemy.engine import Connection, CursorResult
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session, SessionTransaction

from onefold.core.clock import SYSTEM
from onefold.core.errors import Doomed, Invalid
from onefold.engine.call import new_seed, space_of
from onefold.engine.errors import translate
from onefold.engine.joined import NOW_MS, JoinedTx, Marks, register_space, tell_through
from onefold.engine.sql import Dialect, compile_statement
from onefold.engine.sqlite.gated import GatedConnection
from onefold.engine.sqlite.joined import check_begun
from onefold.engine.sqlite.wakes import tell_peers
from onefold.engine.tx import ADD_POSTGRES, ADD_SQLITE, OVER, Row, Tx
from onefold.engine.values import check_name, check_parameters

HOLDERS_MAX = 128

P = ParamSpec("P")
R = TypeVar("R")
E = TypeVar("E")  # An Engine or an AsyncEngine; the latter would draw in greenlet.


class SqlAlchemyTx(JoinedTx):
    """A `tx` that speaks through a Connection of SQLAlchemy, whatever driver is below, sync or not."""

    __slots__ = ("_connection", "_teller")

    def __init__(
        self, connection: Connection, teller: Callable[[list[str]], None], *, space_name: str, now_ms: int
    ) -> None:
        super().__init__(space=space_of(space_name), space_name=space_name, now_ms=now_ms, seed=new_seed())
        self._connection = connection
        self._teller = teller

    def _rows(self, sql: str, parameters: dict[str, Any]) -> list[Row]:
        self._check_alive()
        statement = compile_statement(sql, self.dialect)
        check_parameters(parameters)
        parameters.update(space=self.space, now_ms=self.now_ms)
        try:
            used: dict[str, Any] | tuple[Any, ...] = {name: parameters[name] for name in statement.parameters}
            if self.dialect == "sqlite":
                used = tuple(used.values())
            result = self._connection.exec_driver_sql(statement.text, used)
            return [tuple(row) for row in result.fetchall()] if result.returns_rows else []
        except DBAPIError as error:
            ours = translate(error, self.dialect)
            self.doom(ours)
            raise ours from error

    def run(self, sql: LiteralString, /, **parameters: Any) -> None:
        """See `Tx.run`."""
        self.all(sql, **parameters)

    def many(self, sql: LiteralString, rows: Iterable[Mapping[str, Any]], /) -> None:
        """See `Tx.many`."""
        for row in rows:
            self.all(sql, **row)

    def _savepoint_begin(self, depth: int) -> None:
        self._raw(f"SAVEPOINT p{depth}")

    def _savepoint_end(self, depth: int, *, keep: bool) -> None:
        if not keep:
            self._raw(f"ROLLBACK TO SAVEPOINT p{depth}")
        self._raw(f"RELEASE SAVEPOINT p{depth}")

    def _raw(self, sql: str) -> None:
        try:
            _execute(self._connection, self.dialect, sql)
        except BaseException as error:
            self.doom(error)
            raise

    def _tell(self, topics: list[str]) -> None:
        self._teller(topics)


class SqlAlchemySqliteTx(SqlAlchemyTx):
    """The same on SQLite."""

    dialect: ClassVar[Dialect] = "sqlite"

    __slots__ = ("driver",)

    def _check_alive(self) -> None:
        super()._check_alive()
        check_begun(self, self.driver)

    def try_claim(self, name: str, /) -> bool:
        """See `Tx.try_claim`. There is one writer: nobody else is in flight."""
        check_name(name)
        return True

    def _add(self, key: str, delta: int) -> None:
        self.run(ADD_SQLITE, key=key, delta=delta)


class SqlAlchemyPostgresTx(SqlAlchemyTx):
    """The same on PostgreSQL."""

    __slots__ = ()

    def _add(self, key: str, delta: int) -> None:
        self.run(ADD_POSTGRES, key=key, delta=delta)


def use(session: Session | Connection, *, space_name: str = "") -> SqlAlchemyTx:
    """A `tx` in the transaction that `session` is in, or begins now. The owner commits.

    With a Session, waiters are woken when it has committed, and hints are dropped when it, or the
    savepoint (`begin_nested`) that they were given in, is rolled back; a `tx` is over with the
    transaction or undone savepoint that it was made in. With a bare Connection call `tx.committed()`.
    """
    connection = session.connection() if isinstance(session, Session) else session
    asked = connection.get_execution_options().get("isolation_level")
    if asked == "AUTOCOMMIT" or connection._is_autocommit_isolation():
        raise Invalid("The connection is in autocommit; begin a transaction first.", code="autocommit")
    driver: Any = connection.connection.driver_connection
    tx: SqlAlchemyTx
    if connection.dialect.name == "sqlite":
        if not driver.in_transaction:
            _execute(connection, "sqlite", "BEGIN IMMEDIATE")
        path = Path(connection.engine.url.database or "")
        tx = SqlAlchemySqliteTx(
            connection, partial(tell_peers, path), space_name=space_name, now_ms=SYSTEM.now_ms()
        )  # fmt: skip
        tx.driver = driver
    else:
        now_ms: int = _execute(connection, "postgres", NOW_MS).scalar_one()
        teller = partial(tell_through, getattr(driver, "pgconn", None))
        tx = SqlAlchemyPostgresTx(connection, teller, space_name=space_name, now_ms=now_ms)
    register_space(tx)
    if isinstance(session, Session):
        _Followed.of(session).add(session, tx)
    return tx


def _execute(connection: Connection, dialect: Dialect, sql: str) -> CursorResult[Any]:
    try:
        return connection.exec_driver_sql(sql)
    except DBAPIError as error:
        raise translate(error, dialect) from error


class _Followed:
    """A Session, for as long as it lives: its transactions and savepoints take what its `tx` hold along.

    One for each Session, as SQLAlchemy keeps each listener as long as the Session.
    """

    def __init__(self, session: Session) -> None:
        self._txs: list[SqlAlchemyTx] = []
        # What each `tx` held when a savepoint began; no entry for one that is younger than the savepoint.
        self._savepoints: dict[SessionTransaction, list[tuple[SqlAlchemyTx, Marks]]] = {}
        event.listen(session, "after_transaction_create", self._begun)
        event.listen(session, "after_commit", self._committed)
        event.listen(session, "after_transaction_end", self._ended)

    @classmethod
    def of(cls, session: Session) -> _Followed:
        """The one of this Session."""
        found = session.info.get(cls)
        if found is None:
            found = session.info[cls] = cls(session)
        return found

    def add(self, session: Session, tx: SqlAlchemyTx) -> None:
        """Follow what becomes of `tx`, from its first statement on."""
        self._txs.append(tx)
        inside = session.get_nested_transaction()
        while inside is not None:
            if inside.nested:
                self._savepoints.setdefault(inside, [])
            inside = inside.parent

    def _begun(self, _session: Session, transaction: SessionTransaction) -> None:
        if transaction.nested and self._txs:
            self._savepoints[transaction] = [(tx, tx.marks()) for tx in self._txs]

    def _committed(self, session: Session) -> None:
        """Also told of savepoints; they commit nothing, but what they did is kept."""
        kept = session.get_nested_transaction()
        if kept is not None:
            self._savepoints.pop(kept, None)
            return
        txs, self._txs = self._txs, []
        for tx in txs:
            tx.doom(OVER)
            tx.committed()

    def _ended(self, _session: Session, transaction: SessionTransaction) -> None:
        """Committed, rolled back or closed. What was kept is no longer among ours."""
        if transaction.nested:
            held = self._savepoints.pop(transaction, None)
            if held is not None:
                self._undo(held)
        elif transaction.parent is None:
            self._savepoints.clear()
            self._undo([])

    def _undo(self, held: list[tuple[SqlAlchemyTx, Marks]]) -> None:
        """Back to what was held; a `tx` that was not there yet is over, and its space unwritten."""
        older = [tx for tx, _ in held]
        for tx in self._txs:
            if tx not in older:
                tx.doom(OVER)
                tx.rolled_back()
        for tx, marks in held:
            tx.cut(marks)
        self._txs = older


async def join(async_session: Any, fn: Callable[Concatenate[Tx, P], R], /, *args: P.args, **kwargs: P.kwargs) -> R:
    """`fn(tx, ...)` in the transaction of an AsyncSession; `await session.commit()` stays the caller's."""

    def joined(session: Session) -> R:
        return fn(use(session), *args, **kwargs)

    return await async_session.run_sync(joined)


@contextlib.contextmanager
def session(tx: Tx) -> Generator[Session]:
    """An ORM Session inside a function over `tx`; flushed at the end of the block, committed by `run`.

    Its own `commit` raises. An error that it meets dooms the transaction like any other, and so does
    what undoes all of its work: its `rollback`, or its `close` before the end of the block.
    """
    raw = tx.driver_connection()
    holder = _holders.get(id(raw))
    if holder is None or holder.raw is not raw:
        if len(_holders) >= HOLDERS_MAX:
            _holders.clear()  # Connections come and go; what is still used is made again.
        holder = _holders[id(raw)] = _Holder(raw, tx.dialect)
    holder.tx = tx
    with holder.engine.connect() as connection, _InnerSession(bind=connection, autoflush=True) as inner:
        borrowed: Any = connection.connection.dbapi_connection
        borrowed.tx = tx
        try:
            yield inner
            inner.flush()
        except BaseException as error:
            tx.doom(error)
            if isinstance(error, DBAPIError):
                raise translate(error, holder.dialect) from error
            raise
        finally:
            borrowed.tx = None  # From here on its rollback is only how SQLAlchemy lets go of a connection.
            inner.expunge_all()


def gate(engine: E) -> E:
    """Make an Engine on a SQLite file of ours take the gate: BEGIN IMMEDIATE in turn, no own checkpoints.

    Call it once, right after `create_engine` or `create_async_engine`. Answers the same engine.
    """
    inner: Any = getattr(engine, "sync_engine", engine)  # An AsyncEngine has one inside.
    if inner.dialect.name != "sqlite":
        raise Invalid("Only an Engine on SQLite needs the gate.", dialect=inner.dialect.name)
    inner.dispose()

    @event.listens_for(inner, "do_connect")
    def _connect(_dialect: Any, _record: Any, _args: Any, parameters: dict[str, Any]) -> None:
        parameters["factory"] = GatedConnection

    @event.listens_for(inner, "begin")
    def _begin(connection: Connection) -> None:
        adapted: Any = connection.connection.dbapi_connection
        if inner.dialect.is_async:
            # In aiosqlite's thread: the event loop goes on while this one waits its turn.
            adapted.run_async(_begin_in_thread)
        else:
            adapted.begin_gated()

    return engine


def _begin_in_thread(driver: Any) -> Any:
    return driver.execute("BEGIN IMMEDIATE")


class _InnerSession(Session):
    """A Session that cannot end the transaction it lives in."""

    def commit(self) -> None:
        """Refuse: `run` commits."""
        raise Invalid("The Session is inside run, which commits; just leave the function.", code="inner_commit")


class _Holder:
    """An Engine of SQLAlchemy over one connection of ours, made once per connection."""

    def __init__(self, raw: Any, dialect: Dialect) -> None:
        self.raw = raw
        self.dialect: Dialect = dialect
        self.tx: Tx | None = None
        url = "sqlite://" if dialect == "sqlite" else "postgresql+psycopg://"
        options: dict[str, Any] = {} if dialect == "sqlite" else {"use_native_hstore": False}
        self.engine = sqlalchemy.create_engine(
            url, creator=lambda: _Borrowed(raw), poolclass=pool.NullPool, **options
        )
        event.listen(self.engine, "handle_error", self._doom)

    def _doom(self, context: Any) -> None:
        if self.tx is not None:
            self.tx.doom(translate(context.original_exception, self.dialect))


class _Borrowed:
    """Our connection as SQLAlchemy sees it: it may use it, not end its transaction."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw
        self.tx: Tx | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)

    def cursor(self, *args: Any) -> Any:
        """A cursor; Doomed once SQLite has ended the transaction, or each statement would commit itself."""
        if not getattr(self._raw, "in_transaction", True):
            raise Doomed("The transaction is over; nothing more can be done in it.", code="over")
        return self._raw.cursor(*args)

    def commit(self) -> None:
        """Nothing: `run` commits."""

    def rollback(self) -> None:
        """Have `run` roll back: what the Session did is to be undone, and with it goes what is around it."""
        if self.tx is not None:
            self.tx.doom(Invalid("The Session inside run was rolled back or closed.", code="inner_rollback"))

    def close(self) -> None:
        """Nothing: the engine keeps it."""


_holders: dict[int, _Holder] = {}
