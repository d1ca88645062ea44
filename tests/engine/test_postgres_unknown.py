"""Connections that break: before COMMIT, at COMMIT, for good; and servers that restart under load."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from engine_words import INSERT, get, put
from load import Load
from postgres_proxy import Fate, Proxy, once
from waiting import until

import onefold
from onefold import Conflict, Database, Retry, Tx, Unknown
from onefold.engine.postgres import engine as engine_module
from onefold.engine.postgres import unknown
from onefold.engine.postgres.clock import ServerClock
from onefold.engine.postgres.engine import PostgresEngine
from onefold.engine.postgres.pool import Pool, conninfo_of
from onefold.engine.postgres.wire import Identity
from onefold.engine.require import require
from onefold.testing.postgres import Cluster

ADD_ONE = """INSERT INTO onefold.counter_totals (space, key, total) VALUES (:space, :key, 1)
             ON CONFLICT (space, key) DO UPDATE SET total = onefold.counter_totals.total + 1 RETURNING total"""


def test_a_lost_commit_is_looked_for_as_long_as_the_call_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unknown, "RESOLVE_NS_MIN", 1_000_000)
    monkeypatch.setattr(unknown, "RESOLVE_NS_MAX", 90_000_000)
    nowhere, old = Pool(conninfo_of("postgresql://127.0.0.1:1/x"), 3, ServerClock()), Identity(1, "", "", "")
    took_ns: list[int] = []
    for deadline_ms in (1, 60, 600_000):
        began_ns = time.monotonic_ns()
        assert unknown.committed(nowhere, old, 1, deadline_ms=deadline_ms) is None
        took_ns.append(time.monotonic_ns() - began_ns)
    assert took_ns[1] >= 60_000_000
    assert 90_000_000 <= took_ns[2] < 60_000_000_000


class Counting:
    """A function over tx that counts its attempts."""

    def __init__(self) -> None:
        self.attempts = 0

    def __call__(self, tx: Tx, key: str) -> int:
        self.attempts += 1
        row = tx.one(ADD_ONE, key=key)
        assert row is not None
        return row[0]


@pytest.fixture
def direct(postgres_url: str) -> Iterator[Database]:
    with onefold.connect(postgres_url) as db:
        yield db


@pytest.fixture
def proxy(postgres_cluster: Cluster) -> Iterator[Proxy]:
    with Proxy(postgres_cluster) as proxy:
        yield proxy


@pytest.fixture
def proxied(proxy: Proxy, postgres_url: str) -> Iterator[Database]:
    with onefold.connect(proxy.url(database_of(postgres_url))) as db:
        yield db


def database_of(url: str) -> str:
    return url.partition("@/")[2].partition("?")[0]


def engine_of(db: Database) -> PostgresEngine:
    assert isinstance(db._engine, PostgresEngine)
    return db._engine


# -- at COMMIT ------------------------------------------------------------------------------------


@pytest.mark.parametrize("fate", ["cut_after", "hang_up_client"])
def test_a_commit_whose_answer_was_lost_is_found_and_answered(
    proxied: Database, proxy: Proxy, direct: Database, fate: Fate
) -> None:
    fn, heard = Counting(), threading.Event()
    proxy.fate = once(b"COMMIT", fate)

    def work(tx: Tx) -> int:
        tx.on_commit(heard.set)
        return fn(tx, "a")

    assert proxied.run(work) == 1
    assert fn.attempts == 1
    assert direct.run(get, "a") == 1
    assert heard.wait(10)
    assert proxied.run(fn, "a") == 2


def test_a_fused_write_and_commit_whose_answer_was_lost_is_found(
    proxied: Database, proxy: Proxy, direct: Database
) -> None:
    attempts: list[int] = []

    def work(tx: Tx) -> str:
        attempts.append(1)
        tx.run(ADD_ONE, key="a")
        return "done"

    proxy.fate = once(b"COMMIT", "cut_after")
    assert proxied.at("tenant/1").run(work) == "done"
    assert direct.at("tenant/1").run(get, "a") == len(attempts) == 1


def test_a_fence_whose_commits_answer_was_lost_is_not_reported_as_lost(
    proxied: Database, proxy: Proxy, direct: Database
) -> None:
    """The row that it deleted is gone when it looks again: the id of the attempt says by whose doing."""
    direct.at("tenant/1").run(lambda tx: tx.run(INSERT, key="a", total=1))

    def work(tx: Tx) -> str:
        require(
            tx, "DELETE FROM onefold.counter_totals WHERE space = :space AND key = :key RETURNING key",
            lambda: Conflict("Somebody else had it."), key="a",
        )  # fmt: skip
        tx.run(ADD_ONE, key="b")
        return "done"

    proxy.fate = once(b"COMMIT", "cut_after")
    assert proxied.at("tenant/1").run(work) == "done"
    assert [direct.at("tenant/1").run(get, key) for key in ("a", "b")] == [None, 1]
    with pytest.raises(Conflict):
        proxied.at("tenant/1").run(work)


def test_what_the_drivers_own_statement_wrote_is_found_as_well(proxied: Database, proxy: Proxy, direct: Database) -> None:
    attempts: list[int] = []

    def work(tx: Tx) -> None:
        attempts.append(1)
        tx.driver_connection().execute(ADD_ONE.replace(":space", "%s").replace(":key", "%s"), (tx.space, "a"))

    proxy.fate = once(b"COMMIT", "cut_after")
    proxied.run(work)
    assert direct.run(get, "a") == len(attempts) == 1


def test_a_look_up_that_breaks_as_well_is_made_again(proxied: Database, proxy: Proxy, direct: Database) -> None:
    fn, fates = Counting(), (once(b"COMMIT", "cut_after"), once(b"FROM onefold.tx", "cut_before"))
    proxy.fate = lambda chunk: next((fate for decide in fates if (fate := decide(chunk)) != "pass"), "pass")
    assert proxied.run(fn, "a") == 1
    assert fn.attempts == 1
    assert direct.run(get, "a") == 1


def test_a_commit_that_never_arrived_is_made_again(proxied: Database, proxy: Proxy, direct: Database) -> None:
    fn = Counting()
    proxy.fate = once(b"COMMIT", "cut_before")
    assert proxied.run(fn, "a") == 1
    assert fn.attempts == 2
    assert direct.run(get, "a") == 1


def test_a_backend_killed_inside_its_commit_is_made_sure_of(
    postgres_cluster: Cluster, postgres_url: str, direct: Database
) -> None:
    name = database_of(postgres_url)
    with postgres_cluster.admin(name) as holder, postgres_cluster.admin(name) as killer:
        # COMMIT waits for a lock that the test holds.
        holder.execute("SELECT pg_advisory_lock(7)")
        killer.execute("""CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql
                          AS 'BEGIN PERFORM pg_advisory_xact_lock(7); RETURN NULL; END'""")
        killer.execute("""CREATE CONSTRAINT TRIGGER hold AFTER INSERT ON onefold.counter_totals
                          DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION hold()""")
        fn, answers = Counting(), []
        thread = threading.Thread(target=lambda: answers.append(direct.run(fn, "a")))
        thread.start()
        waiting = "SELECT pid FROM pg_stat_activity WHERE datname = %s AND wait_event = 'advisory' AND query = 'COMMIT'"
        pid = until(lambda: killer.execute(waiting, (name,)).fetchone(), "the COMMIT")[0]
        killer.execute("SELECT pg_terminate_backend(%s)", (pid,))
        until(lambda: fn.attempts == 2, "the second attempt")
        holder.execute("SELECT pg_advisory_unlock(7)")
        thread.join(20)
    assert answers == [1]
    assert direct.run(get, "a") == 1


def test_a_backend_that_still_commits_is_ended_before_the_look() -> None:
    """COMMIT waits for a standby that is not there; the client is cut off meanwhile."""
    with Cluster(settings={"synchronous_standby_names": "nobody", "synchronous_commit": "local"}) as cluster:
        onefold.migrate(cluster.create_database("a"))
        with Proxy(cluster) as proxy, onefold.connect(proxy.url("a")) as db:
            fn = Counting()

            def work(tx: Tx) -> int:
                tx.one("SELECT set_config('synchronous_commit', 'on', true)")
                return fn(tx, "a")

            proxy.fate = once(b"COMMIT", "hang_up_client")
            assert db.run(work) == 1
            assert fn.attempts == 1
            assert db.run(get, "a") == 1
        assert "canceling the wait for synchronous replication" in cluster.log


def test_an_outcome_that_cannot_be_told_is_unknown(
    proxied: Database, proxy: Proxy, direct: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unknown, "RESOLVE_NS_MAX", 200_000_000)
    fn = Counting()

    def fate(chunk: bytes) -> Fate:
        if b"COMMIT" in chunk:
            proxy.close()  # And nobody will be let in any more.
            return "cut_after"
        return "pass"

    proxy.fate = fate
    with pytest.raises(Unknown):
        proxied.run(fn, "a")
    assert fn.attempts == 1
    until(lambda: direct.run(get, "a") == 1, "what was reported as unknown")


def test_a_lost_commit_of_what_wrote_nothing_is_not_unknown(
    proxied: Database, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unknown, "RESOLVE_NS_MAX", 0)  # Whoever looked it up would not be told.
    proxy.fate = once(b"COMMIT", "cut_after")
    assert proxied.run(get, "a") is None
    assert [row["count"] for row in proxied.metrics()["retries"]] == [1]


def test_an_outcome_is_unknown_too_when_the_server_lets_us_in_no_more(
    proxy: Proxy, postgres_url: str, direct: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unknown, "RESOLVE_NS_MAX", 100_000_000)
    name = database_of(postgres_url)
    fn = Counting()
    with psycopg.connect(postgres_url, autocommit=True) as admin:
        admin.execute(f"CREATE ROLE fickle_{name} LOGIN SUPERUSER")
        try:
            with onefold.connect(proxy.url(name).replace("postgres@", f"fickle_{name}@")) as db:

                def work(tx: Tx) -> int:
                    admin.execute(f"ALTER ROLE fickle_{name} RENAME TO gone_{name}")
                    return fn(tx, "a")

                proxy.fate = once(b"COMMIT", "cut_after")
                with pytest.raises(Unknown):
                    db.run(work)
        finally:
            admin.execute(f"DROP ROLE IF EXISTS fickle_{name}, gone_{name}")
    assert (fn.attempts, direct.run(get, "a")) == (1, 1)


def test_another_server_or_branch_of_history_proves_only_presence(direct: Database) -> None:
    parts = engine_of(direct)._open()
    direct.run(Counting(), "a")
    row = direct.run(lambda tx: tx.one("SELECT id FROM onefold.tx"))
    assert row is not None
    wire = parts.pool.take(time.monotonic_ns() + 10**10)
    gone = wire.identity._replace(backend_start="1.5")  # The same pid, an older process.
    parts.pool.give(wire)
    assert unknown.committed(parts.pool, gone, row[0], deadline_ms=10_000) is True
    assert unknown.committed(parts.pool, gone, 5, deadline_ms=10_000) is False
    for other in (gone._replace(system="another"), gone._replace(timeline="00000009")):
        assert unknown.committed(parts.pool, other, row[0], deadline_ms=10_000) is True
        assert unknown.committed(parts.pool, other, 5, deadline_ms=10_000) is None


def test_ids_of_attempts_differ_between_threads_and_series(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unknown, "_COUNT_BITS", 4)
    ids = unknown.AttemptIds()
    drawn: list[int] = []
    threads = [threading.Thread(target=lambda: drawn.extend(ids.next() for _ in range(500))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(drawn)) == 2_000
    assert all(0 <= number < 2**63 for number in drawn)


# -- before COMMIT ------------------------------------------------------------------------------------


def test_a_connection_lost_before_commit_is_run_again(proxied: Database, proxy: Proxy, direct: Database) -> None:
    fn = Counting()
    proxy.fate = once(b"ON CONFLICT (space, key)", "cut_after")
    assert proxied.run(fn, "a") == 1
    assert fn.attempts == 2
    assert direct.run(get, "a") == 1
    assert sum(r["count"] for r in proxied.metrics()["retries"]) == 1


def test_a_connection_lost_under_the_drivers_own_statement_is_run_again(plain: Database) -> None:
    runs: list[int] = []

    def loses_it_once(tx: Tx) -> int:
        put(tx, "a", 1)
        runs.append(1)
        if len(runs) == 1:
            tx.driver_connection().execute("SELECT pg_terminate_backend(pg_backend_pid())")
        return len(runs)

    assert plain.run(loses_it_once) == 2
    assert plain.run(get, "a") == 1


def test_a_connection_lost_while_it_is_set_up_is_made_again(proxy: Proxy, postgres_url: str) -> None:
    proxy.fate = once(b"lock_timeout", "cut_after")
    with onefold.connect(proxy.url(database_of(postgres_url))) as db:
        assert db.run(get, "a") is None


def test_a_reader_that_lost_its_connection_reads_again(proxied: Database, proxy: Proxy) -> None:
    proxy.fate = once(b"SELECT total", "cut_after")
    assert proxied.reader().run(get, "a") is None


def test_connections_that_break_again_and_again_are_given_up(proxied: Database, proxy: Proxy) -> None:
    fn = Counting()
    proxy.fate = lambda chunk: "cut_before" if b"ON CONFLICT (space, key)" in chunk else "pass"
    with pytest.raises(Retry) as given_up:
        proxied.run(fn, "a")
    assert given_up.value.code == "unavailable"
    assert fn.attempts == engine_module.LOSSES_MAX
    proxy.fate = lambda _: "pass"
    assert proxied.run(fn, "a") == 1


def test_a_server_that_is_away_is_waited_for_until_the_deadline() -> None:
    with Cluster() as cluster:
        onefold.migrate(cluster.create_database("a"))
        with onefold.connect(cluster.dsn("a")) as db:
            assert db.run(Counting(), "a") == 1
            cluster.stop()
            with pytest.raises(Retry) as away:
                db.options(deadline_ms=300).run(get, "a")
            assert away.value.code == "unavailable"
            assert db.metrics()["oldest_snapshot_ms"] == -1.0
            answers: list[Any] = []
            thread = threading.Thread(target=lambda: answers.append(db.run(get, "a")))
            thread.start()
            cluster.start()
            thread.join(20)
            assert answers == [1]


# -- under load -----------------------------------------------------------------------------------------



def test_a_server_that_restarts_under_load_loses_nothing_acknowledged() -> None:
    with Cluster() as cluster:
        onefold.migrate(cluster.create_database("a"))
        with onefold.connect(cluster.dsn("a")) as db:
            load = Load(db)
            try:
                load.progress(by=100)
                cluster.restart()
                load.progress(by=100)
                cluster.restart(immediate=True)
                load.progress(by=100)
                cluster.kill9()
                cluster.start()
                load.progress(by=100)
            finally:
                load.stop()
            stored = {row[0] for row in db.run(lambda tx: tx.all("SELECT key FROM onefold.counter_totals"))}
    assert not load.unexpected
    assert load.acknowledged <= stored
    assert stored <= load.acknowledged | load.unknown
    assert not load.unknown  # The server came back, so that every outcome could be told.
