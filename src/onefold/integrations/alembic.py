"""Alembic beside our schema: `autogenerate` and `check` compare the program's tables, not ours.

    context.configure(connection=..., target_metadata=..., include_name=onefold.alembic.include_name)

Our tables are made by `onefold migrate`: in the schema `onefold` on PostgreSQL, with names that begin
with `onefold_` on SQLite. On SQLite give the Engine of `env.py` to `onefold.sqlalchemy.gate` as well.
"""

from __future__ import annotations

from collections.abc import Mapping


def include_name(name: str | None, type_: str, parent_names: Mapping[str, str | None]) -> bool:
    """Whether something that Alembic found in the database is the program's own; for `include_name=`.

    With a filter of your own: `lambda *found: onefold.alembic.include_name(*found) and mine(*found)`.

    Args:
        name: of the schema, table, column, index or constraint.
        type_: what it is, in Alembic's words.
        parent_names: where it is; unused, for Alembic does not look into what was refused.
    """
    del parent_names
    if type_ == "schema":
        return name != "onefold"
    return type_ != "table" or not (name or "").startswith("onefold_")
