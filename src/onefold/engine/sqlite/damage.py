"""Whether a file of SQLite is whole, as far as can be said without the program that made it."""

from __future__ import annotations

import re
import sqlite3

DAMAGE_MAX = 20  # Lines of a check.
_UNKNOWN = re.compile(r"unknown function|no such (?:function|collation sequence)")


def damage_of(connection: sqlite3.Connection, *, rows_only: bool) -> list[str]:
    """What SQLite's own check finds, at most `DAMAGE_MAX` lines for each table; empty when all is well.

    A program's own tables may need its functions and collations, which are not here: then each table is checked
    alone, and theirs as far as that goes without.

    Args:
        connection: to the file; may come back with its CHECK constraints switched off.
        rows_only: for the quick check, which does not compare the indexes with the rows.
    """
    first = "quick_check" if rows_only else "integrity_check"
    try:
        return _lines(connection, f"PRAGMA {first}({DAMAGE_MAX})")
    except sqlite3.OperationalError as error:
        if not _UNKNOWN.match(str(error)):
            raise
    found: list[str] = []
    for name in tables_in(connection):
        for ignored, check in (("OFF", first), ("ON", first), ("ON", "quick_check")):
            connection.execute(f"PRAGMA ignore_check_constraints = {ignored}")
            try:
                found += _lines(connection, f'PRAGMA {check}("{name}")')
            except sqlite3.OperationalError as error:
                if not _UNKNOWN.match(str(error)):
                    raise
            else:
                break
    return found


def tables_in(connection: sqlite3.Connection) -> list[str]:
    """The tables by name, ready to stand between quotes; not the views of a module that may not be here."""
    rows = connection.execute(
        """SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'
           AND sql NOT LIKE 'CREATE VIRTUAL %' ORDER BY name"""
    )
    return [str(name).replace('"', '""') for (name,) in rows]


def _lines(connection: sqlite3.Connection, pragma: str) -> list[str]:
    lines = [str(line) for (line,) in connection.execute(pragma)]
    return [] if lines == ["ok"] else lines
