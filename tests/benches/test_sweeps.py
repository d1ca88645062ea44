"""The bench of sweeps knows every table that is swept, and fills it with rows that the sweep takes."""

from __future__ import annotations

import re

from benches.engine.sweeps import SWEPT, count_rows, texts
from block_tables import schema_of

import onefold
from onefold import Database, Tx
from onefold.engine.schema import ENGINE_SCHEMA
from onefold.index import BLOCKS

ROWS = 250
# Their last row goes with something else; a loop only makes sure.
BESIDE = {"ledger_pendings", "counter_deltas", "locks"}


def swept_tables() -> set[str]:
    """Those whose schema says that they are swept."""
    schemas = [schema_of(block) for block in BLOCKS]
    schemas += [path.read_text(encoding="utf-8") for path in ENGINE_SCHEMA.glob("*.sql")]
    found = [re.findall(r"((?:--.*\n)+)CREATE TABLE onefold\.(\w+)", text) for text in schemas]
    return {table for pairs in found for comment, table in pairs if re.search(r"\bswept\b", comment)}


def test_every_swept_table_is_measured() -> None:
    assert {swept.table for swept in SWEPT} == swept_tables() | BESIDE


def fill(tx: Tx, table: str) -> None:
    (swept,) = (one for one in SWEPT if one.table == table)
    for text in texts(swept, ROWS, "TRUE"):
        tx.run(text + " -- all spaces")  # type: ignore[arg-type]


def test_what_is_over_its_time_goes_and_nothing_else(db_url: str) -> None:
    left: dict[str, int] = {}
    with onefold.connect(db_url) as db:
        for swept in SWEPT:
            if not (swept.postgres_only and db.dialect == "sqlite"):
                db.run(fill, swept.table)
                sweep(db, swept.step)
                left[swept.table] = db.run(count_rows, swept.table)
    young = dict.fromkeys(left, ROWS // 10)
    expected = young | {"booking_slots": ROWS - ROWS // 25, "locks": ROWS // 2, "counter_deltas": 0}
    expected |= {"tx": left["tx"]} if "tx" in left else {}  # Every transaction of this test adds to it.
    assert left == expected
    assert left.get("tx", ROWS // 10) < ROWS


def sweep(db: Database, step: object) -> None:
    while db.options(isolation="read_committed").run(step):  # type: ignore[arg-type]
        pass
