"""A streaming standby of a `Cluster`: made by pg_basebackup, kept up by a replication slot, promoted on demand."""

from __future__ import annotations

import time
from typing import Any

import psycopg
from psycopg import sql

from onefold.testing.postgres import START_MS_MAX, VERSION_DEFAULT, Cluster

LOOK_S = 0.01


class Standby(Cluster):
    """A PostgreSQL that repeats what `primary` does, until it is promoted.

        with Cluster() as primary, Standby(primary, "b") as standby:
            standby.confirm_commits()
            primary.kill9()
            standby.promote()

    Args:
        primary: it must run now.
        name: of its replication slot, and under which the primary knows it; small letters, digits and "_".
        through: a port of loopback that leads to the primary's socket, as a proxy's does, for the stream of changes;
            0 takes the socket itself.
        fsync: as for `Cluster`.
    """

    def __init__(
        self, primary: Cluster, name: str = "standby", *, through: int = 0, fsync: bool = False,
        version: int = VERSION_DEFAULT,
    ) -> None:  # fmt: skip
        self._primary = primary
        self.name = name
        settings = {"wal_retrieve_retry_interval": "100ms"}  # Five seconds are the default, too long for a test.
        if through:
            where = f"host=127.0.0.1 port={through} user=postgres sslmode=disable gssencmode=disable"
            settings["primary_conninfo"] = f"{where} application_name={name}"
        super().__init__(fsync=fsync, version=version, settings=settings)
        self.password = primary.password

    def confirm_commits(self) -> None:
        """From now on a COMMIT on the primary returns once this standby has it on its disk too.

        Raises:
            TimeoutError: it did not attach in time.
        """
        with self._primary.admin() as connection:
            command = sql.SQL("ALTER SYSTEM SET synchronous_standby_names = {}")
            connection.execute(command.format(sql.Literal(f'FIRST 1 ("{self.name}")')))
            connection.execute("SELECT pg_reload_conf()")
            _until(connection, "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'")

    def catch_up(self) -> None:
        """Return once it has applied all that the primary has written by now; TimeoutError when that takes long."""
        with self._primary.admin() as connection:
            row = connection.execute("SELECT pg_current_wal_insert_lsn()::text").fetchone()
        assert row is not None
        with self.admin() as connection:
            _until(connection, sql.SQL("SELECT (pg_last_wal_replay_lsn() >= {}::pg_lsn)::int").format(row[0]))

    def promote(self) -> None:
        """Become a primary of its own. End the old one first, or there are two."""
        with self.admin() as connection:
            connection.execute("SELECT pg_promote(true, 30)")
            connection.execute("ALTER SYSTEM SET synchronous_standby_names = ''")  # It came with the copy.
            connection.execute("SELECT pg_reload_conf()")

    def _initdb(self, version: int) -> None:  # noqa: ARG002  That of the copied one's files.
        where = f"host={self._primary.socket_path.parent} port={self._primary.port} user=postgres"
        self._run(
            "pg_basebackup", "-D", str(self._data), "-d", f"{where} application_name={self.name}", "--no-sync",
            "--checkpoint=fast", "--wal-method=stream", "--write-recovery-conf", "--create-slot", f"--slot={self.name}",
        )  # fmt: skip

    def _set_password(self, connection: psycopg.Connection[Any]) -> None:
        """It has the primary's."""


def _until(connection: psycopg.Connection[Any], query: sql.Composable | str) -> None:
    give_up = time.monotonic() + START_MS_MAX / 1_000
    while True:
        row = connection.execute(query).fetchone()  # type: ignore[arg-type]  Literals of this module.
        if row is not None and row[0]:
            return
        if time.monotonic() > give_up:
            raise TimeoutError("The standby did not come so far in 30 s; see its log.")
        time.sleep(LOOK_S)
