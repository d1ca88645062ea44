"""What every `tx` in a foreign transaction shares."""

from __future__ import annotations

from typing import Any

from onefold.core.errors import Conflict, Invalid
from onefold.engine.tx import Tx

# PostgreSQL's clock counts there, not this host's.
NOW_MS = "SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint)"


class JoinedTx(Tx):
    """A `tx` whose COMMIT is somebody else's; see `onefold.use`."""

    __slots__ = ()

    def committed(self) -> None:
        """Say that the owner's COMMIT returned: wakes whoever waits, runs callbacks; once.

        Facts told with `emit` reach only the subscribers of a `Database`'s own transactions.
        """
        hints = self._hints
        self.rolled_back()
        if hints is None:
            return
        if hints.topics:
            self._tell(hints.topics)
        for callback in hints.callbacks:
            callback()

    def rolled_back(self) -> None:
        """Say that the owner rolled back: nothing happened, so nobody is told."""
        self._hints = None

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
        raise Conflict(
            "The database has no Onefold schema; run `onefold migrate --url URL`.", code="schema_missing"
        ) from error
    if stored != tx.space_name:
        raise Invalid(
            "Two names of spaces have the same number; rename one.", code="space_collision",
            ours=tx.space_name, stored=stored,
        )
