"""`onefold backup` and `restore`: whole and consistent while others write, never over what is there."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from racing import kill_after

import onefold
from onefold import Tx
from onefold.cli.main import run
from onefold.cli.progress import Progress
from onefold.core.errors import Conflict, Invalid, Retry
from onefold.engine.inspect import inspect_sqlite
from onefold.engine.sqlite import backup as copies
from onefold.engine.sqlite.backup import backup_sqlite, manifest_of, restore_sqlite, try_restore
from onefold.testing.postgres import Cluster

SOURCES = str(Path(onefold.__file__).parent.parent)

# Moves one from a key to another again and again, both rows in one transaction: any consistent copy sums to 0.
MOVER = """
import sys, onefold
url, name = sys.argv[1:]

def move(tx, n):
    tx.run("INSERT INTO onefold.counter_deltas (space, key, delta) VALUES (:space, :key, :delta)", key=f"{name}/{n}/" + "x" * 150, delta=1)
    tx.run("INSERT INTO onefold.counter_deltas (space, key, delta) VALUES (:space, :key, :delta)", key="till", delta=-1)

with onefold.connect(url, durability="everysec") as db:
    n = 0
    while True:
        n += 1
        db.run(move, n)
        print(n, flush=True)
"""

COPIER = """
import sys
from pathlib import Path
from onefold.engine.sqlite import backup

backup.STEP_PAGES = 1
backup.backup_sqlite(Path(sys.argv[1]), Path(sys.argv[2]), tell=lambda what, done, _all: print(what, done, flush=True))
"""


def quiet(_what: str, _done: int, _total: int) -> None:
    """Nobody looks."""


def filled(path: Path, rows: int = 500) -> Path:
    with onefold.connect(path) as db:
        def fill(tx: Tx) -> None:
            for number in range(rows):
                tx.add(f"key-{number}/" + "x" * 150, number)

        db.run(fill)
    return path


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any]:
    code = run([*arguments, "--json"])
    captured = capsys.readouterr()
    return code, json.loads(captured.out or captured.err)


def test_a_backup_is_restored_row_by_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, file, target = filled(tmp_path / "shop.db"), tmp_path / "shop.bak", tmp_path / "new.db"
    with sqlite3.connect(source) as theirs:
        theirs.execute('CREATE TABLE "the ""user"" s" (x, y)')
        theirs.execute('INSERT INTO "the ""user"" s" VALUES (?, ?)', (b"\0\xff", None))
    theirs.close()
    code, made = answer(capsys, "backup", str(file), "--url", str(source))
    assert (code, made["verified"]) == (0, True)
    assert made["tables"]["onefold_counter_totals"]["rows"] == 500
    assert made["tables"]['the "user" s']["rows"] == 1
    assert ["engine", 1] in [row[:2] for row in made["schema"]]
    code, restored = answer(capsys, "restore", str(file), "--url", str(target))
    assert (code, restored["manifest"], restored["schema_state"]) == (0, True, "up to date")
    assert restored["tables"] == made["tables"]
    with onefold.connect(target) as db:
        assert db.run(lambda tx: tx.total("key-499/" + "x" * 150)) == 499
    with sqlite3.connect(source) as one, sqlite3.connect(target) as other:
        assert copies.table_reports(one, quiet) == copies.table_reports(other, quiet)
    one.close()
    other.close()
    assert not list(tmp_path.glob("*.partial-*"))
    assert run(["backup", str(tmp_path / "again"), "--url", str(source)]) == 0
    assert "read back and found whole" in capsys.readouterr().out


def test_it_is_consistent_while_four_processes_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "STEP_PAGES", 20)
    source, file = filled(tmp_path / "shop.db", 20_000), tmp_path / "shop.bak"
    movers = [
        subprocess.Popen(
            [sys.executable, "-c", MOVER, str(source), f"mover-{number}"], stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": SOURCES},
        )
        for number in range(4)
    ]  # fmt: skip
    try:
        before = []
        for mover in movers:
            assert mover.stdout is not None
            before.append(max(int(mover.stdout.readline()) for _ in range(20)))
        moved_during: list[str] = []

        def tell(what: str, done: int, total: int) -> None:
            # In the middle of the copy every one of them commits once more: nobody waits for the snapshot.
            if what == "copying" and not moved_during and 0 < done < total:
                for mover in movers:
                    assert mover.stdout is not None
                    moved_during.append(mover.stdout.readline())

        manifest = backup_sqlite(source, file, tell=tell)
        assert len(moved_during) == 4
        assert all(mover.poll() is None for mover in movers)
    finally:
        for mover in movers:
            mover.send_signal(signal.SIGKILL)
            mover.communicate()
    copy = sqlite3.connect(file)
    till, moved = copy.execute(
        "SELECT sum(CASE WHEN key = 'till' THEN delta END), sum(CASE WHEN key LIKE 'mover-%' THEN delta END) FROM onefold_counter_deltas"
    ).fetchone()
    copy.close()
    assert till + moved == 0
    assert moved >= sum(before), "what was acknowledged before the copy began is in it"
    assert manifest.tables["onefold_counter_deltas"].rows == 2 * moved


def test_a_copy_killed_in_the_middle_leaves_no_backup(tmp_path: Path) -> None:
    source, file = filled(tmp_path / "shop.db", 2_000), tmp_path / "shop.bak"
    assert any(line.startswith("copying") for line in kill_after(5, COPIER, str(source), str(file)))
    assert not file.exists()
    with onefold.connect(source) as db:
        db.run(lambda tx: tx.add("after", 1))
    assert backup_sqlite(source, file, tell=quiet).tables["onefold_counter_totals"].rows == 2_001


def test_nothing_is_written_over_without_force(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, file, target = filled(tmp_path / "a.db", 3), tmp_path / "a.bak", tmp_path / "b.db"
    assert answer(capsys, "backup", str(file), "--url", str(source))[0] == 0
    first = file.read_bytes()
    filled(source, 7)
    code, said = answer(capsys, "backup", str(file), "--url", str(source))
    assert (code, said["error"]["code"], file.read_bytes()) == (4, "exists", first)
    assert answer(capsys, "backup", str(file), "--url", str(source), "--force")[1]["bytes"] == file.stat().st_size
    filled(target, 9)
    theirs = target.read_bytes()
    code, said = answer(capsys, "restore", str(file), "--url", str(target))
    assert (code, said["error"]["code"], target.read_bytes()) == (4, "exists", theirs)
    code, said = answer(capsys, "restore", str(file), "--url", str(target), "--force")
    assert (code, said["tables"]["onefold_counter_totals"]["rows"]) == (0, 7)
    with onefold.connect(target) as db:
        assert db.run(lambda tx: tx.one("SELECT count(*) FROM onefold.counter_totals -- all spaces")) == (7,)
    for arguments in (("backup", str(source)), ("backup", str(tmp_path / "no" / "x")), ("backup", str(tmp_path))):
        assert answer(capsys, *arguments, "--url", str(source), "--force")[0] == 2
    assert answer(capsys, "backup", str(tmp_path / "x"), "--url", str(tmp_path / "none.db"))[0] == 3
    assert answer(capsys, "restore", str(tmp_path / "none"), "--url", str(tmp_path / "y.db"))[0] == 3


def test_what_would_be_replaced_can_be_asked_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, file, target = filled(tmp_path / "a.db", 3), tmp_path / "a.bak", tmp_path / "b.db"

    def asked(*arguments: str) -> tuple[int, Any]:
        before = {path: (path.read_bytes(), path.stat().st_ino) for path in tmp_path.iterdir() if path.suffix in {".db", ".bak", ".json"}}
        found = answer(capsys, *arguments, "--dry-run")
        after = {path: (path.read_bytes(), path.stat().st_ino) for path in tmp_path.iterdir() if path.suffix in {".db", ".bak", ".json"}}
        assert after == before
        assert not list(tmp_path.glob("*.partial-*"))
        return found

    code, said = asked("backup", str(file), "--url", str(source))
    assert (code, said["dry_run"], said["replaces"]) == (0, True, False)
    assert said["bytes"] > 0
    backup_sqlite(source, file, tell=quiet)
    assert asked("backup", str(file), "--url", str(source))[0] == 4
    assert asked("backup", str(file), "--url", str(source), "--force")[1]["replaces"] is True
    code, said = asked("restore", str(file), "--url", str(target))
    assert (code, said["dry_run"], said["replaces"], said["manifest"]) == (0, True, False, True)
    filled(target, 9)
    assert asked("restore", str(file), "--url", str(target))[0] == 4
    code, said = asked("restore", str(file), "--url", str(target), "--force")
    assert (code, said["replaces"], said["tables"]["onefold_counter_totals"]["rows"]) == (0, True, 3)
    assert run(["restore", str(file), "--url", str(target), "--force", "--dry-run"]) == 0
    assert "in the place of the database that is there" in capsys.readouterr().out
    whole = file.read_bytes()
    file.write_bytes(whole.replace(b"key-2", b"key-3"))  # As sound as before, and another database.
    assert asked("restore", str(file), "--url", str(target), "--force")[1]["error"]["code"] == "corrupt"


def test_without_a_word_nothing_is_replaced_and_what_comes_up_meanwhile_is_kept(tmp_path: Path) -> None:
    source, file, target = filled(tmp_path / "a.db", 3), tmp_path / "a.bak", tmp_path / "b.db"
    backup_sqlite(source, file, tell=quiet)

    def comes_up(*_: Any) -> None:
        target.write_text("another's")
        manifest_of(target).write_text("of another's")

    doors = (
        lambda: copies.try_backup(source, file), lambda: backup_sqlite(source, file, tell=quiet),
        lambda: try_restore(file, source, tell=quiet), lambda: restore_sqlite(file, source, tell=quiet),
        lambda: restore_sqlite(file, target, tell=comes_up),
        lambda: backup_sqlite(source, target, tell=comes_up),
    )  # fmt: skip
    for door in doors:
        if door is doors[-1]:
            target.unlink()
        with pytest.raises(Conflict) as refused:
            door()
        assert refused.value.code == "exists"
    assert (target.read_text(), manifest_of(target).read_text()) == ("another's", "of another's")


@pytest.mark.parametrize("is_there", [True, False])
def test_what_lies_beside_a_ruin_goes_with_it(tmp_path: Path, is_there: bool) -> None:
    source, file, ruin = filled(tmp_path / "a.db", 3), tmp_path / "a.bak", tmp_path / "b.db"
    made = backup_sqlite(source, file, tell=quiet)
    manifest_of(file).unlink()
    backup_sqlite(source, file, tell=quiet, replace=True)  # Though its manifest is gone.
    assert manifest_of(file).exists()
    if is_there:
        ruin.write_text("This is no database any more. " * 100)
    sides = [tmp_path / f"b.db-{side}" for side in ("wal", "shm", "journal")]
    for side in sides:
        side.write_text("of the ruin")
    restored, agreed = restore_sqlite(file, ruin, tell=quiet, replace=True)
    assert (restored.tables, agreed) == (made.tables, True)
    assert not [side for side in sides if side.exists()]


def test_a_database_in_use_is_not_replaced(tmp_path: Path) -> None:
    source, file = filled(tmp_path / "a.db", 3), tmp_path / "a.bak"
    backup_sqlite(source, file, tell=quiet)
    user = subprocess.Popen(
        [sys.executable, "-c", "import sys, onefold; db = onefold.connect(sys.argv[1]); print('open', flush=True); sys.stdin.read()", str(source)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": SOURCES},
    )  # fmt: skip
    try:
        assert user.stdout is not None
        user.stdout.readline()
        for door in (try_restore, restore_sqlite):
            with pytest.raises(Conflict) as refused:
                door(file, source, tell=quiet, replace=True)
            assert (refused.value.code, refused.value.facts["pids"]) == ("in_use", [user.pid])
    finally:
        user.communicate()
    restore_sqlite(file, source, tell=quiet, replace=True)
    assert list(tmp_path.glob("*.partial-*")) == []


def test_damage_is_found_before_a_name_is_given(tmp_path: Path) -> None:
    source, file = filled(tmp_path / "a.db"), tmp_path / "a.bak"
    made = backup_sqlite(source, file, tell=quiet)
    assert try_restore(file, tmp_path / "b.db", tell=quiet) == (made, True)
    whole = file.read_bytes()
    at = whole.rindex(b"key-2")
    file.write_bytes(whole[: at + 2] + b"!" + whole[at + 3 :])
    with pytest.raises(Invalid, match="manifest says"):
        restore_sqlite(file, tmp_path / "b.db", tell=quiet)
    manifest_of(file).unlink()
    file.write_bytes(whole[: at - 300] + b"\xff" * 600 + whole[at + 300 :])
    with pytest.raises(Invalid) as refused:
        restore_sqlite(file, tmp_path / "b.db", tell=quiet)
    assert refused.value.code == "corrupt"
    assert not (tmp_path / "b.db").exists()
    source.write_bytes(file.read_bytes())
    with pytest.raises(Invalid) as refused:
        backup_sqlite(source, tmp_path / "c.bak", tell=quiet)
    assert refused.value.code == "corrupt"
    assert not (tmp_path / "c.bak").exists()
    file.write_bytes(whole)
    for door in (try_restore, restore_sqlite):
        found, agreed = door(file, tmp_path / "b.db", tell=quiet)
        assert (found.tables, agreed) == (made.tables, False), "no manifest: nothing to agree with"
    manifest_of(file).write_text("{", encoding="utf-8")
    with pytest.raises(Invalid, match="manifest cannot be read"):
        restore_sqlite(file, tmp_path / "d.db", tell=quiet)


@pytest.mark.parametrize("beside", [None, "collation", "function"])
def test_an_index_that_is_not_that_of_its_rows_is_damage(tmp_path: Path, beside: str | None) -> None:
    source = tmp_path / "a.db"
    with contextlib.closing(sqlite3.connect(source, isolation_level=None)) as connection:
        connection.executescript("CREATE TABLE own (a, b); CREATE INDEX own_a ON own (a)")
        connection.executemany("INSERT INTO own VALUES (?, ?)", [(n, -n) for n in range(1, 2 if beside else 9)])
        if beside is not None:  # Then each table is checked alone.
            connection.create_collation("mine", lambda one, other: (one > other) - (one < other))
            connection.create_function("mine", 1, lambda text: len(text), deterministic=True)
            connection.executescript(OWN[beside].replace("own", "another"))
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("UPDATE sqlite_master SET sql = 'CREATE INDEX own_a ON own (b)' WHERE name = 'own_a'")
    assert inspect_sqlite(source, thorough=True).damage == [], "the quick check does not compare them"
    with pytest.raises(Invalid, match="damaged") as refused:
        backup_sqlite(source, tmp_path / "a.bak", tell=quiet)
    told = [f"row {n} missing from index own_a" for n in range(1, 2 if beside else 4)]
    assert refused.value.facts["damage"] == told, "three lines at most, and each once"


OWN = {
    "bytes": "CREATE TABLE own (t TEXT)",
    "collation": "CREATE TABLE own (t TEXT COLLATE mine PRIMARY KEY)",
    "function": "CREATE TABLE own (t TEXT, CHECK (mine(t) IS NOT NULL)); CREATE INDEX own_mine ON own (mine(t))",
}


@pytest.mark.parametrize("own", OWN)
def test_tables_that_need_what_only_their_program_has_are_copied_too(tmp_path: Path, own: str) -> None:
    """Text that is no UTF-8, collations and functions: SQLite keeps them, and cannot check them without the program."""
    source, file = filled(tmp_path / "a.db", 3), tmp_path / "a.bak"
    with contextlib.closing(sqlite3.connect(source)) as connection:
        connection.create_collation("mine", lambda one, other: (one > other) - (one < other))
        connection.create_function("mine", 1, lambda text: len(text), deterministic=True)
        connection.executescript(OWN[own])
        connection.execute("INSERT INTO own VALUES (CAST(? AS TEXT))", (b"\xff\x80" if own == "bytes" else "text",))
        connection.commit()
    made = backup_sqlite(source, file, tell=quiet)
    assert made.tables["own"].rows == 1
    assert inspect_sqlite(source, thorough=True, tell=quiet).damage == []
    assert restore_sqlite(file, tmp_path / "b.db", tell=quiet) == (made, True)
    whole = file.read_bytes()
    at = whole.rindex(b"key-2")
    file.write_bytes(whole[: at - 300] + b"\xff" * 600 + whole[at + 300 :])
    manifest_of(file).unlink()
    with pytest.raises(Invalid) as refused:
        restore_sqlite(file, tmp_path / "c.db", tell=quiet)
    assert refused.value.code == "corrupt"


def test_what_holds_nothing_of_ours_replaces_no_database(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An empty file, as a full disk leaves it, is a healthy database to SQLite."""
    source, empty, theirs = filled(tmp_path / "a.db", 3), tmp_path / "empty.bak", tmp_path / "theirs.bak"
    empty.touch()
    with sqlite3.connect(theirs) as connection:
        connection.execute("CREATE TABLE t (x)")
    connection.close()
    before = source.read_bytes()
    for file in (empty, theirs):
        for more in ((), ("--dry-run",)):
            code, said = answer(capsys, "restore", str(file), "--url", str(source), "--force", *more)
            assert (code, said["error"]["code"], source.read_bytes()) == (2, "foreign", before)
    fresh = tmp_path / "fresh.bak"
    backup_sqlite(theirs, fresh, tell=quiet)
    assert restore_sqlite(fresh, tmp_path / "fresh.db", tell=quiet)[1], "its manifest says that this is all"


def test_a_live_database_is_no_backup_and_a_stray_wal_is_not_adopted(tmp_path: Path) -> None:
    source, file = filled(tmp_path / "a.db"), tmp_path / "a.bak"
    backup_sqlite(source, file, tell=quiet)
    with onefold.connect(source) as db:
        db.run(lambda tx: tx.add("in the wal", 1))
        with pytest.raises(Invalid) as refused:
            restore_sqlite(source, tmp_path / "b.db", tell=quiet)
        assert refused.value.code == "live"
        stray = (tmp_path / "a.db-wal").read_bytes()
    (tmp_path / "c.db-wal").write_bytes(stray)
    with pytest.raises(Conflict) as stopped:
        restore_sqlite(file, tmp_path / "c.db", tell=quiet)
    assert (stopped.value.code, (tmp_path / "c.db").exists()) == ("exists", False)


def test_a_full_disk_is_told_before_the_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = filled(tmp_path / "a.db", 3)
    usage = copies.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(copies.shutil, "disk_usage", lambda _folder: usage._replace(free=10))
    with pytest.raises(Retry) as refused:
        backup_sqlite(source, tmp_path / "a.bak", tell=quiet)
    assert refused.value.code == "disk_full"
    assert not list(tmp_path.glob("a.bak*"))


def test_progress_is_drawn_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    class Options:
        json = False

    for terminal, drawn in ((False, ""), (True, "\r\x1b[Kcopying  50 %\r\x1b[K")):
        monkeypatch.setattr(sys.stderr, "isatty", lambda terminal=terminal: terminal, raising=False)
        with Progress(Options()) as tell:  # type: ignore[arg-type]
            tell("copying", 1, 2)
            tell("copying", 2, 2)  # Too soon to be drawn.
        assert capsys.readouterr().err == drawn


def test_postgresql_is_looked_at_and_the_commands_are_said(
    postgres_cluster: Cluster, postgres_url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    code, said = answer(capsys, "backup", "shop.dump", "--url", postgres_url)
    assert (code, said["done"]) == (1, False), "no script may take it for a backup"
    assert any(command.startswith("pg_dump --format=custom --file=shop.dump") for command in said["commands"])
    levels = {found["check"]: found["level"] for found in said["findings"]}
    assert (levels["archive"], levels["size"], levels["replicas"]) == ("warn", "ok", "ok")
    assert said["facts"]["wal_level"] == "logical"
    with postgres_cluster.admin() as admin:
        admin.autocommit = True
        admin.execute("SELECT pg_create_physical_replication_slot('forgotten', true)")
        try:
            slots = answer(capsys, "backup", "shop.dump", "--url", postgres_url)[1]["facts"]["slots"]
            assert [(slot["name"], slot["active"]) for slot in slots] == [("forgotten", False)]
        finally:
            admin.execute("SELECT pg_drop_replication_slot('forgotten')")
    for version, level in (("17.2", "warn"), ("99.1", "ok")):
        tool = tmp_path / "pg_dump"
        tool.write_text(f"#!/bin/sh\necho 'pg_dump (PostgreSQL) {version} (Debian 1)'\n", encoding="utf-8")
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))
        found = answer(capsys, "backup", "x", "--url", postgres_url)[1]["findings"]
        assert {item["check"]: item["level"] for item in found}["pg_dump"] == level
        assert {item["check"]: item["level"] for item in found}["pg_basebackup"] == "warn"
    assert run(["restore", "shop.dump", "--url", postgres_url]) == 1
    assert "pg_restore --exit-on-error" in capsys.readouterr().out


def test_a_password_is_not_said(capsys: pytest.CaptureFixture[str], postgres_url: str) -> None:
    mark = "&" if "?" in postgres_url else "?"
    run(["backup", "x", "--url", f"{postgres_url}{mark}password=hunter2"])
    captured = capsys.readouterr()
    assert "pg_dump" in captured.out
    assert "hunter2" not in captured.out + captured.err
