"""A disk that fills up, for real: refusals in our words, nothing acknowledged lost, and on again by itself."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import psycopg
import pytest
from waiting import until

import onefold
from onefold import Database, Handle, Money, NotFound, Retry, Tx, Unknown, events, jobs, ledger
from onefold.testing.postgres import Cluster

SQLITE_DISK_BYTES = 64_000_000
POSTGRES_DISK_BYTES = 160_000_000
WAIT_S = 60.0
CHUNK = b"\xa5" * 65_536
PADDING = "x" * 8_000

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("mount") is None, reason="mounting a small tmpfs needs root"
)


@jobs.kind("disk.receipt")
class Receipt(msgspec.Struct, frozen=True):
    n: int


@events.kind("disk.sold")
class Sold(msgspec.Struct, frozen=True):
    n: int
    padding: str


def open_accounts(tx: Tx) -> None:
    for name in ("buyers", "till"):
        ledger.open_account(tx, name, currency="EUR", kind="unlimited")


def sell(tx: Tx, n: int) -> None:
    """Money, an event and a job: all three of a number, or none."""
    ledger.transfer(tx, f"sale/{n:09}", debit="buyers", credit="till", amount=Money(1, "EUR"))
    events.append(tx, f"sale/{n}", Sold(n, PADDING))
    jobs.put(tx, Receipt(n), unique=f"receipt/{n}")


def parts_of(tx: Tx, n: int) -> int:
    """How many of the three are there."""
    transfers = True
    try:
        with tx.savepoint():
            ledger.transfer_of(tx, f"sale/{n:09}")
    except NotFound:
        transfers = False
    job = jobs.put(tx, Receipt(n), unique=f"receipt/{n}")
    if job is not None:
        jobs.cancel(tx, job)
    return transfers + (events.version_of(tx, f"sale/{n}") == 1) + (job is None)


class Till:
    """Sells from a thread of its own until told to stop; remembers what it was told."""

    def __init__(self, db: Database) -> None:
        self._db = db.options(deadline_ms=2_000)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work)
        self.asked = 0
        self.acknowledged: set[int] = set()
        self.unknown: set[int] = set()
        self.refused: Counter[str] = Counter()
        self.broke: BaseException | None = None

    def __enter__(self) -> Till:
        self._db.run(open_accounts)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive()

    def _work(self) -> None:
        for n in itertools.count():
            if self._stop.is_set():
                return
            self.asked = n + 1
            try:
                self._db.run(sell, n)
            except Retry as error:
                self.refused[error.code] += 1
                self._stop.wait(0.005)
            except Unknown:
                self.unknown.add(n)
            except BaseException as error:
                self.broke = error
                return
            else:
                self.acknowledged.add(n)

    def until(self, condition: Callable[[], bool]) -> None:
        until(lambda: condition() or self.broke, f"{condition} of a till", seconds=WAIT_S)
        assert self.broke is None, repr(self.broke)

    def sells_again(self) -> None:
        before = len(self.acknowledged)
        self.until(lambda: len(self.acknowledged) >= before + 20)

    def audit(self, db: Handle) -> None:
        """Each acknowledged sale is there in full, each refused one not at all."""
        whole = 0
        for n in range(self.asked):
            parts = db.run(parts_of, n)
            assert parts in ({3} if n in self.acknowledged else {0, 3} if n in self.unknown else {0}), (n, parts)
            whole += parts == 3
        assert db.run(ledger.balance, "till").posted == Money(whole, "EUR")


class Disk:
    """A small disk, and a file on it that takes all the room that is left."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self._ballast = place / "ballast"

    def fill(self) -> None:
        """Take what is left, however often somebody makes room meanwhile."""
        with self._ballast.open("ab", buffering=0) as file:
            for size in (len(CHUNK), 4_096, 1):
                try:
                    while True:
                        file.write(CHUNK[:size])
                except OSError:
                    continue

    def make_room(self) -> None:
        self._ballast.unlink()


@contextmanager
def mounted(size_bytes: int) -> Iterator[Disk]:
    place = Path(tempfile.mkdtemp(prefix="of-disk-"))  # Not pytest's directory: the server's user must get in.
    place.chmod(0o755)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes},mode=755", "tmpfs", str(place)]
    done = subprocess.run(command, check=False, capture_output=True)
    if done.returncode:
        place.rmdir()
        pytest.skip(f"mount refused: {done.stderr.decode()}")
    try:
        yield Disk(place)
    finally:
        subprocess.run(["umount", "-l", str(place)], check=False)
        place.rmdir()


def test_a_full_disk_loses_nothing_acknowledged_on_sqlite() -> None:
    with mounted(SQLITE_DISK_BYTES) as disk:
        url = disk.place / "a.db"
        with onefold.connect(url) as db:
            with Till(db) as till:
                till.sells_again()
                disk.fill()
                till.until(lambda: till.refused["disk_full"] >= 10)
                disk.make_room()
                till.sells_again()
            assert set(till.refused) == {"disk_full"}
            assert not till.unknown
            till.audit(db)
        with onefold.connect(url) as db:
            till.audit(db)


@pytest.fixture
def small() -> Iterator[tuple[Disk, Cluster, str]]:
    """A server that is as durable as production, and its data on a small disk."""
    settings = {"min_wal_size": "32MB", "max_wal_size": "64MB", "max_connections": "30"}
    with (
        mounted(POSTGRES_DISK_BYTES) as disk,
        Cluster(fsync=True, settings=settings, data_in=disk.place) as cluster,
    ):
        url = cluster.create_database("shop")
        onefold.migrate(url)
        yield disk, cluster, url


def test_full_tables_lose_nothing_acknowledged_on_postgres(small: tuple[Disk, Cluster, str]) -> None:
    """No page can be added to a table: the statement fails, the server lives."""
    disk, cluster, url = small
    with onefold.connect(url) as db:
        with Till(db) as till:
            till.sells_again()
            disk.fill()
            till.until(lambda: till.refused["disk_full"] >= 10)
            disk.make_room()
            till.sells_again()
        assert set(till.refused) == {"disk_full"}
        assert not till.unknown
        till.audit(db)
    assert "PANIC" not in cluster.log


def test_a_full_log_panics_the_server_and_loses_nothing_acknowledged(small: tuple[Disk, Cluster, str]) -> None:
    """No segment can be added to the log: the server ends itself, and stays away until it has room."""
    disk, cluster, url = small
    with onefold.connect(url) as db:
        with Till(db) as till:
            till.sells_again()
            disk.fill()
            fill_log(cluster)
            till.until(lambda: till.refused["unavailable"] >= 1)
            disk.make_room()
            revive(cluster)
            till.sells_again()
        assert set(till.refused) <= {"disk_full", "unavailable", "deadline"}
        till.audit(db)
    assert "PANIC" in cluster.log
    with onefold.connect(url) as db:
        till.audit(db)


def fill_log(cluster: Cluster) -> None:
    """Write into the log alone, no table, until the server falls over."""

    def down() -> bool:
        try:
            with cluster.admin() as connection:
                connection.execute("SELECT pg_logical_emit_message(false, 'fill', repeat('x', 500000))")
        except psycopg.errors.DiskFull:
            return False
        except psycopg.OperationalError:
            return True
        return False

    until(down, "a full log", seconds=WAIT_S)


def revive(cluster: Cluster) -> None:
    """Do what whoever runs a server does: start it when it is down. It comes up by itself if its recovery had room."""

    def up() -> bool:
        cluster.start()
        try:
            with cluster.admin() as connection:
                connection.execute("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True

    until(up, "a server that comes back", seconds=WAIT_S)
