"""Idempotency: a new key with a small effect, and the replay of an old one."""

from __future__ import annotations

import itertools

from benches.harness import RATES, Size, Table, both_engines, rates
from onefold import Tx, idempotency

NAME = "idempotency"
PAGE = "src/onefold/messaging/idempotency/README.md"
_numbers = itertools.count()


def run(size: Size) -> list[Table]:
    """Both engines."""
    table = Table("Durable calls of `once` with an answer of 100 bytes", RATES)
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
    return [table]


def once(tx: Tx, key: str) -> bool:
    """The effect is the stored answer alone."""
    return idempotency.once(tx, key, lambda: "x" * 100, scope="bench", request=1).replayed
