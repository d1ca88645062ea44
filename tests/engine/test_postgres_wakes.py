"""Wake-ups between processes, forks, foreign transactions, and the engine's own loops."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import psycopg
import pytest
from engine_words import INSERT, PUT, get, put
from waiting import until

import onefold
from onefold import Conflict, Database, Doomed, Invalid, Retry, Tx
from onefold.engine import loops
from onefold.engine.postgres import listen
from onefold.engine.postgres.clock import ServerClock
from onefold.engine.postgres.engine import PostgresEngine, engine_at
from onefold.engine.postgres.errors import Lost
from onefold.engine.postgres.joined import JoinedPostgresTx, join_postgres
from onefold.engine.postgres.pool import Pool, conninfo_of
from onefold.engine.postgres.wire import Wire
from onefold.engine.wake import Hub
from onefold.testing.postgres import Cluster

SOURCE = str(Path(onefold.__file__).parents[1])


@pytest.fixture
def here(postgres_url: str) -> Iterator[Database]:
    with onefold.connect(postgres_url) as db:
        yield db


@pytest.fixture
def there(postgres_url: str) -> Iterator[Database]:
    """Another process, as far as the engine can tell: it has its own name on the channel."""
    with onefold.connect(postgres_url) as db:
        yield db


# -- wake-ups -----------------------------------------------------------------------------------


def test_a_commit_wakes_waiters_elsewhere(here: Database, there: Database) -> None:
    waiter, other = here.waiter("jobs/mail"), here.waiter("jobs/sms")
    there.run(lambda tx: (put(tx, "a", 1), tx.wake("jobs/mail")))
    assert waiter.wait(10)
    assert here.run(get, "a") == 1
    assert not other.wait(0)


def test_an_aborted_transaction_wakes_nobody(here: Database, there: Database) -> None:
    waiter = here.waiter("topic")

    def fails(tx: Tx) -> None:
        tx.wake("topic")
        raise Conflict("No.")

    with pytest.raises(Conflict):
        there.run(fails)
    there.run(lambda tx: tx.wake("after"))
    after = here.waiter("after")
    there.run(lambda tx: tx.wake("after"))
    assert after.wait(10)  # What was said before it has arrived as well.
    assert not waiter.wait(0)


def test_nobody_hears_himself_from_outside(here: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[str] = []
    engine = here._engine
    assert isinstance(engine, PostgresEngine)
    waiter = here.waiter("topic")
    listener = engine._open().listener
    real = listener._heard
    arrived = threading.Event()

    def spy(payload: str) -> None:
        real(payload)
        heard.append(payload)
        arrived.set()

    monkeypatch.setattr(listener, "_heard", spy)
    here.run(lambda tx: tx.wake("topic"))
    assert waiter.wait(10)
    assert arrived.wait(10)
    assert not waiter.wait(0)  # Woken once, at the commit.
    here.run(lambda tx: tx.wake("other"))
    until(lambda: heard[-1].endswith("other"), "the second one")
    assert [payload.partition("\n")[2] for payload in heard] == ["topic", "other"], "each is told once"


def test_topics_are_packed_and_unspeakable_ones_wake_everybody() -> None:
    many = [f"topic/{n:04}" for n in range(2_000)]
    payloads = listen.payloads_of("me", many)
    assert all(len(payload.encode()) < 8_000 for payload in payloads)
    assert [t for payload in payloads for t in payload.split("\n")[1:]] == many
    assert len(payloads) < 5
    assert listen.payloads_of("me", []) == []
    longest = "x" * (listen.PAYLOAD_BYTES_MAX // 2)
    assert listen.payloads_of("me", [longest]) == [f"me\n{longest}"]
    assert listen.payloads_of("me", [f"{longest}x"]) == [f"me\n{listen.EVERYTHING}"]
    for unspeakable in ("a\nb", "\ud800", "x" * 8_000, "", "a\0"):
        assert listen.payloads_of("me", ["fine", unspeakable]) == [f"me\n{listen.EVERYTHING}"]
    half = (listen.PAYLOAD_BYTES_MAX - len("me\n\n")) // 2
    assert len(listen.payloads_of("me", ["a" * half, "b" * half])) == 1
    assert len(listen.payloads_of("me", ["a" * half, "b" * (half + 1)])) == 2


def test_topics_that_nobody_can_be_told_yet_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listen, "TOPICS_MAX", 2)
    notifier = listen.Notifier(None, "me")  # type: ignore[arg-type]
    notifier.close()  # So that no thread takes them.
    for topics, left in ((["a", "b", "a"], ["a", "b"]), (["c"], ["a", "b", "c"]), (["d"], [listen.EVERYTHING, "d"])):
        notifier.tell(topics)
        assert list(notifier._topics) == left


def test_a_topic_without_a_form_on_the_channel_still_wakes(here: Database, there: Database) -> None:
    waiter = here.waiter("anything")
    there.run(lambda tx: tx.wake("y" * 9_000))
    assert waiter.wait(10)


def test_telling_goes_on_when_its_connection_died(here: Database, there: Database, postgres_url: str) -> None:
    waiter = here.waiter("topic")
    there.run(lambda tx: tx.wake("topic"))
    assert waiter.wait(10)
    with psycopg.connect(postgres_url, autocommit=True) as admin:
        tells = "datname = current_database() AND query LIKE '%pg_notify(%' AND pid <> pg_backend_pid()"
        ended = admin.execute(f"SELECT pg_terminate_backend(pid, 20000) FROM pg_stat_activity WHERE {tells}").fetchall()
    assert ended == [(True,)]
    there.run(lambda tx: tx.wake("topic"))
    assert waiter.wait(10)


def test_listening_goes_on_when_its_connection_died_and_looks_at_everything(
    here: Database, there: Database, postgres_url: str
) -> None:
    waiter = here.waiter("topic")
    with psycopg.connect(postgres_url, autocommit=True) as admin:
        hears = "datname = current_database() AND query LIKE 'LISTEN%'"
        ended = admin.execute(f"SELECT pg_terminate_backend(pid, 20000) FROM pg_stat_activity WHERE {hears}").fetchall()
    assert ended == [(True,)]
    assert waiter.wait(20)  # Something may have been missed.
    there.run(lambda tx: tx.wake("topic"))
    assert waiter.wait(20)


def test_a_connection_that_ends_without_a_word_is_lost_to_who_listens(here: Database) -> None:
    pool = here._engine._open().pool  # type: ignore[attr-defined]
    wire, doorbell = pool.take(time.monotonic_ns() + 60_000_000_000), os.pipe()
    with socket.socket(fileno=os.dup(wire.pgconn.socket)) as ours:
        ours.shutdown(socket.SHUT_RDWR)
    with pytest.raises(Lost):
        wire.notifications(doorbell[0], 60.0)
    assert wire.broken
    pool.give(wire)
    for descriptor in doorbell:
        os.close(descriptor)


def test_listening_goes_on_after_a_restart_and_looks_at_everything(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "onefold"), Cluster() as cluster:
        onefold.migrate(cluster.create_database("a"))
        with onefold.connect(cluster.dsn("a")) as here, onefold.connect(cluster.dsn("a")) as there:
            waiter = here.waiter("topic")
            there.run(lambda tx: tx.wake("topic"))
            assert waiter.wait(10)
            cluster.restart()
            assert waiter.wait(20)  # Back again: something may have been missed.
            there.run(lambda tx: tx.wake("topic"))
            assert waiter.wait(20)
    assert "listening for wake-ups broke off" in caplog.text


def test_nobody_listens_until_somebody_waits(here: Database, postgres_cluster: Cluster) -> None:
    with postgres_cluster.admin() as admin:
        listening = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND query LIKE 'LISTEN%%'"
        name = here.run(lambda tx: tx.one("SELECT current_database()"))
        assert admin.execute(listening, name).fetchone() == (0,)
        here.waiter("topic").close()
        assert admin.execute(listening, name).fetchone() == (1,)


def test_who_waits_before_anybody_listens_is_told_to_look_when_it_begins(
    here: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listen, "START_S", 0.0)
    pool, begun = here._engine._open().pool, threading.Event()  # type: ignore[attr-defined]
    real = pool.connect

    def slowly(deadline_ns: int) -> Wire:
        assert begun.wait(20)
        return real(deadline_ns)

    monkeypatch.setattr(pool, "connect", slowly)
    waiter = here.waiter("topic")
    assert not waiter.wait(0)
    begun.set()
    assert waiter.wait(20)


def test_a_listener_that_began_at_the_last_moment_looks_as_well() -> None:
    class Late(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:  # noqa: ARG002
            self.set()
            waits.append(1)
            return False

    hub, waits = Hub(), []
    waiter, listener = hub.waiter("topic"), listen.Listener(None, hub, "me")  # type: ignore[arg-type]
    listener.listening, listener._thread = Late(), threading.current_thread()
    listener.start()
    assert waiter.wait(0)
    listener.listening.clear()
    listener.start()
    assert len(waits) == 1, "who comes while nobody listens waits for that no more"


def test_waiters_that_come_at_once_have_one_listener(monkeypatch: pytest.MonkeyPatch) -> None:
    class Meanwhile(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:  # noqa: ARG002
            if not others:
                others.append(1)
                listener.start()
            return False

    def slowly(_: int) -> Wire:
        assert seen.wait(20)
        raise Retry("It is away.", code="unavailable")

    seen, others = threading.Event(), []
    nowhere = Pool(conninfo_of("postgresql://127.0.0.1:1/x"), 3, ServerClock())
    monkeypatch.setattr(nowhere, "connect", slowly)
    listener, before = listen.Listener(nowhere, Hub(), "me"), {*threading.enumerate()}
    listener.listening = Meanwhile()
    listener.start()
    assert others
    assert [thread.name for thread in {*threading.enumerate()} - before] == ["onefold-listen"]
    seen.set()
    listener.close()


def test_a_listener_asks_in_silence_whether_anybody_is_there_and_waits_for_the_answer(
    here: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    left_ns: list[int] = []
    answers: list[object] = []
    real = Wire.read_clock

    def ask(wire: Wire) -> object:
        left_ns.append(wire.deadline_ns - time.monotonic_ns())
        answers.append(real(wire))
        return answers[-1]

    monkeypatch.setattr(listen, "CHECK_S", 0.02)
    monkeypatch.setattr(Wire, "read_clock", ask)
    waiter = here.waiter("topic")
    until(lambda: answers, "an answer")
    assert listen.ANSWER_NS_MAX / 2 < left_ns[0] <= listen.ANSWER_NS_MAX
    waiter.close()


def test_a_listener_asks_less_and_less_often_for_a_server_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = Pool(conninfo_of("postgresql://127.0.0.1:1/x"), 3, ServerClock())
    listener, attempts, pauses_s = listen.Listener(nowhere, Hub(), "me"), [], []

    def refuses(_: int) -> None:
        attempts.append(1)
        if len(attempts) > 8:
            listener.close()
        raise Retry("It is away.", code="unavailable")

    monkeypatch.setattr(nowhere, "connect", refuses)
    monkeypatch.setattr(listen, "time", SimpleNamespace(sleep=pauses_s.append, monotonic_ns=time.monotonic_ns))
    listener._loop(0)
    assert pauses_s == [min(listen.PAUSE_S_FIRST * 2**n, listen.PAUSE_S_MAX) for n in range(8)]


def test_closing_ends_all_connections(postgres_url: str, postgres_cluster: Cluster) -> None:
    before = {*threading.enumerate()}
    db = onefold.connect(postgres_url)
    waiter = db.waiter("topic")
    for _ in range(2):
        db.run(lambda tx: tx.wake("topic"))
    asyncio.run(db.arun(put, "a", 1))
    ours = {*threading.enumerate()} - before
    assert sorted(thread.name for thread in ours) == ["onefold-listen", "onefold-notify", "onefold-run-0"]
    waiter.close()
    db.close()
    db.close()
    assert not any(thread.is_alive() for thread in ours)
    assert all(thread.daemon for thread in ours), "who forgets to close ends all the same"
    name = postgres_url.partition("@/")[2].partition("?")[0]
    connected = "SELECT 1 FROM pg_stat_activity WHERE datname = %s"
    with postgres_cluster.admin() as admin:
        until(lambda: admin.execute(connected, (name,)).fetchone() is None, "the end of all connections")


def test_closing_lets_running_calls_finish(postgres_url: str) -> None:
    db = onefold.connect(postgres_url)
    entered, leave, answers = threading.Event(), threading.Event(), []

    def slow(tx: Tx) -> str:
        put(tx, "a", 1)
        entered.set()
        assert leave.wait(20)
        return "done"

    thread = threading.Thread(target=lambda: answers.append(db.run(slow)))
    thread.start()
    assert entered.wait(20)
    closer = threading.Thread(target=db.close)
    closer.start()
    until(lambda: db._engine._parts.pool._closing, "the beginning of its end")  # type: ignore[attr-defined]
    closer.join(0.05)
    assert closer.is_alive(), "it did not wait for the call"
    with pytest.raises(Invalid) as closed:
        db.options(deadline_ms=50).run(get, "a")
    assert closed.value.code == "closed", "who comes meanwhile is not let in"
    leave.set()
    thread.join(20)
    closer.join(20)
    assert answers == ["done"]
    with onefold.connect(postgres_url) as again:
        assert again.run(get, "a") == 1


# -- forks ------------------------------------------------------------------------------------------

FORK = """
import os, sys, threading
import onefold
from onefold import Invalid

def put(tx, key):
    return tx.one('''INSERT INTO onefold.counter_totals (space, key, total) VALUES (:space, :key, 1)
                     ON CONFLICT (space, key) DO UPDATE SET total = onefold.counter_totals.total + 1
                     RETURNING total, pg_backend_pid()''', key=key)

def child_ends(work):
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException as error:
            print("child:", repr(error), file=sys.stderr)
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

db = onefold.connect(sys.argv[1])
waiter = db.waiter("topic")
parents = {db.run(put, "parent")[1] for _ in range(3)}

def in_child():
    total, backend = db.run(put, "child")
    assert total == 1 and backend not in parents
    assert db.run(put, "child")[0] == 2
    woken = db.waiter("mine")
    db.run(lambda tx: tx.wake("mine"))
    assert woken.wait(10)
    db.close()

child_ends(in_child)
total, backend = db.run(put, "parent")
assert total == 4 and backend in parents, (total, backend, parents)

def forks(tx):
    put(tx, "inside")
    def refused():
        try:
            put(tx, "inside")
        except Invalid as error:
            assert error.code == "forked", error
        else:
            raise AssertionError("the child used its parent's transaction")
    child_ends(refused)
    return "fine"

assert db.run(forks) == "fine"
assert db.run(lambda tx: tx.one("SELECT total FROM onefold.counter_totals WHERE key = 'inside'")) == (1,)
with onefold.connect(sys.argv[1]) as other:
    other.run(lambda tx: tx.wake("topic"))
    assert waiter.wait(10)
db.close()
print("ok")
"""


def test_a_child_opens_its_own_connections_and_leaves_its_parents_alone(postgres_url: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORK, postgres_url], env={"PYTHONPATH": SOURCE, "PATH": os.defpath}, capture_output=True,
        text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.stdout == "ok\n", done.stderr


# -- foreign transactions -------------------------------------------------------------------------------


def test_our_writes_are_in_the_owners_transaction(here: Database, postgres_url: str) -> None:
    with psycopg.connect(postgres_url) as owner:
        owner.execute("CREATE TABLE orders (id bigint)")
        owner.commit()
        owner.execute("INSERT INTO orders VALUES (1)")
        tx = onefold.use(owner, space_name="tenant/1")
        assert isinstance(tx, JoinedPostgresTx)
        put(tx, "a", 1)
        assert get(tx, "a") == 1
        owner.rollback()
        assert here.at("tenant/1").run(get, "a") is None
        owner.execute("INSERT INTO orders VALUES (2)")
        put(onefold.use(owner, space_name="tenant/1"), "a", 2)
        owner.commit()
        assert owner.execute("SELECT id FROM orders").fetchall() == [(2,)]
    assert here.at("tenant/1").run(get, "a") == 2
    assert ("tenant/1",) in here.run(lambda tx: tx.all("SELECT name FROM onefold.spaces"))


def test_the_owner_wakes_when_it_says_so(here: Database, there: Database, postgres_url: str) -> None:
    near, far = here.waiter("topic"), there.waiter("topic")
    heard: list[int] = []
    with psycopg.connect(postgres_url) as owner:
        tx = onefold.use(owner)
        put(tx, "a", 1)
        tx.wake("topic")
        tx.on_commit(lambda: heard.append(1))
        owner.commit()
        assert not near.wait(0)
        tx.committed()
    assert near.wait(10)
    assert far.wait(10)
    assert heard == [1]


def test_an_owner_is_told_through_the_engine_of_his_database(here: Database, postgres_cluster: Cluster) -> None:
    with onefold.connect(postgres_cluster.dsn("onefold_template")) as other:
        engines = [db._engine for db in (here, other)]
        assert [engine_at(engine.place) for engine in engines] == engines  # type: ignore[attr-defined]
    assert engine_at(engines[1].place) is None  # type: ignore[attr-defined]


def test_a_plan_that_a_migration_made_stale_costs_the_owner_his_connection(postgres_url: str) -> None:
    def look(connection: psycopg.Connection) -> list[tuple[object, ...]]:
        return onefold.use(connection).all("SELECT * FROM changing")

    with psycopg.connect(postgres_url, prepare_threshold=0) as owner, psycopg.connect(postgres_url) as admin:
        admin.execute("CREATE TABLE changing (a bigint)")
        admin.commit()
        assert look(owner) == []
        owner.commit()
        admin.execute("ALTER TABLE changing ALTER a TYPE text")
        admin.commit()
        with pytest.raises(Lost):
            look(owner)
        owner.rollback()


def test_isolation_is_the_owners(postgres_url: str) -> None:
    with psycopg.connect(postgres_url) as owner:
        owner.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        row = onefold.use(owner).one("SELECT current_setting('transaction_isolation')")
    assert row == ("repeatable read",)


def test_savepoints_and_doom_are_the_same_there(postgres_url: str) -> None:
    with psycopg.connect(postgres_url) as owner:
        tx = onefold.use(owner)
        put(tx, "a", 1)
        with pytest.raises(Conflict) as taken, tx.savepoint():
            put(tx, "inside", 1)
            tx.run(INSERT, key="a", total=9)
        assert taken.value.code == "unique"
        assert taken.value.facts["constraint"] == "counter_totals_pkey"
        assert "duplicate key" in str(taken.value.facts["why"])
        tx.many(PUT, [{"key": f"k{n}", "total": n} for n in range(5)])
        tx.add("visits", 3)
        assert (get(tx, "inside"), get(tx, "k4"), tx.total("visits")) == (None, 4, 3)
        with pytest.raises(Conflict):
            tx.run(INSERT, key="a", total=9)
        with pytest.raises(Doomed):
            put(tx, "b", 1)
        owner.rollback()


def test_a_connection_that_dies_there_is_lost(postgres_url: str) -> None:
    with psycopg.connect(postgres_url) as owner, pytest.raises(Lost):
        onefold.use(owner).one("SELECT pg_terminate_backend(pg_backend_pid())")
    with psycopg.connect(postgres_url) as owner, psycopg.connect(postgres_url, autocommit=True) as admin:
        tx = onefold.use(owner)
        admin.execute("SELECT pg_terminate_backend(%s, 20000)", [owner.info.backend_pid])
        with pytest.raises(Lost):
            tx.savepoint().__enter__()
        with pytest.raises(Doomed):
            get(tx, "a")
        owner.close()


def test_values_are_the_same_there(postgres_url: str) -> None:
    with psycopg.connect(postgres_url) as owner:
        tx = onefold.use(owner)
        row = tx.one(
            """SELECT CAST(pg_typeof(:i) AS text), CAST(pg_typeof(:s) AS text), CAST(pg_typeof(:f) AS text),
                      CAST(pg_typeof(:b) AS text), CAST(pg_typeof(:y) AS text), sum(v), 7 % 4 FROM (VALUES (1), (2)) AS t (v)""",
            i=1, s="x", f=0.5, b=True, y=b"z",
        )  # fmt: skip
        assert row == ("bigint", "text", "double precision", "boolean", "bytea", 3, 3)
        for bad in ("a\0", 2**63, float("nan"), [1]):
            fresh = onefold.use(owner)
            with pytest.raises(Invalid):
                fresh.one("SELECT :value", value=bad)
        with pytest.raises(Invalid):
            onefold.use(owner).one("SELECT :missing")


def test_what_cannot_be_joined_is_refused(postgres_url: str, postgres_cluster: Cluster) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as owner:
        with pytest.raises(Invalid) as refused:
            onefold.use(owner)
        assert refused.value.code == "autocommit"
        with owner.transaction():
            put(onefold.use(owner), "a", 1)  # In a transaction after all.
    with psycopg.connect(postgres_url) as owner:
        with pytest.raises(psycopg.Error):
            owner.execute("SELECT nonsense")
        with pytest.raises(Invalid) as refused:
            onefold.use(owner)
        assert refused.value.code == "not_ready"
        owner.rollback()
        with psycopg.connect(postgres_url) as admin:
            admin.execute("SELECT pg_terminate_backend(%s, 20000)", [owner.info.backend_pid])
        with pytest.raises(Retry) as gone:
            onefold.use(owner)
        assert gone.value.code == "unavailable"
    with pytest.raises(Invalid):
        join_postgres(object(), space_name="")
    with psycopg.connect(postgres_cluster.dsn("postgres")) as bare, pytest.raises(Conflict) as missing:
        onefold.use(bare)
    assert missing.value.code == "schema_missing"


def test_a_conflict_is_the_owners_to_retry(here: Database, postgres_url: str) -> None:
    here.run(put, "a", 1)
    with psycopg.connect(postgres_url) as owner:
        owner.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
        tx = onefold.use(owner)
        assert get(tx, "a") == 1
        here.run(put, "a", 2)
        with pytest.raises(Retry) as conflict:
            put(tx, "a", 3)
        assert conflict.value.code == "conflict"
        owner.rollback()


# -- the engine's loops ------------------------------------------------------------------------------------


def test_counters_are_folded_and_stay_exact(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loops, "FOLD_BATCH", 30)
    loop = db.options(isolation="read_committed")

    def bump(tx: Tx) -> None:
        for n in range(10):
            tx.add(f"k{n % 3}", n)

    for _ in range(7):
        db.run(bump)
        db.at("tenant/1").run(bump)
    expected = [7 * sum(n for n in range(10) if n % 3 == k) for k in range(3)]
    while loop.run(loops.fold_counters):
        assert [db.run(lambda tx, k=k: tx.total(f"k{k}")) for k in range(3)] == expected
    assert db.run(lambda tx: tx.one("SELECT count(*) FROM onefold.counter_deltas")) == (0,)
    for handle in (db, db.at("tenant/1")):
        assert [handle.run(lambda tx, k=k: tx.total(f"k{k}")) for k in range(3)] == expected
    assert not loop.run(loops.fold_counters)


def test_a_counter_beyond_64_bits_keeps_no_other_from_being_folded(here: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loops, "FOLD_BATCH", 4)
    loop = here.options(isolation="read_committed")
    most = 2**63 - 1
    for key, delta in [("sum", most), ("sum", most), ("old", most), ("good", 1), ("good", 2), ("low", -most), ("low", -most)]:
        here.run(lambda tx, key=key, delta=delta: tx.add(key, delta))
    assert loop.run(loops.fold_counters), "more is waiting, and two of these three could be folded"
    for _ in range(8):
        loop.run(loops.fold_counters)
    here.run(lambda tx: tx.add("old", 5))
    here.run(lambda tx: tx.add("good", 4))
    for _ in range(9):
        loop.run(loops.fold_counters)
    assert not loop.run(loops.fold_counters), "what cannot be folded is no reason to go on at once"
    assert here.run(get, "good") == 7
    expected = {"sum": 2 * most, "old": most + 5, "good": 7, "low": -2 * most}
    assert {key: here.run(lambda tx, key=key: tx.total(key)) for key in expected} == expected
    assert here.run(lambda tx: tx.all("SELECT DISTINCT key FROM onefold.counter_deltas ORDER BY key")) == [
        ("low",), ("old",), ("sum",),
    ]  # fmt: skip
    here.run(lambda tx: tx.add("old", -6))
    for _ in range(9):
        loop.run(loops.fold_counters)
    assert here.run(get, "old") == most - 1


def test_folders_at_once_beside_adders_lose_nothing(here: Database) -> None:
    stop = threading.Event()
    errors: list[BaseException] = []
    loop = here.options(isolation="read_committed")

    def fold() -> None:
        try:
            while not stop.is_set():
                loop.run(loops.fold_counters)
        except BaseException as error:
            errors.append(error)

    def add(number: int) -> None:
        for _ in range(40):
            here.run(lambda tx: (tx.add("hot", 1), tx.add(f"own/{number}", 1)))

    folders = [threading.Thread(target=fold) for _ in range(2)]
    adders = [threading.Thread(target=add, args=(n,)) for n in range(4)]
    for thread in (*folders, *adders):
        thread.start()
    for thread in adders:
        thread.join()
    stop.set()
    for thread in folders:
        thread.join()
    assert not errors
    assert here.run(lambda tx: tx.total("hot")) == 160
    while loop.run(loops.fold_counters):
        pass
    assert [here.run(get, key) for key in ("hot", "own/0", "own/3")] == [160, 40, 40]


def test_old_attempts_are_swept_in_batches(here: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loops, "SWEEP_BATCH", 10)

    def old(tx: Tx) -> None:
        tx.many(
            "INSERT INTO onefold.tx (id, at_ms) VALUES (:id, :at_ms) -- all spaces",
            [{"id": n, "at_ms": tx.now_ms - loops.TX_KEPT_MS - 1 - n} for n in range(25)],
        )

    here.run(old)
    loop = here.options(isolation="read_committed")
    assert [loop.run(loops.sweep_tx) for _ in range(3)] == [True, True, False]
    left = here.run(lambda tx: tx.all("SELECT id, at_ms FROM onefold.tx"))
    assert left
    assert not [row for row in left if row[0] < 25]
