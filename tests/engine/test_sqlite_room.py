"""Room in the log: commits stop making the file longer, and nobody takes zeros for anything."""

from __future__ import annotations

import errno
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

import onefold
from onefold import Tx
from onefold.engine.sqlite import room
from onefold.engine.sqlite.connection import WAL_BYTES_KEPT
from onefold.engine.sqlite.gated import GatedConnection

FRAME = 4096 + 24


def count(tx: Tx) -> None:
    tx.add("counted", 1)


def counted(path: Path) -> int:
    """What a program without Onefold reads there."""
    with closing(sqlite3.connect(path)) as plain:
        assert plain.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        row = plain.execute("SELECT total FROM onefold_counter_totals WHERE key = 'counted'").fetchone()
    return int(row[0]) if row else 0


@pytest.fixture
def path(tmp_path: Path, onefold_sqlite_template: Path) -> Path:
    return Path(shutil.copy(onefold_sqlite_template, tmp_path / "a.db"))


def log_of(path: Path) -> Path:
    return path.with_name("a.db-wal")


def test_commits_overwrite_once_there_is_room(path: Path) -> None:
    with onefold.connect(path) as db:
        db.run(count)
        assert log_of(path).stat().st_size < 50 * FRAME  # Whoever commits once has no room made.
        sizes = set()
        for number in range(100):
            db.run(count)
            if number:
                sizes.add(log_of(path).stat().st_size)
        assert len(sizes) == 1
        assert counted(path) == 101


def test_a_copy_of_both_files_has_what_was_committed(path: Path, tmp_path: Path) -> None:
    """As after the machine's death: the log is read from its beginning, up to the zeros."""
    copy = tmp_path / "copy" / "a.db"
    copy.parent.mkdir()
    with onefold.connect(path) as db:
        for _ in range(20):
            db.run(count)
        for file in (path, log_of(path)):
            shutil.copy(file, copy.with_name(file.name))
    assert counted(copy) == 20


def test_a_log_of_nothing_but_zeros_is_none(path: Path) -> None:
    log_of(path).write_bytes(bytes(room.STEP_BYTES))
    assert counted(path) == 0
    log_of(path).write_bytes(bytes(room.STEP_BYTES))
    with onefold.connect(path) as db:
        db.run(count)
    assert counted(path) == 1


def test_room_is_made_anew_in_a_log_that_was_cut(path: Path) -> None:
    with onefold.connect(path) as db:
        for _ in range(10):
            db.run(count)
        with closing(sqlite3.connect(path)) as other:
            assert other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
        assert log_of(path).stat().st_size == 0
        for _ in range(10):
            db.run(count)
        assert log_of(path).stat().st_size > room.STEP_BYTES
    assert counted(path) == 20


def test_a_disk_without_room_commits_as_before(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def full(_path: Path, end: int, _count: int) -> None:
        asked.append(end)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(room, "append_zeros", full)
    with onefold.connect(path) as db:
        for _ in range(5):
            db.run(count)
    assert asked
    assert counted(path) == 5


def test_commits_of_many_pages_get_no_room(path: Path) -> None:
    def fill(tx: Tx) -> None:
        tx.many(
            "INSERT INTO onefold.counter_totals (space, key, total) VALUES (:space, :key, 1)",
            [{"key": tx.new_id("k") + "x" * 150} for _ in range(1_000)],
        )

    with onefold.connect(path) as db:
        for _ in range(3):
            db.run(fill)
            assert log_of(path).stat().st_size % FRAME == 32, "a head and whole frames, nothing else"
        db.run(count)
        db.run(count)
        assert log_of(path).stat().st_size % FRAME != 32


def test_a_log_longer_than_what_is_kept_gets_no_room(path: Path) -> None:
    made = room.Room(path)
    log_of(path).write_bytes(b"")
    made.make()
    with log_of(path).open("r+b") as log:
        log.truncate(WAL_BYTES_KEPT)
    made.make()
    assert log_of(path).stat().st_size == WAL_BYTES_KEPT


def test_an_orm_s_connection_makes_room_too(path: Path) -> None:
    with closing(sqlite3.connect(path, factory=GatedConnection)) as connection:
        for number in range(50):
            connection.execute("BEGIN")
            connection.execute("INSERT INTO onefold_counter_totals (space, key, total) VALUES (0, ?, 1)", (f"n{number}",))
            connection.commit()
        assert room.STEP_BYTES < log_of(path).stat().st_size < 2 * room.STEP_BYTES
