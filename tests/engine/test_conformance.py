"""What `run` promises, on both engines. Engine-specific behaviour has files of its own."""

from __future__ import annotations

import asyncio
import contextlib
import threading

import pytest
from engine_words import INSERT, PUT, Blocker, get, put

import onefold
from onefold import Conflict, Database, Doomed, Invalid, Retry, Tx, operation
from onefold.core.clock import FakeClock
from onefold.engine.require import require
from onefold.engine.values import INTEGER_MAX, INTEGER_MIN


def demand(tx: Tx, key: str, total: int) -> None:
    require(
        tx,
        """UPDATE onefold.counter_totals SET total = 0
           WHERE space = :space AND key = :key AND total = :total RETURNING key""",
        lambda: Conflict("It is another one.", code="other", key=key), key=key, total=total,
    )  # fmt: skip


def increment(tx: Tx, key: str) -> int:
    row = tx.one(
        """INSERT INTO onefold.counter_totals (space, key, total) VALUES (:space, :key, 1)
           ON CONFLICT (space, key) DO UPDATE SET total = onefold.counter_totals.total + 1
           RETURNING total""",
        key=key,
    )
    assert row is not None
    return row[0]


def test_a_result_comes_back_and_its_write_stays(db: Database) -> None:
    assert db.run(increment, "a") == 1
    assert db.run(increment, "a") == 2
    assert db.run(get, "a") == 2


def test_arun_is_run_for_tasks(db: Database) -> None:
    async def many() -> list[int]:
        return await asyncio.gather(*(db.arun(increment, "a") for _ in range(50)))

    assert sorted(asyncio.run(many())) == list(range(1, 51))
    assert db.run(get, "a") == 50


def test_many_threads_lose_nothing(db: Database) -> None:
    def work() -> None:
        for _ in range(20):
            db.run(increment, "a")

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert db.run(get, "a") == 160


def test_raising_undoes_everything(db: Database) -> None:
    def fails(tx: Tx) -> None:
        put(tx, "a", 1)
        raise Conflict("No.", code="no")

    with pytest.raises(Conflict, match="No"):
        db.run(fails)
    assert db.run(get, "a") is None


def test_a_failure_in_a_crowd_costs_the_others_nothing(db: Database) -> None:
    def work(tx: Tx, number: int) -> int:
        put(tx, f"k{number}", number)
        if number % 3 == 0:
            raise Conflict("Every third fails.")
        return number

    async def crowd() -> list[object]:
        return await asyncio.gather(*(db.arun(work, n) for n in range(60)), return_exceptions=True)

    answers = asyncio.run(crowd())
    for number, answer in enumerate(answers):
        if number % 3 == 0:
            assert isinstance(answer, Conflict)
            assert db.run(get, f"k{number}") is None
        else:
            assert answer == number
            assert db.run(get, f"k{number}") == number


def test_a_swallowed_sql_error_dooms(db: Database) -> None:
    db.run(put, "a", 1)

    def swallows(tx: Tx) -> None:
        put(tx, "b", 2)
        try:
            tx.one(INSERT + " RETURNING total", key="a", total=9)
        except Conflict:
            pass
        put(tx, "c", 3)

    with pytest.raises(Doomed):
        db.run(swallows)
    assert (db.run(get, "b"), db.run(get, "c"), db.run(get, "a")) == (None, None, 1)


def test_a_swallowed_operation_error_dooms_even_when_nothing_follows(db: Database) -> None:
    @operation
    def refuses(tx: Tx) -> None:
        put(tx, "half", 1)
        raise Conflict("After the first half.")

    def swallows(tx: Tx) -> str:
        try:
            refuses(tx)
        except Conflict:
            return "fine"
        return "not reached"

    with pytest.raises(Doomed):
        db.run(swallows)
    assert db.run(get, "half") is None


def test_a_savepoint_confines_an_error(db: Database) -> None:
    db.run(put, "a", 1)

    def tries(tx: Tx) -> str:
        put(tx, "before", 1)
        try:
            with tx.savepoint():
                put(tx, "inside", 1)
                tx.one(INSERT + " RETURNING total", key="a", total=9)
        except Conflict:
            put(tx, "after", 1)
            return "confined"
        return "not reached"

    assert db.run(tries) == "confined"
    assert [db.run(get, k) for k in ("before", "inside", "after", "a")] == [1, None, 1, 1]


def test_an_error_swallowed_inside_a_savepoint_undoes_the_savepoint_only(db: Database) -> None:
    db.run(put, "a", 1)

    def tries(tx: Tx) -> None:
        put(tx, "before", 1)
        try:
            with tx.savepoint():
                put(tx, "inside", 1)
                try:
                    tx.one(INSERT + " RETURNING total", key="a", total=9)
                except Conflict:
                    pass
        except Doomed:
            put(tx, "after", 1)

    db.run(tries)
    assert [db.run(get, k) for k in ("before", "inside", "after")] == [1, None, 1]


def test_what_is_required_and_there_lets_the_transaction_count(db: Database) -> None:
    db.run(put, "a", 7)

    def work(tx: Tx) -> None:
        demand(tx, "a", 7)
        put(tx, "b", 1)

    db.run(work)
    assert [db.run(get, k) for k in ("a", "b")] == [0, 1]


@pytest.mark.parametrize("reads", [False, True])
def test_what_is_required_and_missing_undoes_everything(db: Database, reads: bool) -> None:
    db.run(put, "a", 7)

    def work(tx: Tx) -> None:
        put(tx, "before", 1)
        demand(tx, "a", 8)
        if reads:
            get(tx, "a")
        put(tx, "after", 1)

    with pytest.raises(Conflict) as caught:
        db.run(work)
    assert (caught.value.code, caught.value.facts["key"]) == ("other", "a")
    assert [db.run(get, k) for k in ("before", "a", "after")] == [None, 7, None]


def test_a_savepoint_confines_what_is_required_and_missing(db: Database) -> None:
    db.run(put, "a", 7)

    def tries(tx: Tx) -> str:
        put(tx, "before", 1)
        try:
            with tx.savepoint():
                put(tx, "inside", 1)
                demand(tx, "a", 8)
        except Conflict as error:
            put(tx, "after", 1)
            return error.code
        return "not reached"

    assert db.run(tries) == "other"
    assert [db.run(get, k) for k in ("before", "inside", "after")] == [1, None, 1]


def test_a_swallowed_refusal_cannot_commit_half(db: Database) -> None:
    def swallows(tx: Tx) -> None:
        put(tx, "before", 1)
        try:
            demand(tx, "a", 8)
            get(tx, "a")
        except Conflict:
            pass

    with pytest.raises(Doomed):
        db.run(swallows)
    assert db.run(get, "before") is None


def test_savepoints_nest(db: Database) -> None:
    def nested(tx: Tx) -> None:
        with tx.savepoint():
            put(tx, "outer", 1)
            try:
                with tx.savepoint():
                    put(tx, "inner", 1)
                    raise Conflict("Only the inner one.")
            except Conflict:
                pass
            with tx.savepoint():
                put(tx, "second", 1)

    db.run(nested)
    assert [db.run(get, k) for k in ("outer", "inner", "second")] == [1, None, 1]


def test_a_coroutine_function_is_refused(db: Database) -> None:
    async def colour(tx: Tx) -> None: ...

    with pytest.raises(Invalid, match="coroutine"):
        db.run(colour)


def test_an_awaitable_result_is_refused_and_undone(db: Database) -> None:
    async def later() -> None: ...

    def sneaky(tx: Tx) -> object:
        put(tx, "a", 1)
        return later()

    with pytest.raises(Invalid, match="awaitable"):
        db.run(sneaky)
    assert db.run(get, "a") is None


def test_a_generator_is_refused(db: Database) -> None:
    def yields(tx: Tx):  # noqa: ANN202
        yield 1

    with pytest.raises(Invalid, match="generator"):
        db.run(yields)


def test_a_nested_run_is_refused(db: Database) -> None:
    def outer(tx: Tx) -> None:
        put(tx, "a", 1)
        db.run(put, "b", 2)

    with pytest.raises(Invalid, match="inside"):
        db.run(outer)
    assert db.run(get, "a") is None
    db.run(put, "c", 3)  # The thread is not marked for ever.


@pytest.mark.parametrize("sql", ["COMMIT", " rollback", "BEGIN", "-- x\nSAVEPOINT a", "PRAGMA x", "ATTACH 'a' AS b", ""])
def test_a_function_neither_begins_nor_ends_transactions(db: Database, sql: str) -> None:
    with pytest.raises(Invalid):
        db.run(lambda tx: tx.run(sql))


def test_the_function_sees_its_own_writes(db: Database) -> None:
    def both(tx: Tx) -> int | None:
        put(tx, "a", 5)
        return get(tx, "a")

    assert db.run(both) == 5


def test_one_refuses_two_rows(db: Database) -> None:
    db.run(put, "a", 1)
    db.run(put, "b", 1)
    with pytest.raises(Invalid, match="more than one"):
        db.run(lambda tx: tx.one("SELECT key FROM onefold.counter_totals WHERE space = :space"))


def test_many_writes_every_row(db: Database) -> None:
    def bulk(tx: Tx) -> None:
        tx.many(INSERT, [{"key": f"k{n}", "total": n} for n in range(1_000)])

    db.run(bulk)
    count = db.run(lambda tx: tx.one("SELECT count(*) FROM onefold.counter_totals WHERE space = :space"))
    assert count == (1_000,)


def test_a_constraint_speaks_our_language(db: Database) -> None:
    def duplicate(tx: Tx) -> None:
        tx.one(INSERT + " RETURNING total", key="a", total=1)
        tx.one(INSERT + " RETURNING total", key="a", total=1)

    with pytest.raises(Conflict) as conflict:
        db.run(duplicate)
    assert conflict.value.code == "unique"
    with pytest.raises(Invalid) as invalid:
        db.run(lambda tx: tx.one(INSERT + " RETURNING total", key="", total=1))
    assert invalid.value.code == "check"


def test_a_result_less_write_that_fails_fails_the_call(db: Database) -> None:
    db.run(put, "a", 1)

    def late(tx: Tx) -> str:
        put(tx, "b", 1)
        tx.run(INSERT, key="a", total=1)
        return "done"

    with pytest.raises(Conflict):
        db.run(late)
    assert db.run(get, "b") is None


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ("a\0b", "nul"), ("\ud800", "surrogate"), (INTEGER_MAX + 1, "integer_range"),
        (INTEGER_MIN - 1, "integer_range"), (float("nan"), "not_finite"), (float("inf"), "not_finite"),
        ([1], "type"), ({"a": 1}, "type"),
    ],
)  # fmt: skip
def test_a_value_without_a_place_is_refused(db: Database, value: object, code: str) -> None:
    with pytest.raises(Invalid) as refused:
        db.run(lambda tx: tx.one("SELECT key FROM onefold.counter_totals WHERE space = :space AND key = :key", key=value))
    assert refused.value.code == code


class Dressed(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "harmless"


class Small(int):
    def __int__(self) -> int:
        return 1


@pytest.mark.parametrize(
    ("value", "code"), [(Dressed("a\0b"), "nul"), (Dressed("\ud800"), "surrogate"), (Small(2**63), "integer_range")]
)
def test_a_subclass_is_judged_by_what_is_sent(db: Database, value: object, code: str) -> None:
    with pytest.raises(Invalid) as refused:
        db.run(lambda tx: tx.one("SELECT key FROM onefold.counter_totals WHERE space = :space AND key = :key", key=value))
    assert refused.value.code == code


@pytest.mark.parametrize("value", ["", "ü", "𝄞 'quoted' \"twice\" %s :name {slot}", INTEGER_MAX, INTEGER_MIN, 0, 1.5, -0.0, b"\x00\xff", None, True])
def test_values_come_back_as_they_went(db: Database, value: object) -> None:
    kind = {str: "TEXT", int: "BIGINT", float: "DOUBLE PRECISION", bytes: "BYTEA", bool: "INTEGER"}.get(type(value), "TEXT")
    if db.dialect == "sqlite":
        kind = {"BYTEA": "BLOB", "DOUBLE PRECISION": "REAL"}.get(kind, kind)
    sql = f"SELECT CAST(:value AS {kind})"  # noqa: S608
    if isinstance(value, bool):
        value = int(value)
    assert db.run(lambda tx: tx.one(sql, value=value)) == (value,)


def test_a_parameter_that_is_missing_is_the_callers_error(db: Database) -> None:
    with pytest.raises(Invalid):
        db.run(lambda tx: tx.one("SELECT key FROM onefold.counter_totals WHERE space = :space AND key = :nope"))


def test_a_deadline_ends_a_long_statement(db: Database) -> None:
    endless = """WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000000000)
                 SELECT max(i) FROM n"""
    with pytest.raises(Retry) as late:
        db.options(deadline_ms=200).run(lambda tx: tx.one(endless))
    assert late.value.code == "deadline"
    assert db.run(increment, "a") == 1


def test_a_deadline_ends_a_long_insert_and_its_transaction(db: Database) -> None:
    flood = """WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 50000000)
               INSERT INTO onefold.counter_totals (space, key, total)
               SELECT :space, 'k' || CAST(i AS TEXT), i FROM n"""
    flood_postgres = """INSERT INTO onefold.counter_totals (space, key, total)
               WITH RECURSIVE n(i) AS (SELECT CAST(1 AS BIGINT) UNION ALL SELECT i + 1 FROM n WHERE i < 50000000)
               SELECT :space, 'k' || CAST(i AS TEXT), i FROM n"""
    sql = flood if db.dialect == "sqlite" else flood_postgres

    def work(tx: Tx) -> None:
        put(tx, "mine", 1)
        tx.run(sql)

    with pytest.raises(Retry) as late:
        db.options(deadline_ms=200).run(work)
    assert late.value.code == "deadline"
    assert db.run(get, "mine") is None
    assert db.run(increment, "a") == 1


def test_spaces_do_not_see_each_other(db: Database) -> None:
    db.at("tenant/1").run(put, "a", 1)
    assert db.at("tenant/2").run(get, "a") is None
    assert db.run(get, "a") is None
    assert db.at("tenant/1").run(get, "a") == 1


def test_the_name_of_a_space_is_written_down(db: Database) -> None:
    db.at("tenant/1").run(put, "a", 1)
    names = db.run(lambda tx: tx.all("SELECT name FROM onefold.spaces ORDER BY name"))
    assert ("tenant/1",) in names


def test_two_names_with_one_number_are_refused(db: Database) -> None:
    handle = db.at("tenant/1")
    number = handle._space
    db.run(lambda tx: tx.run("INSERT INTO onefold.spaces (space, name) VALUES (:number, 'other')", number=number))
    with pytest.raises(Invalid) as collision:
        handle.run(put, "a", 1)
    assert collision.value.code == "space_collision"
    assert handle.reader().run(get, "a") is None


def test_a_reader_reads_a_snapshot_and_refuses_to_write(db: Database) -> None:
    db.run(put, "a", 1)
    assert db.reader().run(get, "a") == 1
    assert asyncio.run(db.reader().arun(get, "a")) == 1
    with pytest.raises(Invalid):
        db.reader().run(put, "a", 2)
    assert db.run(get, "a") == 1


def test_a_readers_snapshot_stands_still(db: Database) -> None:
    db.run(put, "a", 1)
    first_read, written = threading.Event(), threading.Event()
    answers: list[int | None] = []

    def twice(tx: Tx) -> None:
        answers.append(get(tx, "a"))
        first_read.set()
        assert written.wait(10)
        answers.append(get(tx, "a"))

    thread = threading.Thread(target=db.reader().run, args=(twice,))
    thread.start()
    assert first_read.wait(10)
    db.run(put, "a", 2)
    written.set()
    thread.join()
    assert answers == [1, 1]
    assert db.reader().run(get, "a") == 2


def test_adds_are_read_exactly(db: Database) -> None:
    def work(tx: Tx) -> int:
        tx.add("visits", 3)
        tx.add("visits", -1)
        return tx.total("visits")

    assert db.run(work) == 2
    assert db.run(work) == 4
    assert db.run(lambda tx: tx.total("never")) == 0


def test_adds_of_an_aborted_call_do_not_count(db: Database) -> None:
    def fails(tx: Tx) -> None:
        tx.add("visits", 3)
        raise Conflict("No.")

    with pytest.raises(Conflict):
        db.run(fails)
    assert db.run(lambda tx: tx.total("visits")) == 0


def test_concurrent_adds_to_one_key_all_count(db: Database) -> None:
    async def crowd() -> None:
        await asyncio.gather(*(db.arun(lambda tx: tx.add("hot", 1)) for _ in range(200)))

    asyncio.run(crowd())
    assert db.run(lambda tx: tx.total("hot")) == 200


def test_ids_sort_within_a_call_and_repeat_when_the_call_does(db: Database) -> None:
    ids = db.run(lambda tx: [tx.new_id("job") for _ in range(3)])
    assert ids == sorted(ids)
    assert len(set(ids)) == 3
    assert all(identifier.startswith("job_") and len(identifier) == 36 for identifier in ids)
    assert db.run(lambda tx: tx.random.random()) != db.run(lambda tx: tx.random.random())


def test_hints_come_after_the_commit_in_its_order(db: Database) -> None:
    seen: list[object] = []
    done = threading.Event()

    def heard(fact: str, facts: dict[str, object]) -> None:
        seen.append((fact, facts["n"]))
        if len(seen) == 3:
            done.set()

    db.subscribe("test.", heard)

    def work(tx: Tx, n: int) -> None:
        tx.emit("test.fact", n=n)
        tx.emit("other.fact", n=n)

    def fails(tx: Tx) -> None:
        work(tx, 99)
        raise Conflict("No.")

    for n in range(3):
        db.run(work, n)
        with pytest.raises(Conflict):
            db.run(fails)
    assert done.wait(10)
    assert seen == [("test.fact", 0), ("test.fact", 1), ("test.fact", 2)]


def test_on_commit_runs_once_after_the_commit_on_another_thread(db: Database) -> None:
    heard: list[tuple[int, int | None]] = []
    done = threading.Event()

    def work(tx: Tx) -> None:
        put(tx, "a", 7)
        tx.on_commit(lambda: (heard.append((threading.get_ident(), db.run(get, "a"))), done.set()))

    db.run(work)
    assert done.wait(10)
    assert heard[0][1] == 7
    assert heard[0][0] != threading.get_ident()
    assert len(heard) == 1


def test_hints_of_an_undone_savepoint_are_forgotten(db: Database) -> None:
    waiters = [db.waiter("topic/1"), db.waiter("topic/2")]
    heard: list[str] = []
    done = threading.Event()
    db.subscribe("test.", lambda fact, facts: heard.append(f"{fact} {facts['n']}"))

    def work(tx: Tx, before: bool) -> None:
        if before:
            tx.emit("test.before", n=0)
        with contextlib.suppress(Conflict), tx.savepoint():
            for n in (1, 2):
                tx.emit("test.undone", n=n)
                tx.wake(f"topic/{n}")
                tx.on_commit(lambda: heard.append("undone"))
            raise Conflict("No.")

    for before in (False, True):
        db.run(work, before)
    after = db.waiter("after")
    db.run(lambda tx: (tx.wake("after"), tx.on_commit(done.set)))
    assert after.wait(10)  # What was said before it has arrived as well.
    assert done.wait(10)
    assert heard == ["test.before 0"]
    assert not any(waiter.wait(0) for waiter in waiters)
    for waiter in (after, *waiters):
        waiter.close()


def test_a_wake_reaches_threads_and_tasks(db: Database) -> None:
    waiter = db.waiter("topic")
    db.run(lambda tx: tx.wake("topic"))
    assert waiter.wait(10)

    async def task() -> bool:
        waiting = asyncio.create_task(waiter.await_(10))
        await asyncio.sleep(0)
        await db.arun(lambda tx: tx.wake("topic"))
        return await waiting

    assert asyncio.run(task())
    waiter.close()


def test_a_used_up_tx_is_dead(db: Database) -> None:
    kept: list[Tx] = []
    db.run(kept.append)
    with pytest.raises(Doomed):
        kept[-1].run(PUT, key="a", total=1)
    assert db.run(get, "a") is None


def test_metrics_count_what_happened(db: Database) -> None:
    db.run(increment, "a")

    def fails(tx: Tx) -> None:
        raise Conflict("No.", code="no")

    with pytest.raises(Conflict):
        db.run(fails)
    numbers = db.metrics()
    assert numbers["commits"] >= 1
    assert numbers["commit"]["count"] >= 1
    assert {"code": "no", "count": 1} in [{"code": a["code"], "count": a["count"]} for a in numbers["aborts"]]
    assert "oldest_snapshot_ms" in numbers


def test_both_runs_of_a_rehearsal_have_one_time(db_url: str) -> None:
    class Racing(FakeClock):
        def now_ms(self) -> int:
            self.advance(1)
            return super().now_ms()

    with onefold.connect(db_url, rehearse=True, clock=Racing()) as db:
        times: list[int] = []
        db.run(lambda tx: times.append(tx.now_ms))
        assert len(times) == 2
        assert len(set(times)) == 1


def test_a_function_that_is_not_repeatable_fails_in_rehearsal(db: Database) -> None:
    calls: list[int] = []

    def impure(tx: Tx) -> int:
        calls.append(1)
        return len(calls)

    with pytest.raises(Invalid) as refused:
        db.run(impure)
    assert refused.value.code == "not_repeatable"


def test_a_claimed_name_is_ours_until_the_end(db: Database) -> None:
    assert db.run(lambda tx: (tx.try_claim("a"), tx.try_claim("a"))) == (True, True)
    assert db.run(lambda tx: tx.try_claim("a"))


def test_a_closed_database_says_so(db: Database) -> None:
    db.close()
    with pytest.raises(Invalid) as closed:
        db.run(increment, "a")
    assert closed.value.code == "closed"


def test_cancelling_before_admission_withdraws(db: Database) -> None:
    blocker = Blocker()

    async def scenario() -> None:
        # Fill whatever runs in parallel, so that the next call has to queue.
        blocked = [asyncio.create_task(db.arun(blocker)) for _ in range(40)]
        await blocker.sits()
        victim = asyncio.create_task(db.arun(increment, "victim"))
        await asyncio.sleep(0)
        victim.cancel()
        with pytest.raises(asyncio.CancelledError):
            await victim
        blocker.leave.set()
        await asyncio.gather(*blocked)

    asyncio.run(scenario())
    assert db.run(get, "victim") is None


def test_cancelling_after_admission_waits_for_the_outcome(db: Database) -> None:
    blocker = Blocker()

    def blocks(tx: Tx) -> None:
        put(tx, "a", 1)
        blocker(tx)

    async def scenario() -> None:
        task = asyncio.create_task(db.arun(blocks))
        await blocker.sits()
        task.cancel()
        await asyncio.sleep(0)
        assert not task.done()  # It may already be committing: nobody knows yet.
        blocker.leave.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(scenario())
    assert db.run(get, "a") == 1
