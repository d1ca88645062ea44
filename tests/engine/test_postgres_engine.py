"""What only the PostgreSQL engine does: round trips, isolation, conflicts, ids of attempts."""

from __future__ import annotations

import contextlib
import threading
import time
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from engine_words import INSERT, PUT, UPDATE, get, put, setting
from racing import at_once

import onefold
from onefold import Conflict, Database, Invalid, Retry, Tx
from onefold.engine import call as call_module
from onefold.engine import schema
from onefold.engine.postgres import engine as engine_module
from onefold.engine.postgres.stepped import SteppedEngine
from onefold.engine.postgres.wire import Wire
from onefold.engine.require import require
from onefold.engine.tx import Hints
from onefold.index import schema_directories


@pytest.fixture
def trips(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one for each time that a thread waits for an answer."""
    counted: list[int] = []
    real = Wire.sync

    def sync(self: Wire) -> Any:
        counted.append(1)
        return real(self)

    monkeypatch.setattr(Wire, "sync", sync)
    return counted


# -- round trips ------------------------------------------------------------------------------


def test_result_less_writes_begin_and_commit_take_one_round_trip(plain: Database, trips: list[int]) -> None:
    plain.run(put, "a", 1)  # The first one prepares, connects and registers the space.
    trips.clear()

    def three(tx: Tx) -> None:
        put(tx, "a", 1)
        put(tx, "b", 2)
        tx.many(INSERT, [{"key": f"k{n}", "total": n} for n in range(50)])

    plain.run(three)
    assert len(trips) == 1
    assert plain.run(get, "k49") == 49


def demand(tx: Tx, key: str) -> None:
    require(tx, UPDATE, lambda: Conflict("There is none.", code="none"), key=key)


def test_what_is_required_travels_with_begin_and_commit(plain: Database, trips: list[int]) -> None:
    plain.run(put, "a", 1)

    def work(tx: Tx) -> None:
        demand(tx, "a")
        put(tx, "b", 1)

    plain.run(work)
    trips.clear()
    plain.run(work)
    assert len(trips) == 1
    assert plain.run(get, "a") == 3
    pid = plain.run(lambda tx: tx.one("SELECT pg_backend_pid()"))
    with pytest.raises(Conflict):
        plain.run(demand, "missing")
    assert plain.run(lambda tx: tx.one("SELECT pg_backend_pid()")) == pid


def test_a_division_by_zero_beside_what_is_required_is_no_refusal(plain: Database) -> None:
    plain.run(put, "a", 1)

    def work(tx: Tx) -> None:
        demand(tx, "a")
        tx.run("SELECT 1 / (:total - 1)", total=1)

    with pytest.raises(Invalid):
        plain.run(work)
    assert plain.run(get, "a") == 1


def test_a_read_then_a_write_take_two(plain: Database, trips: list[int]) -> None:
    plain.run(put, "a", 1)
    trips.clear()
    plain.run(lambda tx: put(tx, "a", (get(tx, "a") or 0) + 1))
    assert len(trips) == 2
    assert plain.run(get, "a") == 2


def test_a_reader_takes_one_and_does_not_wait_for_its_commit(plain: Database, trips: list[int]) -> None:
    plain.run(put, "a", 1)
    plain.reader().run(get, "a")
    trips.clear()
    assert plain.reader().run(get, "a") == 1
    assert len(trips) == 1
    assert plain._engine._open().pool._idle[-1].queued > 0  # type: ignore[attr-defined]


def test_a_function_without_statements_takes_none(plain: Database, trips: list[int]) -> None:
    plain.run(lambda tx: 7)  # The first call of a process in a space writes down its name.
    trips.clear()
    assert plain.run(lambda tx: 7) == 7
    assert not trips


def test_a_function_that_fails_is_rolled_back_before_the_next_begins(plain: Database) -> None:
    def fails(tx: Tx) -> None:
        put(tx, "a", 1)
        raise Conflict("No.")

    for _ in range(30):
        with pytest.raises(Conflict):
            plain.run(fails)
    assert plain.run(get, "a") is None


def test_a_failed_write_that_nobody_asked_about_does_not_spoil_the_connection(plain: Database) -> None:
    plain.run(put, "a", 1)

    def fails_twice(tx: Tx) -> None:
        tx.run(INSERT, key="a", total=2)  # Refused, but its answer is not awaited any more.
        raise Conflict("No.", code="no")

    for _ in range(5):
        with pytest.raises(Conflict) as failed:
            plain.run(fails_twice)
        assert failed.value.code == "no"
        assert plain.run(get, "a") == 1
    assert not plain.metrics()["retries"]


def test_more_than_the_wire_holds_goes_through(plain: Database) -> None:
    wide = "x" * 1_000_000  # Larger than the socket's buffers, in both directions at once.

    def echo(tx: Tx) -> int:
        for _ in range(8):
            tx.run("SELECT :wide || :wide", wide=wide)
        row = tx.one("SELECT length(:wide)", wide=wide)
        assert row is not None
        return row[0]

    assert plain.run(echo) == len(wide)


def test_a_rollback_behind_a_full_socket_lets_go_of_its_locks(plain: Database, postgres_url: str) -> None:
    wide = "x" * 400_000

    def fails(tx: Tx) -> None:
        put(tx, "a", 1)
        for _ in range(40):
            tx.run("SELECT length(:wide)", wide=wide)
        raise Conflict("With 16 MB on the way.")

    with pytest.raises(Conflict):
        plain.run(fails)
    with onefold.connect(postgres_url) as other:  # On a connection of its own, while that one is used by nobody.
        started = time.monotonic()
        other.run(put, "a", 2)
        assert time.monotonic() - started < 4  # It did not run into lock_timeout.
    assert plain.run(get, "a") == 2


def test_what_cannot_be_done_in_a_pipeline_is_refused(plain: Database) -> None:
    with pytest.raises(Invalid):
        plain.run(lambda tx: tx.run("COPY onefold.counter_totals TO STDOUT"))
    with pytest.raises(Invalid):
        plain.run(lambda tx: tx.one("COPY onefold.counter_totals FROM STDIN"))
    plain.run(put, "a", 1)
    assert plain.run(get, "a") == 1


def test_what_the_server_only_remarks_costs_no_connection(plain: Database) -> None:
    pid = plain.run(lambda tx: tx.one("SELECT pg_backend_pid()"))
    plain.run(lambda tx: (put(tx, "a", 1), tx.run("DROP TABLE IF EXISTS onefold.nowhere")))
    assert plain.run(get, "a") == 1
    assert plain.run(lambda tx: tx.one("SELECT pg_backend_pid()")) == pid


# -- sessions and isolation ---------------------------------------------------------------------


def test_sessions_are_set_up(plain: Database) -> None:
    def settings(tx: Tx) -> dict[str, str]:
        names = ("transaction_isolation", "transaction_read_only", "enable_seqscan", "enable_bitmapscan", "lock_timeout", "application_name",
                 "synchronous_commit", "idle_in_transaction_session_timeout", "jit")  # fmt: skip
        return {name: setting(tx, name) for name in names}

    assert plain.run(settings) == {
        "transaction_isolation": "serializable", "transaction_read_only": "off", "enable_seqscan": "off", "enable_bitmapscan": "off",
        "lock_timeout": "5s", "application_name": "onefold", "synchronous_commit": "on",
        "idle_in_transaction_session_timeout": "1min", "jit": "off",
    }  # fmt: skip


def test_what_a_role_or_a_url_sets_for_others_changes_no_promise(postgres_url: str) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as admin:
        database = admin.info.dbname
        for name in ("synchronous_commit", "standard_conforming_strings"):
            admin.execute(f'ALTER DATABASE "{database}" SET {name} = off')
        with onefold.connect(postgres_url + "&client_encoding=latin1") as db:
            assert db.run(setting, "synchronous_commit") == "on"
            assert db.options(durability="everysec").run(setting, "synchronous_commit") == "off"
            assert db.run(lambda tx: tx.one("SELECT '\\', :text", text="é")) == ("\\", "é")
            db.run(put, "é€")
        assert admin.execute("SELECT key FROM onefold.counter_totals").fetchall() == [("é€",)]


@pytest.mark.parametrize(
    ("isolation", "shown"),
    [("serializable", "serializable"), ("repeatable_read", "repeatable read"), ("read_committed", "read committed")],
)
def test_isolation_is_the_options(plain: Database, isolation: Any, shown: str) -> None:
    assert plain.options(isolation=isolation).run(setting, "transaction_isolation") == shown


def test_a_reader_is_a_read_only_snapshot(plain: Database) -> None:
    assert plain.reader().run(setting, "transaction_isolation") == "repeatable read"
    assert plain.reader().run(setting, "transaction_read_only") == "on"
    with pytest.raises(Invalid) as refused:
        plain.reader().run(lambda tx: tx.one(INSERT + " RETURNING total", key="a", total=1))
    assert refused.value.code == "read_only"


def test_everysec_does_not_wait_for_the_disk(plain: Database, postgres_url: str) -> None:
    assert plain.options(durability="everysec").run(setting, "synchronous_commit") == "off"
    assert plain.run(setting, "synchronous_commit") == "on"
    with onefold.connect(postgres_url, durability="everysec") as lazy:
        assert lazy.run(setting, "synchronous_commit") == "off"
        assert lazy.options(durability="always").run(setting, "synchronous_commit") == "on"


def test_time_is_the_servers_and_never_goes_back(plain: Database) -> None:
    seen: list[int] = []

    def compare(tx: Tx) -> int:
        seen.append(tx.now_ms)
        row = tx.one("SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint)")
        assert row is not None
        return row[0] - tx.now_ms

    differences = [plain.run(compare) for _ in range(50)]
    assert all(-50 <= difference <= 2_000 for difference in differences), differences
    assert seen == sorted(seen)


def test_a_clock_reading_from_behind_is_waited_out() -> None:
    from onefold.engine.postgres.clock import ServerClock
    from onefold.engine.postgres.wire import ClockReading

    clock = ServerClock()
    now = time.monotonic_ns()
    clock.learn(ClockReading(2_000_000_000_000, now, now))
    first = clock.now_ms()
    clock.learn(ClockReading(1_000_000_000_000, now, now))
    assert clock.now_ms() == first
    clock.learn(ClockReading(3_000_000_000_000, now, now + 10**9))  # Too slow an answer to believe.
    assert clock.now_ms() == first


def test_a_clock_reading_is_of_the_middle_of_its_round_trip(monkeypatch: pytest.MonkeyPatch) -> None:
    from onefold.engine.postgres import clock as clock_module
    from onefold.engine.postgres.wire import ClockReading

    ours_ns, slowest_ns = 7_000_000_000, clock_module.READING_ROUND_TRIP_NS_MAX
    monkeypatch.setattr(clock_module.time, "monotonic_ns", lambda: ours_ns)
    clock = clock_module.ServerClock()
    clock.learn(ClockReading(1_000_000_000, ours_ns, ours_ns + slowest_ns + 20_000_000))  # The first is better than none.
    assert clock.now_ms() == 1_000_000 - (slowest_ns + 20_000_000) // 2_000_000
    clock.learn(ClockReading(2_000_000_000, ours_ns - slowest_ns, ours_ns))
    assert clock.now_ms() == 2_000_000 + slowest_ns // 2_000_000
    clock.learn(ClockReading(3_000_000_000, ours_ns - slowest_ns - 1, ours_ns))
    assert clock.now_ms() == 2_000_000 + slowest_ns // 2_000_000


# -- conflicts ----------------------------------------------------------------------------------


def test_write_skew_is_noticed_and_run_again(plain: Database) -> None:
    plain.run(put, "on/ana", 1)
    plain.run(put, "on/ben", 1)
    both_read = threading.Barrier(2, timeout=20)
    attempts: list[str] = []

    def go_off_duty(tx: Tx, who: str) -> bool:
        first = who not in attempts
        attempts.append(who)
        row = tx.one("SELECT sum(total) FROM onefold.counter_totals WHERE space = :space AND key IN ('on/ana', 'on/ben')")
        if first:
            both_read.wait()
        assert row is not None
        if row[0] < 2:
            return False
        tx.run(PUT, key=f"on/{who}", total=0)
        return True

    answers: list[bool] = []
    threads = [threading.Thread(target=lambda w=w: answers.append(plain.run(go_off_duty, w))) for w in ("ana", "ben")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [False, True]
    assert len(attempts) == 3
    assert sum(r["count"] for r in plain.metrics()["retries"]) == 1


def test_a_conflict_that_the_function_swallows_is_still_run_again(plain: Database) -> None:
    plain.run(put, "a", 0)
    attempts: list[int] = []

    def stubborn(tx: Tx) -> str:
        attempts.append(1)
        get(tx, "a")
        if len(attempts) == 1:
            at_once(lambda: plain.run(put, "a", 5))
        try:
            tx.one(UPDATE, key="a")
        except Retry:
            raise ValueError("of my own") from None
        return "done"

    assert plain.run(stubborn) == "done"
    assert len(attempts) == 2
    assert plain.run(get, "a") == 6


def test_the_error_of_a_block_is_told_before_those_that_were_on_their_way(plain: Database) -> None:
    plain.run(put, "a", 1)

    def work(tx: Tx) -> None:
        with pytest.raises(ZeroDivisionError), tx.savepoint():
            tx.run(INSERT, key="a", total=2)  # Its refusal comes with the next answer.
            raise ZeroDivisionError
        put(tx, "b", 1)

    plain.run(work)
    assert plain.run(lambda tx: (get(tx, "a"), get(tx, "b"))) == (1, 1)


def test_a_savepoint_does_not_hide_a_conflict(plain: Database) -> None:
    plain.run(put, "a", 0)
    attempts: list[int] = []

    def hides(tx: Tx) -> None:
        attempts.append(1)
        get(tx, "a")
        if len(attempts) == 1:
            at_once(lambda: plain.run(put, "a", 5))
        try:
            with tx.savepoint():
                tx.run(UPDATE, key="a")
        except Retry:
            pass

    plain.run(hides)
    assert len(attempts) == 2
    assert plain.run(get, "a") == 6


def test_an_error_that_leaves_a_savepoint_does_not_hide_a_conflict(plain: Database) -> None:
    plain.run(put, "a", 0)
    attempts: list[int] = []

    def hides(tx: Tx) -> None:
        attempts.append(1)
        get(tx, "a")
        if len(attempts) == 1:
            at_once(lambda: plain.run(put, "a", 5))
        with contextlib.suppress(Conflict, Retry), tx.savepoint():
            tx.run(UPDATE, key="a")
            raise Conflict("Undo it.")

    plain.run(hides)
    assert len(attempts) == 2
    assert plain.run(get, "a") == 5


@pytest.mark.parametrize("rehearse", [False, True])
def test_each_attempt_draws_anew_and_one_seed_replays_them(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch, rehearse: bool
) -> None:
    """After a conflict the herd spreads; a rehearsal compares the two runs of one attempt, which draw alike."""
    monkeypatch.setattr(call_module, "new_seed", lambda: 4711)

    def drawn(tx: Tx) -> tuple[int, str]:
        dice, attempt = tx.random.getrandbits(64), tx.new_id("job")[-16:]
        met.append((dice, attempt))
        get(tx, "a")
        if len(met) <= 3 * runs and len(met) % runs == 0:  # In the run that counts, of the first three attempts.
            at_once(lambda: other.run(put, "a", len(met)))
        tx.one(UPDATE, key="a")
        return dice, attempt

    runs = 2 if rehearse else 1
    histories: list[list[tuple[int, str]]] = []
    with onefold.connect(postgres_url, rehearse=rehearse) as db, onefold.connect(postgres_url) as other:
        for _ in range(2):
            met: list[tuple[int, str]] = []
            other.run(put, "a", 0)
            answer = db.run(drawn)
            assert len(set(met)) * runs == len(met) == 4 * runs, "an attempt drew what another one had drawn"
            assert answer == met[-1]
            histories.append(met)
    assert histories[0] == histories[1]


def test_conflicts_without_end_are_given_up(plain: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    plain.run(put, "a", 0)
    attempts: list[int] = []
    rests_s: list[float] = []
    monkeypatch.setattr(engine_module, "random", SimpleNamespace(uniform=lambda low, high: high if low == 0 else -1))
    monkeypatch.setattr(engine_module.PostgresEngine, "_rest", lambda _, seconds: rests_s.append(seconds))

    def unlucky(tx: Tx) -> None:
        attempts.append(1)
        get(tx, "a")
        at_once(lambda: plain.run(put, "a", len(attempts)))
        tx.run(UPDATE, key="a")

    with pytest.raises(Retry) as given_up:
        plain.run(unlucky)
    assert given_up.value.code == "conflict"
    assert len(attempts) == engine_module.ATTEMPTS_MAX
    first_s, most_s = engine_module.PAUSE_S_FIRST, engine_module.PAUSE_S_MAX
    assert rests_s == [min(first_s * 2**n, most_s) for n in range(2, engine_module.ATTEMPTS_MAX)]
    assert plain.run(get, "a") == engine_module.ATTEMPTS_MAX  # The other's; nothing of ours.


def test_a_deadlock_is_resolved(plain: Database) -> None:
    plain.run(put, "a", 0)
    plain.run(put, "b", 0)
    first_held = threading.Barrier(2, timeout=20)
    attempts: list[str] = []

    def cross(tx: Tx, one: str, other: str) -> None:
        first = one not in attempts
        attempts.append(one)
        tx.one(UPDATE, key=one)
        if first:
            first_held.wait()
        tx.one(UPDATE, key=other)

    relaxed = plain.options(isolation="read_committed")
    threads = [threading.Thread(target=relaxed.run, args=(cross, *pair)) for pair in (("a", "b"), ("b", "a"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (plain.run(get, "a"), plain.run(get, "b")) == (2, 2)
    assert len(attempts) >= 3


def test_disjoint_keys_do_not_conflict(plain: Database, postgres_url: str) -> None:
    threads_count = 4
    for number in range(threads_count):
        plain.run(put, f"k{number}", 0)
    with psycopg.connect(postgres_url, autocommit=True) as owner:
        owner.execute("ANALYZE onefold.counter_totals")  # One page: the planner would love to read it all.
    all_read = threading.Barrier(threads_count, timeout=20)

    def read_then_write(tx: Tx, key: str) -> None:
        get(tx, key)
        all_read.wait()
        tx.run(UPDATE, key=key)

    threads = [threading.Thread(target=plain.run, args=(read_then_write, f"k{n}")) for n in range(threads_count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [plain.run(get, f"k{n}") for n in range(threads_count)] == [1] * threads_count
    assert not plain.metrics()["retries"]  # A sequential scan would have read the others' rows, too.


# -- ids of attempts, spaces ----------------------------------------------------------------------


def test_every_writing_transaction_leaves_its_id_and_readers_none(plain: Database) -> None:
    def count(tx: Tx) -> int:
        row = tx.one("SELECT count(*) FROM onefold.tx")
        assert row is not None
        return row[0]

    def undone_then_written(tx: Tx) -> None:
        try:
            with tx.savepoint():
                put(tx, "inside", 1)
                raise Conflict("Undo the savepoint, and the id with it.")
        except Conflict:
            pass
        put(tx, "after", 1)

    before = plain.run(count)
    plain.run(get, "a")
    plain.reader().run(get, "a")
    assert plain.run(count) == before
    plain.run(put, "a", 1)
    assert plain.run(count) == before + 1
    plain.run(undone_then_written)
    assert plain.run(count) == before + 2
    assert plain.run(get, "after") == 1

    def kept_then_undone(tx: Tx) -> None:
        with tx.savepoint():
            put(tx, "kept", 1)
        undone_then_written(tx)

    plain.run(kept_then_undone)
    assert plain.run(count) == before + 3
    assert plain.run(get, "kept") == 1


def test_a_space_registered_in_an_undone_savepoint_is_registered_again(plain: Database) -> None:
    def undone_then_written(tx: Tx) -> None:
        try:
            with tx.savepoint():
                put(tx, "inside", 1)
                raise Conflict("Undo.")
        except Conflict:
            pass
        put(tx, "after", 1)

    plain.at("tenant/9").run(undone_then_written)
    assert ("tenant/9",) in plain.run(lambda tx: tx.all("SELECT name FROM onefold.spaces"))


def test_a_known_space_costs_nothing_more(plain: Database, trips: list[int]) -> None:
    plain.at("tenant/1").run(put, "a", 1)
    trips.clear()
    plain.at("tenant/1").run(put, "a", 2)
    assert len(trips) == 1


class Counting:
    """A stepper that lets everything go at once, and counts."""

    def __init__(self) -> None:
        self.steps, self.pids, self.hinted = 0, [], []

    def now_ms(self) -> int:
        return 7

    def begins(self, pid: int) -> None:
        self.pids.append(pid)

    def before(self) -> None:
        self.steps += 1

    def after(self) -> None:
        self.steps += 1_000

    def committed(self, hints: Hints) -> None:
        self.hinted += hints.topics


def test_under_a_stepper_each_statement_is_a_step_and_everything_is_emptied(postgres_url: str) -> None:
    stepper = Counting()
    engine = SteppedEngine(postgres_url, schema.load(schema_directories()), stepper=stepper, pool_max=3)
    with Database(engine, url=postgres_url) as db:

        def work(tx: Tx) -> int:
            tx.many(PUT, [{"key": key, "total": 1} for key in "abc"])
            put(tx, "d", 1)
            tx.wake("topic")
            return tx.now_ms

        assert db.run(work) == 7
        assert stepper.steps == 5 * 1_001  # Four rows and COMMIT.
        assert (stepper.pids, stepper.hinted) == ([engine._open().pool._idle[0].identity.pid], ["topic"])
        assert [db.run(get, key) for key in "abcd"] == [1] * 4
        assert engine.overseer.blocked() == set()
        engine.overseer.empty()
        assert db.run(get, "a") is None


def test_a_rolled_back_step_has_let_go_when_the_next_one_begins(postgres_url: str) -> None:
    engine = SteppedEngine(postgres_url, schema.load(schema_directories()), stepper=Counting(), pool_max=3)
    with Database(engine, url=postgres_url) as db:

        def fails(tx: Tx) -> None:
            put(tx, "a", 1)
            raise Conflict("Undo.")

        with pytest.raises(Conflict):
            db.run(fails)
        assert engine._open().pool._idle[0].queued == 0
        assert db.run(get, "a") is None
