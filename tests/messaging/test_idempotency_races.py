"""Duplicates at the same time: real connections, real threads, real processes, kill -9."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from waiting import until

from onefold import Conflict, Database, Handle, OnefoldError, Tx, idempotency

LEVELS = ["read_committed", "serializable"]
WAIT_S = 20
SCOPE = "POST /orders"


class Slow:
    """A request whose work stops in the middle until the test lets it go on."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.go = threading.Event()

    def ask(self, tx: Tx, *, fails: bool = False, ttl_ms: int = 86_400_000) -> idempotency.Answer[int]:
        def do() -> int:
            tx.add("done", 1)
            self.reached.set()
            assert self.go.wait(WAIT_S)
            if fails:
                raise ZeroDivisionError
            return 1

        return idempotency.once(tx, "k1", do, scope=SCOPE, request=1, ttl_ms=ttl_ms)


def ask(tx: Tx, key: str = "k1") -> idempotency.Answer[int]:
    def do() -> int:
        tx.add("done", 1)
        return tx.total("done")

    return idempotency.once(tx, key, do, scope=SCOPE, request=1)


def done(db: Handle) -> int:
    return db.run(lambda tx: tx.total("done"))


@pytest.mark.parametrize("level", LEVELS)
def test_a_duplicate_in_flight_is_answered_at_once(postgres: Database, threads: ThreadPoolExecutor, level: str) -> None:
    handle, slow = postgres.options(isolation=level), Slow()
    try:
        first = threads.submit(handle.run, slow.ask)
        assert slow.reached.wait(WAIT_S)
        slowest = 0.0
        for _ in range(20):
            began = time.monotonic()
            with pytest.raises(Conflict) as refused:
                handle.run(ask)
            slowest = max(slowest, time.monotonic() - began)
            assert refused.value.code == "in_flight"
            assert refused.value.facts["retry_after_ms"] > 0
        assert not first.done()  # All twenty were answered while the first was at work.
        assert slowest < 2
    finally:
        slow.go.set()
    assert not first.result(WAIT_S).replayed
    assert handle.run(ask).replayed
    assert done(postgres) == 1


@pytest.mark.parametrize("level", LEVELS)
def test_other_keys_go_on_meanwhile(postgres: Database, threads: ThreadPoolExecutor, level: str) -> None:
    handle, slow = postgres.options(isolation=level), Slow()
    handle.run(ask, "k0")  # The space is known from here on.
    try:
        first = threads.submit(handle.run, slow.ask)
        assert slow.reached.wait(WAIT_S)
        assert not handle.run(ask, "k2").replayed
        assert not handle.run(lambda tx: idempotency.once(tx, "k1", int, scope="other", request=1)).replayed
        assert not handle.at("tenant").run(ask).replayed
    finally:
        slow.go.set()
    first.result(WAIT_S)


@pytest.mark.parametrize("level", LEVELS)
def test_after_a_failure_in_flight_the_next_one_does_it(
    postgres: Database, threads: ThreadPoolExecutor, level: str
) -> None:
    handle, slow = postgres.options(isolation=level), Slow()
    try:
        first = threads.submit(handle.run, slow.ask, fails=True)
        assert slow.reached.wait(WAIT_S)
        with pytest.raises(Conflict):
            handle.run(ask)
    finally:
        slow.go.set()
    with pytest.raises(ZeroDivisionError):
        first.result(WAIT_S)
    assert not handle.run(ask).replayed
    assert done(postgres) == 1


@pytest.mark.parametrize("level", LEVELS)
def test_replays_do_not_stand_in_each_others_way(postgres: Database, threads: ThreadPoolExecutor, level: str) -> None:
    """A stored answer is given out even while another transaction has the claim on its key."""
    handle = postgres.options(isolation=level)
    handle.run(ask)
    reached, go = threading.Event(), threading.Event()

    def slow_replay(tx: Tx) -> bool:
        answer = ask(tx)
        reached.set()
        assert go.wait(WAIT_S)
        return answer.replayed

    try:
        first = threads.submit(handle.run, slow_replay)
        assert reached.wait(WAIT_S)
        assert handle.run(ask).replayed
    finally:
        go.set()
    assert first.result(WAIT_S)


@pytest.mark.parametrize("level", LEVELS)
def test_an_expired_key_is_taken_over_by_one(postgres: Database, threads: ThreadPoolExecutor, level: str) -> None:
    handle, slow = postgres.options(isolation=level), Slow()
    handle.run(ask)
    postgres.run(lambda tx: tx.run("UPDATE onefold.idempotency_keys SET expires_at_ms = 1 WHERE space = :space"))
    try:
        first = threads.submit(handle.run, slow.ask)
        assert slow.reached.wait(WAIT_S)
        with pytest.raises(Conflict) as refused:
            handle.run(ask)
        assert refused.value.code == "in_flight"
        assert postgres.options(isolation="read_committed").run(idempotency.sweep) is False  # Leaves it alone.
    finally:
        slow.go.set()
    assert not first.result(WAIT_S).replayed
    assert handle.run(ask).replayed
    assert done(postgres) == 2


@pytest.mark.parametrize("level", LEVELS)
def test_the_unique_key_decides_without_the_claim(
    postgres: Database, threads: ThreadPoolExecutor, level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The claim is there for speed: with one that always says yes nothing is done twice."""
    from onefold.engine.postgres.tx import PostgresTx

    monkeypatch.setattr(PostgresTx, "try_claim", lambda _tx, _name: True)
    handle, start = postgres.options(isolation=level), threading.Barrier(6)

    def race(key: str) -> bool:
        start.wait(WAIT_S)
        return handle.run(ask, key).replayed

    for round_ in range(5):
        assert sorted(threads.map(race, [f"r{round_}"] * 6)) == [False] + [True] * 5
    assert done(postgres) == 5


def test_a_crowd_of_duplicates_does_it_once(real: Database, threads: ThreadPoolExecutor) -> None:
    start = threading.Barrier(8)

    def race(key: str) -> tuple[int, bool] | None:
        start.wait(WAIT_S)
        try:
            answer = real.run(ask, key)
        except Conflict as error:
            assert error.code == "in_flight"
            return None
        return answer.value, answer.replayed

    for round_ in range(10):
        answers = [answer for answer in threads.map(race, [f"r{round_}"] * 8) if answer]
        assert [replayed for _, replayed in answers].count(False) == 1
        assert len({value for value, _ in answers}) == 1
    assert done(real) == 10


def test_the_sweep_beside_the_work_loses_nothing(real: Database, threads: ThreadPoolExecutor) -> None:
    """Keys expire at once, are taken over and swept at the same time: each ask still does it once or replays."""
    stop = threading.Event()

    def tidy() -> None:
        while not stop.is_set():
            real.options(isolation="read_committed").run(idempotency.sweep)

    def work(key: str) -> int:
        def once(tx: Tx) -> bool:
            def do() -> None:
                tx.add("done", 1)

            return idempotency.once(tx, key, do, scope=SCOPE, request=1, ttl_ms=1).replayed

        return sum(not real.run(once) for _ in range(30))

    sweeper = threads.submit(tidy)
    try:
        ran = sum(threads.map(work, ["a", "b", "c"]))
    finally:
        stop.set()
    sweeper.result(WAIT_S)
    assert done(real) == ran


BUYER = """
import sys, onefold
from onefold import idempotency
db = onefold.connect(sys.argv[1])
def ask(tx, number):
    def do():
        tx.add("done", 1)
        return number
    return idempotency.once(tx, f"k{number}", do, scope="s", request=number)
number = 0
while True:
    db.run(ask, number)
    print(number, flush=True)
    number += 1
"""


def test_a_killed_process_leaves_no_half(real: Database) -> None:
    """What was acknowledged is there; the one that was in flight happened with its key or not at all."""
    buyer = subprocess.Popen([sys.executable, "-c", BUYER, real.url], stdout=subprocess.PIPE, text=True)
    try:
        last = -1
        while last < 25:
            last = int(buyer.stdout.readline())
        os.kill(buyer.pid, signal.SIGKILL)
        buyer.wait(WAIT_S)
        last = max([last, *(int(line) for line in buyer.stdout if line.endswith("\n"))])
    finally:
        buyer.kill()
        buyer.wait(WAIT_S)
        buyer.stdout.close()

    def asked(tx: Tx, number: int) -> bool:
        def do() -> int:
            tx.add("done", 1)
            return number

        return idempotency.once(tx, f"k{number}", do, scope="s", request=number).replayed

    def patiently(number: int) -> bool:
        def answer() -> list[bool]:
            with contextlib.suppress(OnefoldError):  # The server may take a moment to see that its client died.
                return [real.run(asked, number)]
            return []

        return until(answer, "an answer")[0]

    assert all(patiently(number) for number in range(last + 1))
    patiently(last + 1)
    assert done(real) == last + 2
