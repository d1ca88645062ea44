"""Group commit: who is undone, who is run again, and who is told when."""

from __future__ import annotations

import asyncio
import logging
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from engine_words import NUMBERS, PUT, WAIT_S, Blocker, get, in_one_batch, put
from waiting import let_pass, until

import onefold
from onefold import Conflict, Database, Invalid, OnefoldError, Retry, Tx
from onefold.engine.call import Call, Options
from onefold.engine.sqlite import batches, everysec, readers, watchdog, writer
from onefold.engine.sqlite.parked import Parked
from onefold.host import files


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[Database]:
    """A database without rehearsal: these tests count how often functions run."""
    with onefold.connect(tmp_path / "a.db") as db:
        yield db


def test_a_crowd_shares_commits(plain: Database) -> None:
    answers = in_one_batch(plain, *[(None, put, f"k{n}") for n in range(100)])
    assert answers == [None] * 100
    sizes = plain._engine.metrics.batch_sizes
    assert max(sizes) >= 50, "a hundred queued calls must not take a hundred commits"


@pytest.mark.parametrize(
    "long",
    [
        NUMBERS + " SELECT max(i) FROM n",
        NUMBERS + " INSERT INTO onefold.counter_totals (space, key, total) SELECT :space, 'x' || i, i FROM n",
        "UPDATE onefold.counter_totals SET total = (" + NUMBERS + " SELECT max(i) FROM n) WHERE space = :space",
    ],
    ids=["SELECT", "INSERT", "UPDATE"],
)
def test_a_deadline_costs_only_its_own_call(plain: Database, long: str) -> None:
    runs: list[str] = []

    def counted(tx: Tx, key: str) -> None:
        runs.append(key)
        put(tx, key)

    def late(tx: Tx) -> None:
        put(tx, "late")
        tx.run(long)

    answers = in_one_batch(plain, (None, counted, "a"), (plain.options(deadline_ms=300), late), (None, counted, "b"))
    assert answers[0] is None
    assert answers[2] is None
    assert isinstance(answers[1], Retry)
    assert answers[1].code == "deadline"
    assert [plain.run(get, key) for key in ("a", "b", "late")] == [1, 1, None]
    # SQLite ends the whole transaction for an interrupted write; and without savepoints nothing else is
    # possible. Afterwards savepoints are taken for a while.
    assert runs.count("a") == 2
    runs.clear()
    in_one_batch(plain, (None, counted, "a"), (plain.options(deadline_ms=300), late), (None, counted, "b"))
    reads = "SELECT max" in long[len(NUMBERS) : len(NUMBERS) + 12]
    assert runs.count("a") == (1 if reads else 2)


def test_savepoints_are_taken_only_while_functions_fail(plain: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "CAREFUL_CALLS", 8)
    runs: list[str] = []

    def counted(tx: Tx, key: str) -> None:
        runs.append(key)
        put(tx, key)

    def fails_if_there(tx: Tx, key: str) -> None:
        runs.append("fails")
        put(tx, "half")
        if get(tx, key) is not None:
            raise Conflict("It is there.")

    def batch_with_a_failure() -> dict[str, int]:
        runs.clear()
        answers = in_one_batch(plain, (None, counted, "a"), (None, fails_if_there, "a"), (None, counted, "b"))
        assert [type(answer) for answer in answers] == [type(None), Conflict, type(None)]
        assert plain.run(get, "half") is None
        return {name: runs.count(name) for name in ("a", "fails", "b")}

    together, apart = {"a": 2, "fails": 2, "b": 1}, {"a": 1, "fails": 1, "b": 1}
    assert batch_with_a_failure() == together
    assert batch_with_a_failure() == apart
    assert in_one_batch(plain, *[(None, counted, "c")] * 8) == [None] * 8
    assert batch_with_a_failure() == together
    assert plain.run(get, "a") == plain.run(get, "b") == 1


def test_a_failure_that_rested_on_an_undone_write_is_looked_at_again(plain: Database) -> None:
    seen: list[int | None] = []

    def writes_once(tx: Tx) -> None:
        if not seen:
            put(tx, "there")

    def fails_if_there(tx: Tx) -> str:
        seen.append(get(tx, "there"))
        if seen[-1] is not None:
            raise Conflict("It is there.")
        return "free"

    assert in_one_batch(plain, (None, writes_once), (None, fails_if_there)) == [None, "free"]
    assert seen == [1, None]


def test_on_conflict_rollback_costs_only_its_own_call(plain: Database) -> None:
    plain.run(put, "taken")

    def rude(tx: Tx) -> None:
        put(tx, "rude")
        tx.run("INSERT OR ROLLBACK INTO onefold.counter_totals (space, key, total) VALUES (:space, 'taken', 1)")

    answers = in_one_batch(
        plain, (None, put, "a"), (None, rude), (None, put, "b"), (None, rude), (None, rude), (None, put, "c")
    )
    assert [answers[n] for n in (0, 2, 5)] == [None, None, None]
    assert all(isinstance(answers[n], Conflict) for n in (1, 3, 4))
    assert [plain.run(get, key) for key in ("a", "b", "c", "rude")] == [1, 1, 1, None]


def test_who_ends_the_transaction_when_run_again_costs_only_himself(
    plain: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "ADMIT_NS", batches.NEVER_NS)  # All are there when the first transaction is lost.
    plain.run(put, "taken")
    ruin = "INSERT OR ROLLBACK INTO onefold.counter_totals (space, key, total) VALUES (:space, 'taken', 1)"
    runs: list[str] = []

    def ruins(tx: Tx, name: str, often: int) -> None:
        runs.append(name)
        put(tx, name)
        if runs.count(name) > often:
            tx.run(ruin)

    def counted(tx: Tx, name: str) -> None:
        runs.append(name)
        put(tx, name)

    before = plain._engine.metrics.batch_sizes.copy()
    answers = in_one_batch(
        plain, (None, ruins, "second", 1), (None, counted, "a"), (None, counted, "b"), (None, ruins, "first", 0)
    )
    assert plain._engine.metrics.batch_sizes - before == {1: 3}, "who held them up, a, b: in the end each is alone"
    assert [type(answer) for answer in answers] == [Conflict, type(None), type(None), Conflict]
    assert [plain.run(get, key) for key in ("a", "b", "first", "second")] == [1, 1, None, None]
    assert runs == ["second", "a", "b", "first", "second", "a", "b"]


def test_who_is_late_is_told_whether_he_was_run(plain: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "ADMIT_NS", batches.NEVER_NS)
    group = plain._engine._parts.writer.batches  # type: ignore[attr-defined]
    late: list[Call] = []

    def runs(tx: Tx) -> None:
        late.append(group.current[0])
        put(tx, "a")

    def fails(_: Tx) -> None:
        late[0].deadline_ns = 0  # It is over when all are run again.
        raise Conflict("No.")

    def takes_long(_: Tx) -> None:
        group._queue[0].deadline_ns = 0

    answers = in_one_batch(plain, (None, runs), (None, fails))
    answers += in_one_batch(plain, (None, takes_long), (None, put, "b"))
    assert [str(answer).split(";")[-1].strip(" .") for answer in answers] == [
        "the call was undone", "No", "None", "the call was not run"
    ]  # fmt: skip
    assert [plain.run(get, key) for key in "ab"] == [None, None]


def test_undoing_has_a_time_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "PROGRESS_STEPS", 1)  # SQLite looks at the deadline whatever it does.

    def late(tx: Tx) -> None:
        put(tx, "late")
        tx.run(f"{NUMBERS} SELECT max(i) FROM n")

    with onefold.connect(tmp_path / "a.db") as db:
        for _ in range(2):  # Without savepoints, and with them.
            first, second = in_one_batch(db, (db.options(deadline_ms=30), late), (None, put, "a"))
            assert (type(first), second) == (Retry, None)
        assert [db.run(get, key) for key in ("late", "a")] == [None, 1]


def test_who_fails_only_when_run_again_keeps_no_answer_from_others(
    plain: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "ADMIT_NS", batches.NEVER_NS)
    runs: list[str] = []

    def fails(_: Tx, name: str, run: int) -> None:
        runs.append(name)
        if runs.count(name) == run:
            raise Conflict("No.")

    answers = in_one_batch(plain, (None, fails, "a", 2), (None, fails, "b", 1))
    assert [type(answer) for answer in answers] == [Conflict, type(None)]
    assert runs == ["a", "b", "a", "b"]


def test_calls_that_are_run_again_together_keep_the_durability_of_the_database(plain: Database) -> None:
    plain.run(put, "taken")
    ruin = "INSERT OR ROLLBACK INTO onefold.counter_totals (space, key, total) VALUES (:space, 'taken', 1)"
    answers = in_one_batch(
        plain, (plain.options(durability="everysec"), put, "a"), (None, put, "b"), (None, lambda tx: tx.run(ruin))
    )
    assert answers[:2] == [None, None]
    assert plain._engine._parts.writer.batches._synchronous == "always"  # type: ignore[attr-defined]


def test_a_swallowed_on_conflict_rollback_cannot_commit_half(plain: Database) -> None:
    plain.run(put, "taken")

    def swallows(tx: Tx) -> None:
        put(tx, "half")
        try:
            tx.run("INSERT OR ROLLBACK INTO onefold.counter_totals (space, key, total) VALUES (:space, 'taken', 1)")
        except Conflict:
            pass

    with pytest.raises(onefold.Doomed):
        plain.run(swallows)
    assert plain.run(get, "half") is None


def test_a_savepoint_whose_transaction_sqlite_ended_ends_in_our_words(plain: Database) -> None:
    plain.run(put, "taken")
    ruin = "INSERT OR ROLLBACK INTO onefold.counter_totals (space, key, total) VALUES (:space, 'taken', 1)"

    def ends(tx: Tx) -> None:
        with tx.savepoint():
            tx.run(ruin)

    with pytest.raises(OnefoldError):
        plain.run(ends)


def test_a_full_database_is_a_clear_error_and_ends_when_there_is_room(plain: Database) -> None:
    plain.run(put, "before")
    connection = plain._engine._parts.writer.batches.connection  # type: ignore[attr-defined]
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages + 2}")
    big = [{"key": f"{n:0190d}", "total": n} for n in range(2_000)]

    def floods(tx: Tx) -> None:
        put(tx, "flood")
        tx.many(PUT, big)

    answers = in_one_batch(plain, (None, put, "a"), (None, floods), (None, put, "b"))
    assert isinstance(answers[1], Retry)
    assert answers[1].code == "disk_full"
    assert answers[0] is None
    assert answers[2] is None
    connection.execute("PRAGMA max_page_count = 1000000")
    plain.run(floods)
    assert [plain.run(get, key) for key in ("before", "a", "b", "flood")] == [1, 1, 1, 1]


def test_a_failing_commit_fails_everyone_in_it(plain: Database) -> None:
    plain.run(put, "before")
    connection = plain._engine._parts.writer.batches.connection  # type: ignore[attr-defined]
    connection.execute("CREATE TABLE parent (id INTEGER PRIMARY KEY)")
    connection.execute("CREATE TABLE child (id INTEGER REFERENCES parent (id) DEFERRABLE INITIALLY DEFERRED)")

    def orphan(tx: Tx) -> None:
        tx.run("INSERT INTO child (id) VALUES (42)")  # Deferred: only COMMIT finds it.

    answers = in_one_batch(plain, (None, put, "a"), (None, orphan), (None, put, "b"))
    assert all(isinstance(answer, Conflict) for answer in answers)
    assert [plain.run(get, key) for key in ("before", "a", "b")] == [1, None, None]


def test_a_transaction_takes_in_only_so_many(plain: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "ADMIT_NS", batches.NEVER_NS)
    monkeypatch.setattr(batches, "BATCH_MAX", 3)
    before = plain._engine.metrics.batch_sizes.copy()
    assert in_one_batch(plain, *[(None, put, f"k{n}") for n in range(7)]) == [None] * 7
    assert plain._engine.metrics.batch_sizes - before == {1: 2, 3: 2}, "one that held them up; three, three and one"


@pytest.mark.parametrize(("wanted", "admits"), [(False, [True, True, True, False]), (True, [True, False, False, False])])
def test_a_transaction_that_nobody_waits_for_takes_in_more_and_ends(
    plain: Database, monkeypatch: pytest.MonkeyPatch, wanted: bool, admits: list[bool]
) -> None:
    plain.run(put, "a")
    group = plain._engine._parts.writer.batches  # type: ignore[attr-defined]
    monkeypatch.setattr(group, "_wanted", lambda: wanted)
    ages_ns = (batches.ADMIT_NS - 1, batches.ADMIT_NS, batches.ADMIT_UNWANTED_NS - 1, batches.ADMIT_UNWANTED_NS)
    assert [group._admits(age_ns) for age_ns in ages_ns] == admits


def test_one_wake_up_per_batch(plain: Database) -> None:
    async def scenario() -> int:
        loop = asyncio.get_running_loop()
        wakes = 0
        real = loop.call_soon_threadsafe

        def counting(*args: Any, **kwargs: Any) -> Any:
            nonlocal wakes
            wakes += 1
            return real(*args, **kwargs)

        loop.call_soon_threadsafe = counting  # type: ignore[method-assign]
        await asyncio.gather(*(plain.arun(put, f"k{n}") for n in range(200)))
        return wakes

    assert asyncio.run(scenario()) < 100


def test_an_idle_writer_lets_the_caller_run_its_own_function(plain: Database) -> None:
    assert plain.run(lambda tx: threading.get_ident()) == threading.get_ident()


def test_no_future_resolves_before_its_commit_returned(plain: Database) -> None:
    """A second connection, which sees only what is committed, looks at each answer's moment."""
    other = sqlite3.connect(plain.url)

    async def one(n: int) -> bool:
        await plain.arun(put, f"k{n}")
        row = other.execute("SELECT total FROM onefold_counter_totals WHERE key = ?", (f"k{n}",)).fetchone()
        return row is not None

    async def crowd() -> list[bool]:
        return await asyncio.gather(*(one(n) for n in range(300)))

    assert all(asyncio.run(crowd()))
    other.close()


def test_whoever_blocks_the_writer_is_named(plain: Database, caplog: pytest.LogCaptureFixture) -> None:
    named = threading.Event()
    said: list[Any] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            assert isinstance(record.args, tuple)
            who, ms, where = record.args
            if "sleeps_inside" in str(who) and ", in sleeps_inside\n    return named.wait" in str(where):
                said.append(ms)
                named.set()

    handler = Handler()
    logging.getLogger("onefold.watchdog").addHandler(handler)

    def sleeps_inside(tx: Tx) -> bool:
        return named.wait(10)

    assert plain.run(sleeps_inside), f"nobody named it within {watchdog.HOLDS_WRITER_NS / 1e9} s and more"
    logging.getLogger("onefold.watchdog").removeHandler(handler)
    assert watchdog.HOLDS_WRITER_NS // 1_000_000 <= said[0] < 60_000


def test_nobody_is_named_who_holds_the_writer_for_a_moment(plain: Database, caplog: pytest.LogCaptureFixture) -> None:
    look = plain._engine._parts.watchdog._look  # type: ignore[attr-defined]
    look()  # Nobody holds it.
    with caplog.at_level(logging.WARNING, "onefold.watchdog"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(watchdog, "HOLDS_WRITER_NS", 60_000_000_000)
        plain.run(lambda tx: look())
        assert not caplog.records
        patch.setattr(watchdog, "HOLDS_WRITER_NS", 0)
        plain.run(lambda tx: (look(), look()))
        assert len(caplog.records) == 1, "once is enough"


def test_a_bell_that_rings_already_can_be_rung(plain: Database) -> None:
    parts = plain._engine._parts  # type: ignore[attr-defined]
    blocker = Blocker()

    async def scenario() -> None:
        busy = asyncio.create_task(plain.arun(blocker))
        await blocker.sits()
        parts.writer._ring()
        parts.writer._ring()
        blocker.leave.set()
        await busy

    asyncio.run(scenario())
    assert asyncio.run(plain.arun(get, "a")) is None


def test_a_call_that_came_as_the_thread_went_is_taken_back_unless_it_was_seen(plain: Database) -> None:
    writer_of_it = plain._engine._parts.writer  # type: ignore[attr-defined]
    call = Call(put, ("a",), {}, Options(), 0)
    writer_of_it._take_back(call)  # Seen: its outcome comes.
    writer_of_it._queue.append(call)
    with pytest.raises(Parked):
        writer_of_it._take_back(call)
    assert writer_of_it.queued == 0
    plain.close()
    writer_of_it._closing = False  # As it was when the call came.
    with pytest.raises(Parked):
        writer_of_it.submit(call)
    assert writer_of_it.queued == 0


def test_a_call_that_comes_as_the_engine_is_taken_apart_is_run_all_the_same(
    plain: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain.run(put, "a", 7)
    looks: Iterator[bool] = iter([False, True, True])  # It begins between the two looks of who would run inline.
    for parts in (writer.Writer, readers.Readers):
        monkeypatch.setattr(parts, "_closing", property(lambda _: next(looks, False)), raising=False)
    assert plain.run(get, "a") == 7
    for handle in (plain, plain.reader()):
        looks = iter([True])
        assert asyncio.run(asyncio.wait_for(handle.arun(get, "a"), WAIT_S)) == 7
    looks = iter([True])
    assert plain.reader().run(get, "a") == 7
    monkeypatch.undo()


def test_a_gate_that_cannot_be_taken_is_told(plain: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise OSError(5, "Input/output error")

    async def both() -> list[Any]:
        return await asyncio.gather(plain.arun(put, "a"), plain.arun(put, "b"), return_exceptions=True)

    with monkeypatch.context() as patch:
        patch.setattr(plain._engine._parts.gate, "acquire", broken)  # type: ignore[attr-defined]
        answers = asyncio.run(both())
    assert [(type(answer), answer.code) for answer in answers] == [(Retry, "gate")] * 2
    assert asyncio.run(both()) == [None, None]


def test_an_idle_writer_sleeps(plain: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    lay_down: list[bool] = []
    monkeypatch.setattr(writer.Writer, "nudge", lambda _: None)
    monkeypatch.setattr(
        writer.Writer, "_asleep", property(lambda _: False, lambda _, asleep: lay_down.append(asleep)), raising=False
    )
    plain._engine._parts.writer._ring()  # type: ignore[attr-defined]
    until(lambda: lay_down, "a turn of the thread")
    let_pass(20)
    assert len(lay_down) <= 3
    monkeypatch.undo()


def test_a_call_whose_ring_a_signal_took_is_run_all_the_same(plain: Database) -> None:
    plain.run(put, "a")
    call = Call(get, ("a",), {}, Options(deadline_ms=2_000), plain._space)
    bell = call.bell = threading.Lock()
    bell.acquire()
    plain._engine._parts.writer._queue.append(call)  # type: ignore[attr-defined]  And nothing more.
    assert bell.acquire(timeout=WAIT_S)
    assert call.outcome() == 1


def test_nobody_overtakes_who_is_in_the_queue(plain: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[int] = []
    monkeypatch.setattr(writer.Writer, "nudge", lambda _: None)
    plain._engine._parts.writer._queue.append(  # type: ignore[attr-defined]  The thread is not up yet.
        Call(lambda tx: order.append(1), (), {}, Options(), plain._space)
    )
    plain.run(lambda tx: order.append(2))
    assert order == [1, 2]


def test_a_call_that_comes_as_the_thread_lies_down_keeps_it_awake(
    plain: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = Call(get, ("a",), {}, Options(deadline_ms=2_000), plain._space)
    bell = call.bell = threading.Lock()
    bell.acquire()
    coming = [call]

    def lies_down(self: writer.Writer, asleep: bool) -> None:
        if asleep and coming:
            self._queue.append(coming.pop())  # Who saw it awake a moment before does not ring.

    monkeypatch.setattr(writer.Writer, "nudge", lambda _: None)  # Which would help, later.
    monkeypatch.setattr(writer.Writer, "_asleep", property(lambda _: False, lies_down), raising=False)
    plain._engine._parts.writer._ring()  # type: ignore[attr-defined]
    assert bell.acquire(timeout=WAIT_S)
    assert call.outcome() is None
    monkeypatch.undo()


def test_who_is_interrupted_in_the_queue_leaves_it(
    plain: Database, monkeypatch: pytest.MonkeyPatch, threads: ThreadPoolExecutor
) -> None:
    blocker = Blocker()
    first = threads.submit(plain.run, blocker)
    assert blocker.entered.wait(WAIT_S)
    queue = plain._engine._parts.writer  # type: ignore[attr-defined]
    submit = queue.submit

    def interrupted(call: Call) -> None:
        submit(call)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(queue, "submit", interrupted)
        late = threads.submit(plain.run, put, "late")
        assert isinstance(late.exception(WAIT_S), KeyboardInterrupt)
    blocker.leave.set()
    first.result()
    assert plain.run(get, "late") is None


def test_too_many_waiting_calls_are_refused(plain: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "QUEUE_MAX", 10)
    answers = in_one_batch(plain, *[(None, put, f"k{n}") for n in range(30)])
    refused = [answer for answer in answers if isinstance(answer, Retry)]
    assert {answer.code for answer in refused} == {"queue_full"}
    assert (answers.count(None), len(refused)) == (10, 20)


def test_a_call_that_is_late_in_the_queue_is_not_run(plain: Database) -> None:
    blocker, ran = Blocker(), threading.Event()

    async def scenario() -> Any:
        first = asyncio.create_task(plain.arun(blocker))
        await blocker.sits()
        late = asyncio.create_task(plain.options(deadline_ms=1).arun(lambda tx: ran.set()))
        await asyncio.sleep(0)
        let_pass(2)
        blocker.leave.set()
        await first
        return (await asyncio.gather(late, return_exceptions=True))[0]

    answer = asyncio.run(scenario())
    assert isinstance(answer, Retry)
    assert "was not run" in str(answer)
    assert not ran.is_set()


def test_durability_by_name(tmp_path: Path) -> None:
    with onefold.connect(tmp_path / "a.db", durability="everysec") as db:
        db.run(put, "a")
        parts = db._engine._parts  # type: ignore[attr-defined]
        assert parts.writer.batches.connection.execute("PRAGMA synchronous").fetchone() == (1,)
        db.options(durability="always").run(put, "b")
        db.run(put, "c")
    with onefold.connect(tmp_path / "a.db") as db:
        assert [db.run(get, key) for key in ("a", "b", "c")] == [1, 1, 1]
        connection = db._engine._parts.writer.batches.connection  # type: ignore[attr-defined]
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
        lazy = db.options(durability="everysec")
        for write in (lazy.run, lambda *call: asyncio.run(lazy.arun(*call))):
            db.run(put, "e")
            write(put, "d")
            assert connection.execute("PRAGMA synchronous").fetchone() == (1,)
        db.run(put, "e")
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)


def test_what_is_committed_after_an_idle_second_is_synced_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(everysec, "PERIOD_S", 0.001)
    monkeypatch.setattr(everysec, "sync_file", synced.append)
    every_second = everysec.EverySecond(tmp_path / "a.db", suspect=lambda: False, mend=lambda: None)
    for times in (1, 2):
        every_second.unsynced()
        until(lambda times=times: len(synced) == times, "a sync")
        let_pass(20)  # Idle ones.
    every_second.close()
    assert len(synced) == 2


def test_a_log_that_could_not_be_synced_is_mended_until_that_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: Path) -> None:
        raise OSError

    monkeypatch.setattr(everysec, "PERIOD_S", 0.001)
    monkeypatch.setattr(everysec, "sync_file", fails)
    tried, suspect, mended = [], threading.Event(), threading.Event()

    def mend() -> None:
        suspect.set()
        monkeypatch.setattr(everysec, "sync_file", lambda _: tried.append("synced"))  # Which would answer well.
        tried.append("mended")
        if len(tried) < 3:
            raise Retry("The disk does not take it yet.")
        suspect.clear()
        mended.set()

    every_second = everysec.EverySecond(tmp_path / "a.db", suspect=suspect.is_set, mend=mend)
    every_second.unsynced()
    assert mended.wait(20)
    synced = threading.Event()
    monkeypatch.setattr(everysec, "sync_file", lambda _: synced.set())
    every_second.unsynced()
    assert synced.wait(20)
    every_second.close()
    assert tried == ["mended"] * 3


@pytest.mark.parametrize("at_close", [False, True])
def test_a_log_whose_sync_failed_is_written_again_between_transactions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_close: bool
) -> None:
    synced, written = everysec.sync_file, threading.Event()

    def fails_once(wal: Path) -> None:
        monkeypatch.setattr(everysec, "sync_file", synced)
        raise OSError

    def again(wal: Path) -> None:
        files.write_again(wal)
        written.set()

    monkeypatch.setattr(everysec, "PERIOD_S", 60.0 if at_close else 0.01)
    monkeypatch.setattr(everysec, "sync_file", fails_once)
    monkeypatch.setattr(batches, "write_again", again)
    with onefold.connect(tmp_path / "a.db", durability="everysec") as db:
        db.run(put, "a")
        if not at_close:
            assert written.wait(20)
            until(lambda: not db._engine._parts.writer.batches.suspect)  # type: ignore[attr-defined]
            db.run(put, "b")
    assert written.is_set()
    with onefold.connect(tmp_path / "a.db") as db:
        assert [db.run(get, key) for key in "ab"] == [1, None if at_close else 1]


SYNCS = """
import onefold, sys
db = onefold.connect(sys.argv[1], durability=sys.argv[2])
def put(tx, n): tx.run("INSERT INTO onefold.counter_totals (space, key, total) VALUES (:space, :key, 1)", key=str(n))
for n in range(50): db.run(put, n)
if sys.argv[3] == "always":
    for n in range(50): db.options(durability="always").run(put, 100 + n)
db.close()
"""


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
@pytest.mark.parametrize(("durability", "extra", "least", "most"), [("always", "-", 50, 75), ("everysec", "-", 0, 20), ("everysec", "always", 50, 75)])
def test_fsyncs_are_as_many_as_promised(tmp_path: Path, durability: str, extra: str, least: int, most: int) -> None:
    report = tmp_path / "strace"
    subprocess.run(
        ["strace", "-f", "-o", str(report), "-e", "trace=fsync,fdatasync", sys.executable, "-c", SYNCS, str(tmp_path / "a.db"), durability, extra],
        check=True,
    )
    syncs = sum("sync(" in line for line in report.read_text().splitlines())
    assert least <= syncs <= most


def test_a_url_that_is_no_file_is_refused(tmp_path: Path) -> None:
    for url in (":memory:", "", "mysql://x", "file:a?mode=ro", "a\0b", "postgresql://u@h/a\0b", None, 5, b"a.db"):
        for door in (onefold.connect, onefold.migrate):
            with pytest.raises(Invalid):
                door(url)
    for door in (onefold.connect, onefold.migrate):
        with pytest.raises(Invalid):
            door(f"sqlite:///{tmp_path}/a.db?mode=ro")
    assert not list(tmp_path.iterdir()), "an option is not a part of a name"
    assert not Path("None").exists(), "what a missing variable answers is no name of a file"
    with pytest.raises(Invalid):
        onefold.connect(tmp_path / "missing" / "a.db")
    (tmp_path / "text.db").write_text("This is no database. " * 100)
    with pytest.raises(Invalid):
        onefold.connect(tmp_path / "text.db")


def test_an_error_of_the_writer_itself_reaches_the_callers(
    plain: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(batches.Batches, "_new_tx", broken)
    with pytest.raises(MemoryError):
        plain.run(put, "a")
    assert isinstance(in_one_batch_broken(plain), MemoryError)
    assert [line.message for line in caplog.records][:2] == ["the writer failed"] * 2
    monkeypatch.undo()
    plain.run(put, "b")
    assert plain.run(get, "b") == 1


def in_one_batch_broken(db: Database) -> Any:
    async def scenario() -> Any:
        return (await asyncio.gather(db.arun(put, "x"), db.arun(put, "y"), return_exceptions=True))[1]

    return asyncio.run(scenario())
