"""`onefold export --jsonl`: all rows of chosen blocks, from one snapshot, a line each.

The first line says what this is, the last one how many rows of which table there were: a file without
it is not whole.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from typing import Any

import msgspec

from onefold.cli.answer import file_of, is_postgres
from onefold.cli.progress import Progress
from onefold.core.errors import NotFound
from onefold.engine.call import space_of
from onefold.engine.export import snapshot_of, tables_of
from onefold.engine.sql import Dialect

FORM = 1  # Of the lines.
WRITE_BYTES = 1 << 16
ROWS_PER_TELL = 10_000


def command(options: argparse.Namespace) -> int:
    """Write the rows to stdout."""
    dialect: Dialect = "postgres" if is_postgres(options.url) else "sqlite"
    where = options.url if dialect == "postgres" else file_of(options.url)
    if not isinstance(where, str) and not where.is_file():
        raise NotFound("There is no database at this path.", path=str(where))
    blocks = tables_of(options.blocks, dialect)
    # A row names its space by number; the names stand in a table of the engine's.
    wanted = ["spaces", *(table for tables in blocks.values() for table in tables if table != "spaces")]
    space = None if options.space is None else space_of(options.space)
    out = _Lines()
    counted: Counter[str] = Counter()
    with Progress(options) as tell, snapshot_of(where, dialect) as snapshot:
        out.put({"onefold": FORM, "at_ms": time.time_ns() // 1_000_000, "engine": dialect, "blocks": list(blocks)})
        there = snapshot.tables()
        for table in wanted:
            if table not in there:  # The schema is of an older release.
                continue
            counted[table] = 0
            for row in snapshot.rows(table, space):
                out.put({"table": table, "row": row})
                counted[table] += 1
                if counted[table] % ROWS_PER_TELL == 0:
                    tell(table, counted[table], 0)
    out.put({"end": True, "rows": dict(counted)})
    out.flush()
    return 0


class _Lines:
    """JSON lines to stdout, a good many in one write."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._encoder = msgspec.json.Encoder()

    def put(self, line: dict[str, Any]) -> None:
        self._buffer += self._encoder.encode(line) + b"\n"
        if len(self._buffer) >= WRITE_BYTES:
            self.flush()

    def flush(self) -> None:
        sys.stdout.buffer.write(self._buffer)
        sys.stdout.buffer.flush()
        self._buffer.clear()
