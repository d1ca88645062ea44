"""The commands that `onefold backup` and `restore` say for PostgreSQL, run as they are said, and killed with -9."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from waiting import until

import onefold
from onefold import Tx
from onefold.cli.main import run
from onefold.testing.postgres import Cluster

COMMAND_S = 60


@pytest.fixture
def empty_url(postgres_cluster: Cluster) -> Iterator[str]:
    yield postgres_cluster.create_database("restored")
    postgres_cluster.drop_database("restored")


@pytest.fixture
def path_of_tools(postgres_cluster: Cluster) -> dict[str, str]:
    return tools_of(postgres_cluster)


def tools_of(cluster: Cluster) -> dict[str, str]:
    """The server's own programs first, then `onefold`."""
    folders = [str(cluster.programs), str(Path(sys.executable).parent), os.environ["PATH"]]
    return {**os.environ, "PATH": os.pathsep.join(folders)}


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    """The commands that it says."""
    assert run([*arguments, "--json"]) == 1
    return json.loads(capsys.readouterr().out)["commands"]


def done(command: str, tools: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "-c", command], env=tools, capture_output=True, text=True, timeout=COMMAND_S, check=False
    )


def fill(url: str) -> None:
    def sell(tx: Tx) -> None:
        tx.add("sold", 7)
        for number in range(300):
            tx.add(f"key-{number}/" + "x" * 150, number)

    with onefold.connect(url) as db:
        db.run(sell)


def sold(url: str) -> int:
    with onefold.connect(url) as db:
        return db.run(lambda tx: tx.total("sold"))


def in_onefold(cluster: Cluster, database: str) -> int:
    """How many tables stand in our schema there."""
    with cluster.admin(database) as admin:
        row = admin.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'onefold'").fetchone()
    assert row is not None
    return row[0]


def sessions_of(cluster: Cluster, program: str, *, waiting: bool) -> bool:
    """Whether the program has a session on the server; one that waits for a lock."""
    with cluster.admin() as admin:
        return admin.execute(
            """SELECT 1 FROM pg_stat_activity WHERE application_name = %s
                AND (NOT %s OR wait_event_type = 'Lock')""", (program, waiting),
        ).fetchone() is not None  # fmt: skip


def killed_at_a_lock(cluster: Cluster, database: str, table: str, program: str, command: str, tools: dict[str, str]) -> None:
    """Run the command until it waits for a table in `database`, and kill it and its shell with -9."""
    with cluster.admin(database) as admin, admin.transaction():
        admin.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
        victim = subprocess.Popen(["sh", "-c", command], env=tools, start_new_session=True, stderr=subprocess.DEVNULL)
        try:
            until(lambda: sessions_of(cluster, program, waiting=True), f"{program} at its lock")
        finally:
            os.killpg(victim.pid, signal.SIGKILL)
            victim.wait(COMMAND_S)
    until(lambda: not sessions_of(cluster, program, waiting=False), f"the end of {program}'s session")


def test_a_dump_is_restored_by_the_commands_that_are_said(
    postgres_url: str, empty_url: str, path_of_tools: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(postgres_url)
    file = str(tmp_path / "shop 1.dump")  # The blank: names are quoted.
    dump, *_ = said(capsys, "backup", file, "--url", postgres_url)
    ended = done(dump, path_of_tools)
    assert ended.returncode == 0, ended.stderr
    assert os.listdir(tmp_path) == ["shop 1.dump"]
    look, restore, migrate, doctor = said(capsys, "restore", file, "--url", empty_url)
    assert "onefold" not in done(look, path_of_tools).stdout, "an empty database has none"
    for command in (restore, migrate):
        ended = done(command, path_of_tools)
        assert ended.returncode == 0, (command, ended.stderr)
    assert sold(empty_url) == 7
    assert "schema" in done(doctor, path_of_tools).stdout
    assert "counter_totals" in done(look, path_of_tools).stdout
    # Once more: into a database that is not empty.
    with onefold.connect(empty_url) as db:
        db.run(lambda tx: tx.add("sold", 1))
    assert done(restore, path_of_tools).returncode != 0
    assert sold(empty_url) == 8, "what is there is not harmed"


def test_a_base_backup_is_made_and_verified_by_the_commands_that_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Cluster(version=16) as cluster:  # The wheel's pg_verifybackup of 18 ends with SIGSEGV, whatever it is asked.
        url = cluster.create_database("shop")
        _, copy, verify = said(capsys, "backup", str(tmp_path / "shop 1.dump"), "--url", url)
        for command in (copy, verify):
            ended = done(command, tools_of(cluster))
            assert ended.returncode == 0, (command, ended.stderr)
    (tmp_path / "shop 1.dump.base" / "PG_VERSION").write_text("17\n", encoding="utf-8")
    assert done(verify, tools_of(cluster)).returncode != 0, "damage is found"


def test_a_dump_that_is_not_whole_gets_no_name(
    postgres_cluster: Cluster, postgres_url: str, path_of_tools: dict[str, str], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fill(postgres_url)
    file = tmp_path / "shop.dump"
    dump = said(capsys, "backup", str(file), "--url", postgres_url)[0]
    database = postgres_url.partition("?")[0].rpartition("/")[2]
    killed_at_a_lock(postgres_cluster, database, "onefold.counter_totals", "pg_dump", dump, path_of_tools)
    assert not file.exists()
    assert done(dump, path_of_tools).returncode == 0
    whole = file.read_bytes()
    reading_back = dump.partition(" && ")[2]
    for part in range(1, 10):  # What one that is killed while it writes leaves.
        file.unlink(missing_ok=True)
        (tmp_path / "shop.dump.partial").write_bytes(whole[: len(whole) * part // 10])
        assert done(reading_back, path_of_tools).returncode != 0
        assert not file.exists()
    assert done(dump, path_of_tools).returncode == 0, "the next one does not mind what is left"
    assert os.listdir(tmp_path) == ["shop.dump"]


def test_a_restore_that_is_killed_leaves_nothing_and_the_next_one_works(
    postgres_cluster: Cluster, postgres_url: str, empty_url: str, path_of_tools: dict[str, str], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fill(postgres_url)
    file = str(tmp_path / "shop.dump")
    assert done(said(capsys, "backup", file, "--url", postgres_url)[0], path_of_tools).returncode == 0
    restore = said(capsys, "restore", file, "--url", empty_url)[1]
    # It has made the schema when it comes to the first index, and to the first constraint.
    for table in ("pg_catalog.pg_index", "pg_catalog.pg_constraint"):
        killed_at_a_lock(postgres_cluster, "restored", table, "pg_restore", restore, path_of_tools)
        assert in_onefold(postgres_cluster, "restored") == 0
    ended = done(restore, path_of_tools)
    assert ended.returncode == 0, ended.stderr
    assert sold(empty_url) == 7
