"""The names behind the numbers: each space is written down once, and a collision refused."""

from __future__ import annotations

from onefold.core.errors import Invalid
from onefold.engine.postgres.codec import plan_of
from onefold.engine.postgres.wire import Wire

STORE = """INSERT INTO onefold.spaces (space, name) VALUES (:space, :name) ON CONFLICT (space) DO NOTHING"""
STORED = """SELECT name FROM onefold.spaces WHERE space = :space"""
KNOWN_MAX = 100_000


class Spaces:
    """Which spaces this process knows to be stored."""

    def __init__(self) -> None:
        self._known: set[int] = set()

    def knows(self, space: int) -> bool:
        """Whether this process saw or stored it."""
        return space in self._known

    def register(self, wire: Wire, space: int, name: str) -> None:
        """Store the name, and refuse another one with the same number.

        A transaction of its own, before the caller's begins: else the first writer of a space, however
        long it takes, would hold up all others at this one row.
        """
        for sql in (STORE, STORED):
            plan = plan_of(sql)
            wire.execute(plan, *plan.encode({"space": space, "name": name}))
        [(stored,)] = wire.rows()
        if stored != name:
            raise Invalid(
                "Two names of spaces have the same number; rename one.", code="space_collision",
                ours=name, stored=stored,
            )  # fmt: skip
        if len(self._known) >= KNOWN_MAX:
            self._known.clear()
        self._known.add(space)
