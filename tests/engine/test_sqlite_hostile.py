"""What goes wrong around the embedded engine: closing, deadlines, lost batches, signals, cancellation."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from engine_words import PUT, WAIT_S, Blocker, count, get, in_one_batch, put, python
from waiting import auntil, let_pass, until

import onefold
from onefold import Conflict, Database, Doomed, Invalid, Retry, Tx
from onefold.engine.sqlite import batches, everysec
from onefold.host.gate import Gate


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[Database]:
    with onefold.connect(tmp_path / "a.db") as db:
        yield db


# -- closing ---------------------------------------------------------------------------------------


def test_closing_under_fire_answers_everybody_and_loses_nothing(tmp_path: Path) -> None:
    """Calls in flight while the database closes are answered: done, or told that it is closed."""
    for turn in range(15):
        db = onefold.connect(tmp_path / f"{turn}.db")
        acknowledged: list[str] = []
        strange: list[BaseException] = []

        def work(name: int, db: Database = db, acknowledged: list[str] = acknowledged, strange: list[BaseException] = strange) -> None:
            for n in range(100_000):
                try:
                    if n % 3:
                        db.run(put, f"{name}/{n}")
                        acknowledged.append(f"{name}/{n}")
                    else:
                        db.reader().run(count)
                except Invalid as error:
                    if error.code != "closed":
                        strange.append(error)
                    return
                except BaseException as error:
                    strange.append(error)
                    return

        async def crowd(db: Database = db, acknowledged: list[str] = acknowledged) -> list[Any]:
            async def one(name: int) -> None:
                for n in range(100_000):
                    await db.arun(put, f"a{name}/{n}")
                    acknowledged.append(f"a{name}/{n}")
                    await db.reader().arun(count)

            return await asyncio.gather(*(one(n) for n in range(8)), return_exceptions=True)

        answers: list[Any] = []
        threads = [threading.Thread(target=work, args=(n,), daemon=True) for n in range(4)]
        threads.append(threading.Thread(target=lambda a=answers, c=crowd: a.extend(asyncio.run(c())), daemon=True))
        for thread in threads:
            thread.start()
        until(lambda: len(acknowledged) >= 40 + turn, "the first calls")
        db.close()
        for thread in threads:
            thread.join(WAIT_S)
            assert not thread.is_alive(), "a call in flight hangs after close"
        assert strange == []
        assert [a.code for a in answers] == ["closed"] * 8
        with sqlite3.connect(tmp_path / f"{turn}.db") as other:
            stored = {row[0] for row in other.execute("SELECT key FROM onefold_counter_totals")}
        other.close()
        assert set(acknowledged) <= stored


def test_closing_waits_for_readers_of_tasks_and_answers_them(plain: Database) -> None:
    plain.run(put, "a")
    entered, leave = threading.Semaphore(0), threading.Event()

    def slow(tx: Tx) -> int | None:
        entered.release()
        assert leave.wait(WAIT_S)
        return get(tx, "a")

    async def scenario() -> list[Any]:
        tasks = [asyncio.create_task(plain.reader().arun(slow)) for _ in range(12)]  # More than there are readers.
        await asyncio.sleep(0)
        for _ in range(8):
            assert entered.acquire(timeout=WAIT_S)
        plain._engine._parts.readers.expire(time.monotonic_ns())  # type: ignore[attr-defined]  Nobody is late.
        closer = threading.Thread(target=plain.close)
        closer.start()
        await auntil(lambda: plain._engine._parts is None, "the begin of closing")  # type: ignore[attr-defined]
        leave.set()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        closer.join(WAIT_S)
        return answers

    assert asyncio.run(scenario()) == [1] * 12


def test_closing_behind_a_stopped_process_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onefold.engine.sqlite.engine.CLOSE_WAIT_S", 0.2)
    db = onefold.connect(tmp_path / "a.db")
    db.run(put, "a")
    other = Gate(tmp_path / "a.db")
    other.acquire()
    late: list[BaseException] = []

    def call() -> None:
        try:
            db.options(deadline_ms=300).run(put, "b")
        except Retry as error:
            late.append(error)

    caller = threading.Thread(target=call, daemon=True)
    caller.start()
    until(lambda: db._engine._parts.writer.waits_since_ns, "the wait at the gate")  # type: ignore[attr-defined]
    closer = threading.Thread(target=db.close, daemon=True)
    closer.start()
    closer.join(WAIT_S)
    caller.join(WAIT_S)
    assert not closer.is_alive(), "close hangs as long as another process holds the gate"
    assert [error.code for error in late] == ["gate"]  # type: ignore[attr-defined]
    other.release()
    with onefold.connect(tmp_path / "a.db") as again:
        assert again.run(get, "a") == 1
        assert again.run(get, "b") is None
    other.close()


def test_a_callback_after_commit_may_run_and_close(tmp_path: Path) -> None:
    db = onefold.connect(tmp_path / "a.db")
    closed = threading.Event()

    def after() -> None:
        db.run(put, "b")
        db.close()
        closed.set()

    db.run(lambda tx: tx.on_commit(after))
    assert closed.wait(WAIT_S)


@pytest.mark.parametrize("durability", ["always", "everysec"])
def test_a_program_that_ends_without_close_ends_quietly(tmp_path: Path, durability: str) -> None:
    program = f"""
import asyncio, os, sys, threading, onefold
db = onefold.connect(sys.argv[1], durability=sys.argv[2])
def put(tx, key): tx.run({PUT!r}, key=key, total=1)
stored = threading.Semaphore(0)
def work(name):
    n = 0
    while True:
        db.run(put, f"{{name}}/{{n}}")
        os.write(1, f"{{name}}/{{n}}\\n".encode())  # A buffer shared by dying threads is torn.
        stored.release()
        n += 1
waiter = db.waiter("x")
db.run(lambda tx: tx.on_commit(int))
gone = db.arun(put, "never awaited"); gone.close()
async def crowd(): await asyncio.gather(*(db.arun(put, f"task/{{n}}") for n in range(50)))
asyncio.run(crowd())
db.reader().run(lambda tx: None)
for name in "ab": threading.Thread(target=work, args=(name,), daemon=True).start()
for _ in range(40): stored.acquire()
"""
    for _ in range(3):
        done = python(program, str(tmp_path / "a.db"), durability)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        with sqlite3.connect(tmp_path / "a.db") as other:
            stored = {row[0] for row in other.execute("SELECT key FROM onefold_counter_totals")}
        other.close()
        acknowledged = set(done.stdout.split("\n")[:-1])
        assert acknowledged <= stored
        assert len(stored) >= 50


# -- deadlines ----------------------------------------------------------------------------------------


def test_a_foreign_writer_does_not_stretch_a_deadline(plain: Database) -> None:
    plain.run(put, "a")
    foreign = sqlite3.connect(plain.url, isolation_level=None)
    foreign.execute("BEGIN IMMEDIATE")
    began = time.monotonic()
    with pytest.raises(Retry) as busy:
        plain.options(deadline_ms=200).run(put, "b")
    assert busy.value.code == "busy"
    assert time.monotonic() - began < 2.0
    assert {"code": "busy", "count": 1} in [{"code": a["code"], "count": a["count"]} for a in plain.metrics()["aborts"]]
    foreign.execute("COMMIT")
    foreign.close()
    plain.run(put, "b")
    assert plain.run(get, "b") == 1


def test_a_batch_behind_a_foreign_writer_is_told(plain: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(batches, "BUSY_WAIT_NS", 20_000_000)
    monkeypatch.setattr(batches.time, "sleep", pauses.append)
    with contextlib.closing(sqlite3.connect(plain.url, isolation_level=None)) as foreign:
        foreign.execute("BEGIN IMMEDIATE")

        async def crowd() -> list[Any]:
            return await asyncio.gather(*(plain.arun(put, key) for key in "ab"), return_exceptions=True)

        answers = asyncio.run(crowd())
    assert [(type(answer), answer.code) for answer in answers] == [(Retry, "busy")] * 2
    assert pauses[0] == 0.001
    assert max(pauses) <= 0.02
    assert all(after >= before or after == 0.001 for before, after in pairwise(pauses)), "longer, or begun anew"
    assert in_one_batch(plain, (None, put, "a"), (None, put, "b")) == [None, None]


def test_a_foreign_writer_is_waited_for(plain: Database) -> None:
    foreign = sqlite3.connect(plain.url, isolation_level=None, check_same_thread=False)
    foreign.execute("BEGIN IMMEDIATE")
    timer = threading.Timer(0.2, lambda: foreign.execute("COMMIT"))
    timer.start()
    plain.run(put, "b")
    timer.join()
    foreign.close()
    assert plain.run(get, "b") == 1


def test_a_call_behind_a_slow_function_hears_at_its_deadline(plain: Database) -> None:
    blocker = Blocker()
    thread = threading.Thread(target=plain.run, args=(blocker,))
    thread.start()
    assert blocker.entered.wait(WAIT_S)

    async def late() -> None:
        await plain.options(deadline_ms=100).arun(put, "never")

    try:
        with pytest.raises(Retry) as sync:
            plain.options(deadline_ms=100).run(put, "never")
        with pytest.raises(Retry) as task:
            asyncio.run(asyncio.wait_for(late(), WAIT_S / 2))
    finally:
        blocker.leave.set()
        thread.join()
    assert {sync.value.code, task.value.code} == {"deadline"}
    assert plain.run(get, "never") is None


def test_each_of_several_late_callers_has_an_error_of_his_own(plain: Database) -> None:
    blocker = Blocker()

    async def scenario() -> list[Any]:
        first = asyncio.create_task(plain.arun(blocker))
        await blocker.sits()
        patient = asyncio.create_task(plain.arun(put, "patient"))
        late = [plain.options(deadline_ms=50).arun(put, "never") for _ in range(3)]
        found = await asyncio.gather(*late, return_exceptions=True)
        blocker.leave.set()
        await asyncio.gather(first, patient)
        return found

    found = asyncio.run(scenario())
    assert [error.code for error in found] == ["deadline"] * 3
    assert len(set(map(id, found))) == 3


def test_readers_of_tasks_hear_at_their_deadline_while_all_readers_are_busy(plain: Database) -> None:
    leave, entered = threading.Event(), threading.Semaphore(0)

    def slow(tx: Tx) -> None:
        entered.release()
        assert leave.wait(WAIT_S)

    async def scenario() -> BaseException | None:
        tasks = [asyncio.create_task(plain.reader().arun(slow)) for _ in range(8)]
        await asyncio.sleep(0)
        for _ in range(8):
            assert entered.acquire(timeout=WAIT_S)
        late = plain.options(deadline_ms=100).reader().arun(count)
        try:
            return (await asyncio.wait_for(asyncio.gather(late, return_exceptions=True), WAIT_S / 2))[0]
        finally:
            leave.set()
            await asyncio.gather(*tasks)

    answer = asyncio.run(scenario())
    assert isinstance(answer, Retry)
    assert answer.code == "readers_busy"


# -- batches -------------------------------------------------------------------------------------------


def test_a_space_that_was_only_seen_in_an_undone_batch_is_written_down_later(plain: Database) -> None:
    tenant = plain.at("tenant/1")

    def fails(tx: Tx) -> None:
        raise Conflict("No.")

    answers = in_one_batch(plain, (tenant, fails), (tenant, fails))
    assert all(isinstance(answer, Conflict) for answer in answers)
    tenant.run(put, "a")
    assert ("tenant/1",) in plain.run(lambda tx: tx.all("SELECT name FROM onefold.spaces"))


def test_savepoints_in_a_batch_survive_transactions_that_are_lost(plain: Database) -> None:
    plain.run(put, "taken")
    rude_sql = "INSERT OR ROLLBACK INTO onefold.counter_totals (space, key, total) VALUES (:space, 'taken', 1)"

    def nested(tx: Tx, key: str) -> int:
        put(tx, key)
        with tx.savepoint():
            put(tx, key + "/1")
            with contextlib.suppress(Conflict), tx.savepoint():
                put(tx, key + "/2")
                raise Conflict("Only this part.")
        return len(tx.all("SELECT key FROM onefold.counter_totals WHERE space = :space AND key LIKE :like", like=key + "%"))

    def rude(tx: Tx, key: str) -> None:
        put(tx, key)
        with contextlib.suppress(Exception), tx.savepoint():
            with tx.savepoint():
                tx.run(rude_sql)
        put(tx, key + "/after")

    calls = []
    for n in range(12):
        calls += [(None, nested, f"good{n:02}"), (None, rude, f"rude{n:02}")]
    answers = in_one_batch(plain, *calls)
    assert answers[::2] == [2] * 12
    assert all(isinstance(answer, Doomed | Conflict | Invalid) for answer in answers[1::2])
    keys = {row[0] for row in plain.run(lambda tx: tx.all("SELECT key FROM onefold.counter_totals WHERE space = :space"))}
    assert keys == {"taken", *(f"good{n:02}" for n in range(12)), *(f"good{n:02}/1" for n in range(12))}


def test_a_failure_of_the_writer_between_replays_leaves_nobody_waiting(plain: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    plain.run(put, "taken")

    def rude(tx: Tx) -> None:
        tx.run("INSERT OR ROLLBACK INTO onefold.counter_totals (space, key, total) VALUES (:space, 'taken', 1)")

    real, begins = batches.Batches._begin, []

    def broken(self: batches.Batches, *args: Any, **options: Any) -> Any:
        begins.append(1)
        if len(begins) > 4:  # After the losses, when everyone runs alone.
            raise MemoryError
        return real(self, *args, **options)

    monkeypatch.setattr(batches.Batches, "_begin", broken)
    calls = [(None, put, "a"), (None, rude), (None, rude), (None, put, "b"), (None, put, "c"), (None, put, "d")]
    result: list[Any] = []
    thread = threading.Thread(target=lambda: result.extend(in_one_batch(plain, *calls)), daemon=True)
    thread.start()
    thread.join(WAIT_S)
    assert len(result) == 6, "calls were forgotten"
    assert any(isinstance(answer, MemoryError) for answer in result)
    monkeypatch.undo()
    plain.run(put, "e")


def test_hints_that_cannot_be_handed_on_do_not_undo_the_answer(plain: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(plain._engine.hub, "committed", broken)

    def hints(tx: Tx) -> str:
        put(tx, "a")
        tx.on_commit(lambda: None)
        return "done"

    assert plain.run(hints) == "done"
    assert plain.run(get, "a") == 1


def test_queue_age_counts_each_call_once_and_a_rollback_is_no_commit(plain: Database) -> None:
    plain.run(put, "taken")
    metrics = plain._engine.metrics
    before, commits = sum(metrics.queue_age.counts), sum(metrics.commit.counts)
    assert (before, commits) == (0, 1), "who waited in no queue has no age"

    def rude(tx: Tx) -> None:
        tx.run("INSERT OR ROLLBACK INTO onefold.counter_totals (space, key, total) VALUES (:space, 'taken', 1)")

    def fails(tx: Tx) -> None:
        raise Conflict("No.")

    in_one_batch(plain, (None, put, "a"), (None, put, "b"), (None, rude))
    assert sum(metrics.queue_age.counts) - before == 4
    assert metrics.retries.total() == 2
    in_one_batch(plain, (None, fails), (None, fails))
    assert sum(metrics.commit.counts) - commits == 3, "two for those that hold the batch up, one for the batch"
    assert 0 not in metrics.batch_sizes


# -- durability ------------------------------------------------------------------------------------------


def test_a_call_that_asked_for_everysec_is_on_the_disk_within_seconds(plain: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = threading.Event()
    monkeypatch.setattr(everysec, "PERIOD_S", 0.05)
    monkeypatch.setattr(everysec, "sync_file", lambda path: synced.set())
    plain.options(durability="everysec").run(put, "a")
    assert synced.wait(WAIT_S), "no timer brings it to the disk"


def test_a_disk_that_fails_the_promised_sync_says_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_path: Path) -> None:
        raise OSError(5, "Input/output error")

    again = threading.Event()
    monkeypatch.setattr(everysec, "PERIOD_S", 0.01)
    monkeypatch.setattr(batches, "write_again", lambda _: again.set())
    with onefold.connect(tmp_path / "a.db", durability="everysec") as db:
        with monkeypatch.context() as patch:
            patch.setattr(batches, "sync_file", broken)
            answers = in_one_batch(db, (None, put, "lazy"), (db.options(durability="always"), put, "sure"))
        assert answers[0] is None
        assert isinstance(answers[1], onefold.Unknown)
        assert again.wait(WAIT_S), "nobody commits, and the log is not written again"


def test_a_file_that_may_not_grow_is_a_clear_error_and_ends(tmp_path: Path) -> None:
    program = f"""
import sys, resource, onefold
db = onefold.connect(sys.argv[1])
def put(tx, key): tx.run({PUT!r}, key=key, total=1)
db.run(put, "first")
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, hard))
acknowledged, refused = [], None
for n in range(20_000):
    try:
        db.run(put, f"{{n:0180d}}")
    except onefold.OnefoldError as error:
        refused = error
        break
    acknowledged.append(n)
assert isinstance(refused, (onefold.Retry, onefold.Unknown)), refused
assert acknowledged
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
db.run(put, "again")
have = {{row[0] for row in db.run(lambda tx: tx.all("SELECT key FROM onefold.counter_totals WHERE space = :space"))}}
assert {{f"{{n:0180d}}" for n in acknowledged}} <= have
db.close()
print("fine")
"""
    done = python(program, str(tmp_path / "a.db"))
    assert done.stdout.strip() == "fine", done.stderr
    other = sqlite3.connect(tmp_path / "a.db")
    assert other.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    other.close()


def test_readers_that_overlap_for_ever_do_not_let_the_wal_grow_for_ever(plain: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "WAL_BYTES_LARGE", 1 << 20)
    monkeypatch.setattr(batches, "LOOK_COMMITS", 8)
    plain.run(put, "a")
    stop = threading.Event()
    taken = [threading.Event(), threading.Event()]

    def overlapping(me: int) -> None:
        """Holds a snapshot until the other one has its own: there is one at every moment."""

        def holds(tx: Tx) -> None:
            get(tx, "a")
            taken[me].set()
            taken[1 - me].wait(0.02)
            taken[1 - me].clear()

        while not stop.is_set():
            plain.reader().run(holds)

    threads = [threading.Thread(target=overlapping, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    largest = 0.0
    rows = [{"key": f"{n:0190d}", "total": 1} for n in range(500)]
    for n in range(120):  # 15 MB if nothing is done about it.
        plain.run(lambda tx, n=n: tx.many(PUT, [{**row, "total": n} for row in rows]))
        largest = max(largest, plain.metrics()["wal_bytes"])
    stop.set()
    for thread in threads:
        thread.join()
    assert largest < 6e6, f"the WAL grew to {largest / 1e6:.1f} MB"


# -- tasks and loops ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["asyncio", "uvloop"])
def test_a_storm_of_cancellations_loses_nobody(plain: Database, kind: str) -> None:
    if kind == "uvloop":
        uvloop = pytest.importorskip("uvloop")
    complaints: list[Any] = []
    acknowledged: list[str] = []

    def fails(tx: Tx) -> None:
        raise Conflict("No.")

    async def one(name: int) -> None:
        for n in range(40):
            key = f"{name}/{n}"
            try:
                async with asyncio.timeout((n * name % 7) / 5_000):
                    await plain.arun(fails if n % 5 == 0 else put, *([] if n % 5 == 0 else [key]))
                acknowledged.append(key)
            except (TimeoutError, Conflict):
                continue

    async def storm() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: complaints.append(context))
        await asyncio.wait_for(asyncio.gather(*(one(n) for n in range(64))), 60)
        await asyncio.wait_for(plain.arun(put, "after"), WAIT_S)
        gc.collect()

    if kind == "uvloop":
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(storm())
    else:
        asyncio.run(storm())
    stored = {row[0] for row in plain.run(lambda tx: tx.all("SELECT key FROM onefold.counter_totals WHERE space = :space"))}
    assert set(acknowledged) <= stored
    assert "after" in stored
    assert complaints == []


def test_cancelling_twice_still_waits_for_the_outcome(plain: Database) -> None:
    blocker = Blocker()

    async def scenario() -> bool:
        task = asyncio.create_task(plain.arun(blocker))
        await blocker.sits()
        for _ in range(3):
            task.cancel()
            for _ in range(3):
                await asyncio.sleep(0)
        early = task.done()
        blocker.leave.set()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, WAIT_S)
        return early

    assert not asyncio.run(scenario())


def test_a_loop_that_goes_away_takes_nobody_with_it(plain: Database) -> None:
    blocker = Blocker()
    thread = threading.Thread(target=plain.run, args=(blocker,))
    thread.start()
    assert blocker.entered.wait(WAIT_S)
    loop = asyncio.new_event_loop()
    tasks = [loop.create_task(plain.arun(put, f"gone{n}")) for n in range(3)]
    loop.run_until_complete(asyncio.sleep(0))
    for task in tasks:
        task._log_destroy_pending = False  # type: ignore[attr-defined]
    loop.close()
    del tasks, task
    gc.collect()
    blocker.leave.set()
    thread.join(WAIT_S)
    plain.run(put, "after")
    assert plain.run(get, "after") == 1


def test_many_loops_at_once(plain: Database) -> None:
    def loop(name: int) -> None:
        async def crowd() -> None:
            await asyncio.gather(*(plain.arun(put, f"{name}/{n}") for n in range(50)))

        for _ in range(3):
            asyncio.run(crowd())

    threads = [threading.Thread(target=loop, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
        assert not thread.is_alive()
    assert plain.run(count) == 300


def test_a_call_leaves_no_cycle_behind(plain: Database) -> None:
    async def crowd() -> int:
        await asyncio.gather(*(plain.arun(put, f"k{n}") for n in range(64)))
        gc.collect()
        gc.disable()
        try:
            for n in range(300):
                await plain.arun(put, f"k{n % 64}")
                plain.run(put, f"k{n % 64}")
            return gc.collect()
        finally:
            gc.enable()

    assert asyncio.run(crowd()) < 100, "work for the garbage collector with every call"


def test_signals_tear_nothing(tmp_path: Path) -> None:
    """A handler that raises, at random moments, in a thread that runs its own functions."""
    program = f"""
import random, signal, sys, threading, onefold
class Torn(Exception): pass
def torn(*_): raise Torn
db = onefold.connect(sys.argv[1])
def put(tx, key): tx.run({PUT!r}, key=key, total=1)
signal.signal(signal.SIGALRM, torn)
acknowledged, torn_count, n = [], 0, 0
dice = random.Random(int(sys.argv[2]))
while torn_count < 400:
    try:
        signal.setitimer(signal.ITIMER_REAL, dice.random() * 0.0008 + 0.00001)
        while True:
            n += 1
            db.run(put, f"k{{n}}")
            acknowledged.append(n)
    except Torn:
        torn_count += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
db.run(put, "after")
other = onefold.host.gate.Gate(__import__("pathlib").Path(sys.argv[1]))
assert other.try_acquire(), "the gate stayed shut"
other.close()
have = {{row[0] for row in db.run(lambda tx: tx.all("SELECT key FROM onefold.counter_totals WHERE space = :space"))}}
assert {{f"k{{n}}" for n in acknowledged}} <= have
db.close()
print("fine")
"""
    for seed in ("1", "2"):
        done = python("import onefold.host.gate\n" + program, str(tmp_path / f"{seed}.db"), seed)
        assert done.stdout.strip() == "fine", done.stderr[-2_000:]


# -- other people's statements -----------------------------------------------------------------------------


def test_a_session_cannot_go_on_after_the_transaction_was_lost(plain: Database) -> None:
    sqlalchemy = pytest.importorskip("sqlalchemy")
    from onefold.integrations import sqlalchemy as bridge

    insert = "INSERT {} INTO onefold_counter_totals (space, key, total) VALUES (1, '{}', 1)"

    def work(tx: Tx) -> None:
        with bridge.session(tx) as inner:
            inner.execute(sqlalchemy.text(insert.format("", "taken")))
            with contextlib.suppress(sqlalchemy.exc.IntegrityError):
                inner.execute(sqlalchemy.text(insert.format("OR ROLLBACK", "taken")))
            with contextlib.suppress(Exception):
                inner.execute(sqlalchemy.text(insert.format("", "leaked")))

    with pytest.raises(Doomed):
        plain.run(work)
    assert plain.run(lambda tx: tx.all("SELECT key FROM onefold.counter_totals -- all spaces")) == []


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
@pytest.mark.parametrize("side", ["gate", "turn"])
def test_a_side_file_that_is_no_file_is_named(tmp_path: Path, make: Callable[[Path], None], side: str) -> None:
    path = tmp_path / "a.db"
    make(Path(f"{path}-{side}"))
    with pytest.raises(Invalid, match="no file") as refused:
        onefold.connect(path)
    assert refused.value.facts["path"] == f"{path}-{side}"
    assert not path.exists()


def test_connecting_waits_for_a_program_that_writes_without_wal(tmp_path: Path, threads: ThreadPoolExecutor) -> None:
    path = tmp_path / "a.db"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
        other.execute("CREATE TABLE theirs (n)")
        other.execute("BEGIN IMMEDIATE")
        other.execute("INSERT INTO theirs VALUES (1)")
        connecting = threads.submit(onefold.connect, path)
        let_pass(300)
        assert not connecting.done()
        other.execute("COMMIT")
        with connecting.result(20) as db:
            db.run(put, "a", 1)
        assert other.execute("SELECT count(*) FROM theirs").fetchone() == (1,)
