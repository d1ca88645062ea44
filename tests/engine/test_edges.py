"""What hostile or careless callers do at the engine's edge, on both engines."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import sqlite3
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from engine_words import INSERT, NUMBERS, PUT, get, in_one_batch, put
from waiting import auntil, let_pass

import onefold
from onefold import Conflict, Database, Doomed, Invalid, OnefoldError, Retry, Tx
from onefold.core.clock import FakeClock
from onefold.engine import inspect, schema, telling, wake
from onefold.engine.call import Call, Options, settle
from onefold.engine.connect import parse_postgres_url
from onefold.engine.sqlite import connection as connection_module
from onefold.engine.sqlite.connection import open_connection
from onefold.engine.sqlite.memory import MemoryWriter
from onefold.index import schema_directories


def add(tx: Tx, key: str) -> str:
    tx.add(key, 1)
    return key


def stops(_tx: Tx) -> None:
    raise StopIteration


@pytest.mark.parametrize("reading", [False, True])
def test_an_error_that_no_future_takes_reaches_its_caller_and_hangs_nobody(db: Database, reading: bool) -> None:
    handle = db.reader() if reading else db

    async def scenario() -> list[Any]:
        calls = [handle.arun(stops), db.arun(add, "a"), handle.arun(stops), db.arun(add, "b")]
        return await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 20)

    answers = asyncio.run(scenario())
    assert answers[1::2] == ["a", "b"]
    for error in answers[::2]:
        assert isinstance(error, RuntimeError)
        assert isinstance(error.__cause__, StopIteration)
    with pytest.raises(StopIteration):
        handle.run(stops)


class Odd(Exception):
    """Other people's errors keep anything under this name."""

    def __init__(self, code: Any) -> None:
        super().__init__()
        self.code = code


def raises(_tx: Tx, code: Any) -> None:
    raise Odd(code)


@pytest.mark.parametrize("code", [[], 404, None, "a\nlabel"])
@pytest.mark.parametrize("reading", [False, True])
def test_an_error_with_a_code_of_another_kind_costs_nobody_else(db: Database, code: Any, reading: bool) -> None:
    handle = db.reader() if reading else db

    async def scenario() -> list[Any]:
        calls = [handle.arun(raises, code) if i % 3 == 0 else db.arun(add, str(i)) for i in range(12)]
        return await asyncio.gather(*calls, return_exceptions=True)

    answers = asyncio.run(scenario())
    assert [type(answer) for answer in answers[::3]] == [Odd] * 4
    assert [answer for i, answer in enumerate(answers) if i % 3] == [str(i) for i in range(12) if i % 3]
    with pytest.raises(Odd):
        handle.run(raises, code)
    with pytest.raises(Invalid):
        db.options(deadline_ms=5_000).run(lambda tx: tx.wake(""))
    assert {a["code"] for a in db.metrics()["aborts"]} == {"Odd", "topic"}


def test_a_savepoint_of_a_dead_tx_touches_nobody_elses(db: Database) -> None:
    kept: list[Any] = []

    def leaves_one_open(tx: Tx) -> None:
        savepoint = tx.savepoint()
        savepoint.__enter__()
        tx.add("a", 1)
        kept.extend((tx, savepoint))

    def in_its_own(tx: Tx) -> None:
        tx.add("b", 1)
        with tx.savepoint():
            tx.add("b", 10)
            for savepoint in kept[1::2]:
                savepoint.__exit__(GeneratorExit, GeneratorExit(), None)
            tx.add("b", 100)

    db.run(leaves_one_open)
    db.run(in_its_own)
    assert (db.run(Tx.total, "a"), db.run(Tx.total, "b")) == (1, 111)
    for dead in kept[::2]:
        for use in (lambda tx: tx.add("a", 1), lambda tx: tx.wake("t"), lambda tx: tx.emit("f"), lambda tx: tx.total("a")):
            with pytest.raises(Doomed) as over:
                use(dead)
            assert isinstance(over.value.__cause__, Doomed)
            assert over.value.__cause__.code == "over"


@pytest.mark.parametrize(
    "given",
    [
        {"durability": "sometimes"}, {"isolation": "chaos"}, {"deadline_ms": True}, {"deadline_ms": 1.5},
        {"deadline_ms": 0}, {"hot": ""}, {"hot": "x" * 201}, {"hot": 7},
    ],
)  # fmt: skip
def test_an_option_out_of_range_is_refused_where_it_is_said(db: Database, given: dict[str, Any]) -> None:
    with pytest.raises(Invalid):
        db.options(**given)


@pytest.mark.parametrize("name", ["\ud800", "a\0b", "x" * 201, 5, b"bytes"])
def test_a_name_that_no_space_can_have_is_refused(db: Database, name: Any) -> None:
    with pytest.raises(Invalid):
        db.at(name)


@pytest.mark.parametrize("delta", [1.5, "1", True, None])
def test_a_counter_takes_whole_numbers_only(db: Database, delta: Any) -> None:
    with pytest.raises(Invalid):
        db.run(lambda tx: tx.add("k", delta))
    assert db.run(Tx.total, "k") == 0


@pytest.mark.parametrize(
    "hint",
    [lambda tx: tx.on_commit(5), lambda tx: tx.wake(5), lambda tx: tx.wake("x" * 10_001), lambda tx: tx.wake("")],
)
def test_a_hint_that_cannot_be_given_is_refused_before_the_commit(db: Database, hint: Callable[[Any], None]) -> None:
    def work(tx: Tx) -> None:
        tx.add("k", 1)
        hint(tx)

    with pytest.raises(Invalid):
        db.run(work)
    assert db.run(Tx.total, "k") == 0


def test_close_inside_a_function_is_refused(db: Database) -> None:
    def closes(tx: Tx) -> None:
        tx.add("k", 1)
        db.close()

    for handle in (db, db.reader()):
        with pytest.raises(Invalid) as refused:
            handle.run(closes)
        assert refused.value.code in {"inside", "read_only"}
    assert db.run(add, "k") == "k"
    assert db.run(Tx.total, "k") == 1


@pytest.mark.parametrize("name", ["\ud800", "a\0b", 5, None, b"bytes"])
def test_a_name_that_nobody_can_have_is_not_claimed(db: Database, name: Any) -> None:
    with pytest.raises(Invalid):
        db.run(lambda tx: tx.try_claim(name))


@pytest.mark.parametrize("reading", [False, True])
def test_a_call_whose_deadline_is_over_when_it_comes_is_refused(db: Database, reading: bool) -> None:
    ran: list[int] = []
    handle = db.options(deadline_ms=1)
    call = (handle.reader() if reading else handle)._call(lambda tx: ran.append(1), (), {})
    let_pass(3)
    with pytest.raises(Retry) as late:
        db._engine.run(call)
    assert late.value.code in {"deadline", "readers_busy"}
    assert not ran or db.dialect == "postgres"  # Which undoes it.


def test_whatever_its_name_is_it_can_be_claimed(db: Database) -> None:
    assert all(db.run(lambda tx: [tx.try_claim(f"name/{n}") for n in range(40)]))


def test_an_error_that_comes_where_a_savepoint_begins_dooms_though_nobody_hears(db: Database) -> None:
    db.run(put, "a")

    def swallows(tx: Tx) -> None:
        with contextlib.suppress(Conflict):
            tx.run(INSERT, key="a", total=1)
            tx.savepoint().__enter__()
        with pytest.raises(Doomed) as doomed:
            tx.run(INSERT, key="b", total=1)
        assert isinstance(doomed.value.__cause__, Conflict)

    with pytest.raises(Doomed):
        db.run(swallows)
    assert db.run(get, "b") is None


def test_rows_that_fail_on_their_way_doom_though_nobody_hears(db: Database) -> None:
    def rows() -> Iterator[dict[str, Any]]:
        yield {"key": "a", "total": 1}
        raise KeyError("a row of the caller's")

    def swallows(tx: Tx) -> None:
        with contextlib.suppress(KeyError, Invalid):
            tx.many(PUT, rows())

    with pytest.raises(Doomed):
        db.run(swallows)
    assert db.run(get, "a") is None


def generates(tx: Tx) -> Iterator[int]:
    tx.add("k", 1)
    yield 1


async def generates_later(tx: Tx) -> AsyncIterator[int]:
    tx.add("k", 1)
    yield 1


class Later:
    """Whatever can be awaited, without more."""

    def __await__(self) -> Iterator[None]:
        yield


def test_a_generator_behind_a_partial_or_a_lambda_is_refused(real: Database) -> None:
    for fn in (functools.partial(generates), lambda tx: generates(tx), lambda tx: generates_later(tx), lambda _: Later()):
        with pytest.raises(Invalid, match="answered an awaitable or a generator"):
            real.run(fn)
    assert real.run(Tx.total, "k") == 0


def in_words(text: str) -> Callable[[Any], Any]:
    return lambda connection: connection.execute(text)


def as_a_block(connection: Any) -> None:
    with connection:
        pass


CLEAR = "DELETE FROM onefold.counter_totals WHERE space = 1 -- all spaces"

WAYS: dict[str, Callable[[Any], Any]] = {
    "commit": lambda connection: connection.commit(),
    "rollback": lambda connection: connection.rollback(),
    "cursor": lambda connection: connection.cursor().execute("COMMIT"),
    "block": as_a_block,
    **{f"text {text}": in_words(text) for text in ("COMMIT", "rollback", "/* x */ END", "-- x\nCOMMIT")},
}
WAYS_OF_SQLITE: dict[str, Callable[[Any], Any]] = {
    "script": lambda connection: connection.executescript("INSERT INTO nowhere VALUES (1)"),
    "level": lambda connection: setattr(connection, "isolation_level", None),
}


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("way", [*WAYS, *WAYS_OF_SQLITE])
def test_the_drivers_own_connection_cannot_end_the_transaction(db: Database, way: str, lazy: bool) -> None:
    ends = WAYS.get(way) or (WAYS_OF_SQLITE[way] if db.dialect == "sqlite" else in_words("ABORT"))

    def ends_it(tx: Tx) -> None:
        tx.add("half", 1)
        with contextlib.suppress(Exception) if lazy else contextlib.nullcontext():
            ends(tx.driver_connection())

    async def scenario() -> list[Any]:
        calls = [db.arun(add, "a"), db.arun(ends_it), db.arun(add, "b"), db.arun(add, "c")]
        return await asyncio.gather(*calls, return_exceptions=True)

    first, error, *others = asyncio.run(scenario())
    assert [first, *others] == ["a", "b", "c"]
    half = 1 if error is None else 0  # SQLite refuses the word and nothing else; PostgreSQL dooms the function.
    assert isinstance(error, (Doomed, Invalid)) or (lazy and error is None and db.dialect == "sqlite")
    assert [db.run(Tx.total, key) for key in ("a", "half", "b", "c")] == [1, half, 1, 1]


INSERTS = {  # What the driver begins a transaction for, and what it does not know to be a write.
    "insert": "INSERT {} INTO onefold{}counter_totals (space, key, total) VALUES (1, '{}', 1)",
    "with": "WITH one(total) AS (SELECT 1) INSERT {} INTO onefold{}counter_totals (space, key, total) SELECT 1, '{}', 1 FROM one",
}


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize(("kind", "prepared"), [("insert", False), ("insert", True), ("with", False)])
def test_after_an_error_that_ended_the_transaction_the_drivers_own_connection_writes_nothing(
    real: Database, kind: str, lazy: bool, prepared: bool
) -> None:
    def text(key: str, conflict: str = "") -> str:
        return INSERTS[kind].format(conflict, "_" if real.dialect == "sqlite" else ".", key)

    def goes_on(tx: Tx) -> None:
        tx.add("half", 1)
        connection = tx.driver_connection()
        connection.execute(text("taken"))
        with contextlib.suppress(sqlite3.Error, psycopg.Error):
            connection.execute(text("taken", "OR ROLLBACK" if real.dialect == "sqlite" else ""))
        with contextlib.suppress(Exception) if lazy else contextlib.nullcontext():
            connection.execute(text("leaked"))

    if prepared:
        real.run(lambda tx: (tx.driver_connection().execute(text("leaked")), tx.run(CLEAR)))
    first, error, *others = in_one_batch(real, (None, add, "a"), (None, goes_on), (None, add, "b"))
    assert [first, *others] == ["a", "b"]
    assert isinstance(error, Doomed if lazy else (sqlite3.Error, psycopg.Error, OnefoldError))
    assert [real.run(Tx.total, key) for key in ("a", "half", "b")] == [1, 0, 1]
    assert real.run(lambda tx: tx.all("SELECT key FROM onefold.counter_totals WHERE space = 1 -- all spaces")) == []


@pytest.mark.parametrize("reading", [False, True])
def test_the_drivers_own_connection_is_not_closed_and_comes_back_as_it_was(real: Database, reading: bool) -> None:
    real.run(put, "a", 1)
    handle = real.reader() if reading else real

    def closes(tx: Tx) -> None:
        tx.driver_connection().close()

    def bends(tx: Tx) -> None:
        if real.dialect == "sqlite":
            tx.driver_connection().text_factory = bytes
            tx.driver_connection().row_factory = sqlite3.Row

    with pytest.raises(Invalid) as refused:
        handle.run(closes)
    assert refused.value.code == "inner_commit"
    handle.run(bends)
    assert handle.run(lambda tx: tx.all("SELECT key FROM onefold.counter_totals WHERE space = :space")) == [("a",)]
    assert handle.run(lambda tx: tx.driver_connection().execute("SELECT 'a'").fetchone()) == ("a",)


def test_a_waiter_says_whether_it_was_woken_and_forgets_it_then(db: Database) -> None:
    waiter, other = db.waiter("t"), db.waiter("t")
    other.close()  # Of two that wait for one topic.
    assert db._engine.hub.has_waiters()
    assert not waiter.wait(0)
    assert not asyncio.run(waiter.await_(0))
    for wait in (waiter.wait, lambda seconds: asyncio.run(waiter.await_(seconds))):
        db.run(lambda tx: tx.wake("t"))
        assert wait(20)
        assert not wait(0)
    waiter.close()
    assert not db._engine.hub.has_waiters()


def test_of_many_waiters_for_one_topic_each_comes_and_goes_alone() -> None:
    hub = wake.Hub()
    steps = 0

    def counts(*_: object) -> None:
        nonlocal steps
        steps += 1

    waiters = [hub.waiter("t") for _ in range(300)]
    sys.setprofile(counts)  # Calls and returns, those in C as well.
    try:
        waiters.pop().close()
    finally:
        sys.setprofile(None)
    hub.wake(["t"])
    assert all(waiter.wait(0) for waiter in waiters)
    waiters.clear()
    assert not hub.has_waiters()
    assert steps < 300  # Not one for each of the others.


def test_what_a_waiter_of_the_parent_holds_stays_with_the_parent() -> None:
    hub = wake.Hub()
    waiters = [hub.waiter("t"), hub.waiter("t"), hub.waiter("u")]
    hub.wake_all()
    locks = [waiter._event._cond for waiter in waiters]
    with contextlib.ExitStack() as stack:
        for lock in locks:
            stack.enter_context(lock)  # Of a thread that the child does not have.
        hub.forked()
    assert not any(waiter.wait(0) for waiter in waiters)
    hub.wake(["t"])
    assert [waiter.wait(0) for waiter in waiters] == [True, True, False]
    assert not [waiter for waiter, lock in zip(waiters, locks, strict=True) if waiter._event._cond is lock]


def test_a_loop_that_was_closed_while_it_waited_keeps_no_wake_from_others(db: Database) -> None:
    gone, waiter = db.waiter("t"), db.waiter("t")
    loop = asyncio.new_event_loop()
    waiting = loop.create_task(gone.await_(20))
    loop.run_until_complete(auntil(lambda: gone._futures, "the wait"))
    loop.close()
    db.run(lambda tx: tx.wake("t"))
    assert waiter.wait(0)  # Here at once: whoever is woken in other processes comes later.
    assert not gone._futures
    waiting._log_destroy_pending = False  # type: ignore[attr-defined]


def test_a_loop_that_was_closed_keeps_no_outcome_from_others() -> None:
    gone, here = asyncio.new_event_loop(), asyncio.new_event_loop()
    calls = [Call(put, ("a",), {}, Options(), 0) for _ in range(2)]
    for call, loop in zip(calls, (gone, here), strict=True):
        call.future, call.result = loop.create_future(), 7
    waited = calls[1].future
    assert waited is not None
    gone.close()
    settle(calls)
    assert here.run_until_complete(asyncio.wait_for(waited, 5)) == 7
    here.close()


def test_an_outcome_that_comes_as_its_task_is_cancelled_is_nothing_to_complain_of(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        call = Call(put, ("a",), {}, Options(), 0)
        future = call.expected()
        assert call.take()
        settle([call])
        future.cancel()  # Its loop has not come to the outcome yet.
        await asyncio.sleep(0)
        await call.abandoned(future)

    asyncio.run(asyncio.wait_for(scenario(), 5))
    assert not caplog.records


def test_closing_gives_back_every_descriptor(db_url: str) -> None:
    left = []
    for _ in range(3):
        with onefold.connect(db_url) as db:
            db.waiter("t").close()
            db.run(lambda tx: tx.wake("t"))
            asyncio.run(db.reader().arun(lambda tx: tx.total("k")))
        left.append(len(os.listdir("/proc/self/fd")))
    assert left[1] == left[2]  # The first may have opened what is kept for the process.


def test_a_subscription_that_was_ended_hears_nothing(db: Database) -> None:
    heard: list[str] = []
    last = threading.Event()
    end = db.subscribe("jobs.", lambda fact, _: heard.append(f"ended {fact}"))
    db.subscribe("jobs.", lambda fact, facts: heard.append(f"{fact} {facts['n']}"))
    db.subscribe("last", lambda *_: last.set())
    end()
    db.run(lambda tx: (tx.emit("jobs.done", n=1), tx.emit("mail.sent", n=2), tx.emit("last")))
    assert last.wait(20)
    assert heard == ["jobs.done 1"]


def test_closing_waits_for_callbacks_that_are_queued(real: Database) -> None:
    heard: list[int] = []
    for n in range(2):
        real.run(lambda tx, n=n: tx.on_commit(lambda: (let_pass(20), heard.append(n))))
    real.close()
    assert heard == [0, 1]


def test_a_file_that_cannot_be_a_database_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for file, text in ((tmp_path, "cannot be opened"), (Path(":memory:"), "does not support WAL")):
        with pytest.raises(Invalid, match=text):
            open_connection(file)
    monkeypatch.setattr(connection_module, "VERSION_MIN", sqlite3.sqlite_version_info)
    open_connection(tmp_path / "a.db").close()
    monkeypatch.setattr(connection_module, "VERSION_MIN", (*sqlite3.sqlite_version_info, 1))
    with pytest.raises(Invalid, match="or newer is needed"):
        open_connection(tmp_path / "a.db")


def test_a_file_that_another_program_keeps_from_wal_is_waited_for_and_no_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "BUSY_TIMEOUT_S", 0.05)
    with contextlib.closing(sqlite3.connect(tmp_path / "a.db", isolation_level=None)) as other:
        other.execute("CREATE TABLE a (a)")
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(Retry):
            open_connection(tmp_path / "a.db")


ERRORS: dict[str, tuple[type[OnefoldError], str]] = {
    "IOERR_WRITE": (Retry, "io_error"), "FULL": (Retry, "disk_full"), "BUSY_SNAPSHOT": (Retry, "busy"),
    "LOCKED_SHAREDCACHE": (Retry, "busy"), "INTERRUPT": (Retry, "deadline"), "READONLY": (Invalid, "read_only"),
    "CORRUPT": (Invalid, "corrupt"), "NOTADB": (Invalid, "corrupt"), "CONSTRAINT_NOTNULL": (Invalid, "check"),
    "CONSTRAINT_ROWID": (Conflict, "unique"), "CONSTRAINT_FOREIGNKEY": (Conflict, "reference"),
    "AUTH": (Invalid, "inner_commit"), "TOOBIG": (Invalid, "statement"),
}  # fmt: skip


def test_an_error_of_sqlite_is_told_in_our_words_and_undone(tmp_path: Path) -> None:
    def fails(tx: Tx, name: str) -> None:
        put(tx, "a")
        error = sqlite3.OperationalError("why")
        error.sqlite_errorname = f"SQLITE_{name}"
        raise error

    found = {}
    with onefold.connect(tmp_path / "a.db") as db:
        for name in ERRORS:
            with pytest.raises(OnefoldError) as told:
                db.run(fails, name)
            found[name] = type(told.value), told.value.code
        assert db.run(get, "a") is None
    assert found == ERRORS


def test_an_inspection_says_why_it_cannot_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspect, "BUSY_TIMEOUT_S", 0.0)
    with pytest.raises(Invalid, match="cannot be opened"):
        inspect.inspect_sqlite(tmp_path / "missing.db")
    with contextlib.closing(sqlite3.connect(tmp_path / "a.db", isolation_level=None)) as other:
        other.execute("CREATE TABLE a (a)")
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(Retry, match="cannot be read now"):
            inspect.inspect_sqlite(tmp_path / "a.db")
    found = inspect.inspect_sqlite(tmp_path / "a.db")
    assert found.schema.missing
    assert (found.migrated_at_ms, found.damage) == (0, None)  # Not looked for.
    assert (found.bytes_total, found.bytes_free) == ((tmp_path / "a.db").stat().st_size, 0)


def test_a_url_whose_parts_are_asked_for_must_be_one() -> None:
    assert parse_postgres_url("postgresql://u@h:7/x") == {"user": "u", "host": "h", "port": "7", "dbname": "x"}
    with pytest.raises(Invalid, match="not a PostgreSQL URL"):
        parse_postgres_url("postgresql://h/x?nonsense=1")
    with pytest.raises(Invalid, match="begins with") as refused:
        onefold.connect("mysql://user:secret@host/x")
    assert refused.value.facts == {"url": "host/x"}


def test_a_line_in_the_log_tells_of_each_transaction(db: Database, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "onefold.transaction"):
        db.run(add, "a")
        asyncio.run(db.reader().arun(Tx.total, "a"))
        with pytest.raises(Odd):
            db.run(raises, 1)
    lines: list[Any] = list(caplog.records)
    assert [(line.message.rpartition(".")[2], line.outcome) for line in lines] == [
        ("add", "committed"), ("total", "read"), ("raises", "Odd"),
    ]  # fmt: skip
    assert all(0 < line.ms < 60_000 for line in lines)


def test_who_waits_for_one_long_statement_is_told_its_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telling, "STEPS", 100)
    heard: list[tuple[str, int, int]] = []
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        with telling.ticking(connection, lambda *words: heard.append(words), "looking"):
            connection.execute(f"{NUMBERS} SELECT i FROM n LIMIT 1 OFFSET 100")
        told = len(heard)
        connection.execute(f"{NUMBERS} SELECT i FROM n LIMIT 1 OFFSET 100")
    assert heard[:2] == [("looking", 0, 0), ("looking, 0 s", 0, 0)]
    assert len(heard) == told


def test_the_simulators_reader_says_a_drivers_error_in_our_words(clock: FakeClock) -> None:
    writer = MemoryWriter(schema.load(()), clock=clock, told=lambda _: None)
    with contextlib.closing(writer):
        with pytest.raises(Invalid, match="SQLite refuses"):
            writer.run(Call(lambda tx: tx.driver_connection().execute("nonsense"), (), {}, Options(read_only=True), 0))
        assert writer.run(Call(Tx.total, ("k",), {}, Options(read_only=True), 0)) == 0


def test_the_simulators_database_is_empty_after_each_run(clock: FakeClock) -> None:
    writer = MemoryWriter(schema.load(schema_directories()), clock=clock, told=lambda _: None)
    with contextlib.closing(writer):
        rows = writer._connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        tables = [name for (name,) in rows if name != "onefold_schema"]
        assert len(tables) > 40
        writer._connection.execute("PRAGMA ignore_check_constraints = ON")
        for table in tables:
            columns = writer._connection.execute(f'PRAGMA table_info("{table}")').fetchall()
            values = ", ".join("x'00'" if column[2] == "BLOB" else "1" for column in columns)
            writer._connection.execute(f'INSERT INTO "{table}" VALUES ({values})')
        writer.reset()
        left = [table for table in tables if writer._connection.execute(f'SELECT 1 FROM "{table}"').fetchone()]
        assert left == []
