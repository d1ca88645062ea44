"""Audit: what an entry adds to the action that it tells of."""

from __future__ import annotations

from benches.harness import RATES, Size, Table, both_engines, rates
from onefold import Tx, audit

NAME = "audit"
PAGE = "src/onefold/identity/audit/README.md"
PRESENT = 100_000
BATCH = 500


def run(size: Size) -> list[Table]:
    """Both engines, beside many other entries: an action alone, then with its entry."""
    present = size.of(PRESENT)
    table = Table("An action (a counter's step), durable, alone and with its entry", RATES)
    with both_engines() as engines:
        for engine, db, callers in engines:
            for start in range(0, present, BATCH):
                db.run(record_many, min(BATCH, present - start))
            for what, function in (("action", act), ("action + entry", act_and_record)):
                rates(
                    table, engine, what, size, lambda n, db=db, do=function: db.run(do, n),
                    lambda caller, _n, db=db, do=function: db.arun(do, caller), callers=callers, count=1_000,
                )
    table.notes.append(f"Beside {present:,} other entries.")
    return [table]


def act(tx: Tx, number: int) -> None:
    """What somebody does."""
    tx.add(f"subject/{number % 1_000}", 1)


def act_and_record(tx: Tx, number: int) -> None:
    """The same, and who did it and why."""
    act(tx, number)
    audit.record(tx, "bench.act", f"subject/{number % 1_000}", actor="bench", reason="to see what it costs", facts={"number": number})


def record_many(tx: Tx, count: int) -> None:
    """`count` entries in one transaction."""
    for number in range(count):
        act_and_record(tx, number)
