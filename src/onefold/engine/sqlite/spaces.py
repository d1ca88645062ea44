"""The names behind the numbers: each space is written down once, and a collision refused."""

from __future__ import annotations

import sqlite3

from onefold.core.errors import Invalid
from onefold.engine.tx import Tx

KNOWN_MAX = 100_000


class Spaces:
    """Which spaces this process knows to be stored."""

    def __init__(self) -> None:
        self._known: set[int] = set()
        self._new: list[int] = []

    def begin(self) -> None:
        """A transaction begins; what the last one did not commit is forgotten."""
        self._new.clear()

    def register(self, tx: Tx, cursor: sqlite3.Cursor) -> None:
        """Store the space of `tx` unless it is known; before the function's savepoint."""
        if tx.space in self._known:
            return
        cursor.execute(
            "INSERT INTO onefold_spaces (space, name) VALUES (?, ?) ON CONFLICT DO NOTHING",
            (tx.space, tx.space_name),
        )
        (stored,) = cursor.execute("SELECT name FROM onefold_spaces WHERE space = ?", (tx.space,)).fetchone()
        if stored != tx.space_name:
            raise Invalid(
                "Two names of spaces have the same number; rename one.", code="space_collision",
                ours=tx.space_name, stored=stored,
            )
        self._new.append(tx.space)

    def committed(self) -> None:
        """The transaction is in; what it stored is known."""
        if self._new:
            if len(self._known) >= KNOWN_MAX:
                self._known.clear()  # They are looked up again.
            self._known.update(self._new)
            self._new.clear()
