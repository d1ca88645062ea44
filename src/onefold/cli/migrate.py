"""`onefold migrate`: apply the schema files that a database lacks, or print them."""

from __future__ import annotations

import argparse

from onefold.cli.answer import say
from onefold.cli.progress import Progress
from onefold.engine import schema
from onefold.engine.connect import migrate
from onefold.index import schema_directories


def command(options: argparse.Namespace) -> int:
    """Migrate, or with --sql say what a migration of an empty PostgreSQL database would do."""
    if options.sql:
        statements = list(_script())
        say(options, {"statements": statements}, lambda: [f"{statement};" for statement in statements])
        return 0
    with Progress(options) as tell:
        applied = migrate(options.url, tell=tell)
    say(
        options,
        {"applied": [{"block": block, "version": version} for block, version in applied]},
        lambda: [f"applied {block} {version:03}" for block, version in applied] or ["Nothing to do."],
    )
    return 0


def _script() -> list[str]:
    statements = ["BEGIN", "CREATE SCHEMA IF NOT EXISTS onefold"]

    def note(statement: str, parameters: tuple[object, ...] | None = None) -> None:
        if parameters is None:
            statements.append(statement)
        else:
            block, version, digest, _ = parameters  # Names and digests of ours: nothing to escape.
            statements.append(
                "INSERT INTO onefold.schema (block, version, digest, applied_at_ms) VALUES "  # noqa: S608
                f"('{block}', {version}, '{digest}', CAST(extract(epoch FROM now()) * 1000 AS BIGINT))"
            )

    schema.apply(schema.load(schema_directories()), "postgres", note, now_ms=0)
    return [*statements, "COMMIT"]
