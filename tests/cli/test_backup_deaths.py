"""`onefold backup` and `restore` killed with -9 before every line: no name without a whole file, and no harm done."""

from __future__ import annotations

import hashlib
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from line_deaths import EVERY, left_behind

import onefold
from onefold.engine.sqlite import backup as copies
from onefold.engine.sqlite.backup import backup_sqlite, restore_sqlite
from onefold.host import files

# Dies with two sold in the file and one in its WAL, as a machine that loses its power does.
DIES = """
import os, signal, sys, onefold
with onefold.connect(sys.argv[1]) as db:
    db.run(lambda tx: tx.add("sold", 1))
    os.kill(os.getpid(), signal.SIGKILL)
"""
NAMING = r"(backup|restore)_sqlite$|_replace_database|_settle|_?place$|partial$|write_whole|_remove_if_left"
ACT = """
from pathlib import Path
from onefold.engine.sqlite.backup import backup_sqlite, restore_sqlite
def act(folder):
    folder = Path(folder)
    {call}(folder / "{source}", folder / "{target}", tell=lambda *_: None, replace={replace})
"""


def quiet(_what: str, _done: int, _total: int) -> None:
    """Nobody looks."""


def sold(path: Path) -> int:
    """How many were sold by what a database says, its WAL included; the file must be healthy."""
    with onefold.connect(path) as db:
        found = db.run(lambda tx: tx.total("sold"))
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()
    return found


def filled(path: Path, count: int) -> Path:
    with onefold.connect(path) as db:
        db.run(lambda tx: tx.add("sold", count))
    return path


def state(folder: Path) -> str:
    """What lies in a folder: names, without the numbers of processes, and of what has its name also what it holds."""
    found = []
    for one in folder.iterdir():
        name, part, _ = one.name.partition(".partial-")
        held = one.suffix in {".db", ".bak"} or name.endswith("-wal")
        found.append((name, part, hashlib.sha256(one.read_bytes()).hexdigest() if held and not part else ""))
    return repr(sorted(found))


@pytest.fixture
def ground(tmp_path: Path) -> Path:
    """A backup with 7 sold; a database with 3, of which one stands in the WAL of a process that died."""
    folder = tmp_path / "ground"
    folder.mkdir()
    backup_sqlite(filled(tmp_path / "seven.db", 7), folder / "seven.bak", tell=quiet)
    died = subprocess.run([sys.executable, "-c", DIES, str(filled(folder / "three.db", 2))], timeout=60, check=False)
    assert died.returncode == -signal.SIGKILL
    assert (folder / "three.db-wal").stat().st_size > 0
    return folder


@pytest.fixture(params=[
    pytest.param(NAMING, id="naming"), pytest.param(EVERY, id="every", marks=pytest.mark.soak),
])  # fmt: skip
def functions(request: pytest.FixtureRequest) -> str:
    """In which functions it is killed: those that make, move and remove names; the long version: all."""
    return request.param


def deaths(
    tmp_path: Path, ground: Path, functions: str, call: str, source: str, target: str, *, replace: bool
) -> list[tuple[str, Path]]:
    """Where it died and in which folder, once for each different thing that it left."""
    act = ACT.format(call=call, source=source, target=target, replace=replace)
    seen: dict[str, tuple[str, Path]] = {}
    died = 0
    for at, folder in left_behind(ground, tmp_path / "dead", act, copies, files, functions=functions):
        died += at is not None
        seen.setdefault(state(folder), (at or "it lived", folder))
    assert died > (20 if functions == NAMING else 80)
    return list(seen.values())


def test_a_restore_that_is_killed_leaves_nothing_or_the_whole(tmp_path: Path, ground: Path, functions: str) -> None:
    outcomes = set()
    for at, folder in deaths(tmp_path, ground, functions, "restore_sqlite", "seven.bak", "new.db", replace=False):
        whole = (folder / "new.db").exists()
        outcomes.add(whole)
        if not whole:
            restore_sqlite(folder / "seven.bak", folder / "new.db", tell=quiet)
        assert sold(folder / "new.db") == 7, at
        if not whole:
            assert not list(folder.glob("*.partial-*")), at
    assert outcomes == {True, False}


def test_a_restore_over_a_database_that_is_killed_leaves_the_old_or_the_new_one(tmp_path: Path, ground: Path, functions: str) -> None:
    outcomes = set()
    for at, folder in deaths(tmp_path, ground, functions, "restore_sqlite", "seven.bak", "three.db", replace=True):
        found = sold(folder / "three.db")
        outcomes.add(found)
        assert found in (3, 7), f"{at}: what was in the old one's WAL is as committed as the rest"
        assert restore_sqlite(folder / "seven.bak", folder / "three.db", tell=quiet, replace=True)[1]
        assert sold(folder / "three.db") == 7, at
        assert not list(folder.glob("*.partial-*")), at
    assert outcomes == {3, 7}


@pytest.mark.parametrize("replace", [False, True], ids=["new", "replaced"])
def test_a_backup_that_is_killed_leaves_no_name_or_a_whole_file(
    tmp_path: Path, ground: Path, functions: str, replace: bool
) -> None:
    target = "seven.bak" if replace else "three.bak"
    outcomes = set()
    for at, folder in deaths(tmp_path, ground, functions, "backup_sqlite", "three.db", target, replace=replace):
        assert sold(folder / "three.db") == 3, at
        file = folder / target
        if file.exists():
            _, agreed = restore_sqlite(file, folder / "again.db", tell=quiet)
            outcomes.add((sold(folder / "again.db"), agreed))
        else:
            outcomes.add(None)
        backup_sqlite(folder / "three.db", file, tell=quiet, replace=file.exists())
        assert restore_sqlite(file, folder / "last.db", tell=quiet)[1], at
        assert sold(folder / "last.db") == 3, at
        assert not list(folder.glob("*.partial-*")), at
    # True: its manifest agrees. It is removed before a file is replaced, and comes after the file.
    assert outcomes == ({(7, True), (7, False), (3, False), (3, True)} if replace else {None, (3, False), (3, True)})


def test_a_database_that_nothing_can_be_read_of_can_be_replaced(ground: Path) -> None:
    lost = ground / "three.db"
    lost.write_bytes(b"no database" * 1_000)
    restore_sqlite(ground / "seven.bak", lost, tell=quiet, replace=True)
    assert sold(lost) == 7
    (ground / "new.db-journal").write_bytes(b"of another file")
    with pytest.raises(onefold.Conflict):
        restore_sqlite(ground / "seven.bak", ground / "new.db", tell=quiet)
    assert os.listdir(ground).count("new.db") == 0
