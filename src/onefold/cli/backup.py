"""`onefold backup FILE` and `onefold restore FILE`.

SQLite: a copy of one snapshot, read back before it gets its name. PostgreSQL has better tools for it than
we could write: there nothing is copied; the server is looked at, and the exact commands are said. That
ends with exit code 1, so that no script takes it for a backup.
"""

from __future__ import annotations

import argparse
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from onefold.cli.answer import file_of, is_postgres, moment, say, table, without_password
from onefold.cli.progress import Progress
from onefold.engine import inspect

MIB = 1 << 20
SLOT_HELD_BYTES_WARN = 1 << 30
ARCHIVED_AGO_MS_WARN = 3_600_000
TOOL_S = 10  # For `pg_dump --version`.


def backup(options: argparse.Namespace) -> int:
    """Back the database up into a new file, or say how."""
    if is_postgres(options.url):
        return _advise(options, _dump_commands(options.url, options.file))
    from onefold.engine.sqlite.backup import backup_sqlite, try_backup

    if options.dry_run:
        return _would_backup(options, try_backup(file_of(options.url), Path(options.file), replace=options.force))
    with Progress(options) as tell:
        made = backup_sqlite(file_of(options.url), Path(options.file), tell=tell, replace=options.force)
    say(
        options,
        {"file": str(Path(options.file).absolute()), "verified": True, **msgspec.structs.asdict(made)},
        lambda: [*_report(made), f"{options.file}: {made.bytes // MIB:,} MiB, read back and found whole."],
    )
    return 0


def _would_backup(options: argparse.Namespace, size: int) -> int:
    file = Path(options.file).absolute()
    replaces = " It would replace the one that is there." if file.exists() else ""
    say(
        options, {"dry_run": True, "file": str(file), "replaces": file.exists(), "bytes": size},
        lambda: [f"About {size // MIB:,} MiB would be copied into {file}.{replaces}"],
    )  # fmt: skip
    return 0


def restore(options: argparse.Namespace) -> int:
    """Make the database that --url names out of a backup, or say how."""
    if is_postgres(options.url):
        return _advise(options, _restore_commands(options.url, options.file))
    from onefold.engine.sqlite.backup import manifest_of, restore_sqlite, try_restore

    path = file_of(options.url)
    replaces = path.exists()
    act = try_restore if options.dry_run else restore_sqlite
    with Progress(options) as tell:
        found, agreed = act(Path(options.file), path, tell=tell, replace=options.force)
    schema = inspect.schema_state(found.schema)
    state = schema.refused or (f"to be migrated: {', '.join(schema.missing)}" if schema.missing else "up to date")

    def lines() -> Iterator[str]:
        yield from _report(found)
        made = f"made {moment(found.made_at_ms)} UTC" if agreed else "of unknown date"
        if options.dry_run:
            over = ", in the place of the database that is there" if replaces else ""
            yield f"{path} would be restored from a backup {made}, found whole{over}. Schema: {state}."
        else:
            yield f"{path}: restored from a backup {made}, and found whole. Schema: {state}."
        if not agreed:
            yield f"There is no {manifest_of(Path(options.file)).name} beside it, so nothing says what it must hold."

    say(
        options,
        {
            "dry_run": options.dry_run, "file": str(path), "replaces": replaces, "verified": True,
            "manifest": agreed, "schema_state": state,
            **msgspec.structs.asdict(found),
        },
        lines,
    )
    return 0


def _report(found: Any) -> Iterator[str]:
    rows = [(name, f"{held.rows:,}", held.digest) for name, held in found.tables.items()]
    return iter(table(("TABLE", "ROWS", "DIGEST"), rows))


# -- PostgreSQL -----------------------------------------------------------------------------------


class Advice(msgspec.Struct, frozen=True):
    """One thing looked at; `warn` when it stands in the way of a backup or a recovery."""

    check: str
    level: str
    text: str


def _advise(options: argparse.Namespace, commands: list[str]) -> int:
    from onefold.engine.postgres.backup import backup_facts

    facts = backup_facts(options.url)
    found = [*_tools(facts.version), *_recovery(facts)]

    def lines() -> Iterator[str]:
        for advice in found:
            yield f"{'WARN' if advice.level == 'warn' else 'ok  '}  {advice.check}: {advice.text}"
        yield "Nothing was copied: PostgreSQL's own tools do it. Run:"
        yield from (f"  {command}" for command in commands)

    say(
        options,
        {
            "done": False, "url": without_password(options.url), "facts": facts, "findings": found,
            "commands": commands,
        },
        lines,
    )
    return 1


def _dump_commands(url: str, file: str) -> list[str]:
    where, into, begun = shlex.quote(without_password(url)), shlex.quote(file), shlex.quote(file + ".partial")
    # In one: what was not read back to its end does not get the name.
    dump = f"pg_dump --format=custom --file={begun} --dbname={where} && pg_restore --file=/dev/null {begun}"
    return [
        f"{dump} && sync {begun} && mv {begun} {into}",
        f"pg_basebackup --pgdata={shlex.quote(file + '.base')} --wal-method=stream --checkpoint=fast --dbname={where}",
        f"pg_verifybackup {shlex.quote(file + '.base')}",
    ]


def _restore_commands(url: str, file: str) -> list[str]:
    where = shlex.quote(without_password(url))
    return [
        f"psql {where} --command='\\dt onefold.*'   # Must find none: restore into an empty database.",
        f"pg_restore --exit-on-error --single-transaction --no-owner --dbname={where} {shlex.quote(file)}",
        f"onefold migrate --url {where}",
        f"onefold doctor --url {where}",
    ]


def _tools(server: int) -> Iterator[Advice]:
    for tool in ("pg_dump", "pg_restore", "pg_basebackup"):
        place = shutil.which(tool)
        if place is None:
            text = f"not found; install the client programs of PostgreSQL {server // 10_000} (postgresql-client)"
            yield Advice(tool, "warn", text)
            continue
        said = subprocess.run(  # noqa: S603  A program of this machine, by its full path.
            [place, "--version"], capture_output=True, text=True, timeout=TOOL_S, check=False
        ).stdout.strip()
        version = re.search(r"\) (\d+)", said)  # "pg_dump (PostgreSQL) 18.1 (Debian 18.1-1)"
        if version is not None and int(version[1]) < server // 10_000:
            yield Advice(tool, "warn", f"{said} is older than the server ({server // 10_000}) and refuses it")
        else:
            yield Advice(tool, "ok", said or place)


def _recovery(facts: Any) -> Iterator[Advice]:
    yield Advice("size", "ok", f"{facts.bytes // MIB:,} MiB in {facts.database}")
    if facts.archive_mode == "off" or not facts.archive_how:
        text = "WAL is not archived: what came after the last backup is lost with the disk; set archive_mode"
        yield Advice("archive", "warn", text)
    elif facts.archive_fails:
        yield Advice("archive", "warn", "the last try to archive WAL failed; see pg_stat_archiver and the server's log")
    elif facts.archived_ago_ms is None or facts.archived_ago_ms > ARCHIVED_AGO_MS_WARN:
        yield Advice("archive", "warn", "no WAL was archived during the last hour; set archive_timeout")
    else:
        yield Advice("archive", "ok", f"WAL was archived {facts.archived_ago_ms // 1_000} s ago")
    if facts.wal_level == "minimal":
        yield Advice("wal_level", "warn", "minimal: neither pg_basebackup nor archives work; set replica")
    if not facts.may_replicate:
        yield Advice("role", "warn", "this user may not run pg_basebackup; give it REPLICATION, or use another")
    if not facts.checksums:
        yield Advice("checksums", "warn", "off: damaged pages go into backups unseen; pg_checksums --enable")
    for slot in facts.slots:
        if not slot.active and slot.held_bytes > SLOT_HELD_BYTES_WARN:
            text = f"{slot.name} is not used and holds {slot.held_bytes // MIB:,} MiB of WAL; pg_drop_replication_slot"
            yield Advice("slot", "warn", text)
    yield Advice("replicas", "ok", f"{facts.replicas} streaming, {len(facts.slots)} slots")
