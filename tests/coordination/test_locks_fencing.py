"""Two connections, stepped by hand: what the share lock of `check` is for, at both levels."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from racing import Step, until_somebody_waits

from onefold import Conflict, Database, Tx, locks
from onefold.coordination.locks import ops

LEVELS = ["read_committed", "serializable"]
TTL = 10_000
WAIT_S = 20


def expired(db: Database, owner: str) -> locks.Lock:
    lock = db.run(locks.acquire, "a", owner=owner, ttl_ms=TTL)
    db.run(lambda tx: tx.run("UPDATE onefold.locks SET expires_at_ms = 1 WHERE space = :space"))
    return lock


def write(tx: Tx, key: str) -> None:
    tx.run(
        """INSERT INTO onefold.counter_totals (space, key, total) VALUES (:space, :key, 1)
           ON CONFLICT (space, key) DO UPDATE SET total = onefold.counter_totals.total + 1""",
        key=key,
    )


def written(tx: Tx) -> list[str]:
    return [row[0] for row in tx.all("SELECT key FROM onefold.counter_totals WHERE space = :space ORDER BY key")]


def guarded(tx: Tx, check: Callable[[Tx, locks.Lock], None], lock: locks.Lock, step: Step) -> None:
    check(tx, lock)
    step.stop()
    write(tx, f"by {lock.token}")


def take_over(tx: Tx) -> tuple[int, list[str]]:
    lock = locks.acquire(tx, "a", owner="bob", ttl_ms=TTL)
    return lock.token, written(tx)


def check_without_lock(tx: Tx, lock: locks.Lock) -> None:
    """The mutant: `locks.check` without {for_share}."""
    row = tx.one("SELECT token, owner FROM onefold.locks WHERE space = :space AND name = :name", name=lock.name)
    if row != (lock.token, lock.owner):
        raise Conflict("lost", code="lost")


@pytest.mark.parametrize("level", LEVELS)
def test_a_take_over_waits_for_the_commit_in_flight(postgres: Database, threads: ThreadPoolExecutor, level: str) -> None:
    old, step, handle = expired(postgres, "ana"), Step(), postgres.options(isolation=level)
    with step:
        holder = threads.submit(handle.run, guarded, locks.check, old, step)
        assert step.reached.wait(WAIT_S)
        successor: Future[tuple[int, list[str]]] = threads.submit(handle.run, take_over)
        until_somebody_waits(postgres)
        assert not successor.done()
        step.go.set()
        holder.result(WAIT_S)
        # It got the lock after the write and sees it: one after the other, no overlap.
        assert successor.result(WAIT_S) == (old.token + 1, ["by 1"])


@pytest.mark.parametrize("level", LEVELS)
def test_without_the_share_lock_a_deposed_holder_would_write(
    postgres: Database, threads: ThreadPoolExecutor, level: str
) -> None:
    old, step, handle = expired(postgres, "ana"), Step(), postgres.options(isolation=level)
    with step:
        holder = threads.submit(handle.run, guarded, check_without_lock, old, step)
        assert step.reached.wait(WAIT_S)
        # Did not wait: bob believes to be alone, and acts on it outside. (Had he read what is
        # guarded in this transaction, SERIALIZABLE would have seen the cycle; nothing else would.)
        new = handle.run(locks.acquire, "a", owner="bob", ttl_ms=TTL)
        assert new.token == old.token + 1
        step.go.set()
        holder.result(WAIT_S)
    assert postgres.run(written) == ["by 1"]  # And ana wrote after him.


@pytest.mark.parametrize("level", LEVELS)
def test_a_deposed_holder_aborts_though_its_snapshot_is_older(
    postgres: Database, threads: ThreadPoolExecutor, level: str
) -> None:
    old, step, handle = expired(postgres, "ana"), Step(), postgres.options(isolation=level)

    def late(tx: Tx) -> None:
        written(tx)  # The snapshot is taken here, before the take-over.
        write(tx, "half")
        step.stop()
        locks.check(tx, old)
        write(tx, f"by {old.token}")

    with step:
        holder = threads.submit(handle.run, late)
        assert step.reached.wait(WAIT_S)
        assert handle.run(take_over)[0] == old.token + 1
        step.go.set()
        with pytest.raises(Conflict) as lost:
            holder.result(WAIT_S)
    assert lost.value.code == "lost"
    assert postgres.run(written) == []


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("how", ["release", "force"])
def test_a_release_waits_for_the_commit_in_flight_too(
    postgres: Database, threads: ThreadPoolExecutor, level: str, how: str
) -> None:
    lock, step, handle = expired(postgres, "ana"), Step(), postgres.options(isolation=level)
    with step:
        holder = threads.submit(handle.run, guarded, locks.check, lock, step)
        assert step.reached.wait(WAIT_S)
        if how == "release":
            other = threads.submit(handle.run, locks.release, lock)
        else:
            other = threads.submit(handle.run, locks.force_release, "a", reason="test")
        until_somebody_waits(postgres)
        assert not other.done()
        step.go.set()
        holder.result(WAIT_S)
        other.result(WAIT_S)
    assert postgres.run(written) == ["by 1"]


@pytest.mark.parametrize("level", LEVELS)
def test_transactions_of_one_holder_pass_each_other(
    postgres: Database, threads: ThreadPoolExecutor, level: str
) -> None:
    lock, handle = expired(postgres, "ana"), postgres.options(isolation=level)
    first, second = Step(), Step()

    def work(tx: Tx, step: Step, key: str) -> None:
        locks.check(tx, lock)
        step.stop()
        write(tx, key)

    with first, second:
        both = [threads.submit(handle.run, work, step, f"k{number}") for number, step in enumerate((first, second))]
        assert first.reached.wait(WAIT_S)
        assert second.reached.wait(WAIT_S)  # Both are past their checks at the same time.
        for step in (first, second):
            step.go.set()
        for call in both:
            call.result(WAIT_S)
    assert postgres.run(written) == ["k0", "k1"]


@pytest.mark.parametrize("level", LEVELS)
def test_of_many_takers_one_wins(postgres: Database, threads: ThreadPoolExecutor, level: str) -> None:
    handle, start = postgres.options(isolation=level), threading.Barrier(8)

    def race(name: str, owner: str) -> locks.Lock | None:
        start.wait(WAIT_S)
        return handle.run(locks.try_acquire, name, owner=owner, ttl_ms=TTL)

    for round_ in range(10):
        answers = list(threads.map(race, [f"n{round_}"] * 8, [f"o{number}" for number in range(8)]))
        assert sum(answer is not None for answer in answers) == 1


@pytest.mark.parametrize("level", LEVELS)
def test_tokens_rise_in_the_order_of_the_holders(
    postgres: Database, threads: ThreadPoolExecutor, level: str
) -> None:
    """Many take and give the same few locks, the sweep marks beside them, rows vanish and come back."""
    handle, loop = postgres.options(isolation=level), postgres.options(isolation="read_committed")
    seen: dict[str, list[int]] = {"x": [], "y": []}
    start = threading.Barrier(5)

    def work(owner: str) -> None:
        start.wait(WAIT_S)
        for turn in range(10):
            name = "xy"[turn % 2]
            lock = handle.run(locks.try_acquire, name, owner=owner, ttl_ms=TTL)
            if lock is not None:
                seen[name].append(lock.token)  # Nobody else appends: we hold it.
                handle.run(locks.release, lock)

    def idle(tx: Tx) -> None:
        tx.run("UPDATE onefold.locks SET expires_at_ms = 0 WHERE space = :space AND owner IS NULL")

    def tidy() -> None:
        start.wait(WAIT_S)
        for _ in range(10):
            loop.run(idle)
            loop.run(locks.sweep)

    for _ in range(4):
        calls = [threads.submit(work, f"o{number}") for number in range(4)] + [threads.submit(tidy)]
        for call in calls:
            call.result(60)
        # The hour after the mark, in which every transaction of then has ended, is over.
        loop.run(idle)
        loop.run(locks.sweep)
        loop.run(lambda tx: tx.run("UPDATE onefold.locks SET marked_at_ms = 0 WHERE space = :space"))
        loop.run(locks.sweep)
        assert loop.run(lambda tx: tx.all("SELECT name FROM onefold.locks WHERE space = :space")) == []
    for tokens in seen.values():
        assert len(tokens) > 10
        assert tokens == sorted(set(tokens))


@pytest.mark.parametrize("grace_ms", [ops.MARK_MS, -1])
def test_a_swept_row_outlives_every_snapshot_that_misses_its_floor(
    postgres: Database, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch, grace_ms: int
) -> None:
    """What the hour between mark and deletion is for: without it a token falls."""
    monkeypatch.setattr(ops, "IDLE_MS", -60_000)
    monkeypatch.setattr(ops, "MARK_MS", grace_ms)
    for owner in ("ana", "bob", "cy"):
        last = postgres.run(locks.acquire, "a", owner=owner, ttl_ms=TTL)
        postgres.run(locks.release, last)
    step, loop = Step(), postgres.options(isolation="read_committed")

    def late(tx: Tx) -> int:
        written(tx)  # The snapshot: no floor yet.
        step.stop()
        return locks.acquire(tx, "a", owner="late", ttl_ms=TTL).token

    with step:
        call = threads.submit(postgres.run, late)
        assert step.reached.wait(WAIT_S)
        for _ in range(3):
            loop.run(locks.sweep)
        step.go.set()
        token = call.result(WAIT_S)
    assert (token > last.token) == (grace_ms == 3_600_000)
