"""Which tables the blocks have on an engine, and what stands in them."""

from __future__ import annotations

import re
from typing import Any

from onefold import Database, Tx
from onefold.engine.sql import Dialect, compile_schema
from onefold.index import BLOCKS, folder_of


def schema_of(block: str) -> str:
    folder = folder_of(block) / "schema"
    return "\n".join(path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.sql")))


def tables_of(block: str, dialect: Dialect) -> set[str]:
    statements = compile_schema(schema_of(block), dialect)
    return {found[1] for text in statements if (found := re.match(r"CREATE TABLE onefold[._](\w+)", text))}


def views_of(block: str) -> set[str]:
    return set(re.findall(r"CREATE VIEW onefold\.(\w+)", schema_of(block)))


def dump(db: Database) -> dict[str, list[Any]]:
    """Every row of every table of every block, in order."""
    mine = set().union(*(tables_of(block, db.dialect) for block in BLOCKS))
    tables = sorted(mine | {"counter_deltas", "counter_totals"})

    def read(tx: Tx) -> dict[str, list[Any]]:
        return {table: sorted(map(repr, tx.all(f"SELECT * FROM onefold.{table}"))) for table in tables}  # noqa: S608

    return db.reader().run(read)
