"""kill -9 in the first transaction, before the call, after it, in the second transaction and behind it."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from payments_till import PRICE, UNCLAIMED, eur, has_order, open_till, pay, posted, written
from waiting import WAIT_S, until

import onefold
from onefold import Database, jobs, payments
from onefold.testing.provider import FakeProvider

HERE = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
POINTS = ("before", "called", "inside", "behind")
EACH = 2

FIRST = """
import os, signal, sys
sys.path[:0] = sys.argv[2:]
import onefold
from payments_till import pay

def torn(tx):
    pay(tx, "pay_torn")
    os.kill(os.getpid(), signal.SIGKILL)

with onefold.connect(sys.argv[1]) as db:
    db.run(pay, "pay_whole", reference="order/whole")
    print("whole", flush=True)
    db.run(torn)
"""

WORKER = """
import asyncio, os, pathlib, signal, sys
url, base, marks = sys.argv[1:4]
sys.path[:0] = sys.argv[4:]
import onefold
from onefold import jobs, payments
from onefold.testing.provider import SECRET, TOKEN
from payments_till import ship

def die(point, key):
    mark = pathlib.Path(marks, f"{point}-{key}")
    if key.startswith(point) and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)

class Deadly:
    def __init__(self, inner):
        self.query = inner.query
        self.authorise = self.dying(inner.authorise)
        self.refund = lambda key, id, *a, **k: self.dying(lambda _, *b, **c: inner.refund(key, *b, **c))(id, id, *a, **k)

    def dying(self, call):
        def ask(key, *args, **kwargs):
            die("before", key)
            answer = call(key, *args, **kwargs)
            die("called", key)
            return answer
        return ask

def on_paid(tx, intent):
    ship(tx, intent)
    die("inside", intent.id)

def behind(handler, name):
    def run(job):
        handler(job)
        die("behind", getattr(job.args, name))
    return run

provider = payments.HttpProvider(base, token=TOKEN, callback_secret=SECRET)
io = payments.handlers({"fake": Deadly(provider)}, on_paid=on_paid)
io = {kind: behind(handler, "intent" if kind is payments.Settle else "refund") for kind, handler in io.items()}
with onefold.connect(url) as db:
    asyncio.run(jobs.Worker(db, io=io, concurrency=1, lease_ms=1_000, poll_ms=50).run_until_stopped())
"""


class Restarted:
    """A worker process that is started again whenever it was killed."""

    def __init__(self, *arguments: str) -> None:
        self._arguments = arguments
        self.deaths = 0
        self._process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", WORKER, *self._arguments, *HERE])

    def tend(self) -> None:
        if self._process.poll() is not None:
            assert self._process.returncode == -signal.SIGKILL, "it ended by itself"
            self.deaths += 1
            self._process = self._start()

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


def test_the_first_transaction_is_there_whole_or_not_at_all(db_url: str) -> None:
    with onefold.connect(db_url) as db:
        db.run(open_till)
    victim = subprocess.run(
        [sys.executable, "-c", FIRST, db_url, *HERE], capture_output=True, text=True, timeout=60, check=False
    )
    assert (victim.returncode, victim.stdout) == (-signal.SIGKILL, "whole\n"), victim.stderr
    with onefold.connect(db_url) as db:
        assert [one.id for one in db.run(payments.list_intents).items] == ["pay_whole"]
        assert len(db.run(jobs.list_jobs, state="ready").items) == 1
        assert len(written(db)["ledger_pendings"]) == 1


@pytest.mark.slow
@pytest.mark.usefixtures("again")
def test_a_worker_killed_anywhere_loses_and_doubles_nothing(db_url: str, tmp_path: Path) -> None:
    ids = [f"{point}_{n}" for point in POINTS for n in range(EACH)]
    with onefold.connect(db_url) as db, FakeProvider(tmp_path) as fake, fake.connect() as provider:
        db.run(open_till)
        for id in ids:
            db.run(pay, id, reference=f"order/{id}")
        marks = tmp_path / "marks"
        marks.mkdir()
        worker = Restarted(db_url, fake.base, str(marks))  # It does one at a time, so nobody dies by the way.
        try:
            settled(db, worker, ids, "captured")
            for id in ids:
                db.run(payments.refund, f"{id}.back", id, amount=eur(PRICE // 2))
            settled(db, worker, ids, "partially_refunded")
            until(lambda: worker.tend() or not db.run(jobs.stats), "the last of the jobs", seconds=2 * WAIT_S)
        finally:
            worker.end()
        # Refunds write nothing of the program's, so nobody dies inside.
        expected = set(ids) | {f"{id}.back" for id in ids if not id.startswith("inside")}
        assert expected == {mark.name.partition("-")[2] for mark in marks.iterdir()}, "all were to die"
        assert worker.deaths == len(expected)
        report = payments.audit(db.reader(), "fake", provider, has_order=has_order)
        assert report.passed, report
        assert report.theirs == fake.totals() == {"EUR": len(ids) * (PRICE - PRICE // 2)}
        assert (report.late, posted(db, UNCLAIMED)) == (0, 0)


def settled(db: Database, worker: Restarted, ids: list[str], state: str) -> None:
    def all_are() -> bool:
        worker.tend()
        return all(db.run(payments.intent_of, id).state == state for id in ids)

    until(all_are, f"every payment {state}", seconds=2 * WAIT_S)
