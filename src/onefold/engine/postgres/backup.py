"""What a PostgreSQL server says of its backups, asked without changing it; `onefold backup` judges it."""

from __future__ import annotations

from typing import Any

import msgspec

from onefold.engine.postgres.asking import asking

SLOTS_MAX = 100


class Slot(msgspec.Struct, frozen=True):
    """A replication slot. `held_bytes` of WAL are kept for it."""

    name: str
    active: bool
    held_bytes: int


class BackupFacts(msgspec.Struct, frozen=True):
    """What a server says.

    Attributes:
        version: 180000 and the like.
        database: its name.
        bytes: of the database.
        wal_level: "minimal", "replica" or "logical".
        archive_mode: "off", "on" or "always".
        archive_how: the archive command or library; "" for none.
        archived_ago_ms: since the last file of WAL was archived; None for never.
        archive_fails: whether the last try failed.
        checksums: whether pages carry checksums.
        replicas: connected and streaming now.
        slots: replication slots, at most 100.
        may_replicate: whether this user may run pg_basebackup.
    """

    version: int
    database: str
    bytes: int
    wal_level: str
    archive_mode: str
    archive_how: str
    archived_ago_ms: int | None
    archive_fails: bool
    checksums: bool
    replicas: int
    slots: list[Slot]
    may_replicate: bool


def backup_facts(url: str) -> BackupFacts:
    """Ask the server at `url`.

    Raises:
        Retry: it cannot be reached.
        Invalid: it refuses what is asked.
    """
    with asking(url, name="onefold backup") as connection:
        return _ask(connection)


def _ask(connection: Any) -> BackupFacts:
    def one(sql: str) -> tuple[Any, ...]:
        return connection.execute(sql).fetchone()

    # `current_setting` answers what this user may see; an archive command may be a secret of the superuser.
    database, size, level, mode, library, checksums = one(
        """SELECT current_database(), pg_database_size(current_database()), current_setting('wal_level'),
                  current_setting('archive_mode'), coalesce(current_setting('archive_library', true), ''),
                  current_setting('data_checksums') = 'on'"""
    )
    (command,) = one(
        """SELECT coalesce((SELECT setting FROM pg_settings WHERE name = 'archive_command'), '(not shown)')"""
    )
    ago, fails = one(
        """SELECT CAST(extract(epoch FROM clock_timestamp() - last_archived_time) * 1000 AS bigint),
                  coalesce(last_failed_time > coalesce(last_archived_time, '-infinity'), false)
           FROM pg_stat_archiver"""
    )
    slots = connection.execute(
        """SELECT slot_name, active, CAST(coalesce(pg_wal_lsn_diff(
                      CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn() ELSE pg_current_wal_lsn() END,
                      restart_lsn), 0) AS bigint)
           FROM pg_replication_slots ORDER BY slot_name LIMIT %s""",
        (SLOTS_MAX,),
    ).fetchall()
    (may,) = one("SELECT rolreplication OR rolsuper FROM pg_roles WHERE rolname = current_user")
    (replicas,) = one("SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'")
    return BackupFacts(
        version=connection.info.server_version, database=database, bytes=size, wal_level=level, archive_mode=mode,
        archive_how=library or ("" if command == "(disabled)" else command), archived_ago_ms=ago, archive_fails=fails,
        checksums=checksums, replicas=replicas, slots=[Slot(*row) for row in slots], may_replicate=may,
    )  # fmt: skip
