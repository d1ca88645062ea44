"""What is bounded on PostgreSQL: waiting for rows, connections, queues, hot keys."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from engine_words import UPDATE, WAIT_S, Blocker, get, put
from waiting import let_pass, until

import onefold
from onefold import Database, Doomed, Invalid, Retry, Tx
from onefold.engine.call import Call, Options
from onefold.engine.postgres import activity
from onefold.engine.postgres import pool as pool_module
from onefold.engine.postgres import wire as wire_module
from onefold.engine.postgres import workers as workers_module
from onefold.engine.postgres.clock import ServerClock
from onefold.engine.postgres.errors import Overdue, refused
from onefold.engine.reserved import reserved

# -- limits ---------------------------------------------------------------------------------------


@pytest.fixture
def held(plain: Database) -> Iterator[Callable[[], None]]:
    """Another transaction holds the row "a" until the test lets go."""
    plain.run(put, "a", 1)
    holding, release = threading.Event(), threading.Event()

    def hold(tx: Tx) -> None:
        tx.one(UPDATE, key="a")
        holding.set()
        assert release.wait(30)

    thread = threading.Thread(target=plain.options(deadline_ms=60_000).run, args=(hold,))
    thread.start()
    assert holding.wait(20)

    def let_go() -> None:
        release.set()
        thread.join()

    yield let_go
    let_go()


def test_a_deadline_ends_the_wait_for_a_row(plain: Database, held: Callable[[], None]) -> None:
    started, worked_s = time.monotonic(), time.thread_time()
    with pytest.raises(Retry) as late:
        plain.options(deadline_ms=150).run(put, "a", 9)  # Its COMMIT is fused with it.
    assert late.value.code == "deadline"
    assert time.thread_time() - worked_s < 0.05, "who waits sleeps"
    assert 0.14 < time.monotonic() - started < 4
    plain.run(put, "b", 1)  # The cancelled connection is as good as new.
    held()
    assert plain.run(get, "b") == 1
    assert plain.run(get, "a") == 2


def test_a_lock_held_for_too_long_is_the_callers_to_retry(
    plain: Database, held: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def impatient(tx: Tx) -> None:
        tx.one("SELECT set_config('lock_timeout', '50ms', true)")
        put(tx, "a", 9)

    with pytest.raises(Retry) as timed_out:
        plain.run(impatient)
    assert timed_out.value.code == "lock_timeout"


def test_a_lock_timeout_is_confined_by_a_savepoint(plain: Database, held: Callable[[], None]) -> None:
    def patient(tx: Tx) -> str:
        tx.one("SELECT set_config('lock_timeout', '50ms', true)")
        try:
            with tx.savepoint():
                tx.run(UPDATE, key="a")  # Its error comes when the savepoint is about to be kept.
        except Retry:
            put(tx, "b", 1)
            return "went on"
        return "got it"

    assert plain.run(patient) == "went on"
    assert plain.run(get, "b") == 1


def test_a_deadline_between_statements_undoes(plain: Database) -> None:
    def slow(tx: Tx) -> None:
        put(tx, "a", 1)
        let_pass(60)

    with pytest.raises(Retry) as late:
        plain.options(deadline_ms=50).run(slow)
    assert late.value.code == "deadline"
    assert plain.run(get, "a") is None


def test_when_all_connections_are_busy_heartbeats_still_get_through(postgres_url: str) -> None:
    @reserved
    def heartbeat(tx: Tx) -> int:
        put(tx, "beat", 1)
        return 1

    with onefold.connect(postgres_url, pool_max=4) as db:
        entered, leave = threading.Barrier(3, timeout=20), threading.Event()

        def blocks(tx: Tx) -> None:
            tx.one("SELECT 1")
            entered.wait()
            assert leave.wait(30)

        threads = [threading.Thread(target=db.run, args=(blocks,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        entered.wait()
        try:
            with pytest.raises(Retry) as busy:
                db.options(deadline_ms=50).run(get, "beat")
            assert busy.value.code == "deadline"
            with pytest.raises(Retry) as busy:
                asyncio.run(db.options(deadline_ms=50).arun(get, "beat"))
            assert busy.value.code == "deadline"
            assert db.run(heartbeat) == 1
            assert asyncio.run(db.arun(heartbeat)) == 1
            assert db.metrics()["pool_busy"] == 2
            assert (len(db.run(activity.sessions)), db.run(activity.replicas)) == (2, [])  # And whoever looks at it.
        finally:
            leave.set()
            for thread in threads:
                thread.join()
        assert db.run(get, "beat") == 1


def test_a_full_queue_says_so(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "WAITING_MAX", 1)
    monkeypatch.setattr(workers_module, "QUEUE_MAX", 1)
    before = {*threading.enumerate()}
    with onefold.connect(postgres_url, pool_max=3) as db:
        blocker = Blocker()

        async def scenario() -> None:
            running = asyncio.create_task(db.arun(blocker))
            await blocker.sits()
            waiting = asyncio.create_task(db.arun(get, "a"))
            await asyncio.sleep(0)
            started = {thread.name for thread in {*threading.enumerate()} - before}
            assert {name for name in started if name.startswith("onefold-run")} == {"onefold-run-0"}  # As there are places.
            assert db.metrics()["queued"] == 1
            with pytest.raises(Retry) as full:
                await db.arun(get, "a")
            assert full.value.code == "queue_full"
            with pytest.raises(Retry) as full:
                await db.options(hot="key").arun(get, "a")
            assert full.value.code == "queue_full"
            blocker.leave.set()
            await asyncio.gather(running, waiting)
            assert await db.options(hot="key").arun(get, "a") is None  # It did not keep the key.

        asyncio.run(scenario())


def test_a_call_that_no_thread_takes_up_ends_at_its_deadline(postgres_url: str) -> None:
    blocker = Blocker()

    async def scenario() -> None:
        running = asyncio.create_task(db.arun(blocker))
        await blocker.sits()
        with pytest.raises(Retry) as late:
            await db.options(deadline_ms=30).arun(get, "a")
        assert late.value.code == "deadline"
        blocker.leave.set()
        await running
        assert await db.arun(get, "a") is None

    with onefold.connect(postgres_url, pool_max=3) as db:
        asyncio.run(scenario())


def test_reserved_calls_that_wait_for_a_thread_are_counted(postgres_url: str) -> None:
    leave, entered = threading.Event(), threading.Barrier(pool_module.RESERVED + 1, timeout=WAIT_S)

    @reserved
    def sits(_: Tx, first: bool) -> None:
        if first:
            entered.wait()
            assert leave.wait(WAIT_S)

    async def scenario() -> None:
        calls = [asyncio.create_task(db.arun(sits, True)) for _ in range(pool_module.RESERVED)]
        await asyncio.to_thread(entered.wait)
        calls.append(asyncio.create_task(db.arun(sits, False)))
        await asyncio.sleep(0)
        assert db.metrics()["queued"] == 1
        leave.set()
        await asyncio.gather(*calls)

    with onefold.connect(postgres_url, pool_max=4) as db:
        asyncio.run(scenario())


def test_callers_of_a_hot_key_do_not_take_all_connections(postgres_url: str) -> None:
    with onefold.connect(postgres_url, pool_max=4) as db:
        blocker = Blocker()
        order: list[int] = []

        def hot(tx: Tx, number: int) -> int:
            order.append(number)
            blocker(tx)
            put(tx, "hot", number)
            return number

        async def scenario() -> None:
            handle = db.options(hot="sku/1")
            tasks = [asyncio.create_task(handle.arun(hot, n)) for n in range(20)]
            await blocker.sits()
            assert await db.arun(get, "other") is None  # A connection and a thread are free.
            assert db.run(get, "other") is None
            assert db.metrics()["queued"] == len(tasks) - 1
            with pytest.raises(Retry) as busy:
                await asyncio.to_thread(db.options(hot="sku/1", deadline_ms=50).run, hot, 99)
            assert busy.value.code == "deadline"
            tasks[5].cancel()
            blocker.leave.set()
            answers = await asyncio.gather(*tasks, return_exceptions=True)
            assert isinstance(answers[5], asyncio.CancelledError)
            assert [a for a in answers if isinstance(a, int)] == [n for n in range(20) if n != 5]

        asyncio.run(scenario())
        assert order == [n for n in range(20) if n != 5]
        assert db.options(hot="sku/1").run(get, "hot") == 19


def test_every_queue_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "WAITING_MAX", 0)
    monkeypatch.setattr(workers_module, "HOT_WAITING_MAX", 1)
    never_ns = time.monotonic_ns() + 60_000_000_000
    places, hot = pool_module.Places(most=pool_module.RESERVED), workers_module.HotKeys()
    places.enter(reserved=True, deadline_ns=never_ns)
    assert [hot.enter((0, "key"), lambda: None) for _ in range(2)] == [True, False]
    for enter in (
        lambda: places.enter(reserved=False, deadline_ns=never_ns), lambda: hot.enter((0, "key"), lambda: None),
    ):  # fmt: skip
        with pytest.raises(Retry) as full:
            enter()
        assert full.value.code == "queue_full"
    assert (places.waiting, hot.waiting) == (0, 1)


def test_calls_are_worked_on_by_only_so_many_threads() -> None:
    leave = threading.Event()
    workers = workers_module.Workers(2, lambda _: leave.wait(WAIT_S), name="test-most")
    for _ in range(4):
        workers.submit(Call(put, (), {}, Options(), 0))
    assert sum(thread.name.startswith("test-most-") for thread in threading.enumerate()) == 2
    leave.set()
    workers.close()
    assert workers.queued == 0


def test_closing_workers_take_only_what_had_been_admitted_before() -> None:
    ran: list[Call] = []
    workers = workers_module.Workers(1, lambda call: (let_pass(20), ran.append(call)), name="test")
    call, late = (Call(put, (), {}, Options(), 0) for _ in range(2))
    workers.close()
    with pytest.raises(Invalid) as closed:
        workers.submit(call)
    assert closed.value.code == "closed"
    workers.submit(late, late=True)
    workers.close()
    assert ran == [late]


def test_who_asks_for_a_thread_when_there_is_none_is_told_and_the_next_one_is_served(
    plain: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_more(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def beside(blocker: Blocker) -> None:
        first = asyncio.create_task(plain.arun(blocker))
        await blocker.sits()
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", no_more)
            second = asyncio.create_task(plain.arun(put, "a"))  # Behind the first one, who has a thread.
            await asyncio.sleep(0)
        blocker.leave.set()
        await asyncio.gather(first, second)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_more)
        with pytest.raises(RuntimeError):
            plain.waiter("topic")
        with pytest.raises(RuntimeError):
            asyncio.run(plain.arun(put, "never"))
    assert plain.metrics()["queued"] == 0
    asyncio.run(beside(Blocker()))
    waiter = plain.waiter("topic")
    asyncio.run(plain.arun(lambda tx: tx.wake("topic")))
    assert waiter.wait(WAIT_S)
    waiter.close()
    assert [plain.run(get, key) for key in ("a", "never")] == [1, None]
    plain.close()


@pytest.mark.parametrize(("reserved_", "most"), [(True, 1), (False, pool_module.RESERVED + 1)])
def test_whoever_waits_gets_the_place_that_comes_free(reserved_: bool, most: int) -> None:
    places = pool_module.Places(most)
    never_ns = time.monotonic_ns() + 60_000_000_000
    places.enter(reserved=reserved_, deadline_ns=never_ns)
    threads = [threading.Thread(target=lambda: places.enter(reserved=reserved_, deadline_ns=never_ns)) for _ in range(2)]
    for thread in threads:
        thread.start()
    until(lambda: places.waiting == 2)
    for left in (1, 0):
        places.leave()
        assert places.waiting == left, "each place that comes free is given to one"
    for thread in threads:
        thread.join(5)
        assert not thread.is_alive()
    places.leave()
    for _ in range(most):
        places.enter(reserved=True, deadline_ns=never_ns)
    with pytest.raises(Retry):  # There are no more than there were.
        places.enter(reserved=True, deadline_ns=0)


def test_a_cancel_that_cannot_be_sent_leaves_the_answer_its_time_and_the_next_statement_none(
    plain: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refused:
        def __init__(self, pg: Any, request: Any) -> None:
            self._pg, self._request = pg, request

        def __getattr__(self, name: str) -> Any:
            return getattr(self._pg, name)

        def cancel_conn(self) -> Any:
            if self._request is None:
                raise psycopg.OperationalError
            return self._request

    pool = plain._engine._open().pool  # type: ignore[attr-defined]
    wire = pool.take(time.monotonic_ns() + 60_000_000_000)
    pg, nothing = wire._pg, lambda: None
    for request in (None, SimpleNamespace(start=nothing, poll=lambda: psycopg.pq.PollingStatus.FAILED, finish=nothing)):
        wire._pg, wire.suspicious = Refused(pg, request), False
        wire.deadline_ns = time.monotonic_ns()
        wire.command(b"SELECT count(*) FROM generate_series(1, 300000)")
        assert wire.rows() == [(300_000,)]
        assert wire.suspicious
    monkeypatch.setattr(wire_module, "CANCEL_NS_MAX", 300_000_000)
    wire._pg, began = pg, time.monotonic()
    wire.command(b"SELECT count(*) FROM generate_series(1, 100000000)")
    with pytest.raises(Overdue):  # The next one has no time any more.
        wire.sync()
    assert time.monotonic() - began < 4
    pool.give(wire)


@pytest.mark.parametrize("dies", [False, True])
def test_after_a_cancel_a_connection_is_used_again_only_if_it_is_clean(
    plain: Database, postgres_url: str, monkeypatch: pytest.MonkeyPatch, dies: bool
) -> None:
    pool, cancels = plain._engine._open().pool, []  # type: ignore[attr-defined]
    wire = pool.take(time.monotonic_ns() + 60_000_000_000)
    wire.suspicious, wire.deadline_ns = True, time.monotonic_ns()
    monkeypatch.setattr(wire_module.Wire, "_cancel", cancels.append)
    if dies:
        with psycopg.connect(postgres_url, autocommit=True) as admin:
            admin.execute("SELECT pg_terminate_backend(%s, 20000)", [wire.identity.pid])
    pool.give(wire)
    assert (wire.broken, wire in pool._idle, wire.suspicious, cancels) == (dies, not dies, dies, [])
    assert plain.run(get, "a") is None


@pytest.mark.parametrize(
    ("use", "where"),
    [
        (lambda wire: wire.part(b"ROLLBACK"), "_end_pipeline"), (lambda wire: wire.sync(), "_end_pipeline"),
        (lambda wire: wire.command(b"ROLLBACK"), "_refuse_broken"),
    ],
    ids=["part", "sync", "command"],
)  # fmt: skip
def test_a_wire_whose_user_was_interrupted_has_no_other(
    plain: Database, monkeypatch: pytest.MonkeyPatch, use: Callable[[wire_module.Wire], object], where: str
) -> None:
    plain.run(put, "a", 1)
    pool = plain._engine._open().pool  # type: ignore[attr-defined]
    wire = pool.take(time.monotonic_ns() + 60_000_000_000)

    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    wire.command(b"BEGIN")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(wire_module.Wire, where, interrupted)
        use(wire)
    pool.give(wire)
    assert plain.run(get, "a") == 1
    assert wire not in pool._idle


def test_who_listens_sleeps_while_nothing_is_said(plain: Database) -> None:
    pool = plain._engine._open().pool  # type: ignore[attr-defined]
    wire, doorbell = pool.take(time.monotonic_ns() + 60_000_000_000), os.pipe()
    began = time.monotonic()
    assert wire.notifications(doorbell[0], 0.05) == []
    assert time.monotonic() - began > 0.04
    os.write(doorbell[1], b"x")
    assert wire.notifications(doorbell[0], 60.0) == []
    pool.give(wire)
    for descriptor in doorbell:
        os.close(descriptor)


def test_whoever_goes_when_his_turn_has_come_passes_it_on(monkeypatch: pytest.MonkeyPatch) -> None:
    places, hot, never_ns = pool_module.Places(most=1), workers_module.HotKeys(), time.monotonic_ns() + 60_000_000_000
    waits = (
        (pool_module, lambda: places.enter(reserved=True, deadline_ns=never_ns), places.leave),
        (workers_module, lambda: hot.wait((0, "key"), never_ns), lambda: hot.leave((0, "key"))),
    )
    for module, wait, leave in waits:

        def interrupted(_: int, leave: Callable[[], None] = leave) -> float:
            leave()  # It is given to who waits,
            raise KeyboardInterrupt  # and he never learns of it.

        wait()
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(module, "seconds_left", interrupted)
            wait()
        wait()
    assert (places.waiting, hot.waiting) == (0, 0)
    with pytest.raises(Retry):  # He passed on one place, not two.
        places.enter(reserved=True, deadline_ns=0)


def test_the_servers_clock_is_read_again_and_a_wire_that_died_meanwhile_is_replaced(
    plain: Database, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain.run(put, "a", 1)
    monkeypatch.setattr(pool_module, "CLOCK_AGE_NS_MAX", 0)
    clock = plain._engine._parts.clock  # type: ignore[attr-defined]
    for kill in (False, True):
        clock._offset_ns, clock._last_ms = 0, 0  # As if the timer had run wrong for years.
        if kill:
            with psycopg.connect(postgres_url, autocommit=True) as admin:
                admin.execute(
                    "SELECT pg_terminate_backend(pid, 20000) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
        assert abs(plain.run(lambda tx: tx.now_ms) - time.time() * 1_000) < 60_000
    assert plain.metrics()["retries"] == []


def test_when_one_connection_died_the_others_are_made_anew(
    plain: Database, postgres_url: str, threads: ThreadPoolExecutor
) -> None:
    together = threading.Barrier(3)
    for done in [threads.submit(plain.run, lambda tx: (tx.one("SELECT 1"), together.wait(WAIT_S))) for _ in range(3)]:
        done.result()
    with psycopg.connect(postgres_url, autocommit=True) as admin:
        admin.execute(
            "SELECT pg_terminate_backend(pid, 20000) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    assert plain.run(get, "a") is None
    assert [row["count"] for row in plain.metrics()["retries"]] == [1]


def test_a_server_that_is_away_is_asked_less_and_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = pool_module.Pool(pool_module.conninfo_of("postgresql://127.0.0.1:1/x"), 3, ServerClock())
    pauses_s: list[float] = []

    def passes(pause_s: float) -> None:
        pauses_s.append(pause_s)
        if len(pauses_s) == 10:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(pool_module, "time", SimpleNamespace(sleep=passes, monotonic_ns=time.monotonic_ns))
        nowhere.take(time.monotonic_ns() + 60_000_000_000)
    first_s, longest_s = pool_module.CONNECT_PAUSE_S
    wholes_s = [min(first_s * 2**n, longest_s) for n in range(10)]
    assert all(whole_s / 2 <= pause_s <= whole_s for pause_s, whole_s in zip(pauses_s, wholes_s, strict=True)), pauses_s


def test_whoever_closes_as_well_comes_back_when_it_is_done(postgres_url: str, threads: ThreadPoolExecutor) -> None:
    db, blocker = onefold.connect(postgres_url), Blocker()
    with contextlib.closing(db.waiter("t")):
        work = threads.submit(db.run, blocker)
        assert blocker.entered.wait(WAIT_S)
        closers = [threads.submit(db.close)]
        until(lambda: "onefold-listen" not in {thread.name for thread in threading.enumerate()})
        closers.append(threads.submit(db.close))
        until(closers[1].running)
        blocker.leave.set()
        assert [future.result(WAIT_S) for future in (work, *closers)] == [None] * 3


def test_closing_waits_only_so_long_for_a_function_that_does_not_end(
    postgres_url: str, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    db, blocker = onefold.connect(postgres_url), Blocker()
    work = threads.submit(db.run, blocker)
    assert blocker.entered.wait(WAIT_S)
    monkeypatch.setattr(pool_module, "CONNECT_NS_MAX", 1_000_000)
    pool = db._engine._open().pool  # type: ignore[attr-defined]
    db.close()
    assert pool.busy == 1
    blocker.leave.set()
    assert work.result(WAIT_S) is None
    with psycopg.connect(postgres_url, autocommit=True) as other:
        ours = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'onefold'"
        until(lambda: other.execute(ours).fetchone() is None, "the end of its connection", seconds=10)
    assert pool.busy == 0


def test_who_waits_for_a_place_while_all_is_closed_has_his_turn(postgres_url: str, threads: ThreadPoolExecutor) -> None:
    db, blocker = onefold.connect(postgres_url, pool_max=3), Blocker()
    pool = db._engine._open().pool  # type: ignore[attr-defined]
    work = threads.submit(db.run, blocker)
    assert blocker.entered.wait(WAIT_S)
    waits = threads.submit(db.run, put, "a", 1)
    until(lambda: pool.places.waiting == 1)
    closer = threads.submit(db.close)
    until(lambda: pool.places.waiting == 2)
    blocker.leave.set()
    assert [future.result(WAIT_S) for future in (work, waits, closer)] == [None] * 3
    with onefold.connect(postgres_url) as again:
        assert again.run(get, "a") == 1


def test_who_waits_for_a_hot_key_while_all_is_closed_has_his_turn_as_well(
    postgres_url: str, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    db, blocker = onefold.connect(postgres_url, pool_max=3), Blocker()
    hot = db.options(hot="key")

    async def scenario() -> list[None]:
        assert await db.arun(get, "a") is None  # The only thread of its kind, which ends with the closing.
        holder = threads.submit(hot.run, blocker)
        await blocker.sits()
        waiting = [asyncio.create_task(hot.arun(put, "a", n)) for n in (1, 2)]
        await asyncio.sleep(0)
        with monkeypatch.context() as patch:
            patch.setattr(pool_module, "CONNECT_NS_MAX", 1_000_000)
            await asyncio.to_thread(db.close)
        blocker.leave.set()
        assert await asyncio.wrap_future(holder) is None
        return await asyncio.gather(*waiting)

    assert asyncio.run(scenario()) == [None, None]
    with onefold.connect(postgres_url) as again:
        assert again.run(get, "a") == 2


def test_pool_max_has_a_range(postgres_url: str) -> None:
    for wrong in (2, 101):
        with pytest.raises(Invalid, match="pool_max"):
            onefold.connect(postgres_url, pool_max=wrong)
    for right in (3, 100):
        onefold.connect(postgres_url, pool_max=right).close()


def test_only_so_many_statements_are_prepared_and_the_others_are_run_as_well(
    plain: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = "SELECT count(*) FROM pg_prepared_statements"
    [already] = plain.run(lambda tx: tx.one(prepared)) or ()
    monkeypatch.setattr(wire_module, "PREPARED_MAX", already + 1)
    assert [plain.run(lambda tx, n=n: tx.one(f"SELECT {n} + :n", n=n)) for n in range(4)] == [(0,), (2,), (4,), (6,)]
    assert plain.run(lambda tx: tx.one(prepared)) == (already + 1,)


# -- what stands between -----------------------------------------------------------------------------


def test_a_connection_whose_prepared_statements_are_gone_is_named_and_replaced(plain: Database) -> None:
    """What a pooler in transaction mode does to a client: statement names are another session's."""

    for handle in (plain, plain.reader()):
        with pytest.raises(Invalid) as refused:
            for _ in range(30):  # Until a connection that knew the statement has forgotten it.
                handle.run(lambda tx: (tx.driver_connection().execute("DEALLOCATE ALL"), tx.one("SELECT 1")))
        assert refused.value.code == "pooler"
    for _ in range(30):
        assert plain.run(lambda tx: tx.one("SELECT 1")) == (1,)


def test_the_drivers_own_connection_cannot_end_the_transaction_unnoticed(plain: Database) -> None:
    def ends(tx: Tx) -> None:
        tx.run("INSERT INTO onefold.counter_totals (space, key, total) VALUES (:space, 'half', 1)")
        try:
            tx.driver_connection().execute("ROLLBACK")
        except Invalid:
            pass

    with pytest.raises(Doomed):
        plain.run(ends)
    assert plain.run(get, "half") is None


def test_a_transaction_that_failed_behind_our_back_is_not_said_to_be_unknown(plain: Database) -> None:
    def fails(tx: Tx) -> None:
        tx.run("INSERT INTO onefold.counter_totals (space, key, total) VALUES (:space, 'half', 1)")
        try:
            tx.driver_connection().execute("SELECT 1 / 0")
        except Exception:
            pass

    with pytest.raises(Doomed):
        plain.run(fails)
    assert plain.run(get, "half") is None


@pytest.mark.parametrize("lazy", [False, True])
def test_a_deadline_ends_a_statement_of_the_drivers_own_connection(
    plain: Database, held: Callable[[], None], lazy: bool
) -> None:
    def slow(tx: Tx) -> None:
        put(tx, "half", 1)
        with contextlib.suppress(Exception) if lazy else contextlib.nullcontext():
            tx.driver_connection().execute("UPDATE onefold.counter_totals SET total = 9 WHERE key = 'a'")

    began = time.monotonic()
    with pytest.raises(Retry) as late:
        plain.options(deadline_ms=100).run(slow)
    assert late.value.code == "deadline"
    assert time.monotonic() - began < 4  # After 5 s the server itself ends the wait.
    held()
    assert plain.run(get, "half") is None
    assert plain.run(lambda tx: tx.driver_connection().execute("SELECT 1").fetchone()) == (1,)


def test_the_drivers_own_connection_does_what_else_it_can(plain: Database) -> None:
    insert = "INSERT INTO onefold.counter_totals (space, key, total) VALUES (%s, %s, 1)"

    def works(tx: Tx) -> object:
        connection = tx.driver_connection()
        assert connection.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS  # As libraries look first.
        connection.cursor().executemany(insert, [(tx.space, key) for key in "ab"])
        return connection.execute(b"SELECT count(*) FROM onefold.counter_totals").fetchone()

    assert plain.run(works) == (2,)
    for end in (lambda connection: connection.close(), lambda connection: connection.execute("SELECT 1; COMMIT")):
        with pytest.raises(Invalid) as refused:
            plain.run(lambda tx, end=end: end(tx.driver_connection()))
        assert refused.value.code == "inner_commit"
    assert plain.run(get, "b") == 1


@pytest.mark.parametrize(
    ("change", "code", "says"),
    [
        (("&port=", "&port=x"), "url", "not a PostgreSQL URL"),
        (("?", "?sslmode=perhaps&"), "url", "not a PostgreSQL URL"),
        (("postgres@", "invalid%20user@"), "refused", "user does not exist"),
        (("/test_", "/invalid_"), "refused", "database does not exist"),
        (("postgres@/", "postgres:p@ss@localhost/"), "url", "one @"),
    ],
    ids=["port", "option", "user", "database", "password"],
)
def test_a_url_that_leads_nowhere_is_refused_for_its_own_reason(
    postgres_url: str, change: tuple[str, str], code: str, says: str
) -> None:
    with pytest.raises(Invalid, match=says) as nowhere:
        onefold.connect(postgres_url.replace(*change, 1))
    assert nowhere.value.code == code
    assert "p@ss" not in str(nowhere.value)


@pytest.mark.parametrize("said", ['could not translate host name "does not exist"', 'role "a" is busy', 'database "a" is busy'])
def test_what_only_sounds_like_a_refusal_is_worth_another_attempt(said: str) -> None:
    assert refused(f"connection failed: {said}").code == "unavailable"


def test_who_comes_after_the_deadline_gets_retry_from_every_queue() -> None:
    deadline_ns = time.monotonic_ns() - 500_000_000
    places = pool_module.Places(most=0)
    hot = workers_module.HotKeys()
    assert hot.enter((0, "key"), lambda: None)
    for wait in (
        lambda: places.enter(reserved=True, deadline_ns=deadline_ns),
        lambda: places.enter(reserved=False, deadline_ns=deadline_ns),
        lambda: hot.wait((0, "key"), deadline_ns),
    ):
        with pytest.raises(Retry):
            wait()
    assert (places.waiting, hot.waiting) == (0, 0)
