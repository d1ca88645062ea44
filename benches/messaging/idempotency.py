"""Idempotency: a new key with a small effect, the replay of an old one, and a key that leaves its transaction."""

from __future__ import annotations

import itertools

from benches.harness import RATES, Size, Table, both_engines, rates
from onefold import Handle, Tx, idempotency

NAME = "idempotency"
PAGE = "src/onefold/messaging/idempotency/README.md"
_numbers = itertools.count()


def run(size: Size) -> list[Table]:
    """Both engines."""
    table = Table("Durable keys with an answer of 100 bytes", RATES)
    with both_engines() as engines:
        for engine, db, callers in engines:
            rates(
                table, engine, "new key", size, lambda n, db=db: db.run(once, f"k{next(_numbers)}"),
                lambda caller, _n, db=db: db.arun(once, f"k{next(_numbers)}"), callers=callers, count=1_000,
            )
            db.run(once, "old")
            rates(
                table, engine, "replay", size, lambda n, db=db: db.run(once, "old"),
                lambda caller, _n, db=db: db.arun(once, "old"), callers=callers, count=1_000,
            )
            rates(
                table, engine, "begin, then finish: two commits", size, lambda n, db=db: begun(db),
                lambda caller, _n, db=db: abegun(db), callers=callers, count=1_000,
            )
    return [table]


def once(tx: Tx, key: str) -> bool:
    """The effect is the stored answer alone."""
    return idempotency.once(tx, key, lambda: "x" * 100, scope="bench", request=1).replayed


def begun(db: Handle) -> None:
    """Nothing happens between the two: that is the other side's time."""
    attempt = db.run(idempotency.begin, f"k{next(_numbers)}", scope="bench", request=1)
    assert isinstance(attempt, idempotency.Attempt)
    db.run(idempotency.finish, attempt, "x" * 100)


async def abegun(db: Handle) -> None:
    """The same from a task."""
    attempt = await db.arun(idempotency.begin, f"k{next(_numbers)}", scope="bench", request=1)
    assert isinstance(attempt, idempotency.Attempt)
    await db.arun(idempotency.finish, attempt, "x" * 100)
