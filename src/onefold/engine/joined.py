"""What every `tx` in a foreign transaction shares."""

from __future__ import annotations

import logging
from typing import Any, TypeAlias

from onefold.core.errors import Conflict, Invalid
from onefold.engine.tx import Tx

_log = logging.getLogger("onefold.wake")

Marks: TypeAlias = tuple[int, int, int]

# PostgreSQL's clock counts there, not this host's.
NOW_MS = "SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint)"


NO_TABLE = frozenset(("3F000", "42P01"))  # PostgreSQL's states: no such schema, no such table.


class JoinedTx(Tx):
    """A `tx` whose COMMIT is somebody else's; see `onefold.use`."""

    __slots__ = ()

    def committed(self) -> None:
        """Say that the owner's COMMIT returned: wakes whoever waits, runs callbacks; once.

        A callback that fails is logged: it can undo nothing any more, and the next ones run.
        Facts told with `emit` reach only the subscribers of a `Database`'s own transactions.
        """
        hints = self._hints
        self.rolled_back()
        if hints is None:
            return
        if hints.topics:
            self._tell(hints.topics)
        for callback in hints.callbacks:
            try:
                callback()
            except Exception:
                _log.exception("a callback after commit failed")

    def rolled_back(self) -> None:
        """Say that the owner rolled back: nothing happened, so nobody is told."""
        self._hints = None

    def marks(self) -> Marks:
        """What is to be told up to now, for `cut`."""
        return self._hints.marks() if self._hints else (0, 0, 0)

    def cut(self, marks: Marks) -> None:
        """Say that the owner undid what came after `marks`: nobody is told of it."""
        if self._hints:
            self._hints.cut(marks)

    def _tell(self, topics: list[str]) -> None:
        raise NotImplementedError


def tell_through(pgconn: Any, topics: list[str]) -> None:
    """Tell waiters through an engine of this process on the same PostgreSQL database; else they poll.

    `pgconn` is psycopg's own handle of the joined connection; None for a driver that has none.
    """
    if pgconn is None:
        return
    from onefold.engine.postgres.engine import engine_at

    engine = engine_at((pgconn.host, pgconn.port, pgconn.db))
    if engine is not None:
        engine.tell(topics)


def register_space(tx: Tx) -> None:
    """Write the name of the space of `tx` down; the first statement of a joined transaction.

    Raises:
        Conflict: the database has no Onefold schema.
        Invalid: another name has the same number.
    """
    try:
        tx.run(
            "INSERT INTO onefold.spaces (space, name) VALUES (:space, :name) ON CONFLICT DO NOTHING", name=tx.space_name
        )
        [(stored,)] = tx.all("SELECT name FROM onefold.spaces WHERE space = :space")
    except Invalid as error:
        why = str(error.facts.get("why", ""))
        if error.facts.get("state") not in NO_TABLE and not why.startswith("no such table"):
            raise  # A transaction that may only read, a role that may not: migrating is no help.
        raise Conflict(
            "The database has no Onefold schema; run `onefold migrate --url URL`.", code="schema_missing"
        ) from error
    if stored != tx.space_name:
        raise Invalid(
            "Two names of spaces have the same number; rename one.", code="space_collision",
            ours=tx.space_name, stored=stored,
        )
