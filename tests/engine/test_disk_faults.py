"""Power cuts, and disks that fail: what the embedded engine acknowledged is there, and each transaction whole."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import onefold
from onefold.testing.disk import Fault, Image, Recording, record, unavailable

pytestmark = pytest.mark.skipif(unavailable() is not None, reason=str(unavailable()))

# Says a line for each sale: "ok" when the disk has it and all before it, "soon" when it need not have it yet.
SALES = """
import os, sys, onefold
path, durability, mutant = sys.argv[1:]
exec(mutant)
PUT = "INSERT INTO onefold.counter_totals (space, key, total) VALUES (:space, :key, :total)"
ADD = '''INSERT INTO onefold.counter_totals (space, key, total) VALUES (:space, 'all', 1)
         ON CONFLICT (space, key) DO UPDATE SET total = onefold.counter_totals.total + 1'''

def sell(tx, n):
    tx.run(PUT, key=f"seat/{n}", total=n)
    tx.run(ADD)
    tx.run(PUT, key=f"money/{n}", total=n)

with onefold.connect(path, durability=durability) as db:
    for n in range(12):
        sure = durability == "always" or n % 3 == 2
        try:
            (db.options(durability="always") if sure else db).run(sell, n)
            word = "ok" if sure else "soon"
        except (onefold.Unknown, onefold.Retry) as error:
            word = f"{error.kind} {error.code}"
        os.write(1, f"{n} {word}\\n".encode())
"""
IMAGES_MAX = 2_000  # Of one recording, for `make sim`.
BEFORE_THE_DISK = "from onefold.engine.sqlite import connection as c; c.SYNCHRONOUS.update(always='OFF')"
TRUSTS_THE_NEXT_SYNC = """
from onefold.engine.sqlite.batches import Batches
def mend(self): self.suspect = False
Batches.mend = mend
"""


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a migrated file, to be copied."""
    folder = tmp_path_factory.mktemp("begun")
    onefold.connect(folder / "a.db").close()
    return folder


def sold(folder: Path, durability: str, *faults: Fault, mutant: str = "", begun: Path | None) -> Recording:
    """Twelve sales, in a copy of `begun` or from nothing."""
    if begun is None:
        folder.mkdir()
    else:
        shutil.copytree(begun, folder, ignore=shutil.ignore_patterns("*.sock"))
    path = folder / "a.db"
    recording = record([sys.executable, "-c", SALES, str(path), durability, mutant], folder, faults=faults)
    assert recording.status == 0, recording.errors
    assert len(recording.said()) == 12
    return recording


def rows_in(path: Path) -> dict[str, int]:
    """What SQLite finds when it comes up on an image; raises when it is not healthy."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        made = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'onefold_counter_totals'").fetchone()
        return dict(connection.execute("SELECT key, total FROM onefold_counter_totals")) if made else {}


def wrong_with(image: Image, folder: Path) -> str | None:
    """What this image of the disk breaks of what the program had been promised."""
    image.write_to(folder)
    said = [line.partition(" ")[::2] for line in image.said]
    sure = max((int(n) for n, word in said if word == "ok"), default=-1)
    needed = {int(n) for n, word in said if word == "ok" or (word == "soon" and int(n) < sure)}
    refused = {int(n) for n, word in said if word.startswith("retry")}
    try:
        rows = rows_in(folder / "a.db")
    except (AssertionError, sqlite3.DatabaseError) as error:
        return f"not healthy: {error}"
    seats, money = ({int(key.partition("/")[2]) for key in rows if key.startswith(what)} for what in ("seat", "money"))
    if seats != money or rows.get("all", 0) != len(seats):
        return f"half: {rows}"
    if lost := needed - seats:
        return f"lost: {lost}"
    return f"refused, and there: {refused & seats}" if refused & seats else None


def wrongs(recording: Recording, base: Path, *, most: int, seed: int = 0) -> Iterator[str]:
    number = 0
    for number, image in enumerate(recording.images(most=most, seed=seed)):
        if (wrong := wrong_with(image, base / f"image-{number}")) is not None:
            yield f"{image.how}: {wrong}"
        if number % 20 == 0:
            onefold.connect(base / f"image-{number}" / "a.db").close()  # And Onefold goes on with it.
    assert number > most / 3, "nothing was drawn"


@pytest.mark.parametrize("durability", ["always", "everysec"])
def test_a_power_cut_takes_nothing_acknowledged(
    tmp_path: Path, durability: str, onefold_seed: int, onefold_scale: int
) -> None:
    """At any moment from the file's first byte on, in any state that the disk may be in."""
    most = min(40 * onefold_scale, IMAGES_MAX)
    assert list(wrongs(sold(tmp_path / "shop", durability, begun=None), tmp_path, most=most, seed=onefold_seed)) == []


def test_an_acknowledgement_before_the_disk_is_found(tmp_path: Path, begun: Path) -> None:
    found = next(wrongs(sold(tmp_path / "shop", "always", mutant=BEFORE_THE_DISK, begun=begun), tmp_path, most=40), None)
    assert found is not None


# Calls are counted from the start of the program: the folder is synced first, then the log.
@pytest.mark.parametrize(("durability", "nth"), [("always", 4), ("everysec", 3), ("everysec", 5)])
def test_a_failed_sync_is_told_and_the_next_one_not_trusted(tmp_path: Path, begun: Path, durability: str, nth: int) -> None:
    recording = sold(tmp_path / "shop", durability, Fault("sync", "EIO", nth=nth), begun=begun)
    assert recording.injected == 1
    assert [line.partition(" ")[2] for line in recording.said()].count("unknown io_error") == 1
    assert recording.said()[-1] == "11 ok"
    assert list(wrongs(recording, tmp_path, most=20)) == []


def test_a_log_that_is_trusted_after_a_failed_sync_is_found(tmp_path: Path, begun: Path) -> None:
    recording = sold(tmp_path / "shop", "everysec", Fault("sync", "EIO", nth=3), mutant=TRUSTS_THE_NEXT_SYNC, begun=begun)
    assert recording.injected == 1
    assert next(wrongs(recording, tmp_path, most=40), None) is not None


def test_a_disk_that_stays_broken_is_told_every_time(tmp_path: Path, begun: Path) -> None:
    recording = sold(tmp_path / "shop", "always", Fault("sync", "EIO", nth=5, times=None), begun=begun)
    words = [line.partition(" ")[2] for line in recording.said()]
    first = words.index("unknown io_error")
    assert words == ["ok"] * first + ["unknown io_error"] + ["retry io_error"] * (11 - first)
    assert list(wrongs(recording, tmp_path, most=20)) == []


@pytest.mark.parametrize(("error", "nth"), [("EIO", 30), ("ENOSPC", 31), ("ENOSPC", 1)])
def test_a_failed_write_is_told(tmp_path: Path, begun: Path, error: str, nth: int) -> None:
    recording = sold(tmp_path / "shop", "always", Fault("write", error, nth=nth), begun=begun)  # pyright: ignore[reportArgumentType]
    assert recording.injected == 1
    assert recording.said()[-1] == "11 ok"
    assert list(wrongs(recording, tmp_path, most=10)) == []


@pytest.mark.soak
@pytest.mark.parametrize("durability", ["always", "everysec"])
@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
def test_each_sync_fails_once(tmp_path: Path, begun: Path, durability: str, error: str) -> None:
    for nth in range(1, 60):
        base = tmp_path / str(nth)
        base.mkdir()
        recording = sold(base / "shop", durability, Fault("sync", error, nth=nth), begun=begun)  # pyright: ignore[reportArgumentType]
        assert list(wrongs(recording, base, most=200)) == [], nth
        if not recording.injected:
            return
    pytest.fail("the program syncs without end")
