"""A release and the one after it at work on one database, while it is migrated under both.

`foundation.tar.xz` is the Foundation as it was released: the tree of commit 6264693, without its server, its command
line, its pages and its testing tools. What is asked of it here is what it did, by its own code.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from upgrade_shop import GIFT, NAMES, Entered, Receipt, Sent, send
from waiting import until

import onefold
from onefold import Database, Retry, Tx, booking, events, idempotency, jobs, ledger, locks, tokens
from onefold.engine import schema
from onefold.index import schema_directories
from onefold.testing.postgres import Cluster

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SHOP = HERE / "upgrade_shop.py"


class Process:
    """A shop of one release: what it told so far, and its end."""

    def __init__(self, source: Path, log: Path, *arguments: str) -> None:
        self._log = log
        with log.open("w") as out:
            self._process = subprocess.Popen(
                [sys.executable, str(SHOP), *arguments], stdin=subprocess.PIPE, stdout=out, stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONPATH": str(source)},
            )  # fmt: skip

    @property
    def said(self) -> list[str]:
        return self._log.read_text().splitlines()

    @property
    def told(self) -> list[str]:
        return [line.removeprefix("told ") for line in self.said if line.startswith("told ")]

    @property
    def complained(self) -> list[str]:
        """Lines that are neither a sale nor the watchdog's word that a busy machine made somebody wait."""
        return [line for line in self.said if not line.startswith(("told ", "left ")) and "holds the writer" not in line]

    def sell(self, sales: int) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{sales}\n".encode())
        self._process.stdin.flush()

    def has_sold(self, sales: int) -> None:
        """Wait until it has tried so often, since it began."""
        until(lambda: len(self.said) >= sales or self._process.poll() is not None, f"sale {sales}", seconds=60)
        assert self._process.poll() is None, "\n".join(self.said[-25:])

    def end(self) -> int:
        if self._process.stdin is not None:
            self._process.stdin.close()
        return self._process.wait(60)

    def kill(self) -> None:
        self._process.kill()
        self.end()


@pytest.fixture(scope="module")
def foundation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("foundation")
    with tarfile.open(HERE / "foundation.tar.xz") as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # Not in the first releases of 3.11.
        archive.extractall(folder)
    return folder / "src"


@pytest.fixture(params=["sqlite", "postgres"])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database that nobody has migrated."""
    if request.param == "sqlite":
        return str(tmp_path / "shop.db")
    cluster: Cluster = request.getfixturevalue("postgres_cluster")
    return cluster.create_database(f"upgraded_{tmp_path.parent.name[-8:]}_{os.getpid()}".replace("-", "_").lower())


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    started: list[Process] = []

    def one(source: Path, *arguments: str) -> Process:
        started.append(Process(source, tmp_path / f"process{len(started)}.log", *arguments))
        return started[-1]

    yield one
    for process in started:
        process.kill()


def versions(url: str) -> set[tuple[str, int]]:
    with onefold.connect(url) as db:
        return {(row[0], row[1]) for row in db.run(lambda tx: tx.all("SELECT block, version FROM onefold.schema -- all spaces"))}


def migrate(url: str) -> list[tuple[str, int]]:
    """As an operator does: again, while a table is in use."""
    try:
        return onefold.migrate(url)
    except Retry:
        return []


@pytest.mark.parametrize("sales", [20, pytest.param(150, marks=pytest.mark.soak)])
def test_old_and_new_work_side_by_side_through_a_migration(
    foundation: Path, empty: str, start: Callable[..., Process], sales: int
) -> None:
    """`sales` of each process before the migration, and as many after it."""
    opener = start(foundation, "open", empty)
    assert opener.end() == 0, opener.said
    show = opener.said[-1].removeprefix("show ")

    old = start(foundation, "work", empty, "old", show)
    doomed = start(foundation, "work", empty, "doomed", show)
    old.sell(sales)
    doomed.sell(sales)
    old.has_sold(3)
    doomed.has_sold(3)
    applied = until(lambda: migrate(empty), "the migration", seconds=60)
    assert {("idempotency", 2), ("jobs", 2), ("webhooks", 1), ("booking", 2)} <= set(applied)
    new = [start(ROOT / "src", "work", empty, f"new{number}", show) for number in range(2)]
    for process in (old, doomed, *new):
        process.sell(sales)
    doomed.has_sold(sales + 5)
    doomed.kill()
    for process, so_far in ((old, 2 * sales), *((process, sales) for process in new)):
        process.has_sold(so_far)

    # Who has the database open goes on; who comes after the migration is told, and has touched nothing.
    late = start(foundation, "work", empty, "late", show)
    assert late.end() == 0
    assert [line.partition(" (")[0] for line in late.said] == [
        "refused schema_newer: The database was migrated by a newer release; upgrade this program."
    ]

    for process in (*new, old):
        so_far = len(process.said)
        process.sell(1)
        process.has_sold(so_far + 1)
        assert process.end() == 0, process.said
    told = {key for process in (old, doomed, *new) for key in process.told}
    assert [process.complained for process in (old, *new)] == [[], [], []]
    assert versions(empty) == {(file.block, file.version) for file in schema.load(schema_directories())}
    with onefold.connect(empty) as db:
        audit(db, show, told)


def audit(db: Database, show: str, told: set[str]) -> None:
    """Nothing lost, nothing doubled, and all sums hold; by the new release."""
    with jobs.Worker(db, tx={Receipt: send}, lease_ms=5_000, poll_ms=50):
        until(
            lambda: db.run(left) == [0, 0, 1],
            "the last receipts, those too that are tried again after a while", seconds=60,
        )
    assert (db.run(left), db.run(jobs.list_jobs, state="dead").items) == ([0, 0, 1], [])
    while db.dialect == "postgres" and db.options(isolation="repeatable_read").run(events.sequence):
        pass
    orders = paged(db, lambda tx, after: booking.list_orders(tx, show_id=show, after=after, limit=100))
    sold = {order.by for order in orders}
    assert told <= sold
    assert len(sold) == len(orders), "a key was sold twice"
    seats = [(block.row, seat) for order in orders for block in order.blocks for seat in block.seats]
    assert len(set(seats)) == len(seats) == db.run(booking.seat_map, show).sold, "a seat was sold twice"
    receipts = paged(db, lambda tx, after: events.read_category(tx, "receipt", after=int(after or 0), limit=100))
    assert sorted(event.open(Sent).key for event in receipts) == sorted(sold)
    balance = db.run(ledger.balance, "till")
    assert (balance.posted.minor, balance.pending_in.minor) == (100 * len(sold), 100)
    wallets = [db.run(ledger.balance, f"wallet/{name}").posted.minor for name in NAMES]
    assert sum(wallets) == len(NAMES) * GIFT.minor - 100 * len(sold)
    page = db.run(ledger.audit, limit=1_000)
    assert (page.faults, page.sums, page.after) == ([], {"EUR": 0}, None)
    entered = paged(db, lambda tx, after: events.read_category(tx, "door", after=int(after or 0), limit=100))
    numbers = [event.open(Entered).token for event in entered]
    assert numbers == sorted(set(numbers)), "two holders had one number"
    assert len(numbers) >= 20
    assert (lock := db.run(locks.lock_of, "held")) is not None and lock.owner == "opener"
    assert db.run(idempotency.answer_of, "opened", scope="shop").value == show
    assert [token.name for token in db.run(tokens.list_tokens).items] == ["till"]


def left(tx: Tx) -> list[int]:
    """What is ready, runs and waits for its time: at one moment, or a job on its way from one to the next is in none."""
    return [len(jobs.list_jobs(tx, state=state, limit=1_000).items) for state in ("ready", "running", "scheduled")]


def paged(db: Database, page: Callable[[Tx, str | None], Any]) -> list[Any]:
    found: list[Any] = []
    after = None
    while True:
        part = db.run(page, after)
        found += part.items
        after = part.after
        if after is None:
            return found
