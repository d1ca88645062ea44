"""Loops run, rest, are woken, survive errors, drain, and one process at a time leads."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

import onefold
from onefold import Conflict, Database, Tx
from onefold.core.loop import Loop
from onefold.runtime import Supervisor, all_loops, supervisor


class Steps:
    """Counts steps without being impure inside the function: by what is committed."""

    def __init__(self, fails: int = 0) -> None:
        self.done = threading.Semaphore(0)
        self.fails = fails

    def step(self, tx: Tx) -> bool:
        tx.add("steps", 1)
        tx.on_commit(self.done.release)
        if tx.total("steps") == 1 and self.fails:
            self.fails -= 1
            raise Conflict("The first step fails.")
        return tx.total("steps") < 3

    def wait(self, count: int) -> None:
        for _ in range(count):
            assert self.done.acquire(timeout=20)


@pytest.fixture
def plain(db_url: str):
    with onefold.connect(db_url) as database:
        yield database


def steps_of(db: Database) -> int:
    return db.run(lambda tx: tx.total("steps"))


def test_a_loop_goes_on_while_there_is_more_and_then_rests(plain: Database) -> None:
    steps = Steps()
    with Supervisor(plain, [Loop("test.loop", steps.step, every_ms=600_000, topic="go", leased=False)]) as running:
        steps.wait(3)
        assert not steps.done.acquire(timeout=0.1)
        plain.run(lambda tx: tx.wake("go"))
        steps.wait(1)
        numbers = running.numbers()
        assert numbers["loop.test.loop.errors"] == 0
        assert "loop.test.loop.lag_ms" in plain.metrics()
    assert steps_of(plain) == 4


def test_a_failing_step_is_repeated_after_a_pause(plain: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "BACKOFF_FIRST_S", 0.01)
    steps = Steps(fails=2)
    with Supervisor(plain, [Loop("test.loop", steps.step, every_ms=600_000, leased=False)]) as running:
        steps.wait(3)
        assert running.numbers()["loop.test.loop.errors"] == 2
    assert steps_of(plain) == 3


def test_a_step_that_wants_to_exit_does_not_end_its_loop(plain: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "BACKOFF_FIRST_S", 0.01)
    steps = Steps()
    exits = iter(range(3))

    def step(tx: Tx) -> bool:
        if next(exits, None) is not None:
            sys.exit("enough")
        return steps.step(tx)

    with Supervisor(plain, [Loop("test.loop", step, every_ms=600_000, leased=False)]) as running:
        steps.wait(3)
        assert running.numbers()["loop.test.loop.errors"] == 3
    assert steps_of(plain) == 3


def test_a_leased_loop_runs_in_one_place(db_url: str) -> None:
    first, second = onefold.connect(db_url), onefold.connect(db_url)
    one, two = Steps(), Steps()
    leader = Supervisor(first, [Loop("test.loop", one.step, every_ms=600_000)])
    leader.start()
    one.wait(3)
    standby = Supervisor(second, [Loop("test.loop", two.step, every_ms=600_000)])
    standby.start()
    assert not two.done.acquire(timeout=0.2)
    standby.stop()
    leader.stop()  # Gives the lease back, so that another may start at once.
    successor = Supervisor(second, [Loop("test.loop", two.step, every_ms=600_000)])
    successor.start()
    two.wait(1)
    successor.stop()
    first.close()
    second.close()


def test_stopping_ends_the_rest(plain: Database) -> None:
    steps = Steps()
    running = Supervisor(plain, [Loop("test.loop", steps.step, every_ms=600_000, topic="go")])
    running.start()
    steps.wait(3)
    running.stop()
    assert all(entry.thread is not None and not entry.thread.is_alive() for entry in running._running)


def test_every_loop_of_ours_comes_to_rest_on_an_empty_database(db: Database) -> None:
    for loop in all_loops():
        handle = db.options(isolation=loop.isolation)
        steps = [handle.run(loop.step) for _ in range(3)]  # The first may only find out where it is.
        assert steps[-1] is False, loop.name


def test_the_loop_of_a_killed_process_is_taken_over(db_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "LEASE_MS", (300, 300))
    program = (
        "import sys, onefold\n"
        "from onefold.core.loop import Loop\nfrom onefold.runtime import Supervisor, supervisor\n"
        "supervisor.LEASE_MS = (300, 300)\n"
        "db = onefold.connect(sys.argv[1])\n"
        "def step(tx):\n"
        "    tx.on_commit(lambda: print('stepped', flush=True))\n"
        "    return False\n"
        "Supervisor(db, [Loop('test.loop', step, every_ms=600_000)]).start()\n"
        "sys.stdin.read()\n"
    )
    leader = subprocess.Popen([sys.executable, "-c", program, db_url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert leader.stdout.readline() == "stepped\n"
    steps = Steps()
    with onefold.connect(db_url) as db, Supervisor(db, [Loop("test.loop", steps.step, every_ms=600_000)]):
        leader.kill()
        leader.wait(10)
        steps.wait(3)
    leader.stdin.close()
    leader.stdout.close()
