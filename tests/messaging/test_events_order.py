"""The order of events on PostgreSQL: nothing skipped, nothing doubled, nobody waited for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from events_kinds import check_order, everything, number, place
from waiting import until

import onefold
from onefold import Database, Tx, events
from onefold.messaging.events import sequencer
from onefold.testing.postgres import Cluster

WAIT_S = 30
LEVELS = ["read_committed", "repeatable_read", "serializable"]


@pytest.fixture
def pg(postgres_url: str) -> Iterator[Database]:
    """Without rehearsal: what is held open runs once."""
    with onefold.connect(postgres_url) as database:
        yield database


@pytest.fixture
def raw(postgres_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        yield connection


class Held:
    """A transaction that stands still after its first part, until `release`."""

    def __init__(self, threads: ThreadPoolExecutor, db: Any, *parts: Callable[[Tx], object]) -> None:
        self._reached = threading.Event()
        self._go = threading.Event()
        self._parts = parts
        self._done: Future[Any] = threads.submit(db.run, self._run)
        assert self._reached.wait(WAIT_S)

    def _run(self, tx: Tx) -> None:
        self._parts[0](tx)
        tx.one("SELECT 1")  # What was queued is on the server now.
        self._reached.set()
        assert self._go.wait(WAIT_S)
        for part in self._parts[1:]:
            part(tx)

    def release(self) -> None:
        self._go.set()
        self._done.result(WAIT_S)


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as executor:
        yield executor


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("steps", [1, 3])
def test_a_held_insert_is_neither_skipped_nor_waited_for(
    pg: Database, threads: ThreadPoolExecutor, level: Any, steps: int
) -> None:
    number(pg)
    held = Held(threads, pg.options(isolation=level), lambda tx: place(tx, "held/1", 1, 2))
    for turn in range(steps):
        for n in range(3):
            pg.run(place, f"order/{n}", turn)
        number(pg)
        # Nothing waits: what committed is numbered, though an older transaction is open.
        assert pg.run(events.head) == 3 * (turn + 1)
    seen = everything(pg)
    held.release()
    number(pg)
    found = everything(pg)
    check_order(found)
    # Nothing is skipped: a reader who stands at the old head sees it come.
    assert found[: len(seen)] == seen
    assert [event.id for event in found[len(seen) :]] == ["held/1@1", "held/1@2"]
    # It was written first, and by that order would stand where the reader had been already.
    with_seq = pg.run(lambda tx: tx.all("SELECT stream FROM onefold.events WHERE space = :space ORDER BY seq"))
    assert with_seq[0] == ("held/1",)


def test_a_transaction_may_write_after_the_snapshot_that_it_is_older_than(
    pg: Database, threads: ThreadPoolExecutor
) -> None:
    """One without an id yet, one with an id, one inside a savepoint: all open while others are numbered."""

    def in_savepoint(tx: Tx) -> None:
        with tx.savepoint():
            place(tx, "late/3")

    number(pg)
    held = [
        Held(threads, pg, lambda tx: events.head(tx), lambda tx: place(tx, "late/1")),
        Held(threads, pg, lambda tx: tx.add("a", 1), lambda tx: place(tx, "late/2")),
        Held(threads, pg, in_savepoint, lambda tx: place(tx, "late/4")),
    ]
    pg.run(place, "order/1")
    number(pg)
    assert pg.run(events.head) == 1
    for number_of_held, one in enumerate(held):
        one.release()
        pg.run(place, "order/1")
        number(pg)
        assert pg.run(events.head) == 1 + len(everything(pg)[1:]) >= number_of_held + 3
    found = everything(pg)
    check_order(found)
    assert [event.id for event in found] == [
        "order/1@1", "late/1@1", "order/1@2", "late/2@1", "order/1@3", "late/3@1", "late/4@1", "order/1@4",
    ]  # fmt: skip


def test_what_a_held_transaction_rolls_back_leaves_no_gap(pg: Database, threads: ThreadPoolExecutor) -> None:
    def fail(tx: Tx) -> None:
        raise ZeroDivisionError

    number(pg)
    held = Held(threads, pg, lambda tx: place(tx, "held/1"), fail)
    pg.run(place, "order/1")
    number(pg)
    with pytest.raises(ZeroDivisionError):
        held.release()
    pg.run(place, "order/1")
    number(pg)
    check_order(everything(pg))
    assert pg.run(events.head) == 2


@pytest.mark.parametrize("most", [1, 2, 3, 7])
def test_a_step_that_does_not_reach_the_end_skips_nothing(
    pg: Database, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """Bounded steps, with inserts held open and let go between them."""
    monkeypatch.setattr(sequencer, "BATCH_MAX", most)
    number(pg)
    step = pg.options(isolation="repeatable_read")
    held = [Held(threads, pg, lambda tx, n=n: place(tx, f"held/{n}", 1, 2)) for n in range(3)]
    for n in range(5):
        pg.run(place, f"order/{n % 2}", 1, 2)
    assert step.run(events.sequence) == (most <= 10)
    assert pg.run(events.head) == min(most, 10)
    for one in held:
        one.release()
        seen = everything(pg)
        pg.run(place, "order/0")
        step.run(events.sequence)
        assert everything(pg)[: len(seen)] == seen
    steps = number(pg)
    found = everything(pg)
    check_order(found)
    assert len(found) == 10 + 6 + 3
    assert steps <= 19 // most + 2


@pytest.mark.parametrize("level", LEVELS)
def test_a_sequencer_far_behind_walks_and_skips_nothing(
    pg: Database, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch, level: Any
) -> None:
    """Steps as short as ever, whatever waits; what commits meanwhile, before the walk and behind it, comes after it."""
    monkeypatch.setattr(sequencer, "WAITING_MAX", 4)
    monkeypatch.setattr(sequencer, "WALK_MAX", 3)
    number(pg)
    step = pg.options(isolation=level)
    held = [Held(threads, pg, lambda tx, n=n: place(tx, f"held/{n}", 1, 2)) for n in range(3)]
    for n in range(5):
        pg.run(place, f"order/{n % 2}", 1, 2)
    assert step.run(events.sequence) is True
    assert everything(pg) == [], "it looked, and begins to walk"
    for n, one in enumerate(held):
        one.release()
        pg.run(place, f"held/{n}", 3)
        seen = everything(pg)
        assert step.run(events.sequence) is True
        assert everything(pg)[: len(seen)] == seen
        assert len(everything(pg)) - len(seen) <= 3
    number(pg)
    found = everything(pg)
    check_order(found)
    assert len(found) == 10 + 9
    assert [event.stream[:5] for event in found[:10]] == ["order"] * 10
    pg.run(place, "order/0", 1)
    assert number(pg) == 1, "by snapshots again"
    check_order(everything(pg))


@pytest.mark.parametrize("version", [16, 18])
def test_a_walk_that_is_restored_elsewhere_ends_there(
    pg: Database, postgres_url: str, raw: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch, version: int
) -> None:
    for _ in range(300):
        raw.execute("SELECT pg_current_xact_id()")  # So that ids here are far above those of the other.
    monkeypatch.setattr(sequencer, "WAITING_MAX", 2)
    monkeypatch.setattr(sequencer, "WALK_MAX", 3)
    for n in range(7):
        pg.run(place, f"order/{n % 2}", n)
    step = pg.options(isolation="read_committed")
    until(lambda: step.run(events.sequence) and len(everything(pg)) >= 3, "the middle of the walk")
    before = everything(pg)
    with Cluster(version=version) as other:
        url = other.create_database("restored")
        onefold.migrate(url)
        copy_tables(postgres_url, url)
        with onefold.connect(url) as db:
            db.run(place, "order/0", 8)
            number(db)
            check_order(everything(db))
            assert everything(db)[: len(before)] == before
            assert len(everything(db)) == 8


def test_a_step_that_stored_too_new_a_snapshot_would_be_seen(
    pg: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A planted bug: the snapshot of the moment is kept though the step did not reach the end."""
    original = sequencer._record

    def forgetful(tx: Tx, step: int, snap: str, system: int, walked: int) -> None:
        row = tx.one("SELECT CAST(pg_current_snapshot() AS TEXT) -- all spaces")
        assert row is not None
        original(tx, step, str(row[0]), system, walked)

    number(pg)
    monkeypatch.setattr(sequencer, "BATCH_MAX", 2)
    monkeypatch.setattr(sequencer, "_record", forgetful)
    pg.run(place, "order/1", *range(9))
    number(pg)
    assert pg.run(events.head) < 9  # So the tests above can fail.


@pytest.mark.parametrize("level", LEVELS)
def test_sequencers_side_by_side_number_everything_once(
    pg: Database, threads: ThreadPoolExecutor, level: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the lock that keeps them apart, and without it: then the primary keys do."""
    claims = [True, False]
    for locked in claims:
        if not locked:
            monkeypatch.setattr("onefold.engine.tx.Tx.try_claim", lambda tx, name: True)
        stop = threading.Event()
        refused: list[onefold.OnefoldError] = []

        def run_steps(stop: threading.Event = stop, refused: list[onefold.OnefoldError] = refused) -> None:
            while not stop.is_set():
                try:
                    pg.options(isolation=level).run(events.sequence)
                except (onefold.Conflict, onefold.Retry) as error:
                    refused.append(error)

        running = [threads.submit(run_steps) for _ in range(3)]
        writing = [
            threads.submit(lambda k=k: [pg.run(place, f"order/{k % 3}", n) for n in range(25)]) for k in range(5)
        ]
        for one in writing:
            one.result(WAIT_S)
        stop.set()
        for one in running:
            one.result(WAIT_S)
        if locked:
            assert all(isinstance(error, onefold.Retry) for error in refused) or level != "read_committed"
    number(pg)
    found = everything(pg)
    check_order(found)
    assert len(found) == 2 * 5 * 25


def test_what_is_older_than_some_steps_is_deleted(pg: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sequencer, "STEPS_KEPT", 5)
    for n in range(24):
        pg.run(place, "order/1", n)
        number(pg)
    rows = pg.run(lambda tx: tx.all("SELECT step FROM onefold.event_steps ORDER BY step"))
    assert [row[0] for row in rows] == list(range(20, 26))
    check_order(everything(pg))


def test_idle_steps_write_nothing(pg: Database) -> None:
    pg.run(place, "order/1")
    number(pg)
    before = pg.run(lambda tx: tx.all("SELECT step, snap FROM onefold.event_steps ORDER BY step"))
    for _ in range(3):
        assert pg.options(isolation="read_committed").run(events.sequence) is False
    assert pg.run(lambda tx: tx.all("SELECT step, snap FROM onefold.event_steps ORDER BY step")) == before


TABLES = ("event_streams", "events", "event_positions", "event_steps", "event_subscriptions")


def system_of(connection: psycopg.Connection[Any]) -> Any:
    return connection.execute("SELECT system_identifier FROM pg_control_system()").fetchone()


def copy_tables(source: str, target: str) -> None:
    """What a dump and restore does: the rows and the state of the sequence, and no transaction ids."""
    with psycopg.connect(source) as old, psycopg.connect(target) as new:
        for table in TABLES:
            new.execute(f"TRUNCATE onefold.{table}")
            with old.cursor().copy(f"COPY onefold.{table} TO STDOUT") as out:
                with new.cursor().copy(f"COPY onefold.{table} FROM STDIN") as into:
                    for chunk in out:
                        into.write(chunk)
        new.execute("SELECT setval(pg_get_serial_sequence('onefold.events', 'seq'), (SELECT max(seq) FROM onefold.events))")


@pytest.mark.parametrize("version", [16, 18])
def test_after_a_restore_into_another_cluster_the_order_goes_on(
    pg: Database, postgres_url: str, raw: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch, version: int
) -> None:
    """16 has a system identifier of its own; 18 was copied from the same template and has ours."""
    for _ in range(300):
        raw.execute("SELECT pg_current_xact_id()")  # So that ids here are far above those of the other.
    for n in range(6):
        pg.run(place, f"order/{n % 2}", n)
    number(pg)
    pg.run(place, "order/0", 6, 7)  # Not numbered when the dump is made.
    before = everything(pg)
    with Cluster(version=version) as other:
        url = other.create_database("restored")
        onefold.migrate(url)
        copy_tables(postgres_url, url)
        with onefold.connect(url) as db:
            with psycopg.connect(url) as there:
                assert (system_of(raw) == system_of(there)) == (version == 18)
            db.run(place, "order/0", 8)  # Before the first step there.
            monkeypatch.setattr(sequencer, "WALK_MAX", 3)
            steps = number(db)
            assert (steps > 3) == (version == 16)  # The walk was bounded too.
            after = everything(db)
            check_order(after)
            assert after[: len(before)] == before
            assert [event.id for event in after[6:]] == ["order/0@4", "order/0@5", "order/0@6"]
            db.run(place, "order/1", 9)
            assert number(db) == 1  # By snapshots again.
            check_order(everything(db))
            assert db.run(events.head) == 10


@pytest.mark.parametrize("waiting", [1, 200_000])
def test_a_copy_of_the_past_under_the_same_name_goes_on(
    pg: Database, raw: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch, waiting: int
) -> None:
    """Same system identifier, but the stored snapshot and the old rows are from its future."""
    monkeypatch.setattr(sequencer, "WAITING_MAX", waiting)
    for n in range(4):
        pg.run(place, "order/1", n)
    number(pg)
    raw.execute("UPDATE onefold.event_steps SET snap = '900000000:900000000:'")
    raw.execute("UPDATE onefold.events SET xid = 899999999 WHERE version <= 3")
    pg.run(place, "order/1", 4, 5)
    number(pg)
    found = everything(pg)
    check_order(found)
    assert len(found) == 6
    pg.run(place, "order/1", 6)
    number(pg)
    check_order(everything(pg))
    assert pg.run(events.head) == 7


def test_events_brought_from_sqlite_are_numbered(pg: Database, raw: psycopg.Connection[Any]) -> None:
    pg.run(place, "order/1", 1, 2, 3)
    raw.execute("UPDATE onefold.events SET xid = NULL, system = NULL")
    number(pg)
    pg.run(place, "order/1", 4)
    number(pg)
    check_order(everything(pg))
    assert pg.run(events.head) == 4


def test_appends_to_disjoint_streams_do_not_abort_each_other(pg: Database, raw: psycopg.Connection[Any]) -> None:
    """At most 0.05 aborts per commit, on fresh and on analysed tables, new streams and old ones."""
    callers, turns = 8, 30
    rates = []
    with ThreadPoolExecutor(callers) as threads:
        for analysed in (False, True):
            if analysed:
                raw.execute("ANALYZE")
            before = sum(entry["count"] for entry in pg.metrics()["retries"])

            def caller(k: int) -> None:
                for n in range(turns):
                    pg.run(place, f"order/{k}-{n % 10}", n)

            list(threads.map(caller, range(callers)))
            rates.append((sum(entry["count"] for entry in pg.metrics()["retries"]) - before) / (callers * turns))
    print("aborts per commit, fresh and analysed:", rates)
    assert max(rates) <= 0.05


def test_who_asks_for_positions_only_does_not_read_the_events(pg: Database) -> None:
    """The view joins the two; here the planner drops the join, because a position has one event at most."""
    pg.run(place, "order/1", 1, 2, 3)
    number(pg)
    texts = (
        "EXPLAIN SELECT pos FROM onefold.event_log WHERE space = :space ORDER BY pos DESC LIMIT 1",
        "EXPLAIN SELECT pos FROM onefold.event_log WHERE space = :space AND category = 'order' ORDER BY pos DESC LIMIT 1",
        "EXPLAIN SELECT stream FROM onefold.event_log WHERE space = :space ORDER BY pos LIMIT 1",
    )
    joined = []
    for text in texts:
        plan = "\n".join(row[0] for row in pg.run(lambda tx, text=text: tx.all(text)))
        assert "event_positions" in plan
        joined.append("events_pkey" in plan)
    assert joined == [False, False, True]


def alone(raw: psycopg.Connection[Any]) -> bool:
    """Whether all other connections have ended, and with that told what they read."""
    found = raw.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    ).fetchone()
    return found == (0,)


def test_a_planner_that_knows_nothing_reads_no_more_than_it_must(postgres_url: str, raw: psycopg.Connection[Any]) -> None:
    """Statistics from when there was one event: the worst that a young database sees."""
    tables = ("events", "event_positions", "event_streams", "event_steps", "event_subscriptions")
    for table in tables:
        raw.execute(f"ALTER TABLE onefold.{table} SET (autovacuum_enabled = off)")
    count = 3_000
    with onefold.connect(postgres_url) as db:
        db.run(place, "rare/1")
        number(db)
        raw.execute("ANALYZE")
        for n in range(3):
            db.run(place, f"order/{n}", *range(1_000))
        number(db)
        assert len(everything(db)) == count + 1
        for _ in range(20):  # Often enough that the plans no longer look at the values.
            db.run(place, "order/0", 1)
            number(db)
            assert len(db.run(events.read_category, "rare").items) == 1
            db.run(events.consume, "all", lambda tx, event: None, category="order", limit=200)
            db.run(events.position_of, "order/2@500")
    until(lambda: alone(raw), "the end of the connections")
    read = raw.execute(
        "SELECT sum(idx_tup_read) FROM pg_stat_user_indexes JOIN pg_stat_user_tables USING (relid)"
        " WHERE pg_stat_user_tables.relname = ANY(%s)", [list(tables)]
    ).fetchone()  # fmt: skip
    print("index entries read per event:", float(read[0]) / count)
    assert count < read[0] < 60 * count  # A plan that is quadratic anywhere reads a thousand times the count.
