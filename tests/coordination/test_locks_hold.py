"""Holding a lock between transactions: waiting, heartbeats, losing it; threads, tasks, kill -9."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from racing import somebody_waits
from waiting import auntil, until

import onefold
from onefold import Conflict, Database, Invalid, OnefoldError, Tx, locks
from onefold.coordination.locks import client

WAIT_S = 20
SHORT = 300  # The shortest time to live of a hold: a heartbeat every 100 ms.


def holder_of(db: Database, name: str) -> locks.Lock | None:
    return db.run(locks.lock_of, name)


def test_a_block_holds_the_lock_and_gives_it_back(real: Database) -> None:
    with locks.hold(real, "a") as held:
        assert held.is_held()
        assert holder_of(real, "a") == held.lock
        real.run(locks.check, held.lock)
        with pytest.raises(Conflict) as refused, locks.hold(real, "a"):
            raise AssertionError("two holders")
        assert refused.value.code == "held"
    assert holder_of(real, "a") is None
    with locks.hold(real, "a", owner="ana") as again:
        assert again.lock.owner == "ana"
        assert again.lock.token > held.lock.token


def test_a_task_holds_the_lock_and_gives_it_back(real: Database) -> None:
    async def main() -> None:
        async with locks.hold(real, "a") as held:
            assert held.is_held()
            assert await real.arun(locks.lock_of, "a") == held.lock
            with pytest.raises(Conflict):
                async with locks.hold(real, "a"):
                    raise AssertionError("two holders")
        assert await real.arun(locks.lock_of, "a") is None

    asyncio.run(main())


def test_an_error_in_the_block_comes_out_and_the_lock_is_free(real: Database) -> None:
    with pytest.raises(ZeroDivisionError), locks.hold(real, "a"):
        raise ZeroDivisionError
    assert holder_of(real, "a") is None


def test_waiting_ends_with_the_release(real: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "POLL_MS", 3_600_000)  # So that it is the wake-up that ends it.
    entered = threading.Event()

    def second() -> int:
        with locks.hold(real, "a", wait_ms=WAIT_S * 1_000) as held:
            entered.set()
            return held.lock.token

    answers: list[int] = []
    thread = threading.Thread(target=lambda: answers.append(second()))
    with locks.hold(real, "a") as first:
        thread.start()
        until(lambda: real._engine.hub.has_waiters())
        assert not entered.is_set()
    thread.join(WAIT_S)
    assert answers == [first.lock.token + 1]


def test_a_task_waits_as_well(real: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "POLL_MS", 3_600_000)

    async def second() -> int:
        async with locks.hold(real, "a", wait_ms=WAIT_S * 1_000) as held:
            return held.lock.token

    async def main() -> None:
        async with locks.hold(real, "a") as first:
            task = asyncio.create_task(second())
            await auntil(real._engine.hub.has_waiters, "the second one's wait")
            assert not task.done()
        assert await asyncio.wait_for(task, WAIT_S) == first.lock.token + 1

    asyncio.run(main())
    assert not real._engine.hub.has_waiters()


def test_waiting_has_an_end(real: Database) -> None:
    with locks.hold(real, "a"):
        began = time.monotonic()
        with pytest.raises(Conflict) as refused, locks.hold(real, "a", wait_ms=150):
            raise AssertionError("two holders")
        assert refused.value.code == "held"
        assert 0.1 < time.monotonic() - began < WAIT_S


def test_a_dead_holder_is_waited_out(real: Database) -> None:
    """Nobody wakes the waiter: it asks again when the time is over."""
    dead = real.run(locks.acquire, "a", owner="dead", ttl_ms=200)
    with locks.hold(real, "a", wait_ms=WAIT_S * 1_000) as held:
        assert held.lock.token == dead.token + 1


def test_the_heartbeat_renews(real: Database) -> None:
    beats: list[dict] = []
    enough = threading.Event()
    real.subscribe("locks.renewed", lambda _fact, facts: (beats.append(facts), len(beats) >= 5 and enough.set()))
    with locks.hold(real, "a", ttl_ms=SHORT) as held:
        first = held.lock
        assert enough.wait(WAIT_S)
        assert held.is_held()
        assert held.lock.token == first.token
        assert held.lock.expires_at_ms > first.expires_at_ms + SHORT // 2
        real.run(locks.check, first)  # The record from before the renewals is as good.
    assert {beat["token"] for beat in beats} == {first.token}


def test_the_heartbeat_of_a_task_renews(real: Database) -> None:
    async def main() -> None:
        loop, enough = asyncio.get_running_loop(), asyncio.Event()
        beats: list[int] = []
        real.subscribe(
            "locks.renewed",
            lambda _fact, facts: (beats.append(1), len(beats) >= 5 and loop.call_soon_threadsafe(enough.set)),
        )
        async with locks.hold(real, "a", ttl_ms=SHORT) as held:
            await asyncio.wait_for(enough.wait(), WAIT_S)
            assert held.is_held()

    asyncio.run(main())


def test_losing_is_told_once_and_says_so_at_the_end(real: Database) -> None:
    told: list[locks.Hold] = []
    rang = threading.Event()
    with pytest.raises(Conflict) as lost, locks.hold(
        real, "a", ttl_ms=SHORT, on_lost=lambda hold: (told.append(hold), rang.set())
    ) as held:
        real.run(locks.force_release, "a", reason="test")
        assert rang.wait(WAIT_S)
        assert not held.is_held()
        with pytest.raises(Conflict):
            real.run(locks.check, held.lock)
    assert lost.value.code == "lost"
    assert told == [held]


def test_losing_is_told_to_a_task(real: Database) -> None:
    async def main() -> None:
        rang = asyncio.Event()
        with pytest.raises(Conflict) as lost:
            async with locks.hold(real, "a", ttl_ms=SHORT, on_lost=lambda _hold: rang.set()) as held:
                await real.arun(locks.force_release, "a", reason="test")
                await asyncio.wait_for(rang.wait(), WAIT_S)
                assert not held.is_held()
        assert lost.value.code == "lost"

    asyncio.run(main())


def test_the_error_of_the_block_is_worth_more_than_the_loss(real: Database) -> None:
    with pytest.raises(ZeroDivisionError), locks.hold(real, "a"):
        real.run(locks.force_release, "a", reason="test")
        raise ZeroDivisionError


def test_a_callback_that_fails_does_not_end_anything(real: Database) -> None:
    rang = threading.Event()

    def fails(_hold: locks.Hold) -> None:
        rang.set()
        raise ZeroDivisionError

    with pytest.raises(Conflict), locks.hold(real, "a", ttl_ms=SHORT, on_lost=fails):
        real.run(locks.force_release, "a", reason="test")
        assert rang.wait(WAIT_S)


def test_without_the_database_the_lock_is_lost_in_time(db_url: str) -> None:
    rang = threading.Event()
    away = onefold.connect(db_url)
    began = time.monotonic()
    with pytest.raises(OnefoldError), locks.hold(away, "a", ttl_ms=SHORT, on_lost=lambda _hold: rang.set()) as held:
        away.close()
        assert rang.wait(WAIT_S)
        assert not held.is_held()
        assert time.monotonic() - began > SHORT * 0.9 / 1_000  # Not before nobody could know.
    with onefold.connect(db_url) as back, locks.hold(back, "a", wait_ms=WAIT_S * 1_000) as next_:
        assert next_.lock.token > held.lock.token


def test_a_machine_that_slept_has_lost_for_good(real: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    asleep_ns = 0
    now_ns = client._now_ns
    monkeypatch.setattr(client, "_now_ns", lambda: now_ns() + asleep_ns)
    with locks.hold(real, "a", ttl_ms=30_000) as held:
        assert held.is_held()
        asleep_ns = 29_000 * 1_000_000
        assert held.is_held()
        asleep_ns = 29_800 * 1_000_000  # A margin is kept for clocks that run at different rates.
        assert not held.is_held()
        held._won(real.run(locks.renew, held.lock, ttl_ms=30_000), client._now_ns())
        assert not held.is_held()  # A late renewal does not bring it back.
    # Nobody took it meanwhile, as the release proved: no error.
    assert holder_of(real, "a") is None


def test_an_answer_that_came_late_does_not_count_from_its_arrival(real: Database) -> None:
    with locks.hold(real, "a", ttl_ms=30_000) as held:
        asked_ns = client._now_ns() - 29_900 * 1_000_000
        held._won(held.lock, asked_ns)
        assert not held.is_held()


def test_a_cancelled_waiter_leaves_nothing(real: Database) -> None:
    async def main() -> None:
        async def second() -> None:
            async with locks.hold(real, "a", wait_ms=WAIT_S * 1_000):
                raise AssertionError("two holders")

        async with locks.hold(real, "a") as held:
            task = asyncio.create_task(second())
            await auntil(real._engine.hub.has_waiters, "the second one's wait")
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert held.is_held()
            await real.arun(locks.check, held.lock)
        assert not real._engine.hub.has_waiters()

    asyncio.run(main())


@pytest.mark.parametrize("turns", range(0, 12, 2))
def test_a_task_cancelled_at_any_moment_frees_the_lock(real: Database, turns: int) -> None:
    async def work() -> None:
        async with locks.hold(real, "a"):
            await asyncio.sleep(0)

    async def main() -> None:
        task = asyncio.create_task(work())
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await auntil(lambda: holder_of(real, "a") is None, "the lock's release")

    asyncio.run(main())


def test_a_lock_won_while_its_task_was_cancelled_is_free_again(postgres_url: str) -> None:
    """The call was under way: the engine waits for its outcome, and nobody is left to hear it."""
    reached, go = threading.Event(), threading.Event()

    def block(tx: Tx) -> None:
        tx.one("SELECT token FROM onefold.locks WHERE space = :space AND name = 'a' FOR UPDATE")
        reached.set()
        assert go.wait(WAIT_S)

    async def work(db: Database) -> None:
        async with locks.hold(db, "a"):
            raise AssertionError("cancelled before")

    async def main(db: Database) -> None:
        task = asyncio.create_task(work(db))
        await auntil(lambda: somebody_waits(db), "the wait for the row")
        task.cancel()
        await asyncio.sleep(0)
        assert not task.done()
        go.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    with onefold.connect(postgres_url) as db:
        before = db.run(locks.acquire, "a", owner="ana", ttl_ms=30_000)
        db.run(locks.release, before)
        thread = threading.Thread(target=db.run, args=(block,))
        thread.start()
        try:
            assert reached.wait(WAIT_S)
            asyncio.run(main(db))
        finally:
            go.set()
            thread.join(WAIT_S)
        assert db.run(locks.lock_of, "a") is None
        after = db.run(locks.acquire, "a", owner="ana", ttl_ms=30_000)
        assert after.token == before.token + 2  # It had been won.


@pytest.mark.parametrize(("ttl_ms", "wait_ms"), [(0, 0), (299, 0), (3_600_001, 0), (300, -1), (300, 3_600_001)])
def test_arguments_have_limits(real: Database, ttl_ms: int, wait_ms: int) -> None:
    with pytest.raises(Invalid):
        locks.hold(real, "a", ttl_ms=ttl_ms, wait_ms=wait_ms)


def test_a_hold_is_good_for_one_block(real: Database) -> None:
    hold = locks.hold(real, "a")
    with pytest.raises(Invalid):
        _ = hold.lock
    assert not hold.is_held()
    with hold, pytest.raises(Invalid), hold:
        raise AssertionError("entered twice")
    with pytest.raises(Invalid), hold:
        raise AssertionError("entered again")


def test_many_threads_count_without_losing_one(real: Database) -> None:
    """Read in one transaction, write in another: only the lock between them makes it right."""

    def read(tx: Tx) -> int:
        row = tx.one("SELECT total FROM onefold.counter_totals WHERE space = :space AND key = 'n'")
        return row[0] if row else 0

    def write(tx: Tx, total: int, lock: locks.Lock) -> None:
        locks.check(tx, lock)
        tx.run(
            """INSERT INTO onefold.counter_totals (space, key, total) VALUES (:space, 'n', :total)
               ON CONFLICT (space, key) DO UPDATE SET total = excluded.total""",
            total=total,
        )

    def work() -> None:
        for _ in range(5):
            with locks.hold(real, "n", wait_ms=60_000) as held:
                real.run(write, real.run(read) + 1, held.lock)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert real.run(read) == 30


HOLDER = """
import sys, onefold
from onefold import locks
db = onefold.connect(sys.argv[1])
with locks.hold(db, "job", owner="victim", ttl_ms=1_000) as held:
    print(held.lock.token, flush=True)
    sys.stdin.read()
"""


@pytest.mark.usefixtures("again")
def test_a_killed_holder_is_taken_over_with_a_larger_token(real: Database) -> None:
    victim = subprocess.Popen([sys.executable, "-c", HOLDER, real.url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        token = int(victim.stdout.readline())
        assert real.run(locks.try_acquire, "job", owner="early", ttl_ms=1_000) is None
        seen = holder_of(real, "job")
        until(lambda: holder_of(real, "job").expires_at_ms > seen.expires_at_ms)  # It is alive: it renews.
        os.kill(victim.pid, signal.SIGKILL)
        victim.wait(WAIT_S)
        with locks.hold(real, "job", wait_ms=WAIT_S * 1_000) as held:
            assert held.lock.token == token + 1
            dead = locks.Lock("job", "victim", token, 0, 0)
            with pytest.raises(Conflict):
                real.run(locks.check, dead)
    finally:
        victim.kill()
        victim.wait(WAIT_S)
        victim.stdin.close()
        victim.stdout.close()
